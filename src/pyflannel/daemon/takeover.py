"""Whether this node can be taken over from Go flannel without a lost packet. Pure: from a rehearsal to a judgement.

A change loses no packet if nothing that carries packets goes before its successor stands. That is so for what is
kept, created, or replaced in place, and for what goes because nobody leases it. Everything else is in the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pyflannel.backend.contract import Backend
from pyflannel.daemon.rehearsal import Rehearsal, Scene
from pyflannel.model.lease import Lease
from pyflannel.model.rows import PROTOCOL, Chain, Route, VxlanLink
from pyflannel.reconcile.diff import diff
from pyflannel.table.links import in_place
from pyflannel.wire import subnet_env

Verb = Literal["keep", "mark", "create", "replace", "remove"]
_FLAGS = {"masquerade": "--ip-masq", "forward": "--iptables-forward-rules=true"}


@dataclass(frozen=True, slots=True)
class Step:
    """One row of one table: what would be done about it, and why that is right."""

    table: str
    verb: Verb
    row: str
    why: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What would change, what is in the way of a take-over without loss, and what is good to know."""

    steps: tuple[Step, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def safe(self) -> bool:
        return not self.obstacles


def judge(found: Rehearsal) -> Judgement:
    """All of it."""
    if found.lease is None or found.backend is None:
        return Judgement((), (_no_lease(found),), ())
    steps = [*_published(found.lease, found.backend), *_file(found)]
    for scene in found.scenes:
        steps += _steps(scene)
    obstacles = [*_of_the_lease(found, found.lease), *_of_the_daemon(found), *found.in_the_way, *found.clashes]
    for scene in found.scenes:
        obstacles += _losses(scene, found)
    notes = [f"{warning} (as it is now)" for warning in found.warnings]
    notes += [f"peer {subnets} isn't reached: {why}" for subnets, why in found.unreachable.items()]
    if found.manager == "iptables" and found.config.nftables is None:
        notes.append("iptables is kept, as flannel has it; EnableNFTables in the config decides otherwise")
    return Judgement(tuple(steps), tuple(obstacles), tuple(notes))


# Steps


def _published(lease: Lease, backend: Backend) -> Iterator[Step]:
    attrs = backend.attrs()
    if attrs == lease.attrs:
        yield Step("lease", "keep", str(lease.subnets), "what it publishes is the same, byte for byte")
    else:
        why = f"{_differences(lease.attrs, attrs)}; peers learn it at once"
        yield Step("lease", "replace", str(lease.subnets), why)


def _file(found: Rehearsal) -> Iterator[Step]:
    if found.env == found.env_wanted:
        yield Step("subnet.env", "keep", "the file", "the same, byte for byte")
        return
    before, after = subnet_env.decode(found.env), subnet_env.decode(found.env_wanted)
    changed = [
        f"{name} {before.get(name, 'absent')} → {after.get(name, 'absent')}"
        for name in (*after, *(name for name in before if name not in after))
        if before.get(name) != after.get(name)
    ]
    verb: Verb = "replace" if found.env else "create"
    yield Step("subnet.env", verb, "the file", "; ".join(changed) or "another order of its lines")


def _steps(scene: Scene) -> list[Step]:
    change = diff(scene.wanted, scene.actual)
    changed = {row.key for row in (*change.create, *change.replace)}
    found = [
        Step(scene.name, "keep", _words(row), "as it is") for key, row in scene.wanted.items() if key not in changed
    ]
    for row in change.replace:
        have = scene.actual[row.key]
        if isinstance(row, Route) and replace(have, protocol=PROTOCOL) == row:
            found.append(
                Step(scene.name, "mark", _words(row), f"in place: protocol {have.protocol} becomes {PROTOCOL}")
            )
        else:
            found.append(Step(scene.name, "replace", _words(row), f"in place: {_differences(have, row)}"))
    found += [Step(scene.name, "create", _words(row), "it's missing") for row in change.create]
    return found + [
        Step(scene.name, "remove", _words(row), "nobody leases it, nothing needs it") for row in change.remove
    ]


def _words(row: Any) -> str:
    """A row without the word for its kind, which the table's name says."""
    return str(row).removeprefix("route ").removeprefix("neigh ").removeprefix("fdb ").removeprefix("link ")


def _differences(have: Any, want: Any) -> str:
    """Field by field."""
    if isinstance(want, Chain):
        return f"{len(have.rules)} rules become {len(want.rules)}, in one commit"
    pairs = ((each.name, getattr(have, each.name), getattr(want, each.name)) for each in fields(want))
    return ", ".join(f"{name} {before} → {after}" for name, before, after in pairs if before != after)


# Obstacles


def _no_lease(found: Rehearsal) -> str:
    address = found.node.public_ip or found.node.public_ipv6
    subnets, _ = subnet_env.previous(found.env)
    if subnets is None:
        return f"{found.store} has no lease of {address}, and there is no subnet.env: does flannel run here?"
    return (
        f"{found.store} has no lease of {address}, though subnet.env says {subnets}: it has expired, or this is "
        "another store, prefix or --public-ip than flannel's. Give flannel's own flags"
    )


def _of_the_lease(found: Rehearsal, lease: Lease) -> Iterator[str]:
    if not found.kept:
        yield f"the lease {lease.subnets} doesn't fit the config any more: the node would get another subnet"
    subnets, _ = subnet_env.previous(found.env)
    if subnets is not None and subnets != lease.subnets:
        yield f"subnet.env says {subnets}, the store {lease.subnets}: the node's pods would be cut off. Restart flannel"
    assert found.backend is not None
    ours, theirs = found.backend.attrs(), lease.attrs
    if ours.backend_type != theirs.backend_type:
        yield (
            f"flannel runs as {theirs.backend_type or 'udp or alloc'}, the config says {found.config.backend_type}: "
            "restart flannel first, so that the switch changes one thing"
        )
    elif any(
        _settings(mine) != _settings(other)
        for mine, other in ((ours.backend_data, theirs.backend_data), (ours.backend_v6_data, theirs.backend_v6_data))
    ):
        yield (
            f"flannel publishes {theirs.backend_data or theirs.backend_v6_data}, this config means "
            f"{ours.backend_data or ours.backend_v6_data}: restart flannel first, so that the switch changes one thing"
        )
    if not ours.same_node(theirs):
        yield f"flannel publishes {theirs.address()}, ours {ours.address()}: give flannel's --iface and --public-ip"


def _settings(data: str | None) -> dict[str, Any]:
    """What a lease publishes, less the MAC: that may be another after a reboot, and peers follow it."""
    try:
        found = json.loads(data or "{}")
    except ValueError:
        return {"": data}
    if not isinstance(found, dict):
        return {"": found}
    return {name: value for name, value in found.items() if name != "VtepMAC"}


def _of_the_daemon(found: Rehearsal) -> Iterator[str]:
    if found.config.backend_type == "udp":
        yield (
            "flannel's udp device goes when flannel stops: packets are lost from then until flanneld is ready, "
            "some tenths of a second. Nothing else is in the way of it"
        )
    if found.manager == "nftables" and found.drops:
        versions = " and ".join(f"IPv{family}" for family in found.drops)
        yield (
            f"iptables drops {versions} packets that its FORWARD chain doesn't accept, and EnableNFTables takes "
            "flannel's accept out of it: set EnableNFTables to false, or leave it out"
        )


def _losses(scene: Scene, found: Rehearsal) -> Iterator[str]:
    """Rows that carry packets, and go before anything is in their place."""
    change = diff(scene.wanted, scene.actual)
    for row in change.replace:
        have = scene.actual[row.key]
        if isinstance(row, VxlanLink) and not in_place(have, row):
            yield (
                f"{row.name} would be made anew ({_differences(have, row)}): flannel runs with an older config, or on "
                "another interface. Restart flannel, or give its --iface and --public-ip"
            )
    cut = {net for subnets in found.unreachable for net in (subnets.ipv4, subnets.ipv6)}
    for row in change.remove:
        if isinstance(row, Route) and row.destination in cut:
            yield f"{row} would go, and its node still leases that subnet (why: see below)"
        elif isinstance(row, Chain) and not any(
            isinstance(other, Chain) and (other.family, other.kind) == (row.family, row.kind)
            for other in scene.wanted.values()
        ):
            yield f"flannel's {row} would go: give {_FLAGS[row.kind]}, as flannel has it"
