"""What a table is: it tells which of its rows are ours, applies a change, and reports disturbances."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pyflannel.model.errors import TableError
from pyflannel.model.node import IPNetwork
from pyflannel.model.rows import Row

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Change(Generic[R]):
    """One table's way from what is to what should be. It can't express "remove, then add": `replace` is in place.

    `create` never overwrites: a row of the same key that is somebody else's makes it fail, unless it equals ours in
    all but its mark (then it is adopted in place).
    """

    remove: tuple[R, ...] = ()
    create: tuple[R, ...] = ()
    replace: tuple[R, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.remove or self.create or self.replace)

    def __len__(self) -> int:
        return len(self.remove) + len(self.create) + len(self.replace)


@dataclass(frozen=True, slots=True)
class Failure(Generic[R]):
    """A row that could not be written (or, with `removing`, removed). It stays dirty and is tried again. `tolerated`:
    the node does without it meanwhile; it's no trouble."""

    row: R
    error: TableError
    removing: bool = False
    tolerated: bool = False


class Table(Protocol[R]):
    """All rows of one type. Written by one task only: the reconciler's."""

    @property
    def name(self) -> str:
        """For logs and metrics: routes, neighbours, fdb, links, addresses, sysctls, firewall."""
        ...

    @property
    def row_type(self) -> type[R]: ...

    async def dump(self, wanted: Collection[R]) -> list[R]:
        """The rows present that are ours. *wanted* is what should be there: for tables that can only be asked
        about particular rows (sysctls). Raises TableError or OSError if the table can't be read at all."""
        ...

    async def apply(self, change: Change[R]) -> list[Failure[R]]:
        """Write *change* in one batch: removals first, then the rest. Removing what is absent succeeds."""
        ...


@dataclass(frozen=True, slots=True)
class Touched:
    """Something happened to a table, by whomever (ourselves included).

    `row` is what is there now under its key (`present`) or was removed; None: anything may have happened to every
    row of `row_type`; `row_type` None: to all tables (a device went or came, notifications were lost).
    """

    row_type: type[Any] | None = None
    row: Row | None = None
    present: bool = True


class Source(Protocol):
    """Watches tables for disturbances."""

    async def watch(self, touched: Callable[[Touched], None]) -> None:
        """Report until cancelled. Reports `Touched()` first of all once it hears, so that nothing is missed."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What makes a row ours: see `ownership`.

    `devices` are those our backend makes; `networks` the cluster's networks, the previous run's included; `mark` is
    this daemon's among several on one host (written on devices as their alias: links of a former backend that
    carry it are swept).
    """

    devices: frozenset[str] = field(default_factory=frozenset)
    networks: tuple[IPNetwork, ...] = ()
    mark: str = "pyflannel"
