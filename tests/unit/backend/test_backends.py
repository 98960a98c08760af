"""What each backend wants for a peer, as an operator would type it; what it publishes, byte for byte."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from pyflannel.backend.alloc import Alloc
from pyflannel.backend.contract import Backend
from pyflannel.backend.direct import Direct
from pyflannel.backend.host_gw import HostGw
from pyflannel.backend.registry import factory
from pyflannel.backend.udp import Udp
from pyflannel.backend.vxlan import Vxlan, device_name, random_mac
from pyflannel.model.errors import ConfigError, Unreachable
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past, UnderlayRoute

ROUTES = (
    UnderlayRoute(ip_network("0.0.0.0/0"), "e0", on_link=False),
    UnderlayRoute(ip_network("192.168.7.0/24"), "e0", on_link=True),
    UnderlayRoute(ip_network("192.168.8.0/24"), "wg0", on_link=True),
    UnderlayRoute(ip_network("192.168.7.200/32"), "e0", on_link=False),
    UnderlayRoute(ip_network("fd00:7::/64"), "e0", on_link=True),
)
NODE = Node(
    "n1", "e0", 2, 1500, IPv4Address("192.168.7.1"), IPv6Address("fd00:7::1"), IPv4Address("192.168.7.1"),
    IPv6Address("fd00:7::1"), ROUTES,
)  # fmt: skip
MAC, MAC6 = "02:00:00:00:00:02", "02:00:00:00:00:66"
PAST = Past(macs={"flannel.1": "02:00:00:00:00:01", "flannel-v6.1": "02:00:00:00:00:61"})
DUAL = '"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd99::/48"'
FOUR = '"Network":"10.5.0.0/16"'


def build(backend: str, families: str = FOUR, node: Node = NODE, past: Past = PAST) -> Vxlan | HostGw:
    config = NetworkConfig.parse(f'{{{families},"Backend":{backend}}}')
    made = factory(config)(config, node, past, random.Random(1))
    assert isinstance(made, Vxlan | HostGw)
    return made


def build_any(text: str, node: Node = NODE) -> Backend:
    config = NetworkConfig.parse(text)
    return factory(config)(config, node, Past(), random.Random(1))


def vxlan(extra: str = "", families: str = FOUR, **given: object) -> Vxlan:
    made = build(f'{{"Type":"vxlan"{extra}}}', families, **given)  # type: ignore[arg-type]
    assert isinstance(made, Vxlan)
    return made


def peer(
    kind: str = "vxlan",
    address: str = "192.168.7.2",
    data: str | None = f'{{"VNI":1,"VtepMAC":"{MAC}"}}',
    data6: str | None = f'{{"VNI":1,"VtepMAC":"{MAC6}"}}',
    six: bool = False,
) -> Lease:
    subnets = Subnets(IPv4Network("10.5.2.0/24"), IPv6Network("fd99:0:0:2::/64") if six else None)
    public6 = IPv6Address("fd00:7::2") if six else None
    return Lease(subnets, LeaseAttrs(IPv4Address(address), public6, kind, data, data6 if six else None))


def text(rows: tuple[object, ...]) -> str:
    return "\n".join(map(str, rows))


FOUR_ROWS = f"""\
route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
neigh 10.5.2.0 dev flannel.1 lladdr {MAC}
fdb {MAC} dev flannel.1 dst 192.168.7.2"""
SIX_ROWS = f"""\
route fd99:0:0:2::/64 via fd99:0:0:2:: dev flannel-v6.1 onlink
neigh fd99:0:0:2:: dev flannel-v6.1 lladdr {MAC6}
fdb {MAC6} dev flannel-v6.1 dst fd00:7::2"""


def test_a_vxlan_peer() -> None:
    assert text(vxlan().reach(peer())) == FOUR_ROWS
    assert text(vxlan(families=DUAL).reach(peer(six=True))) == f"{FOUR_ROWS}\n{SIX_ROWS}"
    assert text(vxlan(families=DUAL).reach(peer())) == FOUR_ROWS
    assert text(vxlan().reach(peer(six=True))) == FOUR_ROWS


def test_a_bad_family_does_not_keep_the_other_away() -> None:
    assert text(vxlan(families=DUAL).reach(peer(six=True, data="null"))) == SIX_ROWS
    assert text(vxlan(families=DUAL).reach(peer(six=True, data6='{"VtepMAC":""}'))) == FOUR_ROWS


DIRECT = {
    "192.168.7.2": "route 10.5.2.0/24 via 192.168.7.2 dev e0",
    "192.168.8.2": "route 10.5.2.0/24 via 192.168.8.2 dev wg0",
    "192.168.7.200": FOUR_ROWS.replace("192.168.7.2", "192.168.7.200"),
    "203.0.113.5": FOUR_ROWS.replace("192.168.7.2", "203.0.113.5"),
}


@pytest.mark.parametrize("address", DIRECT)
def test_direct_routing(address: str) -> None:
    assert text(vxlan(',"DirectRouting":true').reach(peer(address=address))) == DIRECT[address]
    assert "flannel.1" in text(vxlan().reach(peer(address=address)))


UNREACHABLE = {
    "its backend is wireguard, ours vxlan": peer("wireguard"),
    "its backend is udp, alloc or a cloud's": peer(""),
    "it publishes no VTEP MAC": peer(data=None),
    "no VTEP MAC": peer(data='{"VNI":1,"VtepMAC":""}'),
    "VTEP MAC: restart": peer(data='{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}'),
    "its VNI is 7, ours 1": peer(data=f'{{"VNI":7,"VtepMAC":"{MAC}"}}'),
    "its VTEP has our MAC 02:00:00:00:00:01 (a cloned machine?)": peer(data='{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}'),
    "its backend is host-gw, and 203.0.113.5 is not on a link of ours": peer("host-gw", "203.0.113.5", None),
}


@pytest.mark.parametrize("words", UNREACHABLE)
def test_why_a_peer_is_unreachable(words: str) -> None:
    with pytest.raises(Unreachable) as caught:
        vxlan().reach(UNREACHABLE[words])
    assert words in str(caught.value)


def test_peers_of_the_other_kind_on_our_link() -> None:
    plain = "route 10.5.2.0/24 via 192.168.7.2 dev e0"
    assert text(vxlan().reach(peer("host-gw", data=None))) == plain
    assert text(build('{"Type":"host-gw"}').reach(peer("vxlan"))) == plain


def test_what_a_node_needs_for_itself() -> None:
    own = Subnets(IPv4Network("10.5.1.0/24"), IPv6Network("fd99:0:0:1::/64"))
    backend = vxlan(families=DUAL)
    assert text(backend.base(own)) == (
        "link flannel.1 vxlan id 1 dstport 8472 local 192.168.7.1 dev e0 mtu 1450 address 02:00:00:00:00:01\n"
        "sysctl net/ipv6/conf/flannel.1/accept_ra=0\n"
        "address 10.5.1.0/32 dev flannel.1\n"
        "link flannel-v6.1 vxlan id 1 dstport 8472 local fd00:7::1 dev e0 mtu 1430 address 02:00:00:00:00:61\n"
        "sysctl net/ipv6/conf/flannel-v6.1/accept_ra=0\n"
        "address fd99:0:0:1::/128 dev flannel-v6.1"
    )
    assert (backend.mtu, backend.devices) == (1430, ("flannel.1", "flannel-v6.1"))
    with pytest.raises(ConfigError, match="IPv6 subnet is missing"):
        backend.base(Subnets(IPv4Network("10.5.1.0/24")))


def test_what_is_published_is_flannels() -> None:
    attrs = vxlan(families=DUAL).attrs()
    assert attrs.backend_data == '{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}'
    assert attrs.backend_v6_data == '{"VNI":1,"VtepMAC":"02:00:00:00:00:61"}'
    assert (attrs.backend_type, str(attrs.public_ip), str(attrs.public_ipv6)) == ("vxlan", "192.168.7.1", "fd00:7::1")
    assert build('{"Type":"Host-GW"}').attrs() == LeaseAttrs(IPv4Address("192.168.7.1"), None, "host-gw")
    assert Alloc(NODE).attrs().backend_type == ""


def test_the_mac_is_kept() -> None:
    remembered = Past(
        Lease(Subnets(IPv4Network("10.5.1.0/24")), LeaseAttrs(None, None, "vxlan", f'{{"VtepMAC":"{MAC}"}}'))
    )
    assert MAC in str(vxlan(past=remembered).attrs().backend_data)
    fresh = vxlan(past=Past()).attrs().backend_data
    assert fresh == vxlan(past=Past()).attrs().backend_data, "chance is an argument"
    for seed in range(50):
        assert int(random_mac(random.Random(seed))[:2], 16) & 3 == 2


WRONG = {
    ',"VNI":16777216': "Backend.VNI is 16777216, expected an integer from 0 to 16777215",
    ',"VNI":"1"': "Backend.VNI",
    ',"Port":65536': "Backend.Port is 65536",
    ',"MTU":60': "Backend.MTU is 60, expected at least 118",
    ',"GBP":1': "Backend.GBP is 1, expected true or false",
}


@pytest.mark.parametrize("extra", WRONG)
def test_wrong_settings(extra: str) -> None:
    with pytest.raises(ConfigError) as caught:
        vxlan(extra)
    assert WRONG[extra] in str(caught.value)


def test_device_names_have_no_limit() -> None:
    assert [device_name(vni, family) for vni in (1, 9999999, 16777215) for family in (4, 6)] == [
        "flannel.1", "flannel-v6.1", "flannel.9999999", "fl-v6.9999999", "fl.16777215", "fl-v6.16777215",
    ]  # fmt: skip


def test_host_gw_says_what_it_needs() -> None:
    nat = Node("n1", "e0", 2, 1500, NODE.address, None, IPv4Address("203.0.113.1"), None, ROUTES)
    with pytest.raises(ConfigError, match=r"--public-ip is \"203\.0\.113\.1\", expected 192\.168\.7\.1"):
        build('{"Type":"host-gw"}', node=nat)
    with pytest.raises(Unreachable, match=r"203\.0\.113\.5 is not on a link of ours \(e0\)"):
        build('{"Type":"host-gw"}').reach(peer("host-gw", "203.0.113.5", None))


def test_unknown_backends_are_named_with_those_there_are() -> None:
    for text_, words in (
        (
            '{"Type":"wg"}',
            'Type is "wg", expected one of ali-vpc, alloc, aws-vpc, gce, host-gw, tencent-vpc, udp, vxlan',
        ),
        ("{}", 'Type is ""'),
    ):
        with pytest.raises(ConfigError) as caught:
            build(text_)
        assert words in str(caught.value)


def test_without_a_backend_flannel_means_udp() -> None:
    assert isinstance(build_any("{" + FOUR + "}"), Udp)


def test_the_longest_prefix_decides() -> None:
    direct = Direct(ROUTES)
    asked = ["192.168.7.5", "192.168.7.200", "192.168.8.1", "8.8.8.8", "fd00:7::9", "fd00:9::9"]
    assert [direct.device(ip_address(ip)) for ip in asked] == ["e0", None, "wg0", None, "e0", None]
