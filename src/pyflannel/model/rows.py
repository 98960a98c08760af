"""Rows: each one thing that must be true in one table.

A row is a frozen value. Its `key` is its identity in its table (two rows with one key can't both be true); the
rest is its content. `str(row)` is what an operator would type after `ip …`, so logs, tests and people agree.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, Protocol

from pyflannel.model.node import IPAddress, IPNetwork

PROTOCOL = 241  # Ours: the route protocol (rtm_protocol) that marks our routes; unassigned in rt_protos
Family = Literal[4, 6]


class Row(Protocol):
    """Every row below; a table holds rows of one type."""

    @property
    def key(self) -> Hashable: ...


@dataclass(frozen=True, slots=True)
class VxlanLink:
    """A VXLAN device (VTEP). Port and MTU as the kernel holds them; `local` is the outer source address.

    `underlay` is None for a device that is bound to none (never wanted, but it may be found).
    """

    name: str
    vni: int
    port: int
    underlay: str | None
    local: IPAddress | None
    mac: str
    mtu: int
    learning: bool = False
    gbp: bool = False
    up: bool = True

    @property
    def key(self) -> str:
        return self.name

    def __str__(self) -> str:
        extra = (" learning" if self.learning else "") + (" gbp" if self.gbp else "") + ("" if self.up else " down")
        return (
            f"link {self.name} vxlan id {self.vni} dstport {self.port} local {self.local} dev {self.underlay} "
            f"mtu {self.mtu} address {self.mac}{extra}"
        )


@dataclass(frozen=True, slots=True)
class TunLink:
    """A persistent TUN device: bare IP packets, no link layer. MTU in bytes."""

    name: str
    mtu: int
    up: bool = True

    @property
    def key(self) -> str:
        return self.name

    def __str__(self) -> str:
        return f"link {self.name} tun mtu {self.mtu}" + ("" if self.up else " down")


LINKS = (VxlanLink, TunLink)  # the types of row that other rows stand on


EngineChoice = Literal["auto", "kernel", "user"]
ENGINES: tuple[EngineChoice, ...] = ("auto", "kernel", "user")


@dataclass(frozen=True, slots=True)
class Engine:
    """The packet engine of a TUN device: where it receives (`local`, UDP `port`, on the devices `underlays`), and the
    subnets that it delivers to. `mtu` is the TUN's, in bytes."""

    device: str
    local: tuple[IPAddress, ...]
    port: int
    own: tuple[IPNetwork, ...]
    underlays: tuple[str, ...]
    mtu: int

    @property
    def key(self) -> str:
        return self.device

    def __str__(self) -> str:
        where = ", ".join(map(str, self.local))
        own = ", ".join(map(str, self.own))
        return f"engine dev {self.device} local {where} port {self.port} own {own} over {', '.join(self.underlays)}"


@dataclass(frozen=True, slots=True)
class EngineRoute:
    """A peer in the packet engine's table: `subnet` lies behind `endpoint`, UDP `port`."""

    subnet: IPNetwork
    endpoint: IPAddress
    port: int

    @property
    def key(self) -> IPNetwork:
        return self.subnet

    def __str__(self) -> str:
        return f"peer {self.subnet} endpoint {self.endpoint} port {self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address with prefix length on one of our devices."""

    device: str
    ip: IPAddress
    prefix_len: int

    @property
    def key(self) -> tuple[str, IPAddress, int]:
        return (self.device, self.ip, self.prefix_len)

    def __str__(self) -> str:
        return f"address {self.ip}/{self.prefix_len} dev {self.device}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One file below /proc/sys, by its path there: net/ipv6/conf/flannel.1/accept_ra."""

    path: str
    value: str

    @property
    def key(self) -> str:
        return self.path

    def __str__(self) -> str:
        return f"sysctl {self.path}={self.value}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour entry (ARP, ND): `ip` has `mac` on `device`."""

    device: str
    ip: IPAddress
    mac: str

    @property
    def key(self) -> tuple[str, IPAddress]:
        return (self.device, self.ip)

    def __str__(self) -> str:
        return f"neigh {self.ip} dev {self.device} lladdr {self.mac}"


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent forwarding entry of a VXLAN device: frames to `mac` go to the VTEP at `remote`."""

    device: str
    mac: str
    remote: IPAddress

    @property
    def key(self) -> tuple[str, str]:
        return (self.device, self.mac)

    def __str__(self) -> str:
        return f"fdb {self.mac} dev {self.device} dst {self.remote}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table. `metric` None is the kernel's default (0 for IPv4, 1024 for IPv6).

    A blackhole has no device and no gateway. `protocol` differs from ours only in rows read from a kernel where
    somebody else (Go flannel: boot, 3) wrote them.
    """

    destination: IPNetwork
    device: str | None = None
    gateway: IPAddress | None = None
    onlink: bool = False
    blackhole: bool = False
    metric: int | None = None
    protocol: int = PROTOCOL

    @property
    def key(self) -> tuple[IPNetwork, int | None]:
        return (self.destination, self.metric)

    def __str__(self) -> str:
        words = ["route", "blackhole"] if self.blackhole else ["route"]
        words.append(str(self.destination))
        words += ["via", str(self.gateway)] if self.gateway else []
        words += ["dev", self.device] if self.device else []
        words += ["metric", str(self.metric)] if self.metric is not None else []
        words += ["onlink"] if self.onlink else []
        words += [f"proto {self.protocol}"] if self.protocol != PROTOCOL else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class CloudRoute:
    """A route of a cloud network's table: to `destination` by the machine that bears `gateway`.

    `own`: this node writes it; a peer's is written by the peer, and only removed here once its lease is gone for good.
    `expired` is said of a row read from the cloud: its lease has been gone for the grace period, and so it's to go.
    `spare`: a peer's, to which packets go another way; it stays if it's there, and isn't missed.
    """

    table: str
    destination: IPNetwork
    gateway: IPAddress
    own: bool = False
    expired: bool = False
    spare: bool = False

    @property
    def key(self) -> tuple[str, IPNetwork]:
        return (self.table, self.destination)

    def __str__(self) -> str:
        return f"cloud route {self.destination} via {self.gateway} table {self.table}"


@dataclass(frozen=True, slots=True)
class CloudForwarding:
    """This node's machine may send and receive packets that aren't its own: the cloud drops them otherwise (AWS's
    source/destination check, GCE's canIpForward)."""

    machine: str

    @property
    def key(self) -> str:
        return self.machine

    def __str__(self) -> str:
        return f"forwarding of {self.machine}"


Verdict = Literal["accept", "return", "masquerade"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One firewall rule: all matches given must hold. A leading "!" in `source`/`destination` negates it."""

    verdict: Verdict
    source: str | None = None
    destination: str | None = None
    mark: tuple[int, int] | None = None  # value, mask
    fully_random: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain of ours with all its rules, in order, replaced as a whole.

    `manager` is the table that holds it. Names and texts are flannel's (FLANNEL-POSTRTG / postrtg, FLANNEL-FWD /
    forward), so that either implementation cleans up after the other.
    """

    manager: Literal["nftables", "iptables"]
    family: Family
    kind: Literal["masquerade", "forward"]
    rules: tuple[Rule, ...]

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.manager, self.family, self.kind)

    def __str__(self) -> str:
        return f"{self.manager} chain {self.kind} IPv{self.family} ({len(self.rules)} rules)"
