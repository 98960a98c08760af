"""The embedded store among other processes, on disks that are full, slow or read-only, and without its file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from pyflannel.model.errors import StoreUnreachable
from pyflannel.model.lease import Added, LeaseEvent, Snapshot
from pyflannel.store.keyed import KeyedStore
from pyflannel.store.keyvalue import Entry
from pyflannel.store.local import sqlite
from pyflannel.store.local.sqlite import Sqlite
from support.stores import CONFIG, attrs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep/store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[KeyedStore]:
    found = KeyedStore(Sqlite(path), "/n")
    await found.write_config(CONFIG)
    yield found
    await found.close()


@pytest.fixture
def lock(store: KeyedStore, path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's transaction: nobody else writes until it is committed."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


async def event(watch: AsyncIterator[LeaseEvent]) -> LeaseEvent:
    async with asyncio.timeout(10):
        return await anext(watch)


async def trouble(store: KeyedStore, words: str) -> None:
    """Wait until a watch of *store* is in this trouble."""
    async with asyncio.timeout(10):
        while words not in (store.contact.trouble or ""):
            await asyncio.sleep(0.01)


# Locks


async def test_the_event_loop_goes_on_while_another_process_writes(store: KeyedStore, lock: sqlite3.Connection) -> None:
    """The lock is let go by the very event loop: if that stood still, nobody would, and the call would fail."""
    async with aclosing(store.watch()) as watch:
        waiting = asyncio.ensure_future(event(watch))
        asyncio.get_running_loop().call_later(0.3, lock.execute, "COMMIT")
        assert (await store.acquire(attrs(1), None)).attrs == attrs(1)
        assert isinstance(await waiting, Snapshot)


async def test_who_gives_up_waiting_leaves_nothing_behind(store: KeyedStore, lock: sqlite3.Connection) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await store.acquire(attrs(1), None)
    second = asyncio.create_task(store.acquire(attrs(2), None))
    await asyncio.sleep(0.1)
    lock.execute("COMMIT")
    assert (await second).attrs == attrs(2)


async def test_a_lock_that_is_never_let_go_is_named(
    store: KeyedStore, path: Path, lock: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.1)
    impatient = KeyedStore(Sqlite(path), "/n")
    with pytest.raises(StoreUnreachable, match=r"store\.db: another process holds it"):
        await impatient.leases()
    lock.execute("COMMIT")
    assert await impatient.leases() == ()
    await impatient.close()


async def test_a_disk_that_hangs_is_not_waited_for(
    store: KeyedStore, lock: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "DEADLINE_S", 0.1)
        with pytest.raises(StoreUnreachable, match="does the disk hang"):
            await store.leases()
    lock.execute("COMMIT")
    assert await store.leases() == ()


# Other processes

NODES = """
import asyncio, sys
from pathlib import Path
from ipaddress import IPv4Address
from pyflannel.model.lease import LeaseAttrs
from pyflannel.store.local.store import local_store

async def main(path, number):
    store = local_store(Path(path), "/n")
    await store.write_config('{"Network": "10.5.0.0/16"}')
    nodes = [LeaseAttrs(IPv4Address(f"192.168.{number}.{host}")) for host in range(1, 7)]
    for lease in await asyncio.gather(*(store.acquire(node, None) for node in nodes)):
        print(lease.subnets)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_that_all_make_the_file_and_take_leases(path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", NODES, str(path), str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    subnets = [line for process in started for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in started] == [0] * 8
    assert len(subnets) == len(set(subnets)) == 48


WRITER = """
import asyncio, sys
from pathlib import Path
from pyflannel.store.local.sqlite import Sqlite

async def main(path):
    database = Sqlite(Path(path))
    for number in range(10**6):
        assert await database.commit({}, {"/x/a": str(number), "/x/b": str(number)})
        print(number, flush=True)

asyncio.run(main(sys.argv[1]))
"""


def write_until_killed(path: Path) -> int:
    """The last number of which the writer said that it is written."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(20)]
        writer.kill()
        return max(said + [int(line) for line in writer.stdout.read().split("\n")[:-1]])


async def test_a_killed_writer_leaves_whole_transactions(path: Path) -> None:
    for _ in range(3):
        said = write_until_killed(path)
        database = Sqlite(path)
        one, two = (await database.entries("/x/"))[0]
        assert one.value == two.value
        assert int(one.value) >= said, "what was reported done is there"
        await database.close()


# The file


async def test_it_is_its_owners_alone_whatever_the_umask(path: Path) -> None:
    umask = os.umask(0)
    try:
        store = KeyedStore(Sqlite(path), "/n")
        await store.write_config(CONFIG)
    finally:
        os.umask(umask)
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == {
        "store.db": "0o600", "store.db-wal": "0o600", "store.db-shm": "0o600",
    }  # fmt: skip
    await store.close()


async def test_a_file_made_anew_by_others_is_not_followed(store: KeyedStore, path: Path) -> None:
    """One daemon restarts after the file was lost: to the others, its new and empty one must not look as if every
    node had left."""
    await store.acquire(attrs(1), None)
    await store.acquire(attrs(2), None)
    away = path.with_name("away")
    away.mkdir()
    async with aclosing(store.watch()) as watch:
        assert isinstance(await event(watch), Snapshot)
        following = asyncio.ensure_future(event(watch))
        for file in list(path.parent.glob("store.db*")):
            file.rename(away / file.name)
        await trouble(store, "has vanished: restore it")
        restarted = KeyedStore(Sqlite(path), "/n")
        await restarted.write_config(CONFIG)
        await trouble(store, "was made anew by somebody else: put the former file back, or restart this daemon")
        with pytest.raises(StoreUnreachable, match="made anew"):
            await store.acquire(attrs(1), None)
        assert await restarted.leases() == ()
        await restarted.close()
        assert not following.done()
        for file in list(path.parent.glob("store.db*")):
            file.unlink()
        for file in away.iterdir():
            file.rename(path.with_name(file.name))
        third = await store.acquire(attrs(3), None)
        found = await following
        assert isinstance(found, Added)
        assert found.lease.subnets == third.subnets


async def test_a_file_spoilt_under_a_watch_is_named_and_followed_again_when_mended(
    store: KeyedStore, path: Path
) -> None:
    good, bad = path.with_name("good"), path.with_name("bad")
    bad.write_bytes(b"not what it was" * 1000)
    async with aclosing(store.watch()) as watch:
        assert isinstance(await event(watch), Snapshot)
        with sqlite3.connect(path) as other:  # what is in the log would hide what is in the file
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        following = asyncio.ensure_future(event(watch))
        path.rename(good)  # noqa: ASYNC240
        bad.rename(path)
        await trouble(store, "it is damaged or no SQLite file")
        assert not following.done()
        good.rename(path)
        lease = await store.acquire(attrs(1), None)
        found = await following
        assert isinstance(found, Added)
        assert found.lease.subnets == lease.subnets
        assert store.contact.trouble is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "pyflannel-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def fill(store: KeyedStore) -> None:
    for number in range(2, 200):
        await store.acquire(attrs(number), None)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


@pytest.mark.root
async def test_a_full_disk_is_named_and_nothing_is_lost(small_disk: Path) -> None:
    store = KeyedStore(Sqlite(small_disk / "store.db"), "/n")
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1), None)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * 1_000_000)
    with pytest.raises(StoreUnreachable, match=r"store\.db: (the file system is full|the disk fails, or is full)"):
        await fill(store)
    ballast.unlink()
    assert attrs(1) in [found.attrs for found in await store.leases()]
    assert (await store.renew(lease)).subnets == lease.subnets
    await store.close()


@pytest.mark.root
async def test_a_disk_that_becomes_read_only_is_named_until_it_is_not(small_disk: Path) -> None:
    store = KeyedStore(Sqlite(small_disk / "store.db"), "/n")
    await store.write_config(CONFIG)
    await store.acquire(attrs(1), None)
    await store.close()
    remount(small_disk, "ro")
    with pytest.raises(StoreUnreachable, match=r"store\.db: (it may not|it can't|Read-only)"):
        await store.acquire(attrs(2), None)
    remount(small_disk, "rw")
    assert (await store.acquire(attrs(2), None)).attrs == attrs(2)
    await store.close()


# The watch


async def test_what_is_written_while_we_look_is_seen_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the look after it may find it: the slower nets are taken away."""
    monkeypatch.setattr(sqlite, "EXPIRY_S", 1e9)
    monkeypatch.setattr(sqlite, "MARK_S", 1e9)
    database, other = Sqlite(path), Sqlite(path)
    await database.commit({}, {"/x/1": "1"})
    done = database._do

    async def then_another_writes(work: Callable[[sqlite3.Connection], object]) -> object:
        result = await done(work)
        if not written:
            written.append(await other.commit({}, {"/x/2": "2"}))
        return result

    written: list[bool] = []
    monkeypatch.setattr(database, "_do", then_another_writes)
    found: list[str] = []
    async with aclosing(database.watch("/x/", 2)) as watch, asyncio.timeout(10):
        async for batch in watch:
            found += [item.value for item in batch if isinstance(item, Entry)]
            if found:
                break
    assert found == ["2"]
    await database.close()
    await other.close()


async def test_a_quiet_cluster_is_not_told_to_list_anew_because_another_is_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "KEPT", 10)
    database, other = Sqlite(path), Sqlite(path)
    await database.commit({}, {"/quiet/1": "1"})
    async with aclosing(database.watch("/quiet/", 2)) as watch, asyncio.timeout(20):
        assert await anext(watch) == []
        for number in range(30):
            await other.commit({}, {f"/busy/{number % 5}": str(number)})
            assert await anext(watch) == []
        await other.commit({}, {"/quiet/2": "2"})
        assert [item.key for item in await anext(watch)] == ["/quiet/2"]
    await database.close()
    await other.close()
