"""Which interface carries the traffic between nodes, and which addresses peers use (control-plane reference, 1.5).

Pure: from what the kernel says and what the operator asked for to a Node. The order of preference is flannel's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from pyflannel.model.errors import ConfigError
from pyflannel.model.node import IPAddress, IPNetwork, Node, UnderlayRoute
from pyflannel.model.rows import PROTOCOL
from pyflannel.wire.facts import AddressInfo, LinkInfo, RouteInfo

SOURCE = "options"
A = TypeVar("A", IPv4Address, IPv6Address)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel says now. `route_to` answers as `ip route get` does."""

    links: tuple[LinkInfo, ...]
    addresses: tuple[AddressInfo, ...]
    routes: tuple[RouteInfo, ...]
    route_to: Callable[[IPAddress], RouteInfo | None] = lambda ip: None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asked for: flannel's flags."""

    iface: tuple[str, ...] = ()
    iface_regex: tuple[str, ...] = ()
    can_reach: str = ""
    public_ip: str = ""
    public_ipv6: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """An interface, and the addresses on it that the search fixed already."""

    link: LinkInfo
    address: IPv4Address | None = None
    address6: IPv6Address | None = None
    why: str = ""


def choose(facts: Facts, wish: Wish, ipv4: bool, ipv6: bool, name: str) -> tuple[Node, str]:
    """The node called *name* and why this interface. Raises ConfigError that lists what there is."""
    found = _search(facts, wish, ipv4, ipv6)
    if found.link.mtu == 0:
        raise ConfigError(SOURCE, f"MTU of {found.link.name}", 0, "an interface that carries packets")
    address = found.address or _best4(facts, found.link) if ipv4 else None
    address6 = found.address6 or _best6(facts, found.link) if ipv6 else None
    if ipv4 and address is None:
        raise _lacking(facts, found.link, 4)
    if ipv6 and address6 is None:
        raise _lacking(facts, found.link, 6)
    public_ip = _literal(wish.public_ip, IPv4Address, "--public-ip") or address
    public_ipv6 = _literal(wish.public_ipv6, IPv6Address, "--public-ipv6") or address6
    node = Node(
        name, found.link.name, found.link.index, found.link.mtu, address, address6,
        public_ip if ipv4 else None, public_ipv6 if ipv6 else None,
    )  # fmt: skip
    return node, found.why


def underlay_routes(facts: Facts, networks: Sequence[IPNetwork], devices: Iterable[str]) -> tuple[UnderlayRoute, ...]:
    """The routes over which peers are reached: not those into the cluster's own *networks*, nor over our *devices*."""
    names = {link.index: link.name for link in facts.links if link.name not in set(devices)}
    found = []
    for route in sorted(facts.routes, key=lambda route: route.metric):
        inside = any(
            route.destination.version == net.version and route.destination.network_address in net for net in networks
        )
        if route.protocol == PROTOCOL or inside or len(route.indexes) != 1 or route.indexes[0] not in names:
            continue
        found.append(UnderlayRoute(route.destination, names[route.indexes[0]], route.gateway is None))
    return tuple(found)


def still(node: Node, facts: Facts) -> Node | None:
    """*node* as it is now, if its interface still bears its addresses; None if the choice must be made anew.

    A default route that comes and goes (a VPN, a cable) doesn't move a node that has its addresses still.
    """
    link = next((link for link in facts.links if link.name == node.interface), None)
    if link is None:
        return None
    there = {info.ip for info in facts.addresses if info.index == link.index}
    if any(ip is not None and ip not in there for ip in (node.address, node.address6)):
        return None
    return replace(node, index=link.index, mtu=link.mtu or node.mtu)


def _search(facts: Facts, wish: Wish, ipv4: bool, ipv6: bool) -> Found:
    if not (wish.iface or wish.iface_regex or wish.can_reach):
        if wish.public_ip or wish.public_ipv6:
            key, flag = (wish.public_ip, "--public-ip") if wish.public_ip else (wish.public_ipv6, "--public-ipv6")
            found = _by_key(facts, key, wish, ipv4, ipv6)
            if isinstance(found, Found):
                return replace(found, why=f"it bears {key} ({flag})")
            raise ConfigError(SOURCE, flag, key, f"an address on an interface ({found}), or --iface as well")
        return _by_default_route(facts, ipv4, ipv6)
    tried: list[str] = []
    for word in wish.iface:
        found = _by_key(facts, word, wish, ipv4, ipv6)
        if isinstance(found, Found):
            return replace(found, why=f"--iface={word}")
        tried.append(f"--iface={word}: {found}")
    for pattern in wish.iface_regex:
        found = _by_regex(facts, pattern, ipv4, ipv6)
        if isinstance(found, Found):
            return replace(found, why=f"--iface-regex={pattern}")
        tried.append(f"--iface-regex={pattern}: {found}")
    if wish.can_reach:
        found = _by_reach(facts, wish.can_reach, ipv4, ipv6)
        if isinstance(found, Found):
            return replace(found, why=f"it leads to {wish.can_reach} (--iface-can-reach)")
        tried.append(f"--iface-can-reach={wish.can_reach}: {found}")
    raise ConfigError(SOURCE, "interface", None, f"one of {_listing(facts)} ({'; '.join(tried)})")


def _by_key(facts: Facts, key: str, wish: Wish, ipv4: bool, ipv6: bool) -> Found | str:
    """By name, or by an address that the interface bears; or why not."""
    try:
        ip = ip_address(key)
    except ValueError:
        link = next((link for link in facts.links if link.name == key), None)
        return Found(link) if link else "no interface of this name"
    if ip.version == 4 and not ipv4:
        return "an IPv4 address, but the config has IPv4 off"
    if ip.version == 6 and not ipv6:
        return "an IPv6 address, but the config has IPv6 off"
    link = _bearing(facts, ip)
    if link is None:
        return f"no interface bears {ip}"
    found = Found(link, ip, None) if isinstance(ip, IPv4Address) else Found(link, None, ip)
    other = wish.public_ipv6 if ip.version == 4 else ""
    if ipv4 and ipv6 and other:
        six = _literal(other, IPv6Address, "--public-ipv6")
        if six is not None and _bearing(facts, six) == link:
            return replace(found, address6=six)
        return f"{link.name} bears {ip} but not {other} (--public-ipv6): in dual stack both must be on one interface"
    return found


def _by_regex(facts: Facts, pattern: str, ipv4: bool, ipv6: bool) -> Found | str:
    """By a usable address that matches (in dual stack one of each family, on one interface), then by name."""
    try:
        matches = re.compile(pattern).search
    except re.error as error:
        raise ConfigError(SOURCE, "--iface-regex", pattern, f"a regular expression ({error})") from None
    for link in sorted(facts.links, key=lambda link: link.index):
        v4 = next((ip for ip in _usable(facts, link, 4) if matches(str(ip))), None) if ipv4 else None
        v6 = next((ip for ip in _usable(facts, link, 6) if matches(str(ip))), None) if ipv6 else None
        if (v4 is not None or not ipv4) and (v6 is not None or not ipv6):
            return Found(link, v4, v6)  # type: ignore[arg-type]  # of the families asked for
    for link in sorted(facts.links, key=lambda link: link.index):
        if matches(link.name):
            return Found(link)
    return "matches no address and no name"


def _by_reach(facts: Facts, text: str, ipv4: bool, ipv6: bool) -> Found | str:
    try:
        ip = ip_address(text)
    except ValueError:
        raise ConfigError(SOURCE, "--iface-can-reach", text, "an IP address") from None
    if not (ipv4 if ip.version == 4 else ipv6):
        return f"an IPv{ip.version} address, but the config has IPv{ip.version} off"
    route = facts.route_to(ip)
    link = next((link for link in facts.links if route and link.index in route.indexes), None)
    if route is None or link is None:
        return "no route leads there"
    source = route.source
    return Found(
        link, source if isinstance(source, IPv4Address) else None, source if isinstance(source, IPv6Address) else None
    )


def _by_default_route(facts: Facts, ipv4: bool, ipv6: bool) -> Found:
    wanted = [version for version, on in ((4, ipv4), (6, ipv6)) if on]
    links: list[LinkInfo] = []
    for version in wanted:
        defaults = sorted(
            (r for r in facts.routes if r.destination.version == version and r.destination.prefixlen == 0),
            key=lambda route: route.metric,
        )
        if not defaults or len(defaults[0].indexes) != 1:
            what = "several next hops" if defaults else "none"
            raise ConfigError(
                SOURCE, f"IPv{version} default route", what,
                f"one that shows the interface between nodes, or --iface with one of {_listing(facts)}",
            )  # fmt: skip
        links += [link for link in facts.links if link.index == defaults[0].indexes[0]]
    if len({link.index for link in links}) != 1:
        names = " and ".join(link.name for link in links)
        raise ConfigError(SOURCE, "default routes", names, "the same interface for IPv4 and IPv6, or --iface")
    return Found(links[0], why="the default route leads over it")


def _bearing(facts: Facts, ip: IPAddress) -> LinkInfo | None:
    index = next((info.index for info in facts.addresses if info.ip == ip), None)
    return next((link for link in facts.links if link.index == index), None)


def _usable(facts: Facts, link: LinkInfo, version: int) -> list[IPAddress]:
    """Addresses that peers may use: global before link-local, permanent before dynamic, plain before temporary."""
    found = [
        info
        for info in facts.addresses
        if info.index == link.index
        and info.ip.version == version
        and not info.deprecated
        and not (info.ip.is_loopback or info.ip.is_multicast or info.ip.is_unspecified)
    ]
    found.sort(key=lambda info: (info.ip.is_link_local, not info.permanent, info.temporary))
    return [info.ip for info in found]


def _best4(facts: Facts, link: LinkInfo) -> IPv4Address | None:
    return next((ip for ip in _usable(facts, link, 4) if isinstance(ip, IPv4Address)), None)


def _best6(facts: Facts, link: LinkInfo) -> IPv6Address | None:
    return next((ip for ip in _usable(facts, link, 6) if isinstance(ip, IPv6Address)), None)


def _literal(text: str, kind: type[A], flag: str) -> A | None:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(SOURCE, flag, text, f"an {kind.__name__.removesuffix('Address')} address") from None


def _lacking(facts: Facts, link: LinkInfo, version: int) -> ConfigError:
    return ConfigError(
        SOURCE, f"IPv{version} address of {link.name}", None, f"a usable one; there is {_listing(facts)} (--iface)"
    )


def _listing(facts: Facts) -> str:
    """Every interface but lo with its usable addresses."""
    shown = []
    for link in sorted(facts.links, key=lambda link: link.index):
        addresses = [*_usable(facts, link, 4), *_usable(facts, link, 6)]
        if link.name != "lo":
            shown.append(f"{link.name} ({', '.join(map(str, addresses)) or 'no address'})")
    return ", ".join(shown) or "no interface"
