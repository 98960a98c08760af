"""One table as the reconciler sees it: what is known of it, what is due, what failed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from pyflannel.table.contract import Failure, Table

# Ours to tune.
RETRY_FIRST_S = 0.1
FIGHT_COUNT = 20


@dataclass(frozen=True, slots=True)
class Drift:
    """What others did to a table, and when it was noticed (monotonic seconds)."""

    noticed: float
    gone: int
    changed: int
    extra: int
    first: str


class Side:
    """One table, and what we know of it. Times are of the monotonic clock, in seconds."""

    def __init__(self, table: Table[Any]) -> None:
        self.table = table
        self.actual: dict[Hashable, Any] = {}
        self.dump_due = True
        self.seen = False  # dumped and mended once: from then on a difference is somebody else's doing
        self.dirty: set[Hashable] = set()
        self.dropped: set[Hashable] = set()
        self.failed: dict[Hashable, Failure[Any]] = {}
        self.failing = False  # in this pass
        self.unreadable: str | None = None
        self.retry_at = 0.0
        self.retry_s = RETRY_FIRST_S
        self.drifts: deque[float] = deque(maxlen=FIGHT_COUNT)
        self.resume_at = 0.0
        self.touched_at: float | None = None
        self.drift: Drift | None = None
        self.said: str | None = None

    def pending(self) -> bool:
        return self.dump_due or bool(self.dirty)

    def trouble(self) -> str | None:
        if self.unreadable:
            return f"{self.table.name} can't be read: {self.unreadable}"
        failed = [failure for failure in self.failed.values() if not failure.tolerated]
        if failed:
            return f"{self.table.name}: {failed[0].error}; {len(failed)} rows failed"
        return None


class Lane:
    """Tables reconciled one after the other, by one task: `done` is the last wish that it has tried."""

    def __init__(self, sides: dict[type[Any], Side]) -> None:
        self.sides, self.wake, self.done = sides, asyncio.Event(), 0
