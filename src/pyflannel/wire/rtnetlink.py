"""rtnetlink: routes, neighbours, FDB entries and addresses as bytes (linux/rtnetlink.h, neighbour.h, if_addr.h).

Rows name devices, the kernel numbers them: `Names` stands between. Encodings are those of Go flannel (backends
reference, 1.7) but for the route protocol. Everything here is pure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6

from pyflannel.model.node import IPAddress, IPNetwork
from pyflannel.model.rows import Address, FdbEntry, Neighbour, Route
from pyflannel.wire.facts import AddressInfo, RouteInfo
from pyflannel.wire.netlink import (
    F_CREATE,
    F_DUMP,
    F_EXCL,
    F_REPLACE,
    Request,
    attr,
    attributes,
    u32,
)

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_BRIDGE = 7

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix len, flags, scope, index

RT_TABLE_MAIN, RTN_UNICAST, RTN_BLACKHOLE, RTNH_F_ONLINK, RTM_F_CLONED = 254, 1, 6, 4, 0x200
RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 253, 255
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 6, 7, 9, 15
NDA_DST, NDA_LLADDR, NUD_PERMANENT, NTF_SELF = 1, 2, 0x80, 2
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_TEMPORARY, IFA_F_NODAD, IFA_F_DEPRECATED, IFA_F_PERMANENT = 0x01, 0x02, 0x20, 0x80
IPV6_DEFAULT_METRIC = 1024  # the kernel's IP6_RT_PRIO_USER

CREATE, REPLACE = F_CREATE | F_EXCL, F_CREATE | F_REPLACE


@dataclass(slots=True)
class Names:
    """Devices by name and by index, as last read."""

    index: dict[str, int] = field(default_factory=dict)
    name: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, links: Mapping[int, str]) -> Names:
        return cls({name: index for index, name in links.items()}, dict(links))


def family_of(ip: IPAddress | IPNetwork) -> int:
    return AF_INET if ip.version == 4 else AF_INET6


def address_of(data: bytes) -> IPAddress:
    """4 or 16 bytes as an address."""
    return IPv4Address(data) if len(data) == 4 else IPv6Address(data)


def network_of(family: int, data: bytes, length: int) -> IPNetwork:
    if family == AF_INET:
        return IPv4Network((int.from_bytes(data, "big"), length))
    return IPv6Network((int.from_bytes(data, "big"), length))


# Routes


def route_request(kind: int, flags: int, route: Route, names: Names) -> Request:
    """RTM_NEWROUTE or RTM_DELROUTE for *route*. Raises KeyError if its device is unknown."""
    net, deleting = route.destination, kind == RTM_DELROUTE
    scope = 0 if route.gateway or route.blackhole or net.version == 6 else RT_SCOPE_LINK
    if deleting:
        scope = RT_SCOPE_NOWHERE  # matches any
    head = _RTMSG.pack(
        family_of(net),
        net.prefixlen,
        0,
        0,
        RT_TABLE_MAIN,
        route.protocol,
        scope,
        RTN_BLACKHOLE if route.blackhole else RTN_UNICAST,
        RTNH_F_ONLINK if route.onlink else 0,
    )
    attrs = [attr(RTA_DST, net.network_address.packed)]
    if route.device is not None:
        attrs.append(u32(RTA_OIF, names.index[route.device]))
    if route.gateway is not None:
        attrs.append(attr(RTA_GATEWAY, route.gateway.packed))
    if route.metric is not None:
        attrs.append(u32(RTA_PRIORITY, route.metric))
    elif deleting and net.version == 6:
        attrs.append(u32(RTA_PRIORITY, IPV6_DEFAULT_METRIC))
    return Request(kind, flags, head + b"".join(attrs))


def routes_dump(family: int) -> Request:
    """All routes of the main table."""
    head = _RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    return Request(RTM_GETROUTE, F_DUMP, head + u32(RTA_TABLE, RT_TABLE_MAIN))


def route_lookup(ip: IPAddress) -> Request:
    """As `ip route get`."""
    head = _RTMSG.pack(family_of(ip), ip.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return Request(RTM_GETROUTE, 0, head + attr(RTA_DST, ip.packed))


def parse_route(body: bytes, any_table: bool = False) -> RouteInfo | None:
    """A unicast or blackhole route of the main table; None for any other.

    One for a type of service isn't one of these: beside it the route without may stand, under the same key.
    """
    family, dst_len, _, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    if kind not in (RTN_UNICAST, RTN_BLACKHOLE) or family not in (AF_INET, AF_INET6):
        return None
    attrs = attributes(body, _RTMSG.size)
    if not any_table and (tos or flags & RTM_F_CLONED or _u32(attrs.get(RTA_TABLE), table) != RT_TABLE_MAIN):
        return None
    gateway, source = attrs.get(RTA_GATEWAY), attrs.get(RTA_PREFSRC)
    if RTA_MULTIPATH in attrs:
        indexes = _hops(attrs[RTA_MULTIPATH])
    else:
        indexes = (_u32(attrs[RTA_OIF], 0),) if RTA_OIF in attrs else ()
    empty = bytes(4 if family == AF_INET else 16)
    blackhole = kind == RTN_BLACKHOLE
    return RouteInfo(
        network_of(family, attrs.get(RTA_DST, empty), dst_len),
        () if blackhole else indexes,  # IPv6 hangs a blackhole on lo
        address_of(gateway) if gateway else None,
        _u32(attrs.get(RTA_PRIORITY), 0),
        protocol,
        scope,
        blackhole,
        bool(flags & RTNH_F_ONLINK),
        address_of(source) if source else None,
    )


def route_of(info: RouteInfo, names: Names) -> Route | None:
    """*info* as a row; None if its device is unknown. One of several next hops has no device: no row is like it."""
    default = 0 if info.destination.version == 4 else IPV6_DEFAULT_METRIC
    device = None
    if not info.blackhole and len(info.indexes) < 2:
        if not info.indexes or info.indexes[0] not in names.name:
            return None
        device = names.name[info.indexes[0]]
    return Route(
        info.destination,
        device,
        info.gateway,
        info.onlink,
        info.blackhole,
        None if info.metric == default else info.metric,
        info.protocol,
    )


def _hops(data: bytes) -> tuple[int, ...]:
    found, at = [], 0
    while at + 8 <= len(data):
        length, _, _, index = struct.unpack_from("=HBBi", data, at)
        if length < 8:
            break
        found.append(index)
        at += length + (-length % 4)
    return tuple(found)


def _u32(data: bytes | None, default: int) -> int:
    return default if data is None else int(struct.unpack("=I", data)[0])


# Neighbours and FDB entries


def neighbour_request(kind: int, flags: int, row: Neighbour, names: Names) -> Request:
    """RTM_NEWNEIGH or RTM_DELNEIGH for a permanent neighbour. Raises KeyError if its device is unknown."""
    head = _NDMSG.pack(family_of(row.ip), names.index[row.device], NUD_PERMANENT, 0, RTN_UNICAST)
    return Request(kind, flags, head + attr(NDA_DST, row.ip.packed) + attr(NDA_LLADDR, mac_bytes(row.mac)))


def fdb_request(kind: int, flags: int, row: FdbEntry, names: Names) -> Request:
    """RTM_NEWNEIGH or RTM_DELNEIGH for an entry of the device itself. Raises KeyError if its device is unknown."""
    head = _NDMSG.pack(AF_BRIDGE, names.index[row.device], NUD_PERMANENT, NTF_SELF, 0)
    return Request(kind, flags, head + attr(NDA_DST, row.remote.packed) + attr(NDA_LLADDR, mac_bytes(row.mac)))


def neighbours_dump(family: int, index: int = 0) -> Request:
    """Neighbours of *family*, or (AF_BRIDGE) FDB entries of the device with *index*. For strict sockets."""
    return Request(RTM_GETNEIGH, F_DUMP, _NDMSG.pack(family, index, 0, 0, 0))


def neighbour_device(body: bytes) -> tuple[int, int]:
    """Family and device index of a neighbour or FDB message."""
    family, index, _, _, _ = _NDMSG.unpack_from(body)
    return family, index


def parse_neighbour(body: bytes, names: Names) -> Neighbour | FdbEntry | None:
    """A permanent neighbour, or a permanent FDB entry with a remote; None for any other."""
    family, index, state, flags, _ = _NDMSG.unpack_from(body)
    if not state & NUD_PERMANENT or index not in names.name:
        return None
    attrs = attributes(body, _NDMSG.size)
    destination, lladdr = attrs.get(NDA_DST), attrs.get(NDA_LLADDR)
    if destination is None or lladdr is None or len(lladdr) != 6:
        return None
    if family == AF_BRIDGE:
        return FdbEntry(names.name[index], mac_text(lladdr), address_of(destination)) if flags & NTF_SELF else None
    return Neighbour(names.name[index], address_of(destination), mac_text(lladdr))


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


# Addresses


def address_request(kind: int, flags: int, row: Address, names: Names) -> Request:
    """RTM_NEWADDR or RTM_DELADDR. Raises KeyError if the device is unknown.

    IPv6 without duplicate address detection: the lease makes it unique, nobody on a VTEP's link would answer, and
    for the seconds it takes the address could be no source.
    """
    flags8 = IFA_F_NODAD if row.ip.version == 6 else 0
    head = _IFADDRMSG.pack(family_of(row.ip), row.prefix_len, flags8, 0, names.index[row.device])
    return Request(kind, flags, head + attr(IFA_LOCAL, row.ip.packed) + attr(IFA_ADDRESS, row.ip.packed))


def addresses_dump() -> Request:
    return Request(RTM_GETADDR, F_DUMP, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def parse_address(body: bytes) -> AddressInfo | None:
    family, prefix_len, flags8, scope, index = _IFADDRMSG.unpack_from(body)
    attrs = attributes(body, _IFADDRMSG.size)
    data = attrs.get(IFA_LOCAL, attrs.get(IFA_ADDRESS))
    if family not in (AF_INET, AF_INET6) or data is None:
        return None
    flags = _u32(attrs.get(IFA_FLAGS), flags8)
    return AddressInfo(
        index,
        address_of(data),
        prefix_len,
        scope,
        permanent=bool(flags & IFA_F_PERMANENT),
        temporary=family == AF_INET6 and bool(flags & IFA_F_TEMPORARY),  # for IPv4 the bit means "secondary"
        deprecated=bool(flags & IFA_F_DEPRECATED),
    )
