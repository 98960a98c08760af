"""Nodes come and go, restart, move and change; and what a store in trouble means for them."""

from __future__ import annotations

import json
import signal
import socket
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pyflannel.lab import faults
from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import flood, matrix
from pyflannel.lab.node import Node
from pyflannel.model.lease import Subnets
from pyflannel.store.contract import Store
from support.lab import Make, eventually

pytestmark = pytest.mark.root


def subnet(node: Node) -> str:
    return node.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")


def reach(cluster: Cluster) -> bool:
    return all(ping.rtt_ms is not None for ping in matrix(cluster, 1))


def release(cluster: Cluster, net: str) -> None:
    async def work(store: Store) -> None:
        assert await store.release(Subnets(IPv4Network(net)))

    cluster.with_store(work)


@pytest.mark.parametrize("plan", [{}, {"backend": "host-gw"}, {"backend": "udp", "engine": "kernel"}], ids=str)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_loses_no_packet(make: Make, plan: dict[str, str], number: signal.Signals) -> None:
    cluster = make(**plan)
    node, (one, two) = cluster.nodes[0], cluster.pods
    before = (subnet(node), node.exec("cat", "/sys/class/net/flannel.1/address").stdout)
    with flood(one, two.address) as there, flood(two, one.address) as back:
        code = node.stop_flanneld(number)
        node.start_flanneld()
        node.wait_ready()
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    assert there.sent > 50
    assert (there.lost, back.lost) == (0, 0)
    assert before == (subnet(node), node.exec("cat", "/sys/class/net/flannel.1/address").stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_user_space_engine_comes_back_with_its_daemon(make: Make, number: signal.Signals) -> None:
    cluster = make(backend="udp", engine="user")
    node, (one, two) = cluster.nodes[0], cluster.pods
    index = node("cat /sys/class/net/flannel0/ifindex")
    with flood(one, two.address):
        node.stop_flanneld(number)
        node.start_flanneld()
        node.wait_ready()
    with flood(one, two.address) as after:
        assert reach(cluster)
    assert (after.lost, node("cat /sys/class/net/flannel0/ifindex")) == (0, index)


@pytest.mark.parametrize("engines", [("kernel", "user"), ("user", "kernel")])
def test_the_engine_may_be_changed_at_a_restart(make: Make, engines: tuple[str, str]) -> None:
    cluster = make(backend="udp", engine=engines[0])
    node = cluster.nodes[0]
    node.stop_flanneld()
    node.start_flanneld(f"--udp-engine={engines[1]}")
    node.wait_ready()
    assert json.loads(node.http("status")[1])["engine"]["kind"] == engines[1]
    assert reach(cluster)


def test_a_service_manager_is_kept_informed(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        (node,) = make(nodes=1).nodes
        said = {manager.recv(500).decode() for _ in range(8)}
        assert "WATCHDOG=1" in said
        assert f"READY=1\nSTATUS={subnet(node)} over vxlan" in said


def test_a_node_that_leaves_is_forgotten_and_comes_back_as_it_was(make: Make) -> None:
    cluster = make(nodes=3)
    node, leaving = cluster.nodes[0], cluster.nodes[2]
    net = subnet(leaving)
    mac = leaving("cat /sys/class/net/flannel.1/address").strip()
    leaving.kill_flanneld()
    release(cluster, net)
    eventually(lambda: net not in node("ip route") and mac not in node("bridge fdb show dev flannel.1"))
    leaving.start_flanneld()
    leaving.wait_ready()
    assert subnet(leaving) == net
    eventually(lambda: reach(cluster))


def test_a_reboot_keeps_subnet_and_mac(make: Make) -> None:
    cluster = make()
    node = cluster.nodes[0]
    net, mac = subnet(node), node("cat /sys/class/net/flannel.1/address")
    node.kill_flanneld()
    node("ip link del flannel.1")
    (node.path / "run/subnet.env").unlink()  # /run doesn't outlive a reboot
    node.start_flanneld()
    node.wait_ready()
    assert (subnet(node), node("cat /sys/class/net/flannel.1/address")) == (net, mac)
    assert reach(cluster)


def test_a_revoked_lease_ends_the_daemon_and_nothing_else(make: Make) -> None:
    cluster = make()
    node = cluster.nodes[0]
    net = subnet(node)
    one, two = cluster.pods
    release(cluster, net)
    eventually(lambda: not node.running())
    assert "taken away before its time" in node.log()
    assert node.stop_flanneld() == 0
    assert "flannel.1" in node("ip route")
    node.start_flanneld()
    node.wait_ready()
    assert subnet(node) == net
    eventually(lambda: one.exec("ping", "-c1", "-W1", two.address).returncode == 0)


def test_a_backend_changed_while_stopped(make: Make) -> None:
    cluster = make(backend="vxlan")
    subnets = [subnet(node) for node in cluster.nodes]
    for backend in ("host-gw", "vxlan"):
        cluster.write_config(cluster.plan.config().replace("vxlan", backend))
        for node in cluster.nodes:  # one after the other: both kinds are in the cluster for a while
            node.stop_flanneld()
            node.start_flanneld()
            node.wait_ready()
            eventually(lambda: reach(cluster))
        assert [subnet(node) for node in cluster.nodes] == subnets
        links = cluster.nodes[0]("ip link")
        assert ("flannel.1" in links) == (backend == "vxlan")


def test_to_udp_and_back(make: Make) -> None:
    cluster = make(backend="vxlan")
    for backend in ("udp", "vxlan"):
        cluster.write_config(cluster.plan.config().replace("vxlan", backend))
        for node in cluster.nodes:
            node.stop_flanneld()
            node.start_flanneld()
        for node in cluster.nodes:
            node.wait_ready()
            links = node("ip link")
            assert ("flannel0" in links, "flannel.1" in links) == (backend == "udp", backend == "vxlan")
            assert (node.path / "run/subnet.bpf").is_dir() == (backend == "udp")
            assert links.count("fljoin") <= (4 if backend == "udp" else 0), links
        eventually(lambda: reach(cluster))


def test_another_vni_while_stopped(make: Make) -> None:
    cluster = make()
    cluster.write_config('{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789}}')
    for node in cluster.nodes:
        node.stop_flanneld()
    for node in cluster.nodes:
        node.start_flanneld()
    for node in cluster.nodes:
        node.wait_ready()
        links = node("ip link")
        assert "flannel.7" in links
        assert "flannel.1:" not in links
    eventually(lambda: reach(cluster))


@pytest.mark.parametrize("nftables", [True, False])
def test_switching_the_firewall_sweeps_the_other(make: Make, nftables: bool) -> None:
    cluster = make(nodes=1, nftables=nftables)
    node = cluster.nodes[0]
    old, new = str(nftables).lower(), str(not nftables).lower()
    cluster.write_config(cluster.plan.config().replace(f'"EnableNFTables": {old}', f'"EnableNFTables": {new}'))
    node.stop_flanneld()
    node.start_flanneld()
    node.wait_ready()
    assert ("FLANNEL" in node("iptables-save")) == nftables
    assert ("table ip flannel-ipv4" in node("nft list ruleset")) != nftables


@pytest.mark.parametrize("backend", ["vxlan", "host-gw", "udp"])
def test_an_address_that_changes_is_published_anew(make: Make, backend: str) -> None:
    cluster = make(backend=backend)
    node = cluster.nodes[0]
    net = subnet(node)
    node(f"ip addr del {node.address}/24 dev e0")
    node("ip addr add 192.168.77.99/24 dev e0")
    node.exec("ip", "route", "add", "default", "via", "192.168.77.1")
    eventually(lambda: reach(cluster))
    assert subnet(node) == net
    if backend != "udp":  # there, that it's reached says as much
        eventually(lambda: "192.168.77.99" in cluster.nodes[1]("bridge fdb" if backend == "vxlan" else "ip route"))


def test_an_underlay_mtu_that_changes(make: Make) -> None:
    cluster = make()
    node = cluster.nodes[0]
    node("ip link set e0 mtu 1400")
    eventually(lambda: node.subnet_env()["FLANNEL_MTU"] == "1350")
    eventually(lambda: node.ip_json("link show flannel.1")[0]["mtu"] == 1350)


def test_an_underlay_mtu_that_changes_under_udp(make: Make) -> None:
    cluster = make(backend="udp")
    node = cluster.nodes[0]
    node("ip link set e0 mtu 1400")
    eventually(lambda: node.ip_json("link show flannel0")[0]["mtu"] == 1372)
    eventually(lambda: reach(cluster))


def test_two_nodes_with_one_address(make: Make) -> None:
    cluster = make()
    clone = cluster.nodes[1]
    clone.stop_flanneld()
    clone.start_flanneld("--public-ip=" + cluster.nodes[0].address, "--iface=e0")
    eventually(lambda: not clone.running())
    assert f"{cluster.nodes[0].address} is published by node n1, which is alive; this node is n2" in clone.log()
    assert clone.stop_flanneld() == 1


def test_readiness_goes_both_ways(make: Make) -> None:
    cluster = make(nodes=1)
    node = cluster.nodes[0]
    node.stop_flanneld()
    node("ip link del flannel.1")
    node("ip link add flannel.1 type bridge")  # somebody else's, where ours must be
    node.start_flanneld()
    eventually(lambda: "there, and not ours" in node.http("readyz")[1])
    assert node.http("readyz")[0] == 503
    assert "a bridge device of this name is there, and not ours" in node.http("readyz")[1]
    assert node.http("healthz")[0] == 200
    node("ip link del flannel.1")
    eventually(node.ready)
    node(f"ip addr del {node.address}/24 dev e0")
    eventually(lambda: "the underlay is gone" in node.http("readyz")[1])
    node(f"ip addr add {node.address}/24 dev e0")
    node("ip route add default via 192.168.77.1")
    eventually(node.ready)


def test_a_cut_cable(make: Make) -> None:
    cluster = make()
    node, (one, two) = cluster.nodes[0], cluster.pods
    faults.cut(cluster, node)
    assert one.exec("ping", "-c1", "-W1", two.address).returncode != 0
    faults.heal(cluster, node)
    eventually(lambda: one.exec("ping", "-c1", "-W1", two.address).returncode == 0)
