"""A KeyValue database in one SQLite file, shared by the daemons of one machine.

A log of changes gives every change its revision and lets watchers resume; expiry is carried out by whoever looks.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pyflannel.model.errors import StoreError, StoreUnreachable
from pyflannel.store.keyvalue import Compacted, Entry, Gone

T = TypeVar("T")

# Ours to tune.
POLL_S = 0.025  # a look costs 5 µs (PRAGMA data_version): 0.02 % of a core
EXPIRY_S = 1.0  # between two looks for expired leases
BUSY_S = 5.0  # a writer waits so long for another
KEPT = 10_000  # changes; whoever is further behind lists anew

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, revision INTEGER NOT NULL, expires REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, value TEXT, expires REAL
);
"""


class Sqlite:
    """The file at *path*, made with its folder if *create*. Times are Unix seconds from *clock*.

    A file that vanishes while in use is not made anew: an empty store would look as if every node had left.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, create: bool = True) -> None:
        self._path, self._clock, self._create = path, clock, create
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"the embedded store at {self._path}"

    async def get(self, key: str) -> Entry | None:
        def work(db: sqlite3.Connection) -> Entry | None:
            row = db.execute("SELECT key, value, revision, expires FROM entry WHERE key = ?", (key,)).fetchone()
            return None if row is None else _entry(row)

        return await self._do(work)

    async def entries(self, prefix: str) -> tuple[list[Entry], int]:
        def work(db: sqlite3.Connection) -> tuple[list[Entry], int]:
            rows = db.execute(
                "SELECT key, value, revision, expires FROM entry WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            )
            return [_entry(row) for row in rows], _revision(db)

        return await self._do(work)

    async def commit(
        self,
        when: Mapping[str, int],
        put: Mapping[str, str] | None = None,
        delete: Sequence[str] = (),
        ttl_s: int | None = None,
    ) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            for key, revision in when.items():
                row = db.execute("SELECT revision FROM entry WHERE key = ?", (key,)).fetchone()
                if (row[0] if row else 0) != revision:
                    return False
            for key in delete:
                _delete(db, key)
            expires = None if ttl_s is None else self._clock() + ttl_s
            for key, value in (put or {}).items():
                cursor = db.execute("INSERT INTO change (key, value, expires) VALUES (?, ?, ?)", (key, value, expires))
                db.execute("REPLACE INTO entry VALUES (?, ?, ?, ?)", (key, value, cursor.lastrowid, expires))
            db.execute("DELETE FROM change WHERE revision <= ?", (_revision(db) - KEPT,))
            return True

        return await self._do(work)

    async def prolong(self, key: str, ttl_s: int) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            sql = "UPDATE entry SET expires = ? WHERE key = ? AND expires IS NOT NULL"
            return db.execute(sql, (self._clock() + ttl_s, key)).rowcount > 0

        return await self._do(work)

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[list[Entry | Gone], None]:
        seen = (-1, -1)
        expiry_at = 0.0
        while True:
            db = self._open()
            (version,) = db.execute("PRAGMA data_version").fetchone()
            now = time.monotonic()
            if (version, db.total_changes) != seen or now >= expiry_at:
                expiry_at = now + EXPIRY_S
                batch = await self._do(lambda db: _changes(db, prefix, revision))  # noqa: B023  # awaited at once
                (version,) = db.execute("PRAGMA data_version").fetchone()
                seen = (version, db.total_changes)
                yield batch
                if batch:
                    revision = batch[-1].revision + 1
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run *work* in one transaction, in a thread: another process may hold the lock for a while."""
        async with self._lock:
            db = self._open()
            try:
                return await asyncio.to_thread(self._transact, db, work)
            except sqlite3.Error as error:
                await self.close()
                raise self._trouble(error) from None

    def _transact(self, db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        db.execute("BEGIN IMMEDIATE")
        try:
            for (key,) in db.execute("SELECT key FROM entry WHERE expires <= ?", (self._clock(),)).fetchall():
                _delete(db, key)
            result = work(db)
            db.execute("COMMIT")
            return result
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            if self._connection is not None:
                if self._path.stat().st_ino == self._inode:
                    return self._connection
                self._connection.close()  # another file took its place: a restored backup
                self._connection = None
            if not self._create:
                self._path.stat()
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._path.chmod(0o600)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(_SCHEMA)
            except BaseException:
                db.close()
                raise
        except FileNotFoundError:
            raise StoreUnreachable(
                f"{self._path} has vanished: restore it, or restart the daemons to begin anew"
            ) from None
        except OSError as error:
            raise StoreUnreachable(f"{self._path}: {error.strerror}") from None
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        self._connection, self._inode = db, self._path.stat().st_ino
        self._create = False
        return db

    def _trouble(self, error: sqlite3.Error) -> StoreError:
        cure = {
            "database is locked": f"another process holds it for over {BUSY_S:.0f} s",
            "file is not a database": "it is damaged or no SQLite file: move it away and restart the daemons",
            "database disk image is malformed": "it is damaged: move it away and restart the daemons",
            "attempt to write a readonly database": "it may not be written: check its owner and the file system",
            "database or disk is full": "the file system is full",
        }.get(str(error), str(error))
        return StoreUnreachable(f"{self._path}: {cure}")


def _entry(row: tuple[str, str, int, float | None]) -> Entry:
    key, value, revision, expires = row
    return Entry(key, value, revision, expires is not None, expires)


def _revision(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
    return int(row[0]) if row else 0


def _delete(db: sqlite3.Connection, key: str) -> None:
    db.execute("DELETE FROM entry WHERE key = ?", (key,))
    db.execute("INSERT INTO change (key, value) VALUES (?, NULL)", (key,))


def _changes(db: sqlite3.Connection, prefix: str, revision: int) -> list[Entry | Gone]:
    (oldest,) = db.execute("SELECT min(revision) FROM change").fetchone()
    latest = _revision(db)
    if revision <= latest and (oldest is None or revision < oldest):
        raise Compacted
    if revision > latest + 1:
        raise Compacted  # the file was replaced by an older one
    rows = db.execute(
        "SELECT key, value, revision, expires FROM change WHERE revision >= ? AND substr(key, 1, ?) = ? "
        "ORDER BY revision",
        (revision, len(prefix), prefix),
    )
    return [
        Gone(key, at) if value is None else Entry(key, value, at, expires is not None, expires)
        for key, value, at, expires in rows
    ]
