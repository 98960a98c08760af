"""rtnetlink: links as bytes (linux/if_link.h), VXLAN devices in particular. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from pyflannel.model.rows import VxlanLink
from pyflannel.wire.facts import LinkInfo
from pyflannel.wire.netlink import F_DUMP, Request, attr, attributes, nest, text, u8, u32
from pyflannel.wire.rtnetlink import CREATE, Names, mac_bytes, mac_text

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 4, 5, 13, 18, 20
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VX_ID, VX_LINK, VX_LOCAL, VX_LEARNING, VX_PORT, VX_LOCAL6, VX_GBP = 1, 3, 4, 7, 15, 17, 23

_IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask


def vxlan_create(row: VxlanLink, names: Names) -> Request:
    """A new VXLAN device, down: flannel's attributes (backends reference, 3.2). The kernel takes no alias here.

    Raises KeyError if the underlay is unknown.
    """
    local = b""
    if isinstance(row.local, IPv4Address):
        local = attr(VX_LOCAL, row.local.packed)
    elif isinstance(row.local, IPv6Address):
        local = attr(VX_LOCAL6, row.local.packed)
    data = (
        u32(VX_ID, row.vni),
        u32(VX_LINK, names.index[row.underlay]) if row.underlay else b"",
        local,
        u8(VX_LEARNING, row.learning),
        attr(VX_PORT, struct.pack(">H", row.port)),
        attr(VX_GBP, b"") if row.gbp else b"",
    )
    body = (
        _IFINFOMSG.pack(0, 0, 0, 0, 0),
        text(IFLA_IFNAME, row.name),
        attr(IFLA_ADDRESS, mac_bytes(row.mac)),
        u32(IFLA_MTU, row.mtu),
        u32(IFLA_TXQLEN, 0),
        nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "vxlan"), nest(IFLA_INFO_DATA, *data)),
    )
    return Request(RTM_NEWLINK, CREATE, b"".join(body))


def vxlan_learning(index: int, learning: bool) -> Request:
    """Switch learning on an existing device."""
    info = nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "vxlan"), nest(IFLA_INFO_DATA, u8(VX_LEARNING, learning)))
    return Request(RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0) + info)


def link_set(
    index: int, *, mac: str | None = None, mtu: int | None = None, alias: str | None = None, up: bool | None = None
) -> Request:
    """Change an existing link; what is None stays."""
    flags, change = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    attrs = b""
    attrs += attr(IFLA_ADDRESS, mac_bytes(mac)) if mac is not None else b""
    attrs += u32(IFLA_MTU, mtu) if mtu is not None else b""
    attrs += text(IFLA_IFALIAS, alias) if alias is not None else b""
    return Request(RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, flags, change) + attrs)


def link_delete(index: int) -> Request:
    return Request(RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0))


def links_dump() -> Request:
    return Request(RTM_GETLINK, F_DUMP, _IFINFOMSG.pack(0, 0, 0, 0, 0))


def parse_link(body: bytes) -> LinkInfo:
    """What every link has."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    attrs = attributes(body, _IFINFOMSG.size)
    info = attributes(attrs.get(IFLA_LINKINFO, b""))
    return LinkInfo(
        _text(attrs.get(IFLA_IFNAME)),
        index,
        _u32(attrs.get(IFLA_MTU)),
        mac_text(attrs.get(IFLA_ADDRESS, b"")),
        _text(info.get(IFLA_INFO_KIND)),
        bool(flags & IFF_UP),
        _text(attrs.get(IFLA_IFALIAS)),
        _u32(attrs.get(IFLA_LINK)),
    )


def parse_vxlan(body: bytes, names: Names) -> VxlanLink | None:
    """The VXLAN device in an RTM_NEWLINK; None if the link is of another kind."""
    link = parse_link(body)
    if link.kind != "vxlan":
        return None
    info = attributes(attributes(body, _IFINFOMSG.size)[IFLA_LINKINFO])
    data = attributes(info.get(IFLA_INFO_DATA, b""))
    local = data.get(VX_LOCAL6, data.get(VX_LOCAL))
    return VxlanLink(
        link.name,
        _u32(data.get(VX_ID)),
        int.from_bytes(data.get(VX_PORT, b""), "big"),
        names.name.get(_u32(data.get(VX_LINK))),
        None if local is None else IPv4Address(local) if len(local) == 4 else IPv6Address(local),
        link.mac,
        link.mtu,
        learning=data.get(VX_LEARNING, b"\0") != b"\0",
        gbp=VX_GBP in data,
        up=link.up,
    )


def _u32(data: bytes | None) -> int:
    return int(struct.unpack("=I", data)[0]) if data else 0


def _text(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")
