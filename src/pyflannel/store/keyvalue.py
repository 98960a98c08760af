"""What a lease store needs of the database below it: keys with revisions, transactions, time to live, a watch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, its text, and the revision of its last change. `mortal`: it has a time to live (`expires`: Unix
    seconds, where the database tells it)."""

    key: str
    value: str
    revision: int
    mortal: bool
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """A key that was deleted, or has expired."""

    key: str
    revision: int


class Compacted(Exception):
    """The history asked for is no longer kept: list anew."""


class KeyValue(Protocol):
    """A database. Every call has a deadline; any may raise StoreUnreachable or StoreError."""

    @property
    def name(self) -> str: ...

    async def get(self, key: str) -> Entry | None: ...

    async def entries(self, prefix: str) -> tuple[list[Entry], int]:
        """Entries whose key begins with *prefix*, by key, and the revision at which this was so."""
        ...

    async def commit(
        self,
        when: Mapping[str, int],
        put: Mapping[str, str] | None = None,
        delete: Sequence[str] = (),
        ttl_s: int | None = None,
        nothing_new: tuple[str, int] | None = None,
    ) -> bool:
        """One transaction: if each key of *when* is at its revision (0: absent), put and delete. False if not.

        With *nothing_new*, a prefix and a revision, only if no key below the prefix was made after that revision (a
        database may count a change of one as well)."""
        ...

    async def prolong(self, key: str, ttl_s: int) -> bool:
        """Give *key* its time to live again without a new revision. False if it is gone."""
        ...

    def watch(self, prefix: str, revision: int) -> AsyncGenerator[list[Entry | Gone], None]:
        """Changes from *revision* on, in batches (an empty one: nothing new, but it lives). Ends in Compacted,
        StoreUnreachable or StoreError."""
        ...

    async def close(self) -> None: ...
