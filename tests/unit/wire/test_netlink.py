"""Netlink encoding: pyroute2 as the oracle, and bytes written down by hand."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyflannel.model.rows import Address, FdbEntry, Neighbour, Route, VxlanLink
from pyflannel.wire import netlink, rtlink, rtnetlink
from pyflannel.wire.netlink import Message, Request
from pyflannel.wire.rtnetlink import CREATE, REPLACE, Names

NAMES = Names.of({2: "e0", 7: "flannel.1"})
v4 = st.integers(0, 2**32 - 1).map(ip_address)
v6 = st.integers(2**100, 2**128 - 1).map(ip_address)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
devices = st.sampled_from(["e0", "flannel.1"])
nets = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(1, 128)).map(lambda pair: IPv6Network(pair, strict=False)),
)


def oracle(kind: type, request: Request) -> object:
    """*request* as pyroute2 reads it."""
    message = kind(netlink.pack(request, 1))
    message.decode()
    return message


def test_a_route_byte_for_byte() -> None:
    """10.5.2.0/24 via 10.5.2.0 dev 7, onlink: struct rtmsg, then RTA_DST, RTA_OIF, RTA_GATEWAY."""
    row = Route(ip_network("10.5.2.0/24"), "flannel.1", ip_address("10.5.2.0"), onlink=True)
    request = rtnetlink.route_request(rtnetlink.RTM_NEWROUTE, CREATE, row, NAMES)
    expected = "02180000fef1000104000000080001000a0502000800040007000000080005000a050200"
    assert request.body.hex() == expected
    packed = netlink.pack(request, 5, netlink.F_ACK)
    assert packed[:16] == struct.pack("=IHHII", 16 + len(request.body), 24, 0x600 | 1 | 4, 5, 0)


@given(nets, devices, st.booleans(), st.none() | st.integers(1, 2**32 - 1), st.data())
def test_routes_are_read_back(
    net: IPv4Network | IPv6Network, device: str, onlink: bool, metric: int | None, data: st.DataObject
) -> None:
    gateway = data.draw(st.none() | (v4 if net.version == 4 else v6))
    if metric == (0 if net.version == 4 else 1024):
        metric = None
    row = Route(net, device, gateway, onlink, metric=metric)
    request = rtnetlink.route_request(rtnetlink.RTM_NEWROUTE, REPLACE, row, NAMES)
    info = rtnetlink.parse_route(request.body)
    assert info is not None
    if net.version == 6 and metric is None:
        info = type(info)(**{name: getattr(info, name) for name in info.__slots__} | {"metric": 1024})  # the kernel's
    assert rtnetlink.route_of(info, NAMES) == row
    seen = oracle(rtmsg, request)
    assert seen["dst_len"] == net.prefixlen  # type: ignore[index]
    assert seen["proto"] == 241  # type: ignore[index]
    # As addresses: libc and Python write some IPv6 ones differently.
    assert ip_address(seen.get_attr("RTA_DST")) == net.network_address  # type: ignore[attr-defined]
    via = seen.get_attr("RTA_GATEWAY")  # type: ignore[attr-defined]
    assert (ip_address(via) if via else None) == gateway
    assert seen.get_attr("RTA_OIF") == NAMES.index[device]  # type: ignore[attr-defined]


@given(st.one_of(v4, v6), macs, devices)
def test_neighbours_are_read_back(ip: object, mac: str, device: str) -> None:
    row = Neighbour(device, ip, mac)  # type: ignore[arg-type]
    request = rtnetlink.neighbour_request(rtnetlink.RTM_NEWNEIGH, REPLACE, row, NAMES)
    assert rtnetlink.parse_neighbour(request.body, NAMES) == row
    seen = oracle(ndmsg, request)
    assert (seen["state"], seen["ifindex"]) == (0x80, NAMES.index[device])  # type: ignore[index]
    assert ip_address(seen.get_attr("NDA_DST")) == ip  # type: ignore[attr-defined]
    assert seen.get_attr("NDA_LLADDR") == mac  # type: ignore[attr-defined]


@given(st.one_of(v4, v6), macs)
def test_fdb_entries_are_read_back(ip: object, mac: str) -> None:
    row = FdbEntry("flannel.1", mac, ip)  # type: ignore[arg-type]
    request = rtnetlink.fdb_request(rtnetlink.RTM_NEWNEIGH, REPLACE, row, NAMES)
    assert rtnetlink.parse_neighbour(request.body, NAMES) == row
    seen = oracle(ndmsg, request)
    assert (seen["family"], seen["state"], seen["flags"]) == (7, 0x80, 2)  # type: ignore[index]
    assert seen.get_attr("NDA_LLADDR") == mac  # type: ignore[attr-defined]


@given(st.one_of(v4, v6), devices)
def test_addresses_are_read_back(ip: object, device: str) -> None:
    length = ip.max_prefixlen  # type: ignore[attr-defined]
    request = rtnetlink.address_request(rtnetlink.RTM_NEWADDR, CREATE, Address(device, ip, length), NAMES)  # type: ignore[arg-type]
    info = rtnetlink.parse_address(request.body)
    assert info is not None
    assert (info.ip, info.prefix_len, info.index, info.scope) == (ip, length, NAMES.index[device], 0)
    seen = oracle(ifaddrmsg, request)
    assert ip_address(seen.get_attr("IFA_LOCAL")) == ip_address(seen.get_attr("IFA_ADDRESS")) == ip  # type: ignore[attr-defined]


@given(st.integers(0, 2**24 - 1), st.integers(1, 65535), st.one_of(v4, v6), macs, st.booleans(), st.booleans())
def test_vxlan_links_are_read_back(vni: int, port: int, local: object, mac: str, learning: bool, gbp: bool) -> None:
    row = VxlanLink("flannel.1", vni, port, "e0", local, mac, 1450, learning, gbp, up=False)  # type: ignore[arg-type]
    request = rtlink.vxlan_create(row, NAMES)
    assert rtlink.parse_vxlan(request.body, NAMES) == row
    seen = oracle(ifinfmsg, request)
    info = seen.get_attr("IFLA_LINKINFO")  # type: ignore[attr-defined]
    data = info.get_attr("IFLA_INFO_DATA")
    assert (info.get_attr("IFLA_INFO_KIND"), data.get_attr("IFLA_VXLAN_ID")) == ("vxlan", vni)
    assert data.get_attr("IFLA_VXLAN_LINK") == 2
    assert seen.get_attr("IFLA_ADDRESS") == mac  # type: ignore[attr-defined]


def test_refusals() -> None:
    bare = struct.pack("=i", -17) + bytes(16)
    error = netlink.error(Message(netlink.NLMSG_ERROR, netlink.F_CAPPED, 1, 0, bare))
    assert error is not None
    assert (error.errno, str(error)) == (17, "File exists")
    words = bare + netlink.text(netlink.NLMSGERR_ATTR_MSG, "Nexthop has invalid gateway")
    error = netlink.error(Message(netlink.NLMSG_ERROR, netlink.F_CAPPED | netlink.F_ACK_TLVS, 1, 0, words))
    assert str(error) == "Nexthop has invalid gateway (File exists)"
    assert netlink.error(Message(netlink.NLMSG_ERROR, 0, 1, 0, struct.pack("=i", 0) + bytes(16))) is None


@given(st.binary(max_size=200))
def test_garbage_is_no_crash(data: bytes) -> None:
    try:
        for message in netlink.messages(data):
            netlink.error(message)
    except ValueError:
        pass
    netlink.attributes(data)


def test_an_unknown_device_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        rtnetlink.neighbour_request(28, CREATE, Neighbour("nope", ip_address("10.0.0.1"), "02:00:00:00:00:01"), NAMES)
