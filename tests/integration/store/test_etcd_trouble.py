"""What a cluster of etcd does to its clients on a bad day, and what must come of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.model.errors import ConfigError, StoreUnreachable
from pyflannel.model.lease import Added, LeaseEvent, Removed, Snapshot, Subnets
from pyflannel.store.etcd import client
from pyflannel.store.etcd.client import Etcd
from pyflannel.store.etcd.transport import TlsFiles
from pyflannel.store.keyed import KeyedStore
from pyflannel.store.keyvalue import Entry, Gone
from support.etcd import PREFIX, enable_auth, etcdctl, lose, opened
from support.stores import CONFIG, attrs, certificates

NOWHERE = "http://127.0.0.1:9"
PAST = 1500  # changes to catch up with
_count = itertools.count()


@pytest.fixture
def prefix() -> str:
    """A part of the shared etcd that nobody has used."""
    return f"/trouble/{os.getpid()}/{next(_count)}/network"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path / "one") as cluster:
        yield cluster


def grants(cluster: EtcdCluster) -> int:
    return len(etcdctl(cluster, "lease", "list").split("\n")[1:])


async def changes(watch: AsyncGenerator[LeaseEvent, None], store: KeyedStore) -> list[LeaseEvent]:
    """What *watch* tells up to now: until it tells of a lease that is taken for this purpose."""
    seen: list[LeaseEvent] = []
    await store.acquire(attrs(999), None)
    async with asyncio.timeout(20):
        async for event in watch:
            if isinstance(event, Added) and event.lease.attrs == attrs(999):
                break
            seen.append(event)
    return seen


# Answers that get lost


@pytest.mark.parametrize("endpoints", [1, 2])
async def test_a_renewal_whose_answer_is_lost_takes_nothing_away(
    etcd: EtcdCluster, prefix: str, endpoints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again, the transaction is refused: by its own first try. The lease granted for it now carries the key."""
    async with (
        opened(etcd.endpoints * endpoints, prefix=prefix) as store,
        opened(etcd.endpoints, prefix=prefix) as other,
        aclosing(other.watch()) as watch,
    ):
        await store.write_config(CONFIG)
        lease = await store.acquire(attrs(1), None)
        assert isinstance(await anext(watch), Snapshot)
        left = lose(monkeypatch, ("answer", "KV/Txn"))
        assert (await store.renew(lease)).subnets == lease.subnets
        assert not left
        (renewal,) = await changes(watch, other)
        assert isinstance(renewal, Added)
        assert renewal.lease.subnets == lease.subnets


async def test_a_renewal_that_nobody_can_confirm_leaves_the_lease_alone(
    etcd: EtcdCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(etcd.endpoints, prefix=prefix) as store, opened(etcd.endpoints, prefix=prefix) as other:
        await store.write_config(CONFIG)
        lease = await store.acquire(attrs(1), None)
        async with aclosing(other.watch()) as watch:
            assert isinstance(await anext(watch), Snapshot)
            left = lose(monkeypatch, ("answer", "KV/Txn"), ("request", "KV/Range"))
            with pytest.raises(StoreUnreachable, match="the connection was lost"):
                await store.renew(lease)
            assert not left
            await store.renew(lease)
            assert [type(event) for event in await changes(watch, other)] == [Added, Added]


async def test_a_request_that_never_came_leaves_no_grant_behind(
    etcd: EtcdCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(etcd.endpoints, prefix=prefix) as store:
        await store.write_config(CONFIG)
        before = grants(etcd)
        left = lose(monkeypatch, ("request", "KV/Txn"))
        with pytest.raises(StoreUnreachable):
            await store.acquire(attrs(1), None)
        assert not left
        assert await store.leases() == ()
        assert grants(etcd) == before


async def test_a_subnet_taken_without_hearing_of_it_is_the_one(
    etcd: EtcdCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(etcd.endpoints * 2, prefix=prefix) as store:
        await store.write_config(CONFIG)
        left = lose(monkeypatch, ("answer", "KV/Txn"))
        lease = await store.acquire(attrs(1), None)
        assert not left
        assert [found.subnets for found in await store.leases()] == [lease.subnets]


async def test_reserving_and_releasing_without_an_answer(
    etcd: EtcdCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(etcd.endpoints * 2, prefix=prefix) as store:
        await store.write_config(CONFIG)
        subnets = Subnets(IPv4Network("10.5.40.0/24"))
        left = lose(monkeypatch, ("answer", "KV/Txn"), ("answer", "KV/Txn"))
        assert (await store.reserve(subnets, attrs(4))).expires is None
        assert await store.release(subnets), "there was one"
        assert not left
        assert await store.leases() == ()


async def test_a_lost_race_is_still_lost_when_an_answer_is(
    etcd: EtcdCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Etcd(etcd.endpoints * 2)
    key = f"{prefix}/subnets/10.5.1.0-24"
    await database.commit({}, {key: "theirs"})
    before = grants(etcd)
    left = lose(monkeypatch, ("answer", "KV/Txn"))
    assert not await database.commit({key: 0}, {key: "ours"}, ttl_s=60)
    assert not left
    entry = await database.get(key)
    assert entry is not None
    assert entry.value == "theirs"
    assert grants(etcd) == before
    await database.close()


# Endpoints


async def test_calls_that_fail_together_go_on_to_the_next_endpoint_once(etcd: EtcdCluster) -> None:
    database = Etcd([NOWHERE, *etcd.endpoints])
    assert await asyncio.gather(*(database.get("/nothing") for _ in range(6))) == [None] * 6
    await database.close()


async def test_a_port_that_takes_connections_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS waits there, a minute if nobody stops it."""
    monkeypatch.setattr(client, "DEADLINE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        database = Etcd([f"https://127.0.0.1:{server.getsockname()[1]}"])
        with pytest.raises(StoreUnreachable, match="no connection within"):
            await asyncio.wait_for(anext(database.watch("/x/", 1)), 20)
        with pytest.raises(StoreUnreachable, match="no answer within"):
            await asyncio.wait_for(database.get("/x"), 20)
        await database.close()


@pytest.mark.parametrize("endpoint", ["unix:///nowhere/etcd.sock", "unixs:///nowhere/etcd.sock"])
async def test_a_socket_file_that_is_not_there(endpoint: str) -> None:
    with pytest.raises(StoreUnreachable, match=r"/nowhere/etcd\.sock: No such file"):
        await Etcd([endpoint]).get("/x")


async def test_something_else_behind_the_port() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        database = Etcd([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
        with pytest.raises(StoreUnreachable):
            await database.get("/x")
        await database.close()


async def test_a_prefix_without_a_slash_is_flannels(alone: EtcdCluster) -> None:
    async with opened(alone.endpoints, prefix="flannel//net/") as store:
        await store.write_config(CONFIG)
    assert etcdctl(alone, "get", "flannel/net/config", "--keys-only").split() == ["flannel/net/config"]


# The watch


class Cut(Etcd):
    """Its watch breaks at once the first time, and the second time after the first changes."""

    opened = 0

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[list[Entry | Gone], None]:
        self.opened += 1
        if self.opened == 1:
            raise StoreUnreachable("cut")
        async with aclosing(super().watch(prefix, revision)) as batches:
            async for batch in batches:
                yield batch
                if self.opened == 2 and batch:
                    raise StoreUnreachable("cut")


def cut_store(cluster: EtcdCluster, prefix: str, meanwhile: Callable[[], None]) -> tuple[KeyedStore, Cut]:
    """A store whose watch is cut, and what happens *meanwhile*, before it's opened again."""
    database = Cut(cluster.endpoints)
    pending = [meanwhile]

    async def sleep(_: float) -> None:
        if pending:
            await asyncio.to_thread(pending.pop())

    return KeyedStore(database, prefix, sleep=sleep, rng=random.Random(1)), database


async def test_a_cut_during_catch_up_loses_nothing(etcd: EtcdCluster, prefix: str) -> None:
    """The server hands the past out in pieces, each under the revision of the present: going on from that one would
    lose the rest."""
    pieces: list[int] = []

    def write() -> None:
        async def many() -> None:
            database = Etcd(etcd.endpoints)
            value = '{"PublicIP":"1.2.3.4","PublicIPv6":null}'
            for second in range(PAST // 100):  # a piece is of 1,000 revisions, however many keys one of them changes
                keys = [f"{prefix}/subnets/10.{second}.{third}.0-24" for third in range(100)]
                await asyncio.gather(*(database.commit({}, {key: value}) for key in keys))
            start = min(entry.revision for entry in (await database.entries(f"{prefix}/subnets/"))[0])
            async with aclosing(database.watch(f"{prefix}/subnets/", start)) as batches:
                async for batch in batches:
                    pieces.append(len(batch))
                    if sum(pieces) == PAST:
                        break
            await database.close()

        asyncio.run(many())

    store, database = cut_store(etcd, prefix, write)
    seen: list[str] = []
    async with aclosing(store.watch()) as watch, asyncio.timeout(30):
        assert await anext(watch) == Snapshot(())
        async for event in watch:
            assert isinstance(event, Added)
            seen.append(str(event.lease.subnets))
            if len(seen) == PAST:
                break
    await store.close()
    assert sum(size > 0 for size in pieces) > 1, "the past came in one piece: this test proves nothing"
    assert database.opened == 3
    assert len(set(seen)) == PAST


async def test_compacted_while_cut_off(alone: EtcdCluster) -> None:
    async with opened(alone.endpoints) as other:
        await other.write_config(CONFIG)
        gone = (await other.acquire(attrs(1), None)).subnets
        moved = (await other.acquire(attrs(2), None)).subnets

        def meanwhile() -> None:
            key = f"{PREFIX}/subnets/{str(moved).replace('/', '-')}"
            etcdctl(alone, "del", f"{PREFIX}/subnets/{str(gone).replace('/', '-')}")
            etcdctl(alone, "put", key, '{"PublicIP":"9.9.9.9","PublicIPv6":null}')
            revision = etcdctl(alone, "get", key, "-w", "fields").split('"Revision" : ')[1].split()[0]
            etcdctl(alone, "compact", revision)

        store, _ = cut_store(alone, PREFIX, meanwhile)
        async with aclosing(store.watch()) as watch, asyncio.timeout(20):
            first = await anext(watch)
            assert isinstance(first, Snapshot)
            assert {lease.subnets for lease in first.leases} == {gone, moved}
            again = await anext(watch)
            assert isinstance(again, Snapshot)
            assert [(lease.subnets, lease.attrs.address()) for lease in again.leases] == [(moved, "9.9.9.9")]
            assert store.contact.trouble is None
            await other.release(moved)
            assert await anext(watch) == Removed(moved)
        await store.close()


async def test_a_watch_that_is_left_closes_its_stream(etcd: EtcdCluster, prefix: str) -> None:
    before = len(asyncio.all_tasks())
    async with opened(etcd.endpoints, prefix=prefix) as store:
        async with aclosing(store._db.watch(f"{prefix}/subnets/", 1)) as batches:
            await anext(batches)
            assert len(asyncio.all_tasks()) > before, "it asks for signs of life"
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before


# Users


async def test_a_token_that_the_server_forgot(alone: EtcdCluster) -> None:
    """Tokens live in the server's memory. The watch has to be opened with a new one, and lose nothing."""
    async with opened(alone.endpoints) as store:
        await store.write_config(CONFIG)
    enable_auth(alone)
    async with (
        opened(alone.endpoints, None, "flannel", "pass") as store,
        opened(alone.endpoints, None, "flannel", "pass") as other,
        aclosing(store.watch()) as watch,
    ):
        assert await anext(watch) == Snapshot(())
        lease = await other.acquire(attrs(1), None)
        event = await anext(watch)
        assert isinstance(event, Added)
        alone.members[0].kill()
        alone.start()
        with suppress(StoreUnreachable):  # the old connection is found dead
            await other.leases()
        renewed = await other.renew(lease)
        async with asyncio.timeout(20):
            event = await anext(watch)
        assert isinstance(event, Added)
        assert event.lease.subnets == renewed.subnets
        assert store.contact.trouble is None


async def test_passwords_become_needed_while_we_run(alone: EtcdCluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with opened(alone.endpoints, None, "flannel", "pass") as store:
        await store.write_config(CONFIG)
        lease = await store.acquire(attrs(1), None)
        assert caplog.text.count("doesn't ask for passwords") == 1
        enable_auth(alone)
        assert (await store.renew(lease)).subnets == lease.subnets
    assert "pass" not in caplog.text.replace("passwords", "")


async def test_rights_change_while_we_run(alone: EtcdCluster) -> None:
    async with opened(alone.endpoints) as store:
        await store.write_config(CONFIG)
    enable_auth(alone)
    async with opened(alone.endpoints, None, "flannel", "pass") as store:
        lease = await store.acquire(attrs(1), None)
        etcdctl(alone, "--user", "root:secret", "role", "grant-permission", "flannel", "read", "/else")
        assert (await store.renew(lease)).subnets == lease.subnets


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path) -> None:
    with certificates(tmp_path / "pki") as pki:
        command = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", "client.key", "-out", "locked.key"]
        subprocess.run(command, cwd=pki, check=True, capture_output=True)
        with pytest.raises(ConfigError, match=r"locked\.key"):
            Etcd(["https://127.0.0.1:1"], TlsFiles(pki / "ca.crt", pki / "client.crt", pki / "locked.key"))
