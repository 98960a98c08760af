"""A KeyValue database in one SQLite file, shared by the daemons of one machine.

Rule 1: a log of changes gives every change its revision and lets watchers resume; whoever looks carries out expiry.
Rule 2: an emptied store never looks as if every node had left. A file that vanishes isn't made anew by a process that
        has used it, and one that was made anew by others (it has another identity) is not followed: both are
        StoreUnreachable until the file is back, or the process restarts. A restored backup has the old identity.
Rule 3: SQLite runs in one thread of its own: the event loop never waits for a lock or a disk, and a caller who gives
        up leaves no transaction behind that the next one would run into.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyflannel.model.errors import StoreError, StoreUnreachable
from pyflannel.store.keyvalue import Compacted, Entry, Gone

T = TypeVar("T")
Mark = tuple[int, int, int]  # connection, PRAGMA data_version, changes by ourselves: equal if nothing was written

# Ours to tune.
POLL_S = 0.025  # between two glances
MARK_S = 0.25  # between two questions to SQLite itself: two writes may fall into one tick of the file's clock
EXPIRY_S = 1.0  # between two looks for expired leases
BUSY_S = 5.0  # a writer waits so long for another
DEADLINE_S = 20.0  # for a call: it may queue behind others that wait
KEPT = 10_000  # changes; whoever is further behind lists anew

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entry ("
    "key TEXT PRIMARY KEY, value TEXT NOT NULL, revision INTEGER NOT NULL, expires REAL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS change ("
    "revision INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, value TEXT, expires REAL)",
    "CREATE TABLE IF NOT EXISTS identity (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL)",
    "INSERT OR IGNORE INTO identity VALUES (1, hex(randomblob(16)))",
)
_CURES = {
    sqlite3.SQLITE_BUSY: f"another process holds it for over {BUSY_S:.0f} s",
    sqlite3.SQLITE_NOTADB: "it is damaged or no SQLite file: move it away and restart the daemons",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away and restart the daemons",
    sqlite3.SQLITE_READONLY: "it may not be written: check its owner and the file system",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened for writing: check its folder's owner and the file system",
    sqlite3.SQLITE_FULL: "the file system is full",
    sqlite3.SQLITE_IOERR: "the disk fails, or is full: see `dmesg`, `df`",
}


class Sqlite:
    """The file at *path*, made with its folder if *create*. Times are Unix seconds from *clock*."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, create: bool = True) -> None:
        self._path, self._clock, self._create = path, clock, create
        self._log = path.with_name(f"{path.name}-wal")
        self._thread = ThreadPoolExecutor(1, "sqlite")
        # Touched in that thread alone.
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        self._file = (0, 0)  # device and inode
        self._identity: str | None = None

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
        nothing_new: tuple[str, int] | None = None,
    ) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            for key, revision in when.items():
                row = db.execute("SELECT revision FROM entry WHERE key = ?", (key,)).fetchone()
                if (row[0] if row else 0) != revision:
                    return False
            if nothing_new is not None:
                sql = "SELECT 1 FROM entry WHERE substr(key, 1, ?) = ? AND revision > ? LIMIT 1"
                if db.execute(sql, (len(nothing_new[0]), *nothing_new)).fetchone():
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
        glance: object = None
        seen: Mark | None = None
        mark_at = expiry_at = 0.0
        while True:
            # Each of the three is from before the next one: what is written meanwhile makes us look again.
            before, glance, now = glance, self._glance(), time.monotonic()
            if glance is None or glance != before or now >= mark_at:
                mark_at = now + MARK_S
                mark = await self._in_thread(self._mark)
                if mark != seen or now >= expiry_at:
                    seen, expiry_at = mark, now + EXPIRY_S
                    batch, revision = await self._do(lambda db: _changes(db, prefix, revision))  # noqa: B023  # awaited
                    yield batch
            await asyncio.sleep(POLL_S)

    def _glance(self) -> object:
        """What changes with almost every write, for two system calls: the file's identity, the log's size and time.
        None if that can't be had."""
        try:
            log = self._log.stat()
            return self._at_path(), log.st_size, log.st_mtime_ns
        except OSError:
            return None

    async def close(self) -> None:
        await self._in_thread(self._close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            raise StoreUnreachable(f"{self._path}: no answer within {DEADLINE_S:.0f} s: does the disk hang?") from None

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run *work* in one transaction. Raises StoreUnreachable."""
        return await self._in_thread(lambda: self._transact(work))

    # All below runs in the thread

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._open()
        try:
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
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def _mark(self) -> Mark:
        db = self._open()
        try:
            (version,) = db.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        return self._opened, version, db.total_changes

    def _open(self) -> sqlite3.Connection:
        try:
            if self._connection is not None:
                if self._at_path() == self._file:
                    return self._connection
                self._close()  # another file took its place
            if not self._create:
                self._path.stat()
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # Leases say where every node is: for its owner alone, from the first moment.
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            file = self._at_path()
            # Read and write, but never create: it may vanish between the look and this.
            uri = self._path.absolute().as_uri() + "?mode=rw"
            db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                identity = _prepare(db)
                if self._identity not in (None, identity):
                    raise StoreUnreachable(
                        f"{self._path} was made anew by somebody else: put the former file back, or restart this "
                        "daemon to begin anew"
                    )
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
        self._connection, self._file, self._identity, self._create = db, file, identity, False
        self._opened += 1
        return db

    def _at_path(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _trouble(self, error: sqlite3.Error) -> StoreError:
        """Begin anew with the next call, and say what is the matter."""
        self._close()
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extended part
        return StoreUnreachable(f"{self._path}: {_CURES.get(code, str(error))}")


def _prepare(db: sqlite3.Connection) -> str:
    """Make what isn't there yet. Returns the file's identity."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        db.execute(statement)
    (identity,) = db.execute("SELECT id FROM identity").fetchone()
    db.execute("COMMIT")
    return str(identity)


def _entry(row: tuple[str, str, int, float | None]) -> Entry:
    key, value, revision, expires = row
    return Entry(key, value, revision, expires is not None, expires)


def _revision(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
    return int(row[0]) if row else 0


def _delete(db: sqlite3.Connection, key: str) -> None:
    if db.execute("DELETE FROM entry WHERE key = ?", (key,)).rowcount:
        db.execute("INSERT INTO change (key, value) VALUES (?, NULL)", (key,))


def _changes(db: sqlite3.Connection, prefix: str, revision: int) -> tuple[list[Entry | Gone], int]:
    """The changes from *revision* on, and the revision from which to look next."""
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
    batch: list[Entry | Gone] = [
        Gone(key, at) if value is None else Entry(key, value, at, expires is not None, expires)
        for key, value, at, expires in rows
    ]
    return batch, latest + 1
