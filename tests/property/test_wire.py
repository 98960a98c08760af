"""Framing survives anything, and what another implementation encodes is what we decode."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyflannel.model.node import IPAddress, IPNetwork
from pyflannel.model.rows import FdbEntry, Neighbour, Route, VxlanLink
from pyflannel.wire import netlink, rtlink, rtnetlink
from pyflannel.wire.netlink import HEADER, Message, Request
from pyflannel.wire.rtnetlink import Names

NAMES = Names.of({2: "e0", 7: "flannel.1"})
v4 = st.integers(1, 2**32 - 1).map(IPv4Address)
v6 = st.integers(1, 2**128 - 1).map(IPv6Address)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
devices = st.sampled_from(sorted(NAMES.index))
nets4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False))
nets6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda pair: IPv6Network(pair, strict=False))
requests = st.builds(Request, st.integers(16, 100), st.sampled_from([0, 0x300, 0x500, 0x600]), st.binary(max_size=70))


def encoded(message: Any, **header: Any) -> bytes:
    """pyroute2's bytes of *message*, less the netlink header: what the kernel would hand to a parser of ours."""
    for field, value in header.items():
        message[field] = value
    message.encode()
    return bytes(message.data)[HEADER.size :]


# Framing


@given(st.lists(requests, max_size=20), st.integers(0, 2**31))
def test_a_batch_is_read_as_it_was_packed(batch: list[Request], first: int) -> None:
    data = b"".join(netlink.pack(request, first + at) for at, request in enumerate(batch))
    assert len(data) % 4 == 0
    assert list(netlink.messages(data)) == [
        Message(request.type, request.flags | netlink.F_REQUEST, first + at, 0, request.body)
        for at, request in enumerate(batch)
    ]


@given(requests, st.data())
def test_a_message_cut_short_is_never_read_as_a_whole_one(request: Request, data: st.DataObject) -> None:
    whole = netlink.pack(request, 1)[: HEADER.size + len(request.body)]
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    if len(cut) < HEADER.size:
        assert list(netlink.messages(cut)) == []
    else:
        with pytest.raises(ValueError, match="datagram"):
            list(netlink.messages(cut))


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=12), st.binary(max_size=3))
def test_attributes_are_read_back_whatever_follows(wanted: dict[int, bytes], rest: bytes) -> None:
    data = b"".join(netlink.attr(kind, payload) for kind, payload in wanted.items())
    assert netlink.attributes(data + rest) == wanted


@given(st.integers(1, 133), st.text(max_size=60).filter(lambda text: "\0" not in text), st.booleans(), requests)
def test_a_refusal_keeps_its_number_and_its_words(errno: int, words: str, capped: bool, request: Request) -> None:
    """With the refused message echoed whole, or (capped) only its header."""
    echoed = netlink.pack(request, 1)
    body = struct.pack("=i", -errno) + (echoed[: HEADER.size] if capped else echoed)
    body += netlink.text(netlink.NLMSGERR_ATTR_MSG, words)
    flags = netlink.F_ACK_TLVS | (netlink.F_CAPPED if capped else 0)
    error = netlink.error(Message(netlink.NLMSG_ERROR, flags, 1, 0, body))
    assert error is not None
    assert (error.errno, error.words) == (errno, words)


# pyroute2 writes, we read


@given(
    st.one_of(st.tuples(nets4, v4), st.tuples(nets6, v6)),
    devices,
    st.booleans(),
    st.integers(1, 2**32 - 1),
    st.sampled_from([3, 4, 12, 241]),
)
def test_routes(pair: tuple[IPNetwork, IPAddress], device: str, onlink: bool, metric: int, protocol: int) -> None:
    net, gateway = pair
    assume(metric != 1024)
    message = rtmsg()
    message["attrs"] = [
        ("RTA_TABLE", 254),
        ("RTA_DST", str(net.network_address)),
        ("RTA_PRIORITY", metric),
        ("RTA_GATEWAY", str(gateway)),
        ("RTA_OIF", NAMES.index[device]),
    ]
    body = encoded(
        message, family=rtnetlink.family_of(net), dst_len=net.prefixlen, table=254, proto=protocol, scope=0, type=1,
        flags=4 if onlink else 0,
    )  # fmt: skip
    info = rtnetlink.parse_route(body)
    assert info is not None
    assert rtnetlink.route_of(info, NAMES) == Route(net, device, gateway, onlink, False, metric, protocol)


@given(st.sampled_from([252, 255, 1000]), st.sampled_from([0, 0x10]), st.sampled_from([1, 2, 3, 6, 7, 9]))
def test_routes_of_other_tables_kinds_and_services_are_none_of_ours(table: int, tos: int, kind: int) -> None:
    def parsed(table: int, tos: int, kind: int) -> object:
        message = rtmsg()
        message["attrs"] = [("RTA_TABLE", table), ("RTA_DST", "10.5.2.0"), ("RTA_OIF", 2)]
        fields = {"family": 2, "dst_len": 24, "table": min(table, 252), "proto": 241, "tos": tos, "type": kind}
        return rtnetlink.parse_route(encoded(message, **fields))

    assert parsed(table, tos, kind) is None
    assert (parsed(254, tos, kind) is not None) == (tos == 0 and kind in (1, 6))


@given(st.lists(st.tuples(devices, v4), min_size=2, max_size=5))
def test_a_route_of_several_next_hops_equals_no_row(hops: list[tuple[str, IPv4Address]]) -> None:
    message = rtmsg()
    message["attrs"] = [
        ("RTA_DST", "10.5.2.0"),
        (
            "RTA_MULTIPATH",
            [{"oif": NAMES.index[device], "attrs": [("RTA_GATEWAY", str(gateway))]} for device, gateway in hops],
        ),
    ]
    info = rtnetlink.parse_route(encoded(message, family=2, dst_len=24, table=254, proto=241, type=1))
    assert info is not None
    assert info.indexes == tuple(NAMES.index[device] for device, _ in hops)
    row = rtnetlink.route_of(info, NAMES)
    assert row is not None
    assert row.device is None
    assert not row.blackhole


@given(st.one_of(v4, v6), macs, devices, st.integers(0, 255))
def test_neighbours(ip: IPAddress, mac: str, device: str, state: int) -> None:
    message = ndmsg()
    message["attrs"] = [("NDA_DST", str(ip)), ("NDA_LLADDR", mac)]
    body = encoded(message, family=rtnetlink.family_of(ip), ifindex=NAMES.index[device], state=state)
    assert rtnetlink.parse_neighbour(body, NAMES) == (Neighbour(device, ip, mac) if state & 0x80 else None)


@given(st.one_of(v4, v6), macs, st.booleans(), st.booleans())
def test_fdb_entries(remote: IPAddress, mac: str, permanent: bool, of_the_device: bool) -> None:
    message = ndmsg()
    message["attrs"] = [("NDA_LLADDR", mac)]
    body = encoded(message, family=7, ifindex=7, state=0x80 if permanent else 0x02, flags=2 if of_the_device else 4)
    body += netlink.attr(rtnetlink.NDA_DST, remote.packed)  # pyroute2 knows it in this family by a string only
    found = rtnetlink.parse_neighbour(body, NAMES)
    assert found == (FdbEntry("flannel.1", mac, remote) if permanent and of_the_device else None)


@given(st.one_of(v4, v6), st.integers(0, 128), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0, 253]))
def test_addresses(ip: IPAddress, length: int, brief: bool, old: bool, fixed: bool, scope: int) -> None:
    length = min(length, ip.max_prefixlen)
    message = ifaddrmsg()
    flags = (0x01 if brief else 0) | (0x20 if old else 0) | (0x80 if fixed else 0)
    message["attrs"] = [("IFA_ADDRESS", str(ip)), ("IFA_FLAGS", flags | 0x200)]
    body = encoded(message, family=rtnetlink.family_of(ip), prefixlen=length, index=2, scope=scope, flags=flags)
    info = rtnetlink.parse_address(body)
    assert info is not None
    assert (info.index, info.ip, info.prefix_len, info.scope) == (2, ip, length, scope)
    assert (info.permanent, info.deprecated) == (fixed, old)
    assert info.temporary == (brief and ip.version == 6)  # for IPv4 the bit says: a second one of its subnet


@given(st.integers(0, 2**24 - 1), st.integers(1, 65535), v4, macs, st.booleans(), st.integers(68, 65535), st.booleans())
def test_vxlan_links(vni: int, port: int, local: IPv4Address, mac: str, learning: bool, mtu: int, up: bool) -> None:
    message = ifinfmsg()
    data = [
        ("IFLA_VXLAN_ID", vni),
        ("IFLA_VXLAN_LINK", 2),
        ("IFLA_VXLAN_LOCAL", str(local)),
        ("IFLA_VXLAN_PORT", port),
        ("IFLA_VXLAN_LEARNING", int(learning)),
    ]
    message["attrs"] = [
        ("IFLA_IFNAME", "flannel.1"),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_IFALIAS", "a mark"),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]}),
    ]
    body = encoded(message, family=0, index=7, flags=1 if up else 0)
    assert rtlink.parse_vxlan(body, NAMES) == VxlanLink(
        "flannel.1", vni, port, "e0", local, mac, mtu, learning, False, up
    )
    link = rtlink.parse_link(body)
    assert (link.index, link.kind, link.alias, link.up) == (7, "vxlan", "a mark", up)
