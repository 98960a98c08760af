"""What the udp backend wants, as an operator would read it; what it publishes."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from pyflannel.backend.udp import Udp
from pyflannel.model.errors import ConfigError, Unreachable
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past, UnderlayRoute

FOUR = '"Network":"10.5.0.0/16"'
SIX = '"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48"'
DUAL = FOUR + ',"EnableIPv6":true,"IPv6Network":"fd99::/48"'
ROUTES = (
    UnderlayRoute(ip_network("0.0.0.0/0"), "e0", on_link=False),
    UnderlayRoute(ip_network("172.17.0.0/16"), "docker0", on_link=True),
    UnderlayRoute(ip_network("192.168.9.0/24"), "e1", on_link=False),
)
NODE = Node(
    "n1", "e0", 2, 1500, IPv4Address("192.168.7.1"), IPv6Address("fd00:7::1"), IPv4Address("203.0.113.1"),
    IPv6Address("fd00:7::1"), ROUTES,
)  # fmt: skip
OWN = Subnets(IPv4Network("10.5.1.0/24"), IPv6Network("fd99:0:0:1::/64"))
PEER = Lease(
    Subnets(IPv4Network("10.5.2.0/24"), IPv6Network("fd99:0:0:2::/64")),
    LeaseAttrs(IPv4Address("192.168.7.2"), IPv6Address("fd00:7::2")),
)


def udp(extra: str = "", families: str = FOUR, node: Node = NODE) -> Udp:
    config = NetworkConfig.parse(f'{{{families},"Backend":{{"Type":"udp"{extra}}}}}')
    return Udp.build(config, node, Past(), random.Random(1))


def test_what_it_needs_whoever_its_peers_are() -> None:
    backend = udp()
    assert (backend.mtu, backend.devices) == (1472, ("flannel0",))
    assert [str(row) for row in backend.base(OWN)] == [
        "link flannel0 tun mtu 1472",
        "engine dev flannel0 local 192.168.7.1 port 8285 own 10.5.1.0/24 over e0, e1",
        "sysctl net/ipv6/conf/flannel0/disable_ipv6=1",
        "address 10.5.1.0/32 dev flannel0",
        "route 10.5.0.0/16 dev flannel0",
    ]


def test_peers_by_family() -> None:
    assert [str(row) for row in udp().reach(PEER)] == ["peer 10.5.2.0/24 endpoint 192.168.7.2 port 8285"]
    assert [str(row) for row in udp(',"Port":9000,"IPv6":true', DUAL).reach(PEER)] == [
        "peer 10.5.2.0/24 endpoint 192.168.7.2 port 9000",
        "peer fd99:0:0:2::/64 endpoint fd00:7::2 port 9000",
    ]


def test_it_publishes_its_address_and_no_type() -> None:
    assert udp().attrs() == LeaseAttrs(IPv4Address("203.0.113.1"))
    assert udp(',"IPv6":true', SIX).attrs() == LeaseAttrs(None, IPv6Address("fd00:7::1"))


@pytest.mark.parametrize(
    ("extra", "families", "mtu"),
    [
        ("", FOUR, 1472),
        (',"MTU":1400', FOUR, 1372),
        (',"IPv6":true', SIX, 1452),
        (',"IPv6":true', DUAL, 1452),
        (',"MTU":0', FOUR, 1472),
    ],
)
def test_mtu(extra: str, families: str, mtu: int) -> None:
    assert udp(extra, families).mtu == mtu


@pytest.mark.parametrize(
    ("extra", "families", "words"),
    [
        ("", DUAL, "Backend.IPv6 is false, expected true with EnableIPv6 (Go flannel's udp is IPv4 only"),
        (',"Port":70000', FOUR, "Backend.Port is 70000"),
        (',"MTU":90', FOUR, "Backend.MTU is 90, expected at least 96"),
        (',"IPv6":true,"MTU":1300', SIX, "Backend.MTU is 1300, expected at least 1328"),
    ],
)
def test_what_is_wrong_is_named(extra: str, families: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        udp(extra, families)
    assert words in str(caught.value)


def test_a_node_without_an_address_cannot_bind() -> None:
    with pytest.raises(ConfigError, match=r"IPv4 address.*udp binds its socket"):
        udp(node=replace(NODE, address=None))


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        (LeaseAttrs(IPv4Address("192.168.7.2"), None, "vxlan"), "its backend is vxlan, ours udp"),
        (LeaseAttrs(None, IPv6Address("fd00:7::2")), "it publishes no IPv4 address"),
    ],
)
def test_why_a_peer_is_unreachable(attrs: LeaseAttrs, words: str) -> None:
    with pytest.raises(Unreachable, match=words):
        udp().reach(Lease(PEER.subnets, attrs))
