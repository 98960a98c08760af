"""Two real dockerds on two hosts, on flannel's subnets by mk-docker-opts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyflannel.lab.node import Node, wait_for
from support.lab import lab
from support.runtimes.machine import Machine, image, need

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


class Docker:
    """A dockerd on *node*, started as the systemd drop-in starts it: with $DOCKER_OPTS."""

    def __init__(self, node: Node) -> None:
        self.machine = Machine(node, ("/run/containerd", "/run/docker"))
        self.socket = f"unix://{self.machine.folder}/docker.sock"
        self.pid = self.machine.folder / "pid"

    def start(self) -> None:
        folder = self.machine.folder
        opts = folder / "docker_opts.env"
        self.machine.run(sys.executable, "-m", "pyflannel.cli.mk_docker_opts", "-d", opts, "-c")
        (line,) = opts.read_text().splitlines()
        words = line.removeprefix("DOCKER_OPTS=").strip('"').split()
        self.machine.daemon(
            "dockerd", "dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", self.pid,
            "--host", self.socket, *words,
        )  # fmt: skip
        assert wait_for(lambda: (folder / "docker.sock").exists(), 20), self.machine.log("dockerd")
        with image(folder).open("rb") as tar:
            done = subprocess.run(
                ["docker", "-H", self.socket, "import", "-", "bb:1"], stdin=tar, capture_output=True, check=False
            )
        assert done.returncode == 0, done.stderr

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["docker", "-H", self.socket, *words], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, (
            f"docker {' '.join(words)}: {done.stdout}{done.stderr}{self.machine.log('dockerd')}"
        )
        return (done.stdout + (done.stderr if words[0] == "logs" else "")).strip()

    def address(self, container: str) -> str:
        return self("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)

    def stop(self) -> None:
        names = subprocess.run(
            ["docker", "-H", self.socket, "ps", "-qa"], capture_output=True, text=True, check=False
        ).stdout
        if names.split():
            subprocess.run(["docker", "-H", self.socket, "rm", "-f", *names.split()], capture_output=True, check=False)
        self.machine.off()


@pytest.fixture(params=["vxlan", "host-gw", "udp"], scope="module")
def dockers(request: pytest.FixtureRequest) -> Iterator[tuple[Docker, Docker]]:
    need("dockerd", "docker", "containerd", "runc", "busybox")
    with lab(backend=request.param, store="etcd", pods=0, nodes=2) as cluster, ExitStack() as stack:
        found = []
        for node in cluster.nodes:
            docker = Docker(node)
            stack.callback(docker.stop)
            docker.start()
            docker(
                "run",
                "-d",
                "--init",
                "--name",
                "web",
                "-p",
                "8080:80",
                "bb:1",
                "httpd",
                "-f",
                "-vv",
                "-p",
                "80",
                "-h",
                "/etc",
            )
            found.append(docker)
        yield found[0], found[1]


def test_containers_have_the_nodes_subnet_and_mtu(dockers: tuple[Docker, Docker]) -> None:
    for docker in dockers:
        env = docker.machine.node.subnet_env()
        subnet = env["FLANNEL_SUBNET"].rpartition(".")[0]
        assert docker.address("web").rpartition(".")[0] == subnet
        shown = docker("exec", "web", "ip", "link", "show", "eth0")
        assert f"mtu {env['FLANNEL_MTU']}" in shown
        (bridge,) = docker.machine.node.ip_json("addr show dev docker0")
        assert f"{bridge['addr_info'][0]['local']}/24" == env["FLANNEL_SUBNET"]


def test_containers_reach_each_other_across_hosts(dockers: tuple[Docker, Docker]) -> None:
    for one, other in (dockers, dockers[::-1]):
        there = other.address("web")
        mtu = int(one.machine.node.subnet_env()["FLANNEL_MTU"])
        one("exec", "web", "ping", "-c", "1", "-W", "3", there)
        one("exec", "web", "ping", "-c", "1", "-W", "3", "-s", str(mtu - 28), there)
        assert one("exec", "web", "wget", "-qO-", f"http://{there}/answer") == "pyflannel"


def test_a_container_is_seen_by_its_own_address(dockers: tuple[Docker, Docker]) -> None:
    one, other = dockers
    one("exec", "web", "wget", "-qO-", f"http://{other.address('web')}/answer")
    assert f"{one.address('web')}]:" in other("logs", "web"), "masqueraded on its way"


def test_a_published_port_answers_from_the_other_host_and_its_containers(dockers: tuple[Docker, Docker]) -> None:
    one, other = dockers
    outside = f"http://{other.machine.node.address}:8080/answer"
    assert one.machine.run("busybox", "wget", "-qO-", outside) == "pyflannel\n"
    assert one("exec", "web", "wget", "-qO-", outside) == "pyflannel"


def test_a_container_reaches_what_lies_outside_masqueraded(dockers: tuple[Docker, Docker]) -> None:
    one, other = dockers
    # The gateway of the underlay has no route to containers: only what is masqueraded comes back.
    one("exec", "web", "ping", "-c", "1", "-W", "3", one.machine.node.gateway)
    one("exec", "web", "ping", "-c", "1", "-W", "3", other.machine.node.address)
    assert "docker0" not in one.machine.run("iptables", "-t", "nat", "-S", "POSTROUTING"), (
        "--ip-masq=false: flanneld does"
    )


def test_a_restarted_flanneld_cuts_nothing(dockers: tuple[Docker, Docker]) -> None:
    one, other = dockers
    command = ["docker", "-H", one.socket, "exec", "web", "ping", "-c", "15", "-i", "0.2", other.address("web")]
    pinger = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    node = one.machine.node
    node.stop_flanneld()
    node.start_flanneld()
    node.wait_ready()
    out, _ = pinger.communicate(timeout=30)
    assert " 0% packet loss" in out, out
