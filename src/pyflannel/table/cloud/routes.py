"""The tables of a cloud: routes, and whether this machine may forward."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pyflannel.model.errors import TableError
from pyflannel.model.node import CloudPlace, IPNetwork
from pyflannel.model.rows import CloudForwarding, CloudRoute
from pyflannel.table.cloud import memory
from pyflannel.table.cloud.contract import CloudError, CloudFull, Fabric, FabricRoute, RouteTaken, in_thread
from pyflannel.table.cloud.memory import Key
from pyflannel.table.cloud.survey import Note, Survey, leads, ours, survey
from pyflannel.table.contract import Change, Failure, Touched

log = logging.getLogger(__name__)

SETTLE_S = 5.0  # Ours to tune: this long a cloud may show what was before our write (eventual consistency)
UNWATCHED_S = 300.0  # a gap longer than this between two looks counts as this much


class CloudRoutesTable:
    """The routes of this node's tables within the cluster's networks. What they are to us, `survey` says."""

    name, row_type = "cloud routes", CloudRoute

    def __init__(
        self,
        fabric: Fabric,
        place: CloudPlace,
        networks: Sequence[IPNetwork],
        file: Path,
        grace_s: float,
        *,
        overflow: Callable[[bool], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """*file* keeps what is remembered of routes over restarts. *overflow*, if this node can be reached another way,
        is told when there is no room for its route, and when it's there after all."""
        self._fabric, self._networks, self._file, self._grace_s = fabric, networks, file, grace_s
        self.place = place
        self._monotonic = monotonic
        self._pasts = memory.load(file)
        self._kept = dict(self._pasts)
        self._looked: float | None = None
        self._written: dict[Key, tuple[CloudRoute | None, float]] = {}
        self._wanted: Collection[CloudRoute] = ()
        self._overflow, self._full = overflow, "there was no room for it" if place.full else ""
        self.last = Survey()

    @property
    def notes(self) -> list[Note]:
        """What the last look found that a person should know."""
        own = next((row for row in self._wanted if row.own), None)
        full = [Note("overflow", own.key, self._full)] if own is not None and self._full else []
        return full + self.last.notes

    async def dump(self, wanted: Collection[CloudRoute]) -> list[CloudRoute]:
        self._wanted = tuple(wanted)
        found = await self._look()
        now = self._monotonic()
        passed = min(now - self._looked, UNWATCHED_S) if self._looked is not None else 0.0
        self._looked = now
        self._pasts = memory.remember(self._pasts, found, self._wanted, passed, self._grace_s)
        self._keep()
        before = set(self.last.notes)
        self.last = survey(found, self._wanted, self._pasts, self._grace_s)
        own = [row for row in self._wanted if row.own]
        if self._full and all(any(leads(route, row) for route in found if route.key == row.key) for row in own):
            self._turn("")
        for note in self.last.notes:
            if note.kind != "departed" and note not in before:
                log.warning("%s", note)
        shown = {row.key: row for row in self.last.present}
        for key, (row, until) in list(self._written.items()):
            if now >= until or shown.get(key) == row:  # it shows, so what comes next is somebody's doing
                del self._written[key]
            elif row is not None:
                shown[key] = row
            else:
                shown.pop(key, None)
        return list(shown.values())

    async def apply(self, change: Change[CloudRoute]) -> list[Failure[CloudRoute]]:
        """Only what is this node's to write, and what is to go for good; each looked at once more before it's
        overwritten or removed, for others write here too."""
        failures: list[Failure[CloudRoute]] = []
        going = [row for row in change.remove if row.expired]
        mine = [row for row in (*change.create, *change.replace) if row.own]
        if not (going or mine):
            return failures
        found = {route.key: route for route in await self._look()}
        for row in going:
            try:
                await self._delete(row, found.get(row.key))
            except CloudError as error:
                failures.append(Failure(row, TableError(row, str(error)), removing=True))
        for row in mine:
            try:
                await self._write(row, found.get(row.key))
                self._written[row.key] = row, self._monotonic() + SETTLE_S
            except CloudFull as error:
                failures.append(Failure(row, TableError(row, str(error)), tolerated=self._overflow is not None))
                self._turn(str(error))
            except CloudError as error:
                failures.append(Failure(row, TableError(row, str(error))))
        return failures

    def moved(self, place: CloudPlace) -> None:
        """This node stands elsewhere in the cloud: what was known of its tables' room isn't any more."""
        self.place, self._full = place, ""

    def _turn(self, full: str) -> None:
        """Why there is no room for our route; "" if it's there."""
        turned, self._full = bool(full) != bool(self._full), full
        if turned and self._overflow is not None:
            self._overflow(bool(full))

    async def _look(self) -> list[FabricRoute]:
        try:
            return await in_thread(lambda: self._fabric.routes(self.place, self._networks))
        except CloudError as error:
            raise OSError(str(error)) from error

    async def _delete(self, row: CloudRoute, route: FabricRoute | None) -> None:
        past = self._pasts.get(row.key)
        if route is None or past is None or past.next_hop != route.next_hop:
            return  # gone, or given to somebody since
        await in_thread(lambda: self._fabric.delete(self.place, route))
        self._written[row.key] = None, self._monotonic() + SETTLE_S
        log.info("%s is removed: its lease has been gone for %.0f s", route, past.gone_s)

    async def _write(self, row: CloudRoute, route: FabricRoute | None) -> None:
        if route is None:
            try:
                await in_thread(lambda: self._fabric.create(self.place, row.table, row.destination))
                return
            except RouteTaken:  # between our look and our write; or a write of ours that isn't shown yet
                there = [route for route in await self._look() if route.key == row.key]
                if any(leads(route, row) for route in there):
                    return
                if not there:
                    raise
                route = there[0]
        if leads(route, row):
            return
        holders = {row.gateway for row in self._wanted}
        if not ours(route, self._pasts.get(row.key), holders):
            raise RouteTaken(
                f"a route that isn't ours stands there, via {route.next_hop or 'nothing'}: "
                f"delete it in table {route.table}, or lease another subnet (`flannelctl leases reserve`)"
            )
        rival = route
        await in_thread(lambda: self._fabric.replace(self.place, rival))

    def _keep(self) -> None:
        """Write down what is remembered if it changed by more than some seconds."""
        same = self._pasts.keys() == self._kept.keys() and all(
            past.next_hop == self._kept[key].next_hop and abs(past.gone_s - self._kept[key].gone_s) < 10
            for key, past in self._pasts.items()
        )
        if same:
            return
        try:
            memory.save(self._file, self._pasts)
            self._kept = dict(self._pasts)
        except OSError as error:
            log.warning("%s can't be written: %s; departed nodes' routes may stay after a restart", self._file, error)


class ForwardingTable:
    """Whether the cloud lets this machine forward. Nothing but this machine's own setting is looked at."""

    name, row_type = "cloud forwarding", CloudForwarding

    def __init__(self, fabric: Fabric, place: CloudPlace) -> None:
        self._fabric, self.place = fabric, place

    async def dump(self, wanted: Collection[CloudForwarding]) -> list[CloudForwarding]:
        try:
            forwards = await in_thread(lambda: self._fabric.forwards(self.place))
        except CloudError as error:
            raise OSError(str(error)) from error
        return list(wanted) if forwards else []

    async def apply(self, change: Change[CloudForwarding]) -> list[Failure[CloudForwarding]]:
        """It's switched on, never off."""
        try:
            if change.create or change.replace:
                await in_thread(lambda: self._fabric.let_forward(self.place))
        except CloudError as error:
            return [Failure(row, TableError(row, str(error))) for row in (*change.create, *change.replace)]
        return []


class CloudPoll:
    """Looks at the cloud every *every_s* seconds, more or less: nodes that began together don't ask together."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s

    async def watch(self, touched: Callable[[Touched], None]) -> None:
        while True:
            touched(Touched(CloudForwarding))
            touched(Touched(CloudRoute))
            await asyncio.sleep(self._every_s * random.uniform(0.8, 1.2))
