"""A daemon's start without a write: what it would find on this node, and what it would want there."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyflannel.backend.contract import Backend
from pyflannel.backend.registry import factory
from pyflannel.cli.options import Options
from pyflannel.cli.stores import open_store
from pyflannel.daemon.peers import Peers
from pyflannel.daemon.tables import Place, Tables, open_tables, warnings
from pyflannel.daemon.underlay import Underlay, wish_of
from pyflannel.model.errors import FlannelError
from pyflannel.model.lease import Lease, LeaseAttrs, Snapshot, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past
from pyflannel.model.rows import Route, VxlanLink
from pyflannel.reconcile.reconciler import Reconciler
from pyflannel.store.allocate import fits
from pyflannel.store.contract import Store
from pyflannel.table.cloud.registry import is_cloud
from pyflannel.table.engine import Engines
from pyflannel.table.iptables import FAMILIES, Iptables
from pyflannel.table.kernel import Kernel
from pyflannel.wire import subnet_env

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Scene:
    """One table: what is there that is ours to change, and what should be, by key."""

    name: str
    actual: Mapping[Any, Any]
    wanted: Mapping[Any, Any]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was found. Without a `lease` nothing after it was looked at.

    `kept`: the store would give that lease again (one that no longer fits the config is given back).
    `env` and `env_wanted` are subnet.env's text now and then. `in_the_way` are rows of somebody else's, each with the
    way out. `drops` are the families of which iptables drops what its FORWARD chain doesn't accept. `pids` are the
    daemons called flanneld that run in this network namespace.
    """

    store: str
    config: NetworkConfig
    node: Node
    lease: Lease | None
    pids: tuple[int, ...]
    env: str
    kept: bool = True
    backend: Backend | None = None
    manager: str = ""
    env_wanted: str = ""
    scenes: tuple[Scene, ...] = ()
    peers: int = 0
    unreachable: Mapping[Subnets, str] = field(default_factory=dict)
    clashes: tuple[str, ...] = ()
    in_the_way: tuple[str, ...] = ()
    drops: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


async def rehearse(options: Options) -> Rehearsal:
    """Look at everything; change nothing. Raises FlannelError."""
    store = open_store(options, create=False)
    kernel, engines = Kernel(), Engines(Path(options.subnet_file).with_suffix(".bpf"))
    try:
        return await _rehearse(options, store, kernel, engines)
    finally:
        await store.close()
        engines.close()
        kernel.close()


async def _rehearse(options: Options, store: Store, kernel: Kernel, engines: Engines) -> Rehearsal:
    config = await store.network_config()
    if is_cloud(config.backend_type):
        raise FlannelError(
            f"the backend is {config.backend_type}: nothing of it is on this node but subnet.env; `flannelctl cloud "
            "plan` tells what would change in the cloud's route tables"
        )
    env = _read(Path(options.subnet_file))
    previous, networks = subnet_env.previous(env)
    underlay = Underlay(kernel, wish_of(options, await store.chosen_addresses()), config, options.node_name)
    node = underlay.look()
    lease = await store.recall(LeaseAttrs(node.public_ip, node.public_ipv6), previous)
    pids = running()
    if lease is None:
        return Rehearsal(store.name, config, node, None, pids, env)
    macs = {link.name: link.mac for link in kernel.links() if link.kind == "vxlan"}
    past = Past(lease, macs)
    backend = factory(config)(config, node, past, random.Random())
    underlay.devices = backend.devices
    node = underlay.look(node)
    backend = factory(config)(config, node, past, random.Random())
    place = Place(kernel, engines, underlay, networks)
    tables = await open_tables(options, place, config, backend, lease.subnets)
    reconciler = Reconciler(tables.every)  # never run: it only adds up what should be
    peers = Peers(lease.subnets, backend, reconciler, tables.extra)
    peers.on(Snapshot(await store.leases()))
    scenes = [await _scene(table, reconciler) for table in tables.every]
    iptables = Iptables()
    return Rehearsal(
        store=store.name,
        config=config,
        node=node,
        lease=lease,
        pids=pids,
        env=env,
        kept=options.store_kind == "kubernetes" or fits(config, lease.subnets),
        backend=backend,
        manager=tables.manager,
        env_wanted=subnet_env.encode(config, lease.subnets, backend.mtu, options.ip_masq),
        scenes=tuple(scenes),
        peers=len(peers.ledger.leases),
        unreachable=dict(peers.unreachable),
        clashes=tuple(str(clash) for clash in reconciler.desired.clashes()),
        in_the_way=tuple(_in_the_way(tables, scenes)),
        drops=tuple([family for family in FAMILIES if await iptables.drops_forwarded(family)]),
        warnings=tuple(warnings(config, tables.manager)),
    )


async def _scene(table: Any, reconciler: Reconciler) -> Scene:
    wanted = reconciler.desired.rows(table.row_type)
    actual = {row.key: row for row in await table.dump(wanted.values())}
    return Scene(table.name, actual, dict(wanted))


def _in_the_way(tables: Tables, scenes: list[Scene]) -> list[str]:
    """What keeps missing rows from being made."""
    missing = [row for scene in scenes for key, row in scene.wanted.items() if key not in scene.actual]
    found = [tables.links.in_the_way(row) for row in missing if isinstance(row, VxlanLink)]
    found += tables.routes.in_the_way([row for row in missing if isinstance(row, Route)])
    return [text for text in found if text]


def running(proc: Path = PROC) -> tuple[int, ...]:
    """Processes called flanneld in our own network namespace, but ourselves."""
    found = []
    here = (proc / "self/ns/net").readlink()
    for folder in proc.glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text().strip()
            if name == "flanneld" and (folder / "ns/net").readlink() == here and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return tuple(sorted(found))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
