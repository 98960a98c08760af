"""The loop that keeps each table equal to its rows.

Rule 1: nothing is removed before a complete, fresh snapshot, but rows whose owner was explicitly dropped: only
        `sweep` sets that free, and it takes the whole plan.
Rule 2: rows are written before stale ones are removed, and replaced in place: nothing that works is taken away
        before its successor is there.
Rule 3: a row that failed stays dirty and is tried again; the others of its batch are not held up.
Rule 4: what should be is read after what is, without an await in between: a decision is never made on old wishes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pyflannel.model.errors import TableError
from pyflannel.model.lease import Subnets
from pyflannel.model.rows import (
    LINKS,
    Address,
    Chain,
    CloudForwarding,
    CloudRoute,
    Engine,
    EngineRoute,
    FdbEntry,
    Neighbour,
    Route,
    Row,
    Sysctl,
)
from pyflannel.reconcile.desired import Desired, Owner
from pyflannel.reconcile.diff import diff, without
from pyflannel.reconcile.journal import Disturbance, Journal
from pyflannel.reconcile.side import FIGHT_COUNT, RETRY_FIRST_S, Drift, Lane, Side
from pyflannel.table.contract import Change, Failure, Source, Table, Touched

log = logging.getLogger(__name__)

# Referents before references; a table that isn't named here comes last.
ORDER: tuple[type[Any], ...] = (
    *LINKS, Engine, EngineRoute, Sysctl, Address, Neighbour, FdbEntry, Route, Chain,
    CloudForwarding, CloudRoute,
)  # fmt: skip
# Answers take seconds, and longer in trouble: reconciled beside the others, which don't wait for them.
APART: tuple[type[Any], ...] = (CloudForwarding, CloudRoute)
# Ours to tune.
RETRY_LAST_S = 30.0
FIGHT_WINDOW_S, FIGHT_PAUSE_S = 2.0, 1.0  # FIGHT_COUNT mends within it: somebody works against us


class Reconciler:
    """Holds what should be, and makes it so. All methods but `run` are plain: they decide, `run` does.

    >>> reconciler.want(peer.subnets, backend.reach(peer))     # doctest: +SKIP
    """

    def __init__(
        self,
        tables: Sequence[Table[Any]],
        *,
        resync_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        ranks = {row_type: rank for rank, row_type in enumerate(ORDER)}
        ordered = sorted(tables, key=lambda table: ranks.get(table.row_type, len(ORDER)))
        self._sides: dict[type[Any], Side] = {table.row_type: Side(table) for table in ordered}
        together = {kind: side for kind, side in self._sides.items() if kind not in APART}
        apart = {kind: side for kind, side in self._sides.items() if kind in APART}
        self._lanes = [Lane(sides) for sides in (together, apart) if sides]
        self._resync_s, self._monotonic, self._wall = resync_s, monotonic, wall
        self.desired = Desired()
        self.journal = Journal()
        self._complete = False
        self._asked = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        sides = ", ".join(
            f"{side.table.name}: {len(self.desired.rows(row_type))} rows"
            + (f", {len(side.failed)} failed" if side.failed else "")
            for row_type, side in self._sides.items()
        )
        return f"<Reconciler {'swept' if self._complete else 'not swept yet'}; {sides}>"

    # What should be

    def want(self, owner: Owner, rows: tuple[Row, ...]) -> None:
        """Let *owner* have exactly *rows*. A row that it had and has no more is removed."""
        for row_type, key in self.desired.want(owner, rows):
            side = self._sides[row_type]
            side.dirty.add(key)
            side.dropped.add(key)
        self._ask()

    def drop(self, owner: Owner) -> None:
        """Remove *owner*'s rows."""
        self.want(owner, ())

    def sweep(self, plan: Mapping[Subnets, tuple[Row, ...]]) -> None:
        """Make *plan* the rows of all peers, from a complete snapshot: from now on every row of ours that nobody
        wants is removed, also those of an earlier run. This node's own rows stay."""
        for owner in [owner for owner in self.desired.owners() if isinstance(owner, Subnets) and owner not in plan]:
            self.drop(owner)
        for owner, rows in plan.items():
            self.want(owner, rows)
        if not self._complete:
            self._complete = True
            for side in self._sides.values():
                side.dump_due, side.seen = True, False
        self._ask()

    # What is

    def touched(self, what: Touched) -> None:
        """Something happened to a table. What agrees with what we know or want costs nothing."""
        for lane in self._lanes:
            for side in [side for kind, side in lane.sides.items() if what.row_type in (None, kind)]:
                if what.row is None or not self._expected(side, what.row, what.present):
                    side.dump_due = True
                    side.retry_at = 0.0
                    if side.touched_at is None:
                        side.touched_at = self._monotonic()
                    for kind in lane.sides.keys() & {*LINKS}:
                        lane.sides[kind].dump_due = True  # it may have gone with its device
                    lane.wake.set()

    def _expected(self, side: Side, row: Row, present: bool) -> bool:
        want = self.desired.rows(type(row)).get(row.key)
        if present:
            if want == row:
                side.actual[row.key] = row
            return want == row
        return want is None and row.key not in side.actual

    # Questions

    @property
    def complete(self) -> bool:
        """True once a snapshot was swept."""
        return self._complete

    def problems(self) -> list[str]:
        """What keeps the tables from being as they should; empty if nothing does."""
        troubles = [trouble for side in self._sides.values() if (trouble := side.trouble())]
        return troubles + [str(clash) for clash in self.desired.clashes()]

    def in_sync(self) -> bool:
        """True if every table was read, and holds what it should."""
        return not any(side.pending() or side.trouble() or not side.seen for side in self._sides.values())

    def counts(self) -> dict[str, tuple[int, int]]:
        """By table: rows wanted, rows failing."""
        return {
            side.table.name: (len(self.desired.rows(row_type)), len(side.failed))
            for row_type, side in self._sides.items()
        }

    async def settle(self) -> None:
        """Wait until everything asked for up to now has been tried once."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ask()
        self._waiting.append((self._asked, future))
        await future

    def _ask(self) -> None:
        self._asked += 1
        for lane in self._lanes:
            lane.wake.set()

    # The loop

    async def run(self, sources: Sequence[Source] = ()) -> None:
        """Reconcile until cancelled."""
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(source.watch(self.touched))
            for lane in self._lanes:
                group.create_task(self._keep(lane))

    async def _keep(self, lane: Lane) -> None:
        resync_at = self._monotonic() + self._resync_s
        sides = lane.sides.values()
        while True:
            asked = self._asked
            lane.wake.clear()
            await self._pass(lane)
            lane.done = asked
            for generation, future in self._waiting:
                if all(lane.done >= generation for lane in self._lanes) and not future.done():
                    future.set_result(None)
            self._waiting = [(at, future) for at, future in self._waiting if not future.done()]
            now = self._monotonic()
            due = [resync_at] + [side.retry_at for side in sides if side.failed]
            due += [side.resume_at for side in sides if side.pending()]
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(due) - now)):
                    await lane.wake.wait()
            now = self._monotonic()
            for side in sides:
                side.dump_due = side.dump_due or now >= resync_at
                if side.failed and now >= side.retry_at:
                    side.dirty |= side.failed.keys()
            if now >= resync_at:
                resync_at = now + self._resync_s

    async def reconcile(self) -> None:
        """One pass over all tables."""
        for lane in self._lanes:
            await self._pass(lane)

    async def _pass(self, lane: Lane) -> None:
        """Write what is missing, referents first; then remove what is stale, the other way round."""
        stale: list[tuple[Side, tuple[Any, ...]]] = []
        for row_type, side in lane.sides.items():
            if not side.pending() or self._monotonic() < side.resume_at:
                continue
            change = await self._change(row_type, side)
            stale.append((side, change.remove))
            writes = Change(create=change.create, replace=change.replace)
            await self._apply(side, writes)
            if row_type in (*LINKS, Engine) and writes:
                for other in lane.sides.values():  # rows went with the device, or the engine, unannounced
                    if other is not side:
                        other.dump_due = True
                        other.seen = other.seen and side.drift is not None
        for side, rows in reversed(stale):
            wanted = self.desired.rows(side.table.row_type)
            await self._apply(side, Change(remove=tuple(row for row in rows if row.key not in wanted)))
            self._report(side)
            self._note(side)

    async def _change(self, row_type: type[Any], side: Side) -> Change[Any]:
        """What *side* needs now. Reads the table if that is due; decides without an await after that."""
        dumped = side.dump_due
        if dumped:
            side.dump_due = False
            try:
                rows = await side.table.dump(self.desired.rows(row_type).values())
            except (TableError, OSError) as error:
                side.unreadable, side.dump_due = str(error), True
                side.resume_at = self._monotonic() + side.retry_s
                return Change()
            side.unreadable = None
            side.actual = {row.key: row for row in rows}
        asked, side.dirty = side.dirty, set()
        dropped, side.dropped = side.dropped, set()
        change = diff(self.desired.rows(row_type), side.actual, None if dumped else asked)
        if not self._complete:
            removable = tuple(row for row in change.remove if row.key in dropped)
            change = Change(removable, change.create, change.replace)
        if dumped:
            if side.seen:
                side.drift = self._drift(change, asked | side.failed.keys(), side.touched_at)
            side.seen, side.touched_at = True, None
        # A failed row waits for its time, even if something else made us look; a new wish for it does not.
        waiting = side.failed.keys() - dropped if self._monotonic() < side.retry_at else set()
        for key in [key for key in side.failed if key not in waiting and (dumped or key in asked)]:
            del side.failed[key]
        return without(change, waiting) if waiting else change

    async def _apply(self, side: Side, change: Change[Any]) -> None:
        failures: list[Failure[Any]] = []
        if change:
            try:
                failures = await side.table.apply(change)
            except OSError as error:  # nobody knows what was done: read it again, and retry
                side.unreadable, side.dump_due = str(error), True
                side.resume_at = self._monotonic() + side.retry_s
                return
        failed = {failure.row.key: failure for failure in failures}
        for row in change.remove:
            if row.key not in failed:
                side.actual.pop(row.key, None)
                side.failed.pop(row.key, None)
        for row in (*change.create, *change.replace):
            if row.key not in failed:
                side.actual[row.key] = row
                side.failed.pop(row.key, None)
        side.failed.update(failed)
        side.failing = side.failing or bool(failed)

    # What is said

    def _report(self, side: Side) -> None:
        """Say it when trouble begins, changes or ends; set the time of the next try."""
        failing, side.failing = side.failing or side.unreadable is not None, False
        if failing:
            side.retry_at = self._monotonic() + side.retry_s
            side.retry_s = min(side.retry_s * 2, RETRY_LAST_S)
        elif not side.failed:
            side.retry_s = RETRY_FIRST_S
        trouble = side.trouble()
        if trouble != side.said:
            if trouble:
                log.warning("%s; retrying", trouble)
            else:
                log.info("%s: in sync again", side.table.name)
            side.said = trouble

    def _drift(self, change: Change[Any], known: Collection[Hashable], touched_at: float | None) -> Drift | None:
        """What differs though nobody here asked for it."""
        gone = [row for row in change.create if row.key not in known]
        changed = [row for row in change.replace if row.key not in known]
        extra = [row for row in change.remove if row.key not in known and not getattr(row, "expired", False)]
        if not (gone or changed or extra):
            return None
        noticed = touched_at if touched_at is not None else self._monotonic()
        return Drift(noticed, len(gone), len(changed), len(extra), str((*gone, *changed, *extra)[0]))

    def _note(self, side: Side) -> None:
        """Put a drift that was mended (or not) into the journal."""
        drift, side.drift = side.drift, None
        if drift is None:
            return
        now = self._monotonic()
        healed_ms = None if side.failed else (now - drift.noticed) * 1e3
        entry = Disturbance(
            self._wall(), side.table.name, drift.gone, drift.changed, drift.extra, drift.first, healed_ms
        )
        self.journal.note(entry)
        side.drifts.append(now)
        if len(side.drifts) == FIGHT_COUNT and now - side.drifts[0] < FIGHT_WINDOW_S:
            side.resume_at = now + FIGHT_PAUSE_S
            side.drifts.clear()
            log.warning(
                "%s: somebody keeps undoing our rows (%s); mending after %.0f s",
                side.table.name,
                drift.first,
                FIGHT_PAUSE_S,
            )
        else:
            log.warning("%s", entry)
