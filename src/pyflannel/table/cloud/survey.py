"""What the cloud's routes mean. Pure: from what is found, wanted and remembered to what is there and what is said.

Rule 1: each node writes the route to itself, and no other. A peer's is its own daemon's to mend; here it's looked at.
Rule 2: a route to our subnet that leads elsewhere is replaced if it's known to be the cluster's: a black hole, marked,
        to where it led when we or the former owner held the lease, or to a machine that holds a lease now.
        Else it's somebody's: it stays, and our own is told to have failed.
Rule 3: a departed node's route goes once its lease is gone for the grace period, if it still leads where it led.
Rule 4: any other route is reported, and never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from pyflannel.model.node import IPAddress, IPNetwork
from pyflannel.model.rows import CloudRoute
from pyflannel.table.cloud.contract import FabricRoute
from pyflannel.table.cloud.memory import Key, Past

NOWHERE: dict[int, IPAddress] = {4: IPv4Address(0), 6: IPv6Address(0)}
Kind = Literal["missing", "black hole", "elsewhere", "departed", "foreign", "overflow"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person should know of a route that this node doesn't write."""

    kind: Kind
    key: Key
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class Survey:
    """`present` is what the table tells the reconciler, `rivals` are somebody else's routes to our own subnet."""

    present: list[CloudRoute] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    rivals: dict[Key, FabricRoute] = field(default_factory=dict)


def survey(
    found: Iterable[FabricRoute], wanted: Collection[CloudRoute], pasts: Mapping[Key, Past], grace_s: float
) -> Survey:
    """What *found*, the routes within the cluster's networks, are to us."""
    routes: dict[Key, list[FabricRoute]] = {}
    for route in found:
        routes.setdefault(route.key, []).append(route)
    holders = {row.gateway for row in wanted}
    result = Survey()
    for row in wanted:
        there = routes.pop(row.key, [])
        right = any(leads(route, row) for route in there)
        if right or not row.own:
            result.present.append(row)
        if row.own and not right and there:
            strangers = [route for route in there if not ours(route, pasts.get(row.key), holders)]
            if strangers:
                result.rivals[row.key] = strangers[0]
            else:
                result.present.append(_as_row(there[0]))
        elif not row.own and not right and not row.spare:
            result.notes.append(_peer_note(row, there))
        elif right:
            result.notes.extend(
                Note("elsewhere", row.key, f"{route}: takes a share of what is for {row.gateway}; delete it")
                for route in there
                if route.state == "active" and not leads(route, row)
            )
    for key, there in routes.items():
        for route in there:
            past = pasts.get(key)
            if past is None or past.next_hop != route.next_hop:
                result.notes.append(
                    Note("foreign", key, f"{route}: nobody leases it, and it isn't known as ours; it stays")
                )
            elif past.gone_s >= grace_s:
                result.present.append(_as_row(route, expired=True))
            else:
                left = f"it goes in {grace_s - past.gone_s:.0f} s unless its node comes back"
                result.notes.append(Note("departed", key, f"{route}: its lease is gone; {left}"))
    return result


def leads(route: FabricRoute, row: CloudRoute) -> bool:
    """Does *route* lead to the node that *row* means? One being made counts."""
    return route.state != "blackhole" and row.gateway in route.addresses


def ours(route: FabricRoute, past: Past | None, holders: Collection[IPAddress]) -> bool:
    """Rule 2."""
    known = past is not None and past.next_hop == route.next_hop
    return route.state == "blackhole" or route.marked or known or not route.addresses.isdisjoint(holders)


def within(destination: IPNetwork, networks: Sequence[IPNetwork]) -> bool:
    """Does *destination* lie in one of *networks*?"""
    return any(
        destination.version == net.version
        and destination.prefixlen >= net.prefixlen
        and destination.network_address in net
        for net in networks
    )


def _as_row(route: FabricRoute, expired: bool = False) -> CloudRoute:
    """A route that isn't what it should be. A black hole leads nowhere, whatever it names."""
    version = route.destination.version
    alike = sorted(ip for ip in route.addresses if ip.version == version and route.state != "blackhole")
    gateway = alike[0] if alike else NOWHERE[version]
    return CloudRoute(route.table, route.destination, gateway, expired=expired)


def _peer_note(row: CloudRoute, there: Sequence[FabricRoute]) -> Note:
    if not there:
        text = f"no route {row.destination} in table {row.table}: flanneld on {row.gateway} writes it; does it run?"
        return Note("missing", row.key, text)
    route = there[0]
    if route.state == "blackhole":
        return Note("black hole", row.key, f"{route}: is the machine of {row.gateway} stopped or gone?")
    return Note("elsewhere", row.key, f"{route}: {row.gateway} leases it; its flanneld says why it leaves that so")
