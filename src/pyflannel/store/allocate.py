"""Allocation of subnets to nodes.

Rule 1: everything that decides *which* subnet a node gets is in this file, and nothing here does I/O.
Rule 2: a lease that can't be read still occupies its subnet. Forgetting one gives it to two nodes.
Rule 3: a node keeps what it has as long as it fits the config: its pods' addresses depend on it.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pyflannel.model.errors import OutOfSubnets
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import IPNetwork

CANDIDATES = 100  # Interop: flannel collects as many, so that racing nodes rarely collide


@dataclass(frozen=True, slots=True)
class Choice:
    """Which subnet to take. `held` is the lease of ours to write into; `give_back` those of ours that don't fit."""

    subnets: Subnets
    held: Lease | None = None
    give_back: tuple[Lease, ...] = ()


def choose(
    config: NetworkConfig,
    leases: Sequence[Lease],
    unreadable: Iterable[Subnets],
    attrs: LeaseAttrs,
    previous: Subnets | None,
    rng: random.Random,
) -> Choice:
    """The subnets for the node that publishes *attrs*; *leases* in the store's order. Raises OutOfSubnets.

    In flannel's order: our own lease by public address (of several, the one on the *previous* subnet), the
    *previous* subnet if nobody has it, a free one.
    """
    ours = [lease for lease in leases if lease.attrs.same_node(attrs)]
    fitting = [lease for lease in ours if fits(config, lease.subnets)]
    if fitting:
        # Of several (one may be a reservation made while we ran), the one that our pods live in.
        held = next((lease for lease in fitting if lease.subnets == previous), fitting[0])
        return Choice(held.subnets, held=held)
    taken = [lease.subnets for lease in leases if lease not in ours] + list(unreadable)
    if previous is not None and fits(config, previous) and not any(previous.overlaps(other) for other in taken):
        return Choice(previous, give_back=tuple(ours))
    # What doesn't fit any more may still keep its IPv4 part: IPv6 was switched on or off.
    past = [lease.subnets.ipv4 for lease in ours] + ([previous.ipv4] if previous is not None else [])
    keep = next((net for net in past if _fits4(config, net) and _free4(net, taken)), None)
    return Choice(allocate(config, taken, rng, keep_ipv4=keep), give_back=tuple(ours))


def fits(config: NetworkConfig, subnets: Subnets) -> bool:
    """True if a node may hold *subnets* under *config*: the enabled families, in range, of the right length."""
    if (subnets.ipv4 is None) != (config.network is None) or (subnets.ipv6 is None) != (config.ipv6_network is None):
        return False
    return (subnets.ipv4 is None or _fits4(config, subnets.ipv4)) and (
        subnets.ipv6 is None or _fits6(config, subnets.ipv6)
    )


def allocate(
    config: NetworkConfig, taken: Iterable[Subnets], rng: random.Random, keep_ipv4: IPv4Network | None = None
) -> Subnets:
    """Free subnets, each family's picked at random among the first 100. Raises OutOfSubnets."""
    taken = list(taken)
    v4, v6 = keep_ipv4, None
    if config.network is not None and v4 is None:
        assert config.subnet_min is not None
        assert config.subnet_max is not None
        used = [subnets.ipv4 for subnets in taken if subnets.ipv4 is not None]
        base = _pick(int(config.subnet_min), int(config.subnet_max), 32 - config.subnet_len, used, rng)
        if base is None:
            raise _out("Network", config.subnet_min, config.subnet_max, config.subnet_len, len(used))
        v4 = IPv4Network((base, config.subnet_len))
    if config.ipv6_network is not None:
        assert config.ipv6_subnet_min is not None
        assert config.ipv6_subnet_max is not None
        used6 = [subnets.ipv6 for subnets in taken if subnets.ipv6 is not None]
        low, high, length = config.ipv6_subnet_min, config.ipv6_subnet_max, config.ipv6_subnet_len
        base = _pick(int(low), int(high), 128 - length, used6, rng)
        if base is None:
            raise _out("IPv6Network", low, high, length, len(used6))
        v6 = IPv6Network((base, length))
    return Subnets(v4, v6)


def _pick(low: int, high: int, host_bits: int, used: Sequence[IPNetwork], rng: random.Random) -> int | None:
    """One of the first free bases in low…high, a step of 2**host_bits apart; None if there is none."""
    step = 1 << host_bits
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in used)
    starts = [start for start, _ in spans]
    reach: list[int] = []  # the furthest end of all spans up to each: they may lie within one another
    for _, end in spans:
        reach.append(max(end, reach[-1]) if reach else end)
    free: list[int] = []
    base = low
    while base <= high and len(free) < CANDIDATES:
        before = bisect_right(starts, base + step - 1)
        end = reach[before - 1] if before else -1
        if end < base:
            free.append(base)
            base += step
        else:
            base += step * max(1, (end - base) // step + 1)  # past what is taken, in one step
    return rng.choice(free) if free else None


def _fits4(config: NetworkConfig, net: IPv4Network | None) -> bool:
    if net is None or config.subnet_min is None or config.subnet_max is None:
        return False
    return config.subnet_min <= net.network_address <= config.subnet_max and net.prefixlen == config.subnet_len


def _free4(net: IPv4Network | None, taken: Iterable[Subnets]) -> bool:
    return net is not None and not any(other.ipv4 is not None and other.ipv4.overlaps(net) for other in taken)


def _fits6(config: NetworkConfig, net: IPv6Network) -> bool:
    if config.ipv6_subnet_min is None or config.ipv6_subnet_max is None:
        return False
    inside = config.ipv6_subnet_min <= net.network_address <= config.ipv6_subnet_max
    return inside and net.prefixlen == config.ipv6_subnet_len


def _out(
    field: str, low: IPv4Address | IPv6Address, high: IPv4Address | IPv6Address, length: int, used: int
) -> OutOfSubnets:
    return OutOfSubnets(
        f"no /{length} is free from {low} to {high}: {used} leases are held. Release those of departed nodes "
        f"(`flannelctl leases list`, `leases release`), or give the cluster a larger {field}"
    )
