"""Which route was whose: what lets a survivor remove a departed node's route, and nothing else.

An AWS route has no room for a mark. So while a subnet is leased, the next hop of its route is remembered; once the
lease is gone, the time since is counted, and a route that is deleted must still lead where it led then. The count is
of seconds seen passing, not a date: a clock that jumps ends no grace period, and time that nobody watched is left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

from pyflannel.model.node import IPNetwork
from pyflannel.model.rows import CloudRoute
from pyflannel.table.cloud.contract import FabricRoute
from pyflannel.wire.files import write_atomically

log = logging.getLogger(__name__)
VERSION = 1
Key = tuple[str, IPNetwork]


@dataclass(frozen=True, slots=True)
class Past:
    """Where a route led while its subnet was leased, and for how long (seconds) nobody has leased it since."""

    next_hop: str
    gone_s: float = 0.0


def remember(
    pasts: Mapping[Key, Past],
    found: Iterable[FabricRoute],
    wanted: Iterable[CloudRoute],
    passed_s: float,
    grace_s: float,
) -> dict[Key, Past]:
    """*pasts*, *passed_s* later: what is *wanted* now, and leads to its node, is remembered anew. A route that bears
    our mark and that nobody wants is counted from when it's first seen. What is gone is forgotten after *grace_s*."""
    routes: dict[Key, list[FabricRoute]] = {}
    for route in found:
        routes.setdefault(route.key, []).append(route)
    rows = {row.key: row for row in wanted}
    now: dict[Key, Past] = {}
    for key, row in rows.items():
        led = next((route.next_hop for route in routes.get(key, ()) if row.gateway in route.addresses), None)
        if led is not None:
            now[key] = Past(led)
        elif key in pasts:
            now[key] = replace(pasts[key], gone_s=0.0)
    for key, past in pasts.items():
        if key not in rows and (key in routes or past.gone_s < grace_s):
            now[key] = replace(past, gone_s=past.gone_s + passed_s)
    for key in routes.keys() - now.keys() - rows.keys():
        marked = [route.next_hop for route in routes[key] if route.marked]
        if marked:
            now[key] = Past(marked[0])
    return now


def load(path: Path) -> dict[Key, Past]:
    """What *path* holds; nothing if there is no such file, or (said in the log) it can't be read."""
    try:
        data = json.loads(path.read_text())
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}")
        return {
            (str(table), ip_network(net)): Past(str(hop), max(0.0, float(gone)))
            for table, net, hop, gone in data["routes"]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning("%s can't be used: %s; routes of nodes that left meanwhile are reported, and stay", path, error)
        return {}


def save(path: Path, pasts: Mapping[Key, Past]) -> None:
    """Write it in one step. Raises OSError."""
    routes = [[table, str(net), past.next_hop, round(past.gone_s, 1)] for (table, net), past in pasts.items()]
    write_atomically(path, json.dumps({"version": VERSION, "routes": routes}), 0o600)
