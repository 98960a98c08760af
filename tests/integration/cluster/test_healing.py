"""What others disturb is put back; what isn't ours is left alone."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import matrix
from pyflannel.lab.node import Node
from pyflannel.model.lease import Subnets
from pyflannel.store.contract import Store
from support.lab import Make, eventually

pytestmark = pytest.mark.root

# What is done on a node, by backend; each row's last word is what must come back.
VXLAN = {
    "route": "ip route flush proto 241",
    "fdb": "bridge fdb flush dev flannel.1",
    "neighbour": "ip neigh flush dev flannel.1 nud permanent",
    "address": "ip addr flush dev flannel.1",
    "mac": "ip link set flannel.1 address 02:66:66:66:66:66",
    "mtu": "ip link set flannel.1 mtu 1300",
    "down": "ip link set flannel.1 down",
    "device": "ip link del flannel.1",
    "learning": "ip link set flannel.1 type vxlan learning",
    "firewall": "nft flush ruleset",
    "chain": "nft flush chain ip flannel-ipv4 postrtg",
    "sysctl": "sysctl -qw net.ipv6.conf.flannel/1.accept_ra=1",
}
HOST_GW = {
    "route": "ip route flush proto 241",
    "underlay flap": "ip link set e0 down; ip link set e0 up; ip route add default via 192.168.77.1",
}
UDP = {
    "route": "ip route flush proto 241",
    "address": "ip addr flush dev flannel0",
    "mtu": "ip link set flannel0 mtu 1300",
    "down": "ip link set flannel0 down",
    "device": "ip link del flannel0",
    "firewall": "nft flush ruleset",
}
UNTOLD = {"sysctl"}  # no notification: the periodic comparison finds it


def state(node: Node, device: str = "flannel.1") -> str:
    """Everything of ours on a node, as text."""
    parts = [node.exec(*command.split()).stdout for command in ("ip route", "nft list ruleset")]
    link = json.loads(node.exec("ip", "-d", "-j", "link", "show", device).stdout or "[{}]")[0]
    shown = {name: link.get(name) for name in ("mtu", "address", "flags", "ifalias")}
    learning = link.get("linkinfo", {}).get("info_data", {}).get("learning")
    for command in (f"ip neigh show dev {device}", f"bridge fdb show dev {device}", f"ip -o -4 addr show dev {device}"):
        lines = node.exec(*command.split()).stdout.splitlines()
        parts += sorted(line.split(": ", 1)[-1] for line in lines if "ermanent" in line.lower() or "inet" in line)
    parts.append(node.exec("cat", f"/proc/sys/net/ipv6/conf/{device}/accept_ra").stdout)
    return "\n".join([*parts, str(shown), str(learning)])


def assert_heals(cluster: Cluster, node: Node, commands: str, record: pytest.FixtureRequest) -> None:
    device = "flannel0" if cluster.plan.backend == "udp" else "flannel.1"
    before = state(node, device)
    for command in commands.split("; "):
        node.exec(*command.split(), check=True)
    milliseconds = eventually(lambda: state(node, device) == before)
    record.node.user_properties.append(("healed_ms", round(milliseconds, 1)))
    assert all(ping.rtt_ms is not None for ping in matrix(cluster))
    assert node.ready()


@pytest.mark.parametrize("what", VXLAN)
def test_vxlan_heals(make: Make, what: str, request: pytest.FixtureRequest) -> None:
    cluster = make(flags=("--ip-masq", "--resync=1") if what in UNTOLD else ("--ip-masq",))
    assert_heals(cluster, cluster.nodes[0], VXLAN[what], request)


@pytest.mark.parametrize("engine", ["user", "kernel"])
@pytest.mark.parametrize("what", UDP)
def test_udp_heals(make: Make, what: str, engine: str, request: pytest.FixtureRequest) -> None:
    cluster = make(backend="udp", engine=engine)
    assert_heals(cluster, cluster.nodes[0], UDP[what], request)


@pytest.mark.parametrize("what", HOST_GW)
def test_host_gw_heals(make: Make, what: str, request: pytest.FixtureRequest) -> None:
    cluster = make(backend="host-gw")
    assert_heals(cluster, cluster.nodes[0], HOST_GW[what], request)


@pytest.mark.parametrize(
    "what", ["iptables -t nat -F FLANNEL-POSTRTG", "iptables -F FORWARD", "iptables -F FLANNEL-FWD"]
)
def test_iptables_heals(make: Make, what: str) -> None:
    cluster = make(nftables=False)
    node = cluster.nodes[0]

    def rules() -> list[str]:
        return [line for line in node("iptables-save").splitlines() if "FLANNEL" in line and line.startswith("-A")]

    before = rules()
    assert len(before) == 10
    node(what)
    eventually(lambda: rules() == before)


def test_foreign_rows_are_left_alone(make: Make) -> None:
    cluster = make()
    node = cluster.nodes[0]
    for command in (
        "ip route add 172.30.0.0/16 dev flannel.1",
        "ip route add 10.66.0.0/16 via 192.168.77.1 proto 241",
        "ip addr add 172.30.0.1/32 dev flannel.1",
        "ip link add vx9 type vxlan id 9 dev e0 dstport 4789",
        "nft add table ip mine",
        "nft add chain ip flannel-ipv4 mine",
    ):
        node(command)
    before = state(node)
    node.stop_flanneld()
    node.start_flanneld()
    node.wait_ready()
    node("ip link set flannel.1 mtu 1300")  # makes it look, and mend
    eventually(lambda: state(node) == before)
    assert "vx9" in node("ip link")


def test_a_foreign_route_is_reported_and_kept(make: Make) -> None:
    cluster = make()
    node, other = cluster.nodes
    subnet = other.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")
    node(f"ip route replace {subnet} via 192.168.77.1 dev e0")  # over ours
    eventually(lambda: node.http("readyz")[0] == 503)
    words = node.http("readyz")[1]
    assert "a route that isn't ours stands there" in words
    assert f"`ip route del {subnet} via 192.168.77.1 dev e0`" in words
    assert f"{subnet} via 192.168.77.1 dev e0" in node("ip route")
    node(f"ip route del {subnet} via 192.168.77.1 dev e0")
    eventually(node.ready)
    assert all(ping.rtt_ms is not None for ping in matrix(cluster))


def test_stale_rows_of_a_crashed_run_are_swept(make: Make) -> None:
    cluster = make(nodes=3)
    node, gone = cluster.nodes[0], cluster.nodes[2]
    subnet = gone.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")
    assert subnet in node("ip route")
    node.kill_flanneld()
    gone.kill_flanneld()
    cluster.with_store(lambda store: _release(store, subnet))
    assert subnet in node("ip route")
    node.start_flanneld()
    node.wait_ready()
    assert subnet not in node("ip route")
    assert subnet.split("/")[0] not in node("ip neigh show dev flannel.1")
    assert len(node("bridge fdb show dev flannel.1").splitlines()) == 1


async def _release(store: Store, subnet: str) -> None:

    assert await store.release(Subnets(IPv4Network(subnet)))
