"""A kernel in memory: tables that fail on demand, and tell what was done to them."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

from pyflannel.model.errors import TableError
from pyflannel.model.rows import Row
from pyflannel.table.contract import Change, Failure


class FakeTable:
    """A Table[Any] of one row type. `fail` holds keys whose next write or removal fails; each is consumed."""

    def __init__(self, row_type: type[Any], log: list[str] | None = None) -> None:
        self.row_type = row_type
        self.name = row_type.__name__.lower()
        self.rows: dict[Hashable, Any] = {}
        self.fail: set[Hashable] = set()
        self.unreadable: list[OSError] = []
        self.log: list[str] = [] if log is None else log
        self.dumps = 0

    async def dump(self, wanted: Collection[Row]) -> list[Any]:
        self.dumps += 1
        if self.unreadable:
            raise self.unreadable.pop()
        return list(self.rows.values())

    async def apply(self, change: Change[Any]) -> list[Failure[Any]]:
        failures = []
        for verb, rows in (("-", change.remove), ("+", change.create), ("=", change.replace)):
            for row in rows:
                if row.key in self.fail:
                    self.fail.discard(row.key)
                    failures.append(Failure(row, TableError(row, "injected", 5), verb == "-"))
                    continue
                assert verb != "+" or row.key not in self.rows, f"created twice: {row}"
                assert verb != "=" or row.key in self.rows, f"replaced what is absent: {row}"
                self.log.append(f"{verb} {row}")
                if verb == "-":
                    self.rows.pop(row.key, None)
                else:
                    self.rows[row.key] = row
        return failures
