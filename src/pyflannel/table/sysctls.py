"""Files below /proc/sys."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pyflannel.model.errors import TableError
from pyflannel.model.rows import Sysctl
from pyflannel.table.contract import Change, Failure


class SysctlsTable:
    """Only what is wanted is ever read or written; what is wanted no more stays as it is."""

    name, row_type = "sysctls", Sysctl

    def __init__(self, base: Path = Path("/proc/sys")) -> None:
        self._base = base

    async def dump(self, wanted: Collection[Sysctl]) -> list[Sysctl]:
        found = []
        for row in wanted:
            try:
                found.append(Sysctl(row.path, (self._base / row.path).read_text().strip()))
            except OSError:
                continue  # absent (the device is gone, IPv6 is off) or unreadable: writing it will say why
        return found

    async def apply(self, change: Change[Sysctl]) -> list[Failure[Sysctl]]:
        failures = []
        for row in (*change.create, *change.replace):
            try:
                (self._base / row.path).write_text(row.value)
            except OSError as error:
                failures.append(Failure(row, TableError(row, error.strerror or str(error), error.errno)))
        return failures
