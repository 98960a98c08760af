"""Who owns which subnet: the lease, what a node publishes in it, and the events that tell of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

LEASE_TTL_S = 86_400  # Interop: flannel's subnetTTL, 24 h


@dataclass(frozen=True, slots=True)
class Subnets:
    """A lease's identity: its IPv4 subnet, its IPv6 subnet, or both. Never neither."""

    ipv4: IPv4Network | None = None
    ipv6: IPv6Network | None = None

    def __post_init__(self) -> None:
        if self.ipv4 is None and self.ipv6 is None:
            raise ValueError("a lease needs an IPv4 or an IPv6 subnet")

    def __str__(self) -> str:
        return " and ".join(str(net) for net in (self.ipv4, self.ipv6) if net is not None)

    def overlaps(self, other: Subnets) -> bool:
        """True if the two share an address in either family."""
        both4 = self.ipv4 is not None and other.ipv4 is not None and self.ipv4.overlaps(other.ipv4)
        both6 = self.ipv6 is not None and other.ipv6 is not None and self.ipv6.overlaps(other.ipv6)
        return both4 or both6


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """What a node publishes about itself.

    `backend_type` is "" for flannel's udp, alloc and cloud backends. Backend data is compact JSON text, kept
    verbatim (flannel's own readers split it instead of parsing it); None if the backend publishes none.
    """

    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None
    backend_type: str = ""
    backend_data: str | None = None
    backend_v6_data: str | None = None

    def same_node(self, other: LeaseAttrs) -> bool:
        """Ownership of a lease goes by public address: IPv4 if both have one, else IPv6."""
        if self.public_ip is not None and other.public_ip is not None:
            return self.public_ip == other.public_ip
        return self.public_ipv6 is not None and self.public_ipv6 == other.public_ipv6

    def address(self) -> str:
        """The public address for people: IPv4 if there is one."""
        return str(self.public_ip or self.public_ipv6 or "no address")


@dataclass(frozen=True, slots=True)
class Lease:
    """A node's claim on its subnets. `expires` is Unix time in seconds; None is a reservation: it never expires."""

    subnets: Subnets
    attrs: LeaseAttrs
    expires: float | None = None

    def with_attrs(self, attrs: LeaseAttrs) -> Lease:
        return replace(self, attrs=attrs)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every lease there is, complete and fresh, our own included. Only this allows a sweep."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """A lease is new, or its attributes changed."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Removed:
    """A lease was released, revoked, or has expired."""

    subnets: Subnets


LeaseEvent = Snapshot | Added | Removed
