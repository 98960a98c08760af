"""The firewall's text is flannel's: either implementation can read, and clean up after, the other."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from pyflannel.model.lease import Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.rows import Chain
from pyflannel.rules.traffic import Traffic, chains
from pyflannel.table import iptables, nftables

CONFIG = NetworkConfig.parse('{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56"}')
OWN = Subnets(IPv4Network("10.42.1.0/24"), IPv6Network("2001:cafe:42:1::/64"))
ALL = Traffic(masquerade=True)

IPTABLES = """\
*nat
:FLANNEL-POSTRTG - [0:0]
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.1.0/24 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.0.0/16 -d 10.42.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FLANNEL-FWD -s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
COMMIT
"""
NFTABLES = """\
add table ip flannel-ipv4 { comment "rules for flannel-ipv4"; }
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100; policy accept; comment "chain to manage traffic masquerading by flannel"; }
flush chain ip flannel-ipv4 postrtg
add rule ip flannel-ipv4 postrtg meta mark & 0x4000 == 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.42.1.0/24 ip daddr 10.42.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.42.0.0/16 ip daddr 10.42.1.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.42.0.0/16 ip daddr 10.42.1.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random
add table ip flannel-ipv4 { comment "rules for flannel-ipv4"; }
add chain ip flannel-ipv4 forward { type filter hook forward priority 0; policy accept; comment "chain to accept flannel traffic"; }
flush chain ip flannel-ipv4 forward
add rule ip flannel-ipv4 forward ip saddr 10.42.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.42.0.0/16 accept
"""


def wanted(manager: str, family: int, traffic: Traffic = ALL, config: NetworkConfig = CONFIG) -> list[Chain]:
    found = chains(config, OWN, traffic, manager)  # type: ignore[arg-type]
    return [chain for chain in found if chain.family == family]


def test_iptables() -> None:
    assert iptables.encode([], wanted("iptables", 4), {}) == IPTABLES


def test_nftables() -> None:
    assert nftables.encode([], wanted("nftables", 4), set()) == NFTABLES


def test_ipv6() -> None:
    six = iptables.encode([], wanted("iptables", 6), {})
    assert "-A FLANNEL-POSTRTG -s 2001:cafe:42::/56 ! -d ff00::/8 -m comment" in six
    assert "add rule ip6 flannel-ipv6 postrtg ip6 saddr 2001:cafe:42:1::/64 ip6 daddr 2001:cafe:42::/56 return" in (
        nftables.encode([], wanted("nftables", 6), set())
    )


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_written_is_read_back(family: int) -> None:
    for chain in wanted("iptables", family):
        text = iptables.encode([], [chain], {})
        assert iptables.decode(text, chain.family, chain.kind) == (chain, 1)


def test_options() -> None:
    assert wanted("nftables", 4, Traffic(masquerade=False, forward=False)) == []
    assert [chain.kind for chain in wanted("nftables", 4, Traffic())] == ["forward"]
    plain = iptables.encode([], wanted("iptables", 4, Traffic(masquerade=True, fully_random=False)), {})
    assert "MASQUERADE\n" in plain
    assert "--random-fully" not in plain


def test_spared_networks_come_before_the_masquerade() -> None:
    config = NetworkConfig.parse('{"Network":"10.42.0.0/16","NoMasquerade":["192.168.0.0/16","fd00::/8"]}')
    lines = nftables.encode([], wanted("nftables", 4, Traffic(True, False), config), set()).splitlines()
    assert lines[7] == "add rule ip flannel-ipv4 postrtg ip saddr 10.42.0.0/16 ip daddr 192.168.0.0/16 return"
    assert "masquerade" in lines[8]


def test_a_jump_in_place_stays_and_a_double_one_goes() -> None:
    (chain,) = wanted("iptables", 4, Traffic())
    for count, expected in ((0, (0, 1)), (1, (0, 0)), (3, (2, 0))):
        text = iptables.encode([], [chain], {chain.key: count})
        jump = 'FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD'
        assert (text.count(f"-D {jump}"), text.count(f"-A {jump}")) == expected
    assert iptables.encode([chain], [], {chain.key: 1}) == (
        '*filter\n-D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\n-F FLANNEL-FWD\n-X FLANNEL-FWD\nCOMMIT\n'
    )
