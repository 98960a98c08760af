"""What should be: rows by owner.

Rule 1: the outcome depends on who wants what, never on the order in which it was said.
Rule 2: where two owners want one key (two leases with one VTEP MAC: a cloned VM), the lowest owner has it, the other
        is reported; when the first goes, the other's row takes its place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyflannel.model.lease import Subnets
from pyflannel.model.rows import Row

BASE = "this node"
Owner = Subnets | str
Slot = tuple[type[Any], Hashable]  # a row's type and key


@dataclass(frozen=True, slots=True)
class Clash:
    """Two owners want one key with different content."""

    row: Row
    owner: Owner
    loser: Owner

    def __str__(self) -> str:
        return f"{self.owner} and {self.loser} both claim {self.row}"


class Desired:
    """Rows by owner, and by type and key."""

    def __init__(self) -> None:
        self._by_owner: dict[Owner, tuple[Row, ...]] = {}
        self._rows: dict[type[Any], dict[Hashable, Row]] = {}
        self._holder: dict[Slot, Owner] = {}
        self._rivals: dict[Slot, dict[Owner, Row]] = {}

    def rows(self, row_type: type[Any]) -> Mapping[Hashable, Any]:
        """The rows of one type, by key."""
        return self._rows.get(row_type, {})

    def owners(self) -> Iterable[Owner]:
        return self._by_owner.keys()

    def clashes(self) -> list[Clash]:
        """Every row that an owner wants and can't have."""
        return [
            Clash(row, self._holder[slot], owner)
            for slot, rivals in self._rivals.items()
            for owner, row in rivals.items()
            if owner != self._holder[slot] and row != rivals[self._holder[slot]]
        ]

    def want(self, owner: Owner, rows: tuple[Row, ...]) -> set[Slot]:
        """Let *owner* want exactly *rows*. Returns the slots whose row changed."""
        before = self._by_owner.get(owner, ())
        if before == rows:
            return set()
        if rows:
            self._by_owner[owner] = rows
        else:
            self._by_owner.pop(owner, None)
        old: dict[Slot, Row] = {(type(row), row.key): row for row in before}
        new: dict[Slot, Row] = {(type(row), row.key): row for row in rows}
        changed: set[Slot] = set()
        for slot in old.keys() - new.keys():
            if self._withdraw(slot, owner):
                changed.add(slot)
        for slot, row in new.items():
            if old.get(slot) != row and self._claim(slot, owner, row):
                changed.add(slot)
        return changed

    def _claim(self, slot: Slot, owner: Owner, row: Row) -> bool:
        holder = self._holder.get(slot)
        if holder is not None and holder != owner:
            rivals = self._rivals.setdefault(slot, {holder: self._rows[slot[0]][slot[1]]})
            rivals[owner] = row
            return self._elect(slot, rivals)
        if slot in self._rivals:
            self._rivals[slot][owner] = row
        self._holder[slot] = owner
        return self._put(slot, row)

    def _withdraw(self, slot: Slot, owner: Owner) -> bool:
        rivals = self._rivals.get(slot)
        if rivals is None:
            del self._holder[slot]
            del self._rows[slot[0]][slot[1]]
            return True
        del rivals[owner]
        changed = self._elect(slot, rivals)
        if len(rivals) == 1:
            del self._rivals[slot]
        return changed

    def _elect(self, slot: Slot, rivals: dict[Owner, Row]) -> bool:
        winner = min(rivals, key=_rank)
        self._holder[slot] = winner
        return self._put(slot, rivals[winner])

    def _put(self, slot: Slot, row: Row) -> bool:
        rows = self._rows.setdefault(slot[0], {})
        changed = rows.get(slot[1]) != row
        rows[slot[1]] = row
        return changed


def _rank(owner: Owner) -> tuple[int, int, int]:
    """Lowest first: this node itself, then by IPv4 and IPv6 subnet."""
    if isinstance(owner, str):
        return (0, 0, 0)
    v4 = int(owner.ipv4.network_address) if owner.ipv4 else 2**32
    v6 = int(owner.ipv6.network_address) if owner.ipv6 else 2**128
    return (1, v4, v6)
