"""Which interface, which addresses, and why: flannel's order, with what it gets wrong put right."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from pyflannel.model.errors import ConfigError
from pyflannel.node.choose import Facts, Wish, choose, still, underlay_routes
from pyflannel.wire.facts import AddressInfo, LinkInfo, RouteInfo


def address(index: int, text: str, **flags: bool) -> AddressInfo:
    ip = ip_address(text)
    return AddressInfo(index, ip, 24 if ip.version == 4 else 64, **flags)


LINKS = (LinkInfo("lo", 1, 65536), LinkInfo("e0", 2, 1500), LinkInfo("e1", 3, 9000), LinkInfo("down", 4, 0))
ADDRESSES = (
    address(1, "127.0.0.1"), address(2, "169.254.7.7"), address(2, "10.0.2.15"), address(2, "fe80::1"),
    address(2, "fd00::99", temporary=True, permanent=False), address(2, "fd00::1"), address(3, "192.168.7.1"),
    address(3, "192.168.7.5"), address(3, "fd00:7::5", deprecated=True), address(3, "fd00:7::1"),
)  # fmt: skip
ROUTES = (
    RouteInfo(ip_network("0.0.0.0/0"), (3,), ip_address("192.168.7.254"), 200),
    RouteInfo(ip_network("0.0.0.0/0"), (2,), ip_address("10.0.2.2"), 100),
    RouteInfo(ip_network("::/0"), (2,), ip_address("fe80::2"), 1024),
    RouteInfo(ip_network("192.168.7.0/24"), (3,), None, protocol=2),
    RouteInfo(ip_network("10.5.2.0/24"), (3,), ip_address("192.168.7.2"), protocol=241),
    RouteInfo(ip_network("10.5.3.0/24"), (3,), ip_address("192.168.7.3"), protocol=3),
)
FACTS = Facts(
    LINKS, ADDRESSES, ROUTES, lambda ip: RouteInfo(ip_network(f"{ip}"), (3,), source=ip_address("192.168.7.5"))
)

# flags, families: interface, IPv4, IPv6, public IPv4
CASES: dict[str, tuple[Wish, str, str]] = {
    "nothing said: the default route with the best metric": (Wish(), "4", "e0 10.0.2.15 None 10.0.2.15"),
    "dual stack": (Wish(), "46", "e0 10.0.2.15 fd00::1 10.0.2.15"),
    "IPv6 alone": (Wish(), "6", "e0 None fd00::1 None"),
    "by name": (Wish(("e1",)), "4", "e1 192.168.7.1 None 192.168.7.1"),
    "by name, dual": (Wish(("e1",)), "46", "e1 192.168.7.1 fd00:7::1 192.168.7.1"),
    "by address": (Wish(("192.168.7.5",)), "4", "e1 192.168.7.5 None 192.168.7.5"),
    "by IPv6 address": (Wish(("fd00:7::1",)), "6", "e1 None fd00:7::1 None"),
    "by IPv6 address in dual stack (flannel crashes)": (
        Wish(("fd00:7::1",)),
        "46",
        "e1 192.168.7.1 fd00:7::1 192.168.7.1",
    ),
    "the second if the first isn't there": (Wish(("nope", "e1")), "4", "e1 192.168.7.1 None 192.168.7.1"),
    "by expression on an address": (Wish(iface_regex=(r"192\.168\.7\.5",)), "4", "e1 192.168.7.5 None 192.168.7.5"),
    "by expression on a name": (Wish(iface_regex=("^e1$",)), "4", "e1 192.168.7.1 None 192.168.7.1"),
    "in dual stack both of one interface": (
        Wish(iface_regex=("^fd00:7|^192",)),
        "46",
        "e1 192.168.7.1 fd00:7::1 192.168.7.1",
    ),
    "what leads there": (Wish(can_reach="203.0.113.9"), "4", "e1 192.168.7.5 None 192.168.7.5"),
    "a public address of ours": (Wish(public_ip="192.168.7.5"), "4", "e1 192.168.7.5 None 192.168.7.5"),
    "a public address behind NAT": (Wish(("e1",), public_ip="203.0.113.1"), "4", "e1 192.168.7.1 None 203.0.113.1"),
}
WRONG: dict[str, tuple[Wish, str, str]] = {
    "no such interface": (Wish(("nope",)), "4", "--iface=nope: no interface of this name"),
    "what there is": (Wish(("nope",)), "4", "e1 (192.168.7.1, 192.168.7.5, fd00:7::1), down (no address)"),
    "no such address": (Wish(("192.168.7.77",)), "4", "no interface bears 192.168.7.77"),
    "the wrong family": (Wish(("fd00::1",)), "4", "an IPv6 address, but the config has IPv6 off"),
    "an IPv6 target in an IPv4 cluster (flannel crashes)": (Wish(can_reach="fd00::9"), "4", "the config has IPv6 off"),
    "a bad expression": (Wish(iface_regex=("(",)), "4", '--iface-regex is "("'),
    "no match": (Wish(iface_regex=("zzz",)), "4", "matches no address and no name"),
    "no address": (Wish(("down",)), "4", "MTU of down is 0"),
    "a public address of nobody": (Wish(public_ip="203.0.113.1"), "4", "or --iface as well"),
    "no address at all": (Wish(("e1",), public_ip="x"), "4", '--public-ip is "x", expected an IPv4 address'),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_chosen(name: str) -> None:
    wish, families, expected = CASES[name]
    node, why = choose(FACTS, wish, "4" in families, "6" in families, "n1")
    assert f"{node.interface} {node.address} {node.address6} {node.public_ip}" == expected
    assert why


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_chosen_is_said(name: str) -> None:
    wish, families, words = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        choose(FACTS, wish, "4" in families, "6" in families, "n1")
    assert words in str(caught.value)


def test_dual_stack_needs_one_interface() -> None:
    routes = (*ROUTES[1:2], RouteInfo(ip_network("::/0"), (3,)))
    with pytest.raises(ConfigError, match="the same interface for IPv4 and IPv6"):
        choose(Facts(LINKS, ADDRESSES, routes), Wish(), True, True, "n1")
    with pytest.raises(ConfigError, match="IPv4 default route"):
        choose(Facts(LINKS, ADDRESSES, ()), Wish(), True, False, "n1")


def test_a_node_stays_as_long_as_its_address_does() -> None:
    node, _ = choose(FACTS, Wish(("e1",)), True, False, "n1")
    assert still(node, Facts(LINKS, ADDRESSES, ())) == node
    smaller = (*LINKS[:2], LinkInfo("e1", 9, 1400))
    moved = still(node, Facts(smaller, (address(9, "192.168.7.1"),), ()))
    assert moved is not None
    assert (moved.index, moved.mtu) == (9, 1400)
    assert still(node, Facts(LINKS, ADDRESSES[:6], ())) is None
    assert still(node, Facts(LINKS[:2], ADDRESSES, ())) is None


def test_the_underlays_routes() -> None:
    found = underlay_routes(FACTS, [ip_network("10.5.0.0/16")], ["flannel.1"])
    assert [(str(route.destination), route.device, route.on_link) for route in found] == [
        ("192.168.7.0/24", "e1", True), ("0.0.0.0/0", "e0", False), ("0.0.0.0/0", "e1", False), ("::/0", "e0", False),
    ]  # fmt: skip
