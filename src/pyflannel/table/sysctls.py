"""Files below /proc/sys."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from pyflannel.model.errors import TableError
from pyflannel.model.rows import Sysctl
from pyflannel.table.contract import Change, Failure

log = logging.getLogger(__name__)


class SysctlsTable:
    """Only what is wanted is ever read or written; what is wanted no more stays as it is.

    Where /proc/sys is read-only, as in every container that isn't privileged, a row counts as it stands: nobody can
    change it from here, and the rows are precautions. That is said once.
    """

    name, row_type = "sysctls", Sysctl

    def __init__(self, base: Path = Path("/proc/sys")) -> None:
        self._base = base
        self._told: set[str] = set()

    async def dump(self, wanted: Collection[Sysctl]) -> list[Sysctl]:
        found = []
        for row in wanted:
            try:
                there = Sysctl(row.path, (self._base / row.path).read_text().strip())
                fixed = there != row and os.statvfs(self._base / row.path).f_flag & os.ST_RDONLY
                found.append(row if fixed else there)
            except OSError:
                continue  # absent (the device is gone, IPv6 is off) or unreadable: writing it will say why
            if fixed and row.path not in self._told:
                self._told.add(row.path)
                log.warning("%s stays %s, wanted %s: /proc/sys is read-only here", row.path, there.value, row.value)
        return found

    async def apply(self, change: Change[Sysctl]) -> list[Failure[Sysctl]]:
        failures = []
        for row in (*change.create, *change.replace):
            try:
                (self._base / row.path).write_text(row.value)
            except OSError as error:
                failures.append(Failure(row, TableError(row, error.strerror or str(error), error.errno)))
        return failures
