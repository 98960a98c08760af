"""The cloud that the config names, if it names one: where this node stands in it, and its tables."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyflannel.backend.cloud import Settings, overflows
from pyflannel.daemon.health import Health
from pyflannel.model.lease import Lease
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import CloudPlace, IPNetwork, Node
from pyflannel.table.cloud.contract import CloudError, Fabric, NotInCloud, in_thread
from pyflannel.table.cloud.registry import open_fabric
from pyflannel.table.cloud.routes import CloudPoll, CloudRoutesTable, ForwardingTable
from pyflannel.table.contract import Source, Table

log = logging.getLogger(__name__)

# Ours to tune: the pause after a place could not be found, doubled up to the last.
PAUSE_FIRST_S, PAUSE_LAST_S = 1.0, 30.0
MEMORY = "cloud-routes.json"


class Cloud:
    """This node's cloud. `place` is None before `locate`, and outside of it."""

    def __init__(self, config: NetworkConfig, fabric: Fabric, state: Path) -> None:
        self.fabric, self._settings, self._state = fabric, Settings.read(config.backend), state
        self.place: CloudPlace | None = None
        self.turned = asyncio.Event()  # there is no room for our route any more, or there is again
        self._routes: CloudRoutesTable | None = None
        self._forwarding: ForwardingTable | None = None

    @classmethod
    def of(cls, config: NetworkConfig, state: Path) -> Cloud | None:
        """The config's cloud; None if its backend is no cloud's. Raises ConfigError."""
        fabric = open_fabric(config)
        return None if fabric is None else cls(config, fabric, state)

    async def locate(self, node: Node, health: Health) -> CloudPlace | None:
        """Where *node* stands; asked for until the cloud answers. None on a machine outside of it, if the config has a
        fallback for those."""
        addresses = [ip for ip in (node.address, node.address6, node.public_ip, node.public_ipv6) if ip is not None]
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                place = await in_thread(lambda: self.fabric.locate(addresses))
                break
            except CloudError as error:
                if isinstance(error, NotInCloud) and self._settings.fallback is not None:
                    log.warning("%s: this node takes part by the fallback, vxlan", error)
                    health.set("cloud", None)
                    return None
                if health.set("cloud", f"{self.fabric.name}: {error}"):
                    log.warning("%s: %s; trying again", self.fabric.name, error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_LAST_S)
        health.set("cloud", None)
        log.info(
            "%s: %s in %s, next hop %s, route tables %s",
            self.fabric.name, place.instance, place.network, place.next_hop, ", ".join(place.tables),
        )  # fmt: skip
        self.place = place
        if self._routes is not None and self._forwarding is not None:
            self._routes.moved(place)
            self._forwarding.place = place
        return place

    def remember(self, lease: Lease | None) -> CloudPlace | None:
        """Our place; if there was no room for our route when *lease* was published, there is none until it's seen."""
        if self.place is not None and lease is not None and self._settings.fallback and overflows(lease.attrs):
            self.place = replace(self.place, full=True)
        return self.place

    def tables(self, networks: Sequence[IPNetwork]) -> tuple[list[Table[Any]], list[Source]]:
        """Its tables, and who watches them; none outside of it."""
        if self.place is None:
            return [], []
        file, grace_s = self._state / MEMORY, float(self._settings.grace_s)
        overflow = self._turn if self._settings.fallback is not None else None
        self._routes = CloudRoutesTable(self.fabric, self.place, networks, file, grace_s, overflow=overflow)
        self._forwarding = ForwardingTable(self.fabric, self.place)
        return [self._forwarding, self._routes], [CloudPoll(self._settings.sync_s)]

    def _turn(self, full: bool) -> None:
        assert self.place is not None
        self.place = replace(self.place, full=full)
        if full:
            log.warning("%s has no room for our route: this node is reached by vxlan, and tries on", self.fabric.name)
        else:
            log.info("%s has our route: this node is reached by it", self.fabric.name)
        self.turned.set()

    def status(self) -> dict[str, Any] | None:
        """For /status: our place, and what is to be said of others' routes."""
        if self.place is None or self._routes is None:
            return None
        return {
            "network": self.place.network,
            "instance": self.place.instance,
            "next_hop": self.place.next_hop,
            "tables": list(self.place.tables),
            "notes": [{"kind": note.kind, "text": note.text} for note in self._routes.notes],
        }
