"""podman and containerd on two hosts, with our plugin, Debian's delegates and our conflist."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyflannel.lab.node import Node, wait_for
from support.cni import DEBIANS, plugin
from support.lab import lab
from support.runtimes.machine import Machine, archive, image, need

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

CONFLIST = Path(__file__).parents[2] / "deploy/cni/10-flannel.conflist"


def machine(node: Node, *more: str) -> Machine:
    """A node with the plugin and the conflist where every runtime looks for them."""
    made = Machine(node, ("/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni", *more))
    shutil.copy(CONFLIST, made.path("/etc/cni/net.d"))
    for program in (plugin(), *(Path(DEBIANS, name) for name in ("bridge", "host-local", "portmap", "loopback"))):
        shutil.copy(program, made.path("/opt/cni/bin"))
    return made


def left(machine: Machine) -> list[str]:
    """State files, leased addresses and veths."""
    found = [path.name for path in (machine.path("/var/lib/cni") / "flannel").glob("*")]
    found += [path.name for path in (machine.path("/var/lib/cni") / "networks/cbr0").glob("[0-9]*")]
    return found + [link["ifname"] for link in machine.node.ip_json("link show type veth") if link["ifname"] != "e0"]


# podman


class Podman:
    def __init__(self, node: Node) -> None:
        self.machine = machine(node, "/run/netns")  # podman binds containers' namespaces there
        self.folder = self.machine.folder
        (self.folder / "containers.conf").write_text(
            '[network]\nnetwork_backend="cni"\ncni_plugin_dirs=["/opt/cni/bin"]\n'
            'network_config_dir="/etc/cni/net.d"\ndefault_network="cbr0"\n'
            '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\nruntime="runc"\n'
            '[containers]\ndefault_ulimits=["nofile=1024:4096","nproc=4096:4096"]\n'
        )
        (self.folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self("import", str(image(self.folder)), "bb:1")

    def __call__(self, *words: str) -> str:
        where = ("--root", self.folder / "root", "--runroot", self.folder / "run", "--tmpdir", self.folder / "tmp")
        env = {"CONTAINERS_CONF": str(self.folder / "containers.conf"), "HOME": str(self.folder)}
        return self.machine.run("podman", *where, *words, env=env).strip()

    def stop(self) -> None:
        self("rm", "-f", "-a", "-t", "0")
        self.machine.off()


@pytest.fixture(scope="module")
def podmen() -> Iterator[tuple[Podman, Podman]]:
    need("podman", "runc", "conmon", "busybox", "iptables")
    with lab(store="etcd", pods=0, nodes=2) as cluster, ExitStack() as stack:
        found = []
        for node in cluster.nodes:
            podman = Podman(node)
            stack.callback(podman.stop)
            found.append(podman)
        yield found[0], found[1]


RUN = ("run", "-d", "--name", "web", "-p", "8082:80", "localhost/bb:1", "httpd", "-f", "-p", "80", "-h", "/etc")


def test_podman(podmen: tuple[Podman, Podman]) -> None:
    for podman in podmen:
        podman(*RUN)
    one, other = podmen
    there = other("inspect", "-f", "{{.NetworkSettings.Networks.cbr0.IPAddress}}", "web")
    assert there.rpartition(".")[0] == other.machine.node.subnet_env()["FLANNEL_SUBNET"].rpartition(".")[0]
    assert one("exec", "web", "wget", "-qO-", f"http://{there}/answer") == "pyflannel"
    outside = f"http://{other.machine.node.address}:8082/answer"
    assert one.machine.run("busybox", "wget", "-qO-", outside) == "pyflannel\n", "the published port"
    assert one("exec", "web", "wget", "-qO-", outside) == "pyflannel"
    other("network", "reload", "web")
    there = other("inspect", "-f", "{{.NetworkSettings.Networks.cbr0.IPAddress}}", "web")
    assert one("exec", "web", "wget", "-qO-", f"http://{there}/answer") == "pyflannel"
    for podman in podmen:
        podman("rm", "-f", "-t", "0", "web")
        assert wait_for(lambda podman=podman: not left(podman.machine), 5), left(podman.machine)  # type: ignore[misc]
        assert "8082" not in podman.machine.run("iptables", "-t", "nat", "-S"), "portmap's rules"


def test_a_leftover_bridge_is_explained_by_the_runtime(podmen: tuple[Podman, Podman]) -> None:
    podman, _ = podmen
    run = podman.machine.run
    run("ip", "link", "delete", "cni0")
    run("ip", "link", "add", "cni0", "type", "bridge")
    run("ip", "address", "add", "10.244.255.1/24", "dev", "cni0")
    try:
        with pytest.raises(AssertionError, match=r"the bridge cni0 has the address 10\.244\.255\.1/24, but this node"):
            podman(*RUN)
        podman("rm", "-f", "-a", "-t", "0")
        assert not left(podman.machine)
    finally:
        run("ip", "link", "delete", "cni0")
    podman(*RUN)  # as the message says
    podman("rm", "-f", "-t", "0", "web")


# containerd, by its own ctr (through the CRI: tests/kube)


class Containerd:
    def __init__(self, node: Node) -> None:
        self.machine = machine(node, "/run/containerd")  # the shims' and runc's state, by the container's name
        folder = self.folder = self.machine.folder
        (folder / "containerd.toml").write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{folder}/sock"\n[ttrpc]\naddress = "{folder}/ttrpc"\n'
        )
        self.machine.daemon("containerd", "containerd", "--config", folder / "containerd.toml")
        assert wait_for(lambda: (folder / "sock").exists(), 20), self.machine.log("containerd")
        oci = archive(folder, "docker.io/library/bb:1")
        self("images", "import", str(oci))

    def __call__(self, *words: str) -> str:
        return self.machine.run("ctr", "-a", self.folder / "sock", *words).strip()

    def stop(self) -> None:
        subprocess.run(
            self.machine.words("ctr", "-a", self.folder / "sock", "task", "kill", "-s", "9", "web"),
            capture_output=True,
            check=False,
        )
        self.machine.off()


def test_containerd() -> None:
    need("containerd", "ctr", "runc", "busybox")
    with lab(store="etcd", pods=0, nodes=2) as cluster, ExitStack() as stack:
        found, running = [], []
        for node in cluster.nodes:
            containerd = Containerd(node)
            stack.callback(containerd.stop)
            # Not detached: then it is ctr that waits for the end, and calls DEL.
            words = ("ctr", "-a", containerd.folder / "sock", "run", "--cni", "docker.io/library/bb:1", "web")
            running.append(containerd.machine.daemon("ctr", *words, "/bin/httpd", "-f", "-p", "80", "-h", "/etc"))
            found.append(containerd)
        one, other = found
        for each in found:
            assert wait_for(lambda each=each: "RUNNING" in each("task", "ls"), 10), each.machine.log("ctr")  # type: ignore[misc]
        (there,) = (path.name for path in (other.machine.path("/var/lib/cni") / "networks/cbr0").glob("10.*"))
        assert there.rpartition(".")[0] == other.machine.node.subnet_env()["FLANNEL_SUBNET"].rpartition(".")[0]
        asked = one("task", "exec", "--exec-id", "x", "web", "/bin/wget", "-qO-", f"http://{there}/answer")
        assert asked == "pyflannel"
        for each, process in zip(found, running, strict=True):
            each("task", "kill", "-s", "9", "web")
            process.wait(10)
            assert wait_for(lambda each=each: not left(each.machine), 5), left(each.machine)  # type: ignore[misc]
