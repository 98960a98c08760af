"""From Go flannel to pyflannel and back, node by node, under pings: none is lost; and what would lose some is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import Flood, flood
from pyflannel.lab.node import Node
from support import goflannel
from support.lab import lab

pytestmark = pytest.mark.root


@pytest.fixture(params=["vxlan", "host-gw"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes, as Go flannel keeps them, over etcd."""
    with lab(backend=request.param, store="etcd") as found:
        for node in found.nodes:
            goflannel.become(node)
        yield found


@pytest.fixture
def vxlan() -> Iterator[Cluster]:
    """For a test that spoils it."""
    with lab(store="etcd") as found:
        for node in found.nodes:
            goflannel.become(node)
        yield found


@pytest.fixture(scope="module")
def one_for_all() -> Iterator[Cluster]:
    with lab(store="etcd") as found:
        for node in found.nodes:
            goflannel.become(node)
        yield found


@pytest.fixture
def shared(one_for_all: Cluster) -> Iterator[Cluster]:
    """For a test after which all is as before: config, subnet.env, the FORWARD policy."""
    node = one_for_all.nodes[0]
    env, config = node.path / "run/subnet.env", one_for_all.with_store(lambda store: store.config_text())
    text = env.read_text()
    yield one_for_all
    env.write_text(text)
    one_for_all.with_store(lambda store: store.write_config(config))
    node("iptables -P FORWARD ACCEPT")


def check(node: Node, *flags: str, drop: str = "") -> subprocess.CompletedProcess[str]:
    """`flannelctl adopt --check` with the node's own flags, less *drop*."""
    arguments = [word for word in node.arguments if word != drop]
    return node.exec(sys.executable, "-m", "pyflannel.cli.flannelctl", "adopt", "--check", *arguments, *flags)


def floods(cluster: Cluster, stack: ExitStack) -> list[Flood]:
    one, two = cluster.pods
    return [stack.enter_context(flood(source, target.address)) for source, target in ((one, two), (two, one))]


def test_it_says_what_would_change_and_changes_nothing(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    before = goflannel.picture(node)
    done = check(node)
    assert done.returncode == 0, done.stdout + done.stderr
    assert goflannel.picture(node) == before
    assert "safe: nothing that carries packets goes before its successor stands" in done.stdout
    assert "lease       keep 1" in done.stdout
    assert "subnet.env  keep 1" in done.stdout
    assert "firewall    keep 2" in done.stdout
    assert "in place: protocol 3 becomes 241" in done.stdout
    for word in ("replace", "create", "remove"):
        assert f"    {word}" not in done.stdout, done.stdout
    told = json.loads(check(node, "--json").stdout)
    assert told["safe"]
    assert {step["verb"] for step in told["steps"]} == {"keep", "mark"}


def there(cluster: Cluster) -> None:
    """Each node in turn is taken over by pyflannel."""
    for node in cluster.nodes:
        assert check(node).returncode == 0
        node.start_flanneld()
        node.wait_ready()
        time.sleep(0.3)
    assert all("proto 241" in node("ip route") for node in cluster.nodes)


def back(cluster: Cluster) -> None:
    """Each node in turn is Go flannel's again."""
    for node in cluster.nodes:
        node.stop_flanneld()
        goflannel.start(node)
        time.sleep(0.3)
    assert not any("proto 241" in node("ip route") for node in cluster.nodes)


def test_there_and_back_loses_no_packet(cluster: Cluster) -> None:
    with ExitStack() as stack:
        results = floods(cluster, stack)
        there(cluster)
        back(cluster)
    for result in results:
        assert result.lost == 0, result.output
        assert result.sent > 500
    assert all("FLANNEL-FWD" in node("iptables-save") for node in cluster.nodes)


def test_a_host_whose_iptables_drops_what_nobody_accepts(cluster: Cluster) -> None:
    """As Docker leaves it; nftables' accept wouldn't undo iptables' drop. On the way back flannel itself empties its
    chain for a moment, as at each of its starts."""
    for node in cluster.nodes:
        node("iptables -P FORWARD DROP")
    with ExitStack() as stack:
        results = floods(cluster, stack)
        there(cluster)
    for result in results:
        assert result.lost == 0, result.output
        assert result.sent > 300


def test_pods_keep_their_way_out(vxlan: Cluster) -> None:
    """A connection to outside is masqueraded throughout, before, while and after."""
    node = vxlan.nodes[0]
    outside = node.gateway
    with flood(node.pods[0], outside) as result:
        node.start_flanneld()
        node.wait_ready()
    assert result.lost == 0, result.output


# What is in the way


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not safe: mend what is in the way, and look again" in done.stdout
    for each in words:
        assert each in done.stdout, done.stdout


def test_masquerade_that_would_go(shared: Cluster) -> None:
    refused(check(shared.nodes[0], drop="--ip-masq"), "masquerade IPv4 (6 rules) would go: give --ip-masq")


def test_no_lease(vxlan: Cluster) -> None:
    node = vxlan.nodes[0]
    vxlan.with_store(_release_all)
    refused(check(node), f"has no lease of {node.address}, though subnet.env says 10.244.")
    node.exec("rm", "/run/flannel/subnet.env", check=True)
    refused(check(node), "there is no subnet.env: does flannel run here?")


async def _release_all(store: Any) -> None:
    for lease in await store.leases():
        await store.release(lease.subnets)


def test_a_subnet_file_of_another_subnet(shared: Cluster) -> None:
    file = shared.nodes[0].path / "run/subnet.env"
    file.write_text(file.read_text().replace("FLANNEL_SUBNET=10.244.", "FLANNEL_SUBNET=10.244.1"))
    refused(check(shared.nodes[0]), "subnet.env says 10.244.1", "the node's pods would be cut off")


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ({"Type": "host-gw"}, "flannel runs as vxlan, the config says host-gw: restart flannel first"),
        ({"Type": "vxlan", "VNI": 7}, 'flannel publishes {"VNI":1,'),
        ({"Type": "vxlan", "Port": 4789}, "flannel.1 would be made anew (port 8472 → 4789)"),
        ({"Type": "udp"}, "flannel runs as vxlan, the config says udp"),
    ],
)
def test_a_config_that_flannel_does_not_run_with(shared: Cluster, backend: dict[str, Any], words: str) -> None:
    text = json.dumps({"Network": "10.244.0.0/16", "Backend": backend})

    async def write(store: Any) -> None:
        await store.write_config(text)

    shared.with_store(write)
    refused(check(shared.nodes[0]), words)


def test_a_lease_that_does_not_fit_the_config_any_more(shared: Cluster) -> None:
    async def write(store: Any) -> None:
        await store.write_config('{"Network": "10.244.0.0/16", "SubnetLen": 26, "Backend": {"Type": "vxlan"}}')

    shared.with_store(write)
    refused(check(shared.nodes[0]), "doesn't fit the config any more: the node would get another subnet")


def test_the_config_wants_nftables_where_iptables_drops(shared: Cluster) -> None:
    async def write(store: Any) -> None:
        await store.write_config('{"Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}')

    node = shared.nodes[0]
    shared.with_store(write)
    done = check(node)
    assert done.returncode == 0, done.stdout
    assert "create   nftables chain forward IPv4" in done.stdout
    node("iptables -P FORWARD DROP")
    refused(check(node), "set EnableNFTables to false, or leave it out")


def test_a_strangers_route(vxlan: Cluster) -> None:
    node, other = vxlan.nodes
    net = other.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")
    node(f"ip route replace {net} via {other.address} dev e0 proto static")
    refused(check(node), f"a route that isn't ours stands there: `ip route del {net} via {other.address} dev e0`")


def test_a_store_that_does_not_answer(shared: Cluster) -> None:
    node = shared.nodes[0]
    done = check(node, "--etcd-endpoints=http://192.168.77.99:2379")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("flannelctl: ")
    assert "192.168.77.99:2379" in done.stderr


def test_ours_runs_already(vxlan: Cluster) -> None:
    node = vxlan.nodes[0]
    node.start_flanneld()
    node.wait_ready()
    done = check(node)
    assert done.returncode == 1
    assert "pyflannel's flanneld runs here already" in done.stderr


def test_flannels_process_is_named(shared: Cluster, tmp_path: Path) -> None:
    node = shared.nodes[0]
    program = tmp_path / "flanneld"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen(["ip", "netns", "exec", node.netns, str(program), "60"]) as process:
        try:
            time.sleep(0.2)
            assert f"next: stop flannel (process {process.pid})" in check(node).stdout
        finally:
            process.kill()


def test_without_check_it_tells_the_way() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyflannel.cli.flannelctl", "adopt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "stop flannel's daemon, start ours with the same flags" in done.stderr


def test_udp_is_not_without_loss() -> None:
    with lab(backend="udp", engine="user") as cluster:
        node = cluster.nodes[0]
        node.stop_flanneld()
        node.exec("rm", "-f", "/run/flannel/subnet.sock")
        refused(check(node), "flannel's udp device goes when flannel stops")
