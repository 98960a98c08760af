"""The embedded store's own troubles: its file vanishes, is damaged, may not be written; history is pruned."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from pyflannel.model.errors import StoreUnreachable
from pyflannel.model.lease import LEASE_TTL_S, Added, LeaseEvent, Removed, Snapshot
from pyflannel.store.keyed import KeyedStore
from pyflannel.store.keyvalue import Compacted
from pyflannel.store.local import sqlite
from pyflannel.store.local.sqlite import Sqlite
from support.stores import CONFIG, Clock, attrs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep/store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[KeyedStore]:
    found = KeyedStore(Sqlite(path), "/n")
    await found.write_config(CONFIG)
    yield found
    await found.close()


async def event(watch: AsyncIterator[LeaseEvent]) -> LeaseEvent:
    async with asyncio.timeout(10):
        return await anext(watch)


async def test_the_file_is_roots_own(store: KeyedStore, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600  # noqa: ASYNC240


async def test_leases_expire_by_the_clock(path: Path) -> None:
    clock = Clock()
    store = KeyedStore(Sqlite(path, clock), "/n", clock=clock)
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1), None)
    async with aclosing(store.watch()) as watch:
        assert isinstance(await event(watch), Snapshot)
        clock.pass_(LEASE_TTL_S - 1)
        assert len(await store.leases()) == 1
        clock.pass_(1)
        assert await event(watch) == Removed(lease.subnets)
    assert await store.leases() == ()
    await store.close()


async def test_a_file_that_vanishes_is_no_empty_cluster(store: KeyedStore, path: Path) -> None:
    await store.acquire(attrs(1), None)
    away = path.with_name("away")
    async with aclosing(store.watch()) as watch:
        assert isinstance(await event(watch), Snapshot)
        following = asyncio.ensure_future(anext(watch))
        for file in path.parent.iterdir():
            file.rename(away.with_name(file.name.replace("store.db", "away")))
        async with asyncio.timeout(10):
            while store.contact.trouble is None:
                await asyncio.sleep(0.01)
        assert "has vanished: restore it" in store.contact.trouble
        with pytest.raises(StoreUnreachable, match="has vanished"):
            await store.leases()
        assert not path.exists()  # noqa: ASYNC240
        for file in path.parent.iterdir():
            file.rename(file.with_name(file.name.replace("away", "store.db")))
        await store.acquire(attrs(2), None)
        async with asyncio.timeout(10):
            assert isinstance(await following, Added)


async def test_an_older_backup_is_a_new_snapshot(store: KeyedStore, path: Path, tmp_path: Path) -> None:
    await store.acquire(attrs(1), None)
    backup = tmp_path / "backup.db"
    with sqlite3.connect(path) as now, sqlite3.connect(backup) as copy:
        now.backup(copy)
    for number in range(2, 6):
        await store.acquire(attrs(number), None)
    async with aclosing(store.watch()) as watch:
        first = await event(watch)
        assert isinstance(first, Snapshot)
        assert len(first.leases) == 5
        for file in path.parent.iterdir():
            if file != path:
                file.unlink()
        backup.rename(path)
        again = await event(watch)
        assert isinstance(again, Snapshot)
        assert len(again.leases) == 1


async def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"this is no database, and never was one" * 100)
    store = KeyedStore(Sqlite(bad), "/n")
    with pytest.raises(StoreUnreachable, match=r"bad\.db: it is damaged or no SQLite file"):
        await store.leases()
    with pytest.raises(StoreUnreachable, match=r"bad\.db/x: "):
        await KeyedStore(Sqlite(bad / "x"), "/n").leases()
    await store.close()


async def test_pruned_history_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "KEPT", 5)
    database = Sqlite(path)
    for number in range(20):
        await database.commit({}, {f"/x/{number % 3}": str(number)})
    with pytest.raises(Compacted):
        await anext(database.watch("/x/", 3))
    batch = await anext(database.watch("/x/", 18))
    assert [item.revision for item in batch] == [18, 19, 20]
    await database.close()


async def test_a_locked_file_is_waited_for(store: KeyedStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(store.acquire(attrs(1), None))
    await asyncio.sleep(0.2)
    assert not task.done()
    other.execute("COMMIT")
    other.close()
    assert (await asyncio.wait_for(task, 10)).attrs == attrs(1)


async def test_prefixes_are_clusters_apart(store: KeyedStore, path: Path) -> None:
    other = KeyedStore(Sqlite(path), "/other")
    await other.write_config('{"Network": "10.6.0.0/16", "Backend": {"Type": "vxlan"}}')
    await store.acquire(attrs(1), None)
    await other.acquire(attrs(1), None)
    assert len(await store.leases()) == len(await other.leases()) == 1
    await other.close()
