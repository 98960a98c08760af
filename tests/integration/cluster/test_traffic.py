"""Pods reach each other: every backend, family and store, with real daemons."""

from __future__ import annotations

from typing import Any

import pytest

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import matrix
from support.lab import Make

pytestmark = pytest.mark.root

FAMILIES = {"v4": {}, "v6": {"ipv4": False, "ipv6": True}, "dual": {"ipv6": True}}
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {},
    "host-gw": {"backend": "host-gw"},
    "direct": {"options": {"DirectRouting": True}, "routed": True, "nodes": 3},
    "udp user": {"backend": "udp", "engine": "user"},
    "udp kernel": {"backend": "udp", "engine": "kernel"},
    "udp mixed": {"backend": "udp", "engine": "kernel,user"},
}
MTUS = {"vxlan": (1450, 1430), "host-gw": (1500, 1500)}  # IPv4, IPv6; udp's for all others


def assert_all_reach_all(cluster: Cluster) -> None:
    lost = [ping for ping in matrix(cluster) if ping.rtt_ms is None]
    assert not lost, "\n".join(node.log() for node in cluster.nodes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_pod_reaches_every_pod(make: Make, backend: str, family: str) -> None:
    cluster = make(**BACKENDS[backend], **FAMILIES[family])
    assert_all_reach_all(cluster)
    for node in cluster.nodes:
        assert node.http("readyz") == (200, "flanneld is ready")
        assert node.http("healthz") == (200, "flanneld is running")
        assert "pyflannel_ready 1.0" in node.http("metrics")[1]


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "direct"])
def test_full_packets_pass_and_larger_ones_are_refused(make: Make, backend: str, family: str) -> None:
    cluster = make(**BACKENDS[backend], **FAMILIES[family])
    one, two = cluster.pods
    mtu = int(cluster.nodes[0].subnet_env()["FLANNEL_MTU"])
    assert mtu == MTUS.get(backend, (1472, 1452))[family == "v6"]
    payload = mtu - (28 if family == "v4" else 48)  # IP and ICMP headers
    full = one.exec("ping", "-c1", "-W2", "-Mdo", f"-s{payload}", two.address)
    assert full.returncode == 0, full.stdout
    larger = one.exec("ping", "-c1", "-W2", "-Mdo", f"-s{payload + 1}", two.address)
    assert larger.returncode != 0
    assert f"mtu={mtu}" in larger.stdout + larger.stderr or f"mtu: {mtu}" in larger.stdout + larger.stderr
    fragmented = one.exec("ping", "-c1", "-W2", "-Mdont", "-s4000", two.address)
    assert fragmented.returncode == 0, fragmented.stdout


def test_direct_routing_encapsulates_only_beyond_the_link(make: Make) -> None:
    cluster = make(nodes=3, routed=True, options={"DirectRouting": True})
    first, second, third = (node.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/") for node in cluster.nodes)
    routes = cluster.nodes[0]("ip route").splitlines()
    assert any(line.startswith(f"{second} via {second.split('/')[0]} dev flannel.1") for line in routes)
    assert any(line.startswith(f"{third} via {cluster.nodes[2].address} dev e0") for line in routes)
    assert not any(line.startswith(f"{first} via") for line in routes)


def test_masquerade_leaves_the_network_alone_and_hides_pods_outside_it(make: Make) -> None:
    cluster = make(nodes=2)
    pod = cluster.pods[0]
    done = pod.exec("ping", "-c1", "-W2", "192.168.77.1")
    assert done.returncode == 0, "the pod's address has no way back: only a masqueraded ping is answered"
    assert cluster.pods[1].exec("ping", "-c1", "-W2", pod.address).returncode == 0


@pytest.mark.parametrize("nftables", [True, False])
def test_both_firewalls(make: Make, nftables: bool) -> None:
    cluster = make(nftables=nftables)
    assert_all_reach_all(cluster)
    node = cluster.nodes[0]
    listing = node("nft list ruleset") if nftables else node("iptables-save")
    assert ("chain postrtg" if nftables else "FLANNEL-POSTRTG") in listing
    assert cluster.pods[0].exec("ping", "-c1", "-W2", "192.168.77.1").returncode == 0


def test_options_of_vxlan(make: Make) -> None:
    cluster = make(options={"VNI": 16777215, "Port": 4789, "GBP": True, "Learning": True, "MTU": 1400})
    assert_all_reach_all(cluster)
    (link,) = cluster.nodes[0].ip_json("-d link show fl.16777215")
    data = link["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["learning"], link["mtu"]) == (16777215, 4789, True, 1350)
    assert "gbp" in data
    assert cluster.nodes[0].subnet_env()["FLANNEL_MTU"] == "1350"
