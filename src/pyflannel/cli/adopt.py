"""flannelctl adopt --check: on a node that Go flannel runs, what our flanneld would change there. Changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyflannel.cli.options import HelpAsked, UsageError, parse
from pyflannel.cli.render import plain
from pyflannel.cli.status import ask
from pyflannel.cli.which import Json
from pyflannel.model.errors import FlannelError

if TYPE_CHECKING:
    from pyflannel.daemon.rehearsal import Rehearsal
    from pyflannel.daemon.takeover import Judgement

SHOWN = 20  # rows of a table that are listed; --json has them all


def adopt(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Look, and judge; nothing is changed.")] = False,
    as_json: Json = False,
) -> None:
    """What taking this node over from Go flannel would change, and whether a packet would be lost. Takes flanneld's
    flags and variables: give those that flannel runs with. Fails if it isn't safe."""
    if not check:
        raise UsageError(
            "adopt looks only, with --check. The take-over itself: stop flannel's daemon, start ours with the same "
            "flags (docs/guide/switch.md)"
        )
    from pyflannel.daemon.rehearsal import rehearse
    from pyflannel.daemon.takeover import judge

    try:
        options = parse(context.args, os.environ)
    except HelpAsked:
        raise typer.Exit(0) from None
    if _ours_runs(options.subnet_file):
        raise FlannelError("pyflannel's flanneld runs here already: `flannelctl status` tells how it is")
    found = asyncio.run(rehearse(options))
    judgement = judge(found)
    print(json.dumps(_dict(found, judgement), indent=1) if as_json else "\n".join(lines(found, judgement)))
    if not judgement.safe:
        raise typer.Exit(1)


def lines(found: Rehearsal, judgement: Judgement) -> Iterator[str]:
    """For people."""
    node = found.node
    address = node.public_ip or node.public_ipv6
    yield plain(f"{found.config.backend_type} on {node.interface} ({address}), {found.store}, {found.peers} peers")
    tables: dict[str, list[Any]] = {}
    for step in judgement.steps:
        tables.setdefault(step.table, []).append(step)
    for name, steps in tables.items():
        counts = Counter(step.verb for step in steps)
        yield f"  {name:11} " + ", ".join(f"{verb} {count}" for verb, count in counts.items())
        changes = [step for step in steps if step.verb != "keep"]
        for step in changes[:SHOWN]:
            yield plain(f"    {step.verb:8} {step.row}: {step.why}")
        if len(changes) > SHOWN:
            yield f"    … and {len(changes) - SHOWN} more (--json lists them)"
    yield from (plain(f"note: {text}") for text in judgement.notes)
    if judgement.safe:
        yield "safe: nothing that carries packets goes before its successor stands"
        stop = f"stop flannel (process {', '.join(map(str, found.pids))}), and " if found.pids else ""
        yield f"next: {stop}start pyflannel's flanneld with the same flags; devices, routes and rules stay meanwhile"
        return
    yield from (plain(f"in the way: {text}") for text in judgement.obstacles)
    yield "not safe: mend what is in the way, and look again"


def _dict(found: Rehearsal, judgement: Judgement) -> dict[str, Any]:
    return {
        "safe": judgement.safe,
        "backend": found.config.backend_type,
        "interface": found.node.interface,
        "lease": str(found.lease.subnets) if found.lease else None,
        "peers": found.peers,
        "flannel": list(found.pids),
        "obstacles": list(judgement.obstacles),
        "notes": list(judgement.notes),
        "steps": [asdict(step) for step in judgement.steps],
    }


def _ours_runs(subnet_file: str) -> bool:
    try:
        ask(subnet_file)
    except FlannelError:
        return False
    return True
