"""This node, as its backend sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pyflannel.model.lease import Lease

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class UnderlayRoute:
    """One unicast route of the main table: does `destination` lie on `device`'s own link, or behind a gateway?"""

    destination: IPNetwork
    device: str
    on_link: bool


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Where a node stands in a cloud.

    Nodes of one `network` (a VPC, by its id) reach each other by its routes. `instance` is the machine, `next_hop`
    what a route to it names (an ENI, an instance, a private address, as the cloud has it). `tables` are the route
    tables that get one, and `families` the IP versions that they route. `zone` is for people. `full`: they have no room
    for this node's route.
    """

    network: str
    instance: str
    next_hop: str
    tables: tuple[str, ...]
    families: tuple[int, ...] = (4,)
    zone: str = ""
    full: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """This host's name and underlay. Addresses of a disabled family are None.

    `address`/`address6` are on the underlay interface; `public_ip`/`public_ipv6` are what peers use to reach us.
    `mtu` is the underlay interface's, in bytes. `routes` are the routes over which peers are reached. `cloud` is None
    outside of the cloud that the config names, or if it names none.
    """

    name: str
    interface: str
    index: int
    mtu: int
    address: IPv4Address | None = None
    address6: IPv6Address | None = None
    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None
    routes: tuple[UnderlayRoute, ...] = ()
    cloud: CloudPlace | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What is left of this node's last run: its lease in the store, and the MACs of devices still there by name."""

    lease: Lease | None = None
    macs: dict[str, str] = field(default_factory=dict)
