"""The lab itself: it is made of its own things, found again, and gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflannel.lab.cluster import BASE, Cluster, Plan
from pyflannel.lab.measure import compare, flood, matrix, ping
from pyflannel.lab.shell import LabError, namespaces, run
from support.lab import eventually, lab

pytestmark = pytest.mark.root

# In flanneld's place: takes its flags, answers as its health server does, and leaves a subnet.env.
STAND_IN = """
import http.server, pathlib, sys
if "--fail" in sys.argv:
    sys.exit("this node has no luck")
name = next(word.split("=")[1] for word in sys.argv if word.startswith("--node-name="))
if "--late" not in sys.argv:
    text = f"FLANNEL_NETWORK=10.244.0.0/16\\nFLANNEL_SUBNET=10.244.{name[1:]}.1/24\\nFLANNEL_MTU=1400\\nFLANNEL_IPMASQ=false\\n"
    pathlib.Path("/run/flannel/subnet.env").write_text(text)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        late = "--late" in sys.argv
        self.send_response(503 if late else 200)
        self.end_headers()
        self.wfile.write(b"flanneld is not ready yet\\nwaiting for the rain to end" if late else b"flanneld is ready")
print("a stand-in for", name, flush=True)
http.server.HTTPServer(("0.0.0.0", 8081), Answer).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return (sys.executable, str(script))


@pytest.fixture
def foreign() -> Iterator[list[str]]:
    """Namespaces that somebody else has made."""
    made: list[str] = []
    yield made
    for name in made:
        subprocess.run(["ip", "netns", "del", name], check=False)


def test_nodes_are_apart_and_pods_speak_to_their_node(command: tuple[str, ...]) -> None:
    before = (run("ip", "link").stdout, run("ip", "route").stdout)
    with lab(command=command, pods=2, node_flags={"n2": ("--marked",)}) as cluster:
        one, two = cluster.nodes
        assert one.subnet_env()["FLANNEL_SUBNET"] == "10.244.1.1/24"
        assert two("cat /run/flannel/subnet.env").splitlines()[1] == "FLANNEL_SUBNET=10.244.2.1/24"
        assert one("cat /proc/sys/net/ipv4/ip_forward").strip() == "1"
        assert one.ip_json("link show cni0")[0]["mtu"] == 1400
        assert "a stand-in for n1" in one.log()
        commands = [Path(f"/proc/{node.pid}/cmdline").read_text().split("\0") for node in cluster.nodes]
        assert ["--marked" in words for words in commands] == [False, True]
        assert [pod.name for pod in cluster.pods] == ["n1p1", "n1p2", "n2p1", "n2p2"]
        first, second = one.pods
        assert len(ping(first, second, 3, size=1372, dont_fragment=True)) == 3  # 1400 with the headers
        assert ping(first, second, size=1373, dont_fragment=True) == []
        one.add_pods(1)
        assert ping(one.pods[2], first) != []
        assert (run("ip", "link").stdout, run("ip", "route").stdout) == before
    assert cluster.plan.own(namespaces()) == []
    assert not cluster.folder.exists()


def test_what_ends_or_never_becomes_ready_says_why(command: tuple[str, ...]) -> None:
    with pytest.raises(LabError) as caught, lab(command=command, node_flags={"n2": ("--fail",)}):
        pass
    assert str(caught.value) == "flanneld on n2 ended at its start. The end of its log:\nthis node has no luck"
    with lab(wait=False, command=command, nodes=1, flags=("--late",)) as cluster:
        (node,) = cluster.nodes
        eventually(lambda: node.http("readyz")[0] == 503)
        with pytest.raises(LabError, match=r"n1 is not ready after 0\.1 s: waiting for the rain to end"):
            node.wait_ready(0.1)
        with pytest.raises(LabError, match="n1 has no subnet yet"):
            node.add_pods(1)
        with pytest.raises(LabError, match=f"flanneld runs on n1 already, as process {node.pid}"):
            node.start_flanneld()


def test_a_name_that_is_taken_is_neither_used_nor_cleaned(command: tuple[str, ...], foreign: list[str]) -> None:
    with lab(command=command, nodes=1, pods=0) as cluster:
        name = cluster.plan.name
        with pytest.raises(LabError, match=f"a lab called {name} is up: `flannelctl lab down --name {name}` first"):
            Cluster(Plan(name)).up()
        assert cluster.nodes[0].ready()
    foreign += [f"{name}-n1", f"{name}-web"]
    for each in foreign:
        run("ip", "netns", "add", each)
    with pytest.raises(LabError, match=rf"are there already \({name}-n1\)"):
        Cluster(Plan(name)).up()
    assert set(foreign) <= set(namespaces())
    Cluster(Plan(name)).down()  # asked for by name: this goes, what no lab makes stays
    assert f"{name}-n1" not in namespaces()
    assert f"{name}-web" in namespaces()


def test_another_command_finds_it_and_ends_it(command: tuple[str, ...]) -> None:
    with lab(command=command, nodes=1) as cluster:
        found = Cluster.load(cluster.plan.name)
        (node,) = found.nodes
        assert found.plan == cluster.plan
        assert node.running()
        assert node.pods == cluster.nodes[0].pods
        assert node("ip -o addr show e0").count("192.168.77.11") == 1
        node.kill_flanneld()
        assert not node.running()
        assert not cluster.nodes[0].running()


def test_down_cleans_what_a_crash_left(command: tuple[str, ...]) -> None:
    with lab(command=command, nodes=2) as cluster:
        name, pids = cluster.plan.name, [node.pid for node in cluster.nodes]
        (BASE / name / "state.json").unlink()
        with pytest.raises(LabError, match=f"no lab called {name} is up"):
            Cluster.load(name)
        Cluster(Plan(name)).down()
        assert Plan(name).own(namespaces()) == []
        eventually(lambda: not any(node.running() for node in cluster.nodes))
        assert not any(Path(f"/proc/{pid}/ns/net").exists() for pid in pids)


def test_a_dead_nodes_commands_do_not_land_elsewhere(command: tuple[str, ...]) -> None:
    with lab(command=command, nodes=1, pods=0) as cluster:
        found = Cluster.load(cluster.plan.name).nodes[0]
        found.holder = 1  # its number is another's by now
        with pytest.raises(LabError, match="n1 is gone"):
            found("ip link")
        found.pid = 1
        assert not found.running()
        assert found.stop_flanneld() is None


def test_two_labs_at_once(command: tuple[str, ...]) -> None:
    with lab(command=command) as one, lab(command=command) as two:
        assert one.nodes[0].address == two.nodes[0].address
        assert all(each.rtt_ms is None for each in matrix(one, 1))  # a stand-in makes no routes
        one.down()
        assert all(node.ready() for node in two.nodes)


def test_a_real_one_measured() -> None:
    with lab(mtu=9000, members=3, store="etcd", backend="host-gw") as cluster:
        assert cluster.nodes[0].subnet_env()["FLANNEL_MTU"] == "9000"
        one, two = cluster.pods
        with flood(one, two.address) as traffic:
            bare, pods = compare(cluster, seconds=1, rounds=1)
        assert traffic.sent > 100
        assert bare.gbps > 0 < pods.gbps
        assert bare.rtt_ms > 0 < pods.rtt_ms
        found = Cluster.load(cluster.plan.name)
        found.down()  # by a command that has not started etcd
        assert found.plan.own(namespaces()) == []
