"""What the kernel says of links, addresses and routes: values, as read, not yet judged."""

from __future__ import annotations

from dataclasses import dataclass

from pyflannel.model.node import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A network device. `kind` is "" for hardware; `parent` is the index of the device it stands on (0: none)."""

    name: str
    index: int
    mtu: int
    mac: str = ""
    kind: str = ""
    up: bool = False
    alias: str = ""
    parent: int = 0


@dataclass(frozen=True, slots=True)
class AddressInfo:
    """An address on the device with `index`. `scope` is the kernel's: 0 global, 253 link, 254 host."""

    index: int
    ip: IPAddress
    prefix_len: int
    scope: int = 0
    permanent: bool = True
    temporary: bool = False
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A unicast or blackhole route of the main table. A default route has a /0 destination; `indexes` has several
    for a multipath route, none for a blackhole. `metric` is the kernel's priority."""

    destination: IPNetwork
    indexes: tuple[int, ...]
    gateway: IPAddress | None = None
    metric: int = 0
    protocol: int = 0
    scope: int = 0
    blackhole: bool = False
    onlink: bool = False
    source: IPAddress | None = None
