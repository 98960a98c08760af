"""flanneld: open the store, take a lease, let the backend say what must be true, and keep it true.

The order of the start is flannel's (control-plane reference, 1.4), but that subnet.env is written, and readiness
told, only after the peers' rows have been written.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyflannel.backend.contract import Factory
from pyflannel.backend.registry import factory
from pyflannel.cli.options import Options
from pyflannel.daemon import systemd
from pyflannel.daemon.cloud import Cloud
from pyflannel.daemon.health import Health
from pyflannel.daemon.peers import Peers
from pyflannel.daemon.tables import Place, open_tables, warnings, watchers
from pyflannel.daemon.tenure import Tenure
from pyflannel.daemon.underlay import Underlay, wish_of
from pyflannel.model.errors import AddressInUse, ConfigError, ConfigMissing, LeasePending, StoreError, StoreUnreachable
from pyflannel.model.lease import Lease, LeaseAttrs, Snapshot, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past
from pyflannel.node.choose import Wish
from pyflannel.node.identity import identity
from pyflannel.reconcile.reconciler import Reconciler
from pyflannel.store.checkpoint import Checkpoint, load, save
from pyflannel.store.contract import PRESENCE_TTL_S, Store
from pyflannel.store.renewal import pause_s
from pyflannel.table.engine import Engines
from pyflannel.table.kernel import Kernel
from pyflannel.wire import subnet_env
from pyflannel.wire.files import write_atomically

log = logging.getLogger(__name__)

# Ours to tune.
CONFIG_RETRY_S = 1.0  # flannel's
BOOT_PATIENCE_S = 5.0  # with a checkpoint at hand, the store is waited for no longer
SNAPSHOT_PATIENCE_S = 10.0
CHECKPOINT_QUIET_S = 1.0


@dataclass
class Started:
    """What exists once the start is through its first half."""

    config: NetworkConfig
    config_text: str
    make: Factory
    node: Node
    peers: Peers
    tenure: Tenure
    reconciler: Reconciler
    underlay: Underlay
    masquerade: bool


class Flanneld:
    """The daemon of one node."""

    def __init__(self, options: Options, store: Store, kernel: Kernel, engines: Engines) -> None:
        self._options, self._store, self._kernel, self._engines = options, store, kernel, engines
        self.health = Health(store.contact)
        self._rng = random.Random()
        self._subnet_file = Path(options.subnet_file)
        self._state = Path(options.state_dir)
        self._started: Started | None = None
        self._cloud: Cloud | None = None
        self._snapshot = asyncio.Event()
        self._changed = asyncio.Event()
        self._began = time.monotonic()

    # The start

    async def run(self) -> None:
        """Start, and stay. Raises FlannelError, Revoked."""
        log.info("options: %s", self._options.redacted())
        log.info("store: %s", self._store.name)
        checkpoint = load(self._state / "checkpoint.json")
        config, text = await self._config(checkpoint)
        options = self._options
        subnets, networks = subnet_env.previous(_read(self._subnet_file))
        subnets = subnets or (checkpoint.own.subnets if checkpoint else None)
        wish = await self._wish(checkpoint)
        underlay = Underlay(self._kernel, wish, config, options.node_name)
        node = underlay.look()
        make = factory(config)
        self._cloud = Cloud.of(config, self._state)
        if self._cloud is not None:
            node = replace(node, cloud=await self._cloud.locate(node, self.health))
        past = await self._past(node, subnets, checkpoint)
        if self._cloud is not None:
            node = replace(node, cloud=self._cloud.remember(past.lease))
        backend = make(config, node, past, self._rng)
        underlay.devices = backend.devices
        node = underlay.look(node)
        backend = make(config, node, past, self._rng)
        ident = identity(self._state)
        known = checkpoint if checkpoint and checkpoint.config == text else None
        lease, provisional = await self._lease(backend.attrs(), subnets, known, ident)
        log.info("lease: %s, backend %s, MTU %d", lease.subnets, backend.type, backend.mtu)

        place = Place(self._kernel, self._engines, underlay, networks, self._cloud)
        tables = await open_tables(options, place, config, backend, lease.subnets)
        for warning in warnings(config, tables.manager):
            log.warning("%s", warning)
        await tables.links.mark()
        reconciler = Reconciler(tables.every, resync_s=options.resync)
        peers = Peers(lease.subnets, backend, reconciler, tables.extra)
        margin_s = options.subnet_lease_renew_margin * 60
        tenure = Tenure(self._store, lease, margin_s, provisional=provisional)
        started = Started(config, text, make, node, peers, tenure, reconciler, underlay, options.ip_masq)
        self._started = started
        for asker in (reconciler.problems, tenure.problems):
            self.health.ask(asker)
        self.health.ask(lambda: [underlay.trouble] if underlay.trouble else [])
        async with asyncio.TaskGroup() as group:
            group.create_task(reconciler.run(watchers(options, place, tables)))
            group.create_task(self._follow(started))
            if provisional and checkpoint is not None:
                log.warning("the store doesn't answer: starting from the leases known at %s", _time(checkpoint.at))
                peers.assume(checkpoint.peers)
            else:
                await self._first_snapshot()
            await reconciler.settle()
            self._write_subnet_env(started)
            with contextlib.suppress(OSError):
                self._subnet_file.with_suffix(".error").unlink()  # an earlier run's last words
            self.health.starting = None
            log.info("ready after %.2f s", time.monotonic() - self._began)
            systemd.notify("READY=1", f"STATUS={lease.subnets} over {backend.type}")
            group.create_task(tenure.keep())
            group.create_task(underlay.follow(node, self._moved))
            group.create_task(self._follow_cloud(started))
            group.create_task(self._stay_present(started, ident))
            group.create_task(self._tell_up())
            group.create_task(self._save_checkpoints(started))

    async def _config(self, checkpoint: Checkpoint | None) -> tuple[NetworkConfig, str]:
        """The config and its text; the checkpoint's if the store doesn't answer."""
        while True:
            try:
                text = await self._store.config_text()
                config = await self._store.network_config()
                self._store.contact.ok(time.monotonic())
                return config, text or ""
            except (ConfigMissing, ConfigError) as error:
                self._wait(str(error))
            except StoreError as error:
                self._store.contact.failed(time.monotonic(), str(error))
                self._wait(f"waiting for the store: {error}")
                if checkpoint is not None and time.monotonic() - self._began > BOOT_PATIENCE_S:
                    return NetworkConfig.parse(checkpoint.config, "checkpoint"), checkpoint.config
            await asyncio.sleep(CONFIG_RETRY_S)

    async def _wish(self, checkpoint: Checkpoint | None) -> Wish:
        """What the options say about the interface to use; the store's word on our addresses goes before them."""
        options = self._options
        chosen = "", ""
        while True:
            try:
                chosen = await self._store.chosen_addresses()
                break
            except StoreError as error:
                self._wait(f"waiting for the store: {error}")
                if checkpoint is not None and time.monotonic() - self._began > BOOT_PATIENCE_S:
                    break
            await asyncio.sleep(CONFIG_RETRY_S)
        return wish_of(options, chosen)

    def _wait(self, why: str) -> None:
        if self.health.starting != why:
            log.warning("%s", why)
            systemd.notify(f"STATUS={why}")
        self.health.starting = why

    async def _past(self, node: Node, subnets: Subnets | None, checkpoint: Checkpoint | None) -> Past:
        """What peers know of this node already."""
        macs = {link.name: link.mac for link in self._kernel.links() if link.kind == "vxlan"}
        try:
            lease = await self._store.recall(LeaseAttrs(node.public_ip, node.public_ipv6), subnets)
        except StoreError:
            lease = None
        return Past(lease or (checkpoint.own if checkpoint else None), macs)

    async def _lease(
        self, attrs: LeaseAttrs, previous: Subnets | None, checkpoint: Checkpoint | None, ident: str
    ) -> tuple[Lease, bool]:
        """Our lease, and whether it is one remembered from *checkpoint* that the store has to confirm."""
        while True:
            try:
                await self._announce(attrs, ident)
                return await self._store.acquire(attrs, previous), False
            except LeasePending as error:
                self._wait(str(error))
            except StoreUnreachable as error:
                if checkpoint is not None and time.monotonic() - self._began > BOOT_PATIENCE_S:
                    return checkpoint.own.with_attrs(attrs), True
                self._wait(f"waiting for the store: {error}")
            await asyncio.sleep(CONFIG_RETRY_S)

    async def _announce(self, attrs: LeaseAttrs, ident: str) -> None:
        """Raises AddressInUse, StoreUnreachable; a store that forbids it is none the worse."""
        if attrs.public_ip is None and attrs.public_ipv6 is None:
            return
        try:
            await self._store.announce(attrs, self._options.node_name, ident)
        except (AddressInUse, StoreUnreachable):
            raise
        except StoreError as error:
            log.info("other nodes with our address can't be noticed: %s", error)

    async def _first_snapshot(self) -> None:
        try:
            async with asyncio.timeout(SNAPSHOT_PATIENCE_S):
                await self._snapshot.wait()
        except TimeoutError:
            log.warning("the store gave a lease but doesn't list the others: going on without peers for now")

    # Staying

    async def _follow(self, started: Started) -> None:
        async for event in self._store.watch():
            change = started.peers.on(event)
            if change.own == "gone":
                started.tenure.gone()
            elif change.own_lease is not None:
                started.tenure.seen(change.own_lease)
            if isinstance(event, Snapshot):
                self._snapshot.set()
            if change or isinstance(event, Snapshot):
                self._changed.set()

    async def _moved(self, node: Node) -> None:
        """This node's underlay differs: plan anew, and tell the others if that concerns them."""
        started = self._started
        assert started is not None
        if self._cloud is not None and self._cloud.place is not None:
            if node.cloud is None:  # other addresses
                await self._cloud.locate(node, self.health)
            node = replace(node, cloud=self._cloud.place)
        past = Past(Lease(started.peers.own, started.tenure.wanted))
        try:
            backend = started.make(started.config, node, past, self._rng)
        except ConfigError as error:
            if self.health.set("underlay", str(error)):
                log.warning("%s", error)
            return
        self.health.set("underlay", None)
        if (node.interface, node.public_ip, node.public_ipv6, node.mtu) != (
            started.node.interface, started.node.public_ip, started.node.public_ipv6, started.node.mtu,
        ):  # fmt: skip
            log.info("the underlay changed: %s on %s, MTU %d", backend.attrs().address(), node.interface, node.mtu)
        started.node = node
        started.peers.rebuild(backend)
        if backend.attrs() != started.tenure.wanted:
            started.tenure.publish(backend.attrs())
        self._write_subnet_env(started)

    async def _follow_cloud(self, started: Started) -> None:
        while self._cloud is not None:
            await self._cloud.turned.wait()
            self._cloud.turned.clear()
            await self._moved(started.node)

    async def _stay_present(self, started: Started, ident: str) -> None:
        while True:
            await asyncio.sleep(PRESENCE_TTL_S / 4)
            try:
                await self._announce(started.tenure.wanted, ident)
                self.health.set("address", None)
            except AddressInUse as error:
                if self.health.set("address", str(error)):
                    log.error("%s", error)
            except StoreUnreachable:
                continue

    async def _tell_up(self) -> None:
        for failures in itertools.count(1):
            try:
                await self._store.network_is_up()
                return
            except StoreError as error:
                if failures == 1:
                    log.warning("nobody could be told that the network is up: %s; trying again", error)
            await asyncio.sleep(pause_s(failures))

    async def _save_checkpoints(self, started: Started) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(CHECKPOINT_QUIET_S)
            self._changed.clear()
            peers = tuple(started.peers.ledger.leases.values())
            checkpoint = Checkpoint(started.config_text, started.tenure.lease, peers, time.time())
            try:
                await asyncio.to_thread(save, self._state / "checkpoint.json", checkpoint)
                self.health.set("checkpoint", None)
            except OSError as error:
                if self.health.set("checkpoint", f"the checkpoint can't be written: {error}"):
                    log.warning(
                        "the checkpoint can't be written: %s; a boot without the store would find no peers", error
                    )

    def _write_subnet_env(self, started: Started) -> None:
        text = subnet_env.encode(started.config, started.peers.own, started.peers.backend.mtu, started.masquerade)
        if _read(self._subnet_file) == text:
            self.health.set("subnet-file", None)
            return
        try:
            write_atomically(self._subnet_file, text, 0o644)
            self.health.set("subnet-file", None)
        except OSError as error:
            problem = f"{self._subnet_file} can't be written: {error.strerror}"
            if self.health.set("subnet-file", problem):
                log.error("%s", problem)

    # Questions

    def status(self) -> dict[str, Any]:
        """Everything worth knowing, as JSON."""
        found: dict[str, Any] = {
            "ready": not self.health.problems(),
            "problems": self.health.problems(),
            "node": self._options.node_name,
            "store": {"name": self._store.name, "trouble": self.health.store_trouble()},
        }
        if self._started is not None:
            started = self._started
            found |= {
                "interface": started.node.interface,
                "address": started.tenure.lease.attrs.address(),
                "lease": {"subnets": str(started.peers.own), "expires": started.tenure.lease.expires},
                "backend": {
                    "type": started.peers.backend.type,
                    "mtu": started.peers.backend.mtu,
                    "devices": started.peers.backend.devices,
                },
                "peers": len(started.peers.ledger.leases),
                "unreachable": {str(subnets): why for subnets, why in started.peers.unreachable.items()},
                "tables": {
                    name: {"rows": rows, "failing": failing}
                    for name, (rows, failing) in started.reconciler.counts().items()
                },
                "cloud": self._cloud.status() if self._cloud else None,
                "engine": self._engines.status() if self._engines.row else None,
                "in_sync": started.reconciler.in_sync(),
                "disturbances": [str(entry) for entry in started.reconciler.journal.entries],
            }
        return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
