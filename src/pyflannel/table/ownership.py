"""Which rows are ours. Only what these functions own is ever removed or replaced; nothing else is.

Each takes what was read from the kernel and this daemon's Scope.
"""

from __future__ import annotations

from dataclasses import replace

from pyflannel.model.rows import PROTOCOL, Address, FdbEntry, Neighbour, Route
from pyflannel.table.contract import Scope
from pyflannel.wire.facts import LinkInfo

RTPROT_KERNEL, RTPROT_BOOT, RTPROT_RA = 2, 3, 9  # boot: what `ip route add` writes, and Go flannel


def owns_link(link: LinkInfo, scope: Scope) -> bool:
    """A VXLAN device that carries our mark, or flannel's name for it: only flannel makes those."""
    return link.kind == "vxlan" and (link.alias == scope.mark or link.name in scope.devices)


def owns_address(address: Address, scope: Scope) -> bool:
    """On our device: inside the cluster's networks; an administrator's other addresses there stay."""
    if address.device not in scope.devices or address.ip.is_link_local:
        return False
    return any(address.ip in network for network in scope.networks if network.version == address.ip.version)


def owns_route(route: Route, scope: Scope) -> bool:
    """Into the cluster's networks, and either marked with our protocol, or (Go flannel's) on our device.

    The networks matter beside the mark: a second daemon on this host, for another network, uses the same mark.
    """
    net = route.destination
    inside = any(
        net.network_address in other and net.prefixlen >= other.prefixlen
        for other in scope.networks
        if other.version == net.version
    )
    return inside and (route.protocol == PROTOCOL or (route.protocol == RTPROT_BOOT and route.device in scope.devices))


def adoptable(found: Route, wanted: Route) -> bool:
    """Not ours, but *wanted* in all except the mark: it may be given the mark, no packet is sent elsewhere by that.

    Never what the kernel itself made, or a router advertisement: they come and go by their own rules.
    """
    return found.protocol not in (RTPROT_KERNEL, RTPROT_RA) and replace(found, protocol=wanted.protocol) == wanted


def owns_neighbour(row: Neighbour | FdbEntry, scope: Scope) -> bool:
    """Permanent ones on our devices: nobody else has business there."""
    return row.device in scope.devices
