"""flannelctl cloud: what the cloud would let this node do, and what a daemon would change there. Changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyflannel.cli.options import HelpAsked, Options, parse
from pyflannel.cli.which import Json
from pyflannel.model.errors import ConfigError, FlannelError, StoreError, Unreachable
from pyflannel.model.lease import Lease
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import CloudPlace, Node, Past
from pyflannel.model.rows import CloudRoute

if TYPE_CHECKING:
    from pyflannel.table.cloud.contract import Check, Fabric, FabricRoute
    from pyflannel.table.cloud.memory import Key
    from pyflannel.table.cloud.memory import Past as RoutePast

app = typer.Typer(
    help="The cloud below aws-vpc, gce, ali-vpc, tencent-vpc: look before the daemon does. Takes flanneld's flags and "
    "variables, too: they say which store, interface and folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
FLANNELDS = {"allow_extra_args": True, "ignore_unknown_options": True}
ConfigFile = Annotated[str, typer.Option("--config", help="A net-conf.json, instead of the store's config.")]
_MARKS = {True: "ok", False: "FAILS", None: "look"}


@dataclass(frozen=True, slots=True)
class Step:
    """One route, what would be done about it ("keep", "create", "replace", "remove", "leave", "blocked"), and why."""

    verb: str
    route: str
    why: str


@dataclass(frozen=True, slots=True)
class View:
    """This node's cloud, as a daemon started now would find it."""

    options: Options
    config: NetworkConfig
    node: Node
    fabric: Fabric
    place: CloudPlace


@app.command(context_settings=FLANNELDS)
def check(context: typer.Context, config: ConfigFile = "", as_json: Json = False) -> None:
    """Identity, permissions, quotas, forwarding; fails if the daemon would."""
    view, _ = asyncio.run(_view(_options(context), config, leases=False))
    checks = [_room(view), *view.fabric.checks(view.place)]
    if as_json:
        print(json.dumps({"place": _place(view), "checks": [_check_dict(each) for each in checks]}, indent=1))
    else:
        print("\n".join([_head(view), *check_lines(checks)]))
    if any(each.holds is False for each in checks):
        raise typer.Exit(1)


@app.command(context_settings=FLANNELDS)
def plan(context: typer.Context, config: ConfigFile = "", as_json: Json = False) -> None:
    """What the daemon would change in the route tables, and why; fails if something is in its way."""
    from pyflannel.backend.cloud import Cloud, Settings
    from pyflannel.table.cloud.memory import load

    view, leases = asyncio.run(_view(_options(context), config, leases=True))
    backend = Cloud.build(view.config, view.node, Past(), random.Random(0))
    own = next((lease for lease in leases if lease.attrs.same_node(backend.attrs())), None)
    rows = [row for row in backend.base(own.subnets) if isinstance(row, CloudRoute)] if own else []
    for lease in leases:
        if lease is not own:
            rows += _peer_rows(backend, lease)
    networks = [net for net in (view.config.network, view.config.ipv6_network) if net is not None]
    found = view.fabric.routes(view.place, networks)
    pasts = load(Path(view.options.state_dir) / "cloud-routes.json")
    found_steps = steps(found, rows, pasts, Settings.read(view.config.backend).grace_s)
    if not view.fabric.forwards(view.place):
        found_steps.insert(0, Step("switch", f"forwarding of {view.place.next_hop}", "the cloud drops pods' packets"))
    if own is None:
        tables = ", ".join(view.place.tables)
        found_steps.insert(0, Step("create", f"a route in {tables}", "once flanneld has leased a subnet here"))
    if as_json:
        shown = [{"do": step.verb, "route": step.route, "why": step.why} for step in found_steps]
        print(json.dumps({"place": _place(view), "steps": shown}, indent=1))
    else:
        print("\n".join([_head(view), *step_lines(found_steps)]))
    if any(step.verb == "blocked" for step in found_steps):
        raise typer.Exit(1)


def steps(
    found: Collection[FabricRoute], wanted: Collection[CloudRoute], pasts: Mapping[Key, RoutePast], grace_s: float
) -> list[Step]:
    """What the daemon's own code makes of the routes *found*. Pure."""
    from pyflannel.reconcile.diff import diff
    from pyflannel.table.cloud.survey import survey

    result = survey(found, wanted, pasts, grace_s)
    desired: dict[Hashable, CloudRoute] = {row.key: row for row in wanted}
    change = diff(desired, {row.key: row for row in result.present})
    told = {note.key for note in result.notes}
    there = {route.key: route for route in found}
    made = [
        Step("keep", str(row), "it's this node's" if row.own else f"{row.gateway} keeps it")
        for row in result.present
        if desired.get(row.key) == row and row.key not in told
    ]
    made += [Step("replace", str(row), f"it leads elsewhere: {there[row.key]}") for row in change.replace]
    for row in change.create:
        if (rival := result.rivals.get(row.key)) is not None:
            made.append(
                Step("blocked", str(row), f"somebody else's is there: {rival}; delete it, or lease another subnet")
            )
        else:
            made.append(Step("create", str(row), "this node's route is missing"))
    made += [Step("remove", str(there[row.key]), "its lease is gone for the grace period") for row in change.remove]
    return made + [Step("leave", str(note.key[1]), str(note)) for note in result.notes]


def check_lines(checks: Iterable[Check]) -> list[str]:
    """For people: a line each, and the cure below."""
    lines = []
    for each in checks:
        lines.append(f"  {_MARKS[each.holds]:6} {each.name}: {each.seen}")
        if each.cure and each.holds is not True:
            lines.append(f"         {each.cure}")
    return lines


def step_lines(found: Iterable[Step]) -> list[str]:
    """For people."""
    return [f"  {step.verb:8} {step.route.removeprefix('cloud route ')}: {step.why}" for step in found]


async def _view(options: Options, file: str, leases: bool) -> tuple[View, tuple[Lease, ...]]:
    """What a daemon would see. Without a store that answers, a config from *file* does, and there are no leases."""
    from pyflannel.cli.stores import open_store
    from pyflannel.daemon.underlay import Underlay, wish_of
    from pyflannel.table.cloud.contract import in_thread
    from pyflannel.table.cloud.registry import open_fabric
    from pyflannel.table.kernel import Kernel

    found: tuple[Lease, ...] = ()
    config = _read(file) if file else None
    if config is None or leases:
        try:
            store = open_store(options, create=False)
            try:
                config = config or await store.network_config()
                found = await store.leases() if leases else ()
            finally:
                await store.close()
        except StoreError:
            if config is None:
                raise
    fabric = open_fabric(config)
    if fabric is None:
        raise FlannelError(f"the config's backend is {config.backend_type}, which is no cloud's: nothing to look at")
    kernel = Kernel()
    try:
        node = Underlay(kernel, wish_of(options), config, options.node_name).look()
    finally:
        kernel.close()
    addresses = [ip for ip in (node.address, node.address6, node.public_ip, node.public_ipv6) if ip is not None]
    place = await in_thread(lambda: fabric.locate(addresses))
    return View(options, config, replace(node, cloud=place), fabric, place), found


def _read(file: str) -> NetworkConfig:
    try:
        return NetworkConfig.parse(Path(file).read_text(), file)
    except OSError as error:
        raise ConfigError("options", "--config", file, f"a file that can be read ({error.strerror})") from None


def _options(context: typer.Context) -> Options:
    try:
        return parse(context.args, os.environ)
    except HelpAsked:
        raise typer.Exit(0) from None


def _peer_rows(backend: Any, lease: Lease) -> list[CloudRoute]:
    try:
        return [row for row in backend.reach(lease) if isinstance(row, CloudRoute)]
    except Unreachable:
        return []


def _room(view: View) -> Check:
    """The MTU is the underlay's, as it is: nothing is wrapped around pods' packets."""
    from pyflannel.table.cloud.contract import Check

    return Check("MTU", True, f"{view.node.mtu} on {view.node.interface}, and for pods")


def _head(view: View) -> str:
    place = view.place
    where = f" ({place.zone})" if place.zone else ""
    tables = ", ".join(place.tables)
    return f"{view.fabric.name}: {place.instance}{where} in {place.network}, next hop {place.next_hop}, tables {tables}"


def _place(view: View) -> dict[str, Any]:
    place = view.place
    return {
        "cloud": view.fabric.name, "network": place.network, "instance": place.instance, "next_hop": place.next_hop,
        "tables": list(place.tables), "zone": place.zone,
    }  # fmt: skip


def _check_dict(each: Check) -> dict[str, Any]:
    return {"name": each.name, "holds": each.holds, "seen": each.seen, "cure": each.cure}
