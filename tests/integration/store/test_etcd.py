"""etcd's own traps: each was met in a trial (compaction, half-open servers, resume, tokens, TLS)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.model.errors import ConfigError, StoreError, StoreUnreachable
from pyflannel.model.lease import Added, LeaseEvent, Removed, Snapshot
from pyflannel.store.etcd.client import Etcd
from pyflannel.store.etcd.transport import TlsFiles
from pyflannel.store.keyed import KeyedStore
from pyflannel.store.keyvalue import Compacted
from support.etcd import PREFIX, enable_auth, etcdctl, opened
from support.stores import CONFIG, attrs, certificates


@pytest.fixture
def three(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path / "three", 3) as cluster:
        yield cluster


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path / "one") as cluster:
        yield cluster


async def until(store: KeyedStore, seen: list[LeaseEvent], count: int) -> None:
    """Collect *count* changes from *store*'s watch."""
    async with aclosing(store.watch()) as events:
        async for event in events:
            seen.append(event)
            if sum(isinstance(event, Added) for event in seen) >= count:
                return


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_no_event_is_lost_while_each_member_fails_in_turn(three: EtcdCluster, fault: str) -> None:
    async with opened(three.endpoints) as writer, opened(three.endpoints[::-1]) as reader:
        await writer.write_config(CONFIG)
        seen: list[LeaseEvent] = []
        watching = asyncio.create_task(until(reader, seen, 60))
        written = 0

        async def write(count: int) -> None:
            nonlocal written
            while count:
                try:
                    await writer.acquire(attrs(written + 1), None)
                    written, count = written + 1, count - 1
                except StoreError:
                    await asyncio.sleep(0.1)

        async with asyncio.timeout(90):
            for member in three.members:
                await write(10)
                if fault == "kill":
                    member.kill()
                else:
                    member.freeze()
                await write(10)
                if fault == "kill":
                    member.start()
                else:
                    member.thaw()
                await asyncio.sleep(1)
            await watching
    addresses = [event.lease.attrs.address() for event in seen if isinstance(event, Added)]
    snapshots = [event for event in seen if isinstance(event, Snapshot)]
    assert len(snapshots) == 1
    assert not [event for event in seen if isinstance(event, Removed)], "a node took its own lease away"
    # A write that was cut off may have been done, and be repeated: never is one missing, never is the order lost.
    assert list(dict.fromkeys(addresses)) == [attrs(number).address() for number in range(1, 61)]


async def test_resume_is_from_the_last_event_not_from_the_header(alone: EtcdCluster) -> None:
    """During catch-up the server's header shows its present revision: a cut then must not skip the rest."""
    database = Etcd(alone.endpoints)
    for number in range(300):
        await database.commit({}, {f"{PREFIX}/subnets/10.5.{number % 250}.0-24": '{"PublicIP":"1.2.3.4"}'})
    batches = []
    async with aclosing(database.watch(f"{PREFIX}/subnets/", 2)) as watch:
        async for batch in watch:
            batches.append(batch)
            if sum(map(len, batches)) >= 300:
                break
    await database.close()
    revisions = [item.revision for batch in batches for item in batch]
    assert revisions == sorted(set(revisions))
    assert len(revisions) == 300


async def test_compaction_is_told_at_once(alone: EtcdCluster) -> None:
    database = Etcd(alone.endpoints)
    for number in range(10):
        await database.commit({}, {f"/x/{number}": "1"})
    entries, revision = await database.entries("/x/")
    assert len(entries) == 10
    etcdctl(alone, "compact", str(revision))

    async def drain() -> None:
        async for _ in database.watch("/x/", 2):
            pass

    with pytest.raises(Compacted):
        await asyncio.wait_for(drain(), 3)
    await database.close()


async def test_a_frozen_server_is_noticed(alone: EtcdCluster) -> None:
    async with opened(alone.endpoints) as store:
        await store.write_config(CONFIG)
        events = store.watch()
        assert isinstance(await anext(events), Snapshot)
        alone.members[0].freeze()
        waiting = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(10):
            while store.contact.trouble is None:
                await asyncio.sleep(0.05)
        assert "silent for 5 s" in store.contact.trouble
        with pytest.raises(StoreUnreachable, match="no answer within 3 s"):
            await store.leases()
        alone.members[0].thaw()
        lease = None
        async with asyncio.timeout(20):
            while lease is None:
                try:
                    lease = await store.acquire(attrs(1), None)
                except StoreError:
                    await asyncio.sleep(0.1)
            event = await waiting
        assert isinstance(event, Added)
        assert event.lease.subnets == lease.subnets
        await events.aclose()


async def test_nobody_there() -> None:
    async with opened(["http://127.0.0.1:9"]) as store:
        with pytest.raises(StoreUnreachable, match=r"127\.0\.0\.1:9"):
            await store.network_config()


@pytest.mark.parametrize("endpoint", ["ftp://x:1", "http://nowhere", "http://host:port", "unix://", ""])
def test_a_wrong_endpoint_is_named(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="--etcd-endpoints"):
        Etcd([endpoint])


async def test_a_key_beside_the_subnets_is_not_read(alone: EtcdCluster) -> None:
    async with opened(alone.endpoints) as store:
        await store.write_config(CONFIG)
        etcdctl(alone, "put", f"{PREFIX}/subnets-old/10.5.1.0-24", '{"PublicIP":"1.2.3.4"}')
        assert await store.leases() == ()


async def test_what_go_flannel_wrote_is_read_and_what_we_write_is_the_same(alone: EtcdCluster) -> None:
    value = (
        '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}'
    )
    key = f"{PREFIX}/subnets/10.5.52.0-24"
    async with opened(alone.endpoints) as store:
        await store.write_config(CONFIG)
        etcdctl(alone, "put", key, value)
        (lease,) = await store.leases()
        assert lease.expires is None
        await store.acquire(lease.attrs, None)
        assert etcdctl(alone, "get", key, "--print-value-only").strip() == value
        assert etcdctl(alone, "get", "--prefix", PREFIX, "--keys-only").split() == [f"{PREFIX}/config", key]


async def test_a_lease_is_tied_to_a_day(alone: EtcdCluster) -> None:
    async with opened(alone.endpoints) as store:
        await store.write_config(CONFIG)
        await store.acquire(attrs(1), None)
        leases = etcdctl(alone, "lease", "list").split("\n")[1:]
        told = etcdctl(alone, "lease", "timetolive", leases[0].strip())
        assert "granted with TTL(86400s)" in told


# TLS and users


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[EtcdCluster, Path]]:
    with certificates(tmp_path / "pki") as pki:
        options = (
            "--client-cert-auth", "--trusted-ca-file", str(pki / "ca.crt"),
            "--cert-file", str(pki / "server.crt"), "--key-file", str(pki / "server.key"),
        )  # fmt: skip
        with EtcdCluster(tmp_path / "tls", options=options, scheme="https") as cluster:
            yield cluster, pki


async def test_tls_with_client_certificates(secure: tuple[EtcdCluster, Path]) -> None:
    cluster, pki = secure
    files = TlsFiles(pki / "ca.crt", pki / "client.crt", pki / "client.key")
    async with opened(cluster.endpoints, files) as store:
        await store.write_config(CONFIG)
        lease = await store.acquire(attrs(1), None)
        async with aclosing(store.watch()) as events:
            event = await anext(events)
            assert isinstance(event, Snapshot)
            assert [found.subnets for found in event.leases] == [lease.subnets]
    async with opened(cluster.endpoints, TlsFiles(pki / "ca.crt")) as store:
        with pytest.raises(StoreUnreachable):
            await store.leases()
    async with opened(cluster.endpoints) as store:  # the CA is unknown to the system
        with pytest.raises(StoreUnreachable, match="TLS"):
            await store.leases()
    with pytest.raises(ConfigError, match="PEM files"):
        Etcd(cluster.endpoints, TlsFiles(pki / "nothing.crt"))


async def test_users_and_tokens_that_expire(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path / "auth", options=("--auth-token-ttl", "2")) as cluster:
        async with opened(cluster.endpoints, None, "root", "wrong") as store:
            await store.write_config(CONFIG)  # auth is off: a password is no use, and no harm
        enable_auth(cluster)
        async with opened(cluster.endpoints, None, "flannel", "pass") as store:
            lease = await store.acquire(attrs(1), None)
            events = store.watch()
            assert isinstance(await anext(events), Snapshot)
            await asyncio.sleep(4)  # the token's life is the server's: it can't be injected
            renewed = await store.renew(lease)
            async with asyncio.timeout(20):
                event = await anext(events)
            assert isinstance(event, Added)
            assert event.lease.subnets == renewed.subnets
            await events.aclose()
            with pytest.raises(StoreError, match="needs to read"):
                await store.announce(attrs(1), "n1", "id")
        async with opened(cluster.endpoints, None, "flannel", "wrong") as store:
            with pytest.raises(StoreError, match="Check --etcd-username and --etcd-password"):
                await store.leases()
        async with opened(cluster.endpoints) as store:
            with pytest.raises(StoreError, match="etcd asks for a user"):
                await store.leases()
