"""The Kubernetes store when the API server is cut off, restarted, forgetful or forbidding (on the fake one)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from pyflannel.model.errors import StoreError, StoreUnreachable
from pyflannel.model.lease import Added, LeaseAttrs, Removed, Snapshot, Subnets
from pyflannel.store.kubernetes.access import Access, Pem
from pyflannel.store.kubernetes.client import Api
from pyflannel.store.kubernetes.store import NODES
from support.kube.cluster import KubeCluster, watching
from support.kube.fake import FakeApi, fake_api

MINE = LeaseAttrs(IPv4Address("192.168.7.99"), None, "vxlan", '{"VNI":1,"VtepMAC":"0a:00:00:00:00:99"}')


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with fake_api() as made:
        yield made


@pytest.fixture
def cluster(api: FakeApi, tmp_path: Path) -> KubeCluster:
    return KubeCluster(Access(api.url), Access(api.url), tmp_path)


def asked(api: FakeApi, verb: str) -> list[dict[str, str]]:
    return [query for each, _, query in api.requests if each == verb]


async def brief(seconds: float) -> None:
    """Instead of the store's pauses."""
    await asyncio.sleep(0.01)


async def test_a_cut_watch_is_resumed_without_a_list(api: FakeApi, cluster: KubeCluster) -> None:
    await cluster.peer(1)
    async with watching(cluster.store("elsewhere", sleep=brief)) as events:
        assert isinstance(await events.next(), Snapshot)
        await cluster.peer(2)
        assert isinstance(await events.next(), Added)
        await api.cut()
        gone = await cluster.peer(3)
        assert isinstance(await events.next(), Added)
        await api.cut()
        await cluster.delete(gone)
        assert await events.next() == Removed(Subnets(IPv4Network("10.244.3.0/24")))
    assert len(asked(api, "list")) == 1


async def test_a_restarted_server_is_found_again(api: FakeApi, cluster: KubeCluster) -> None:
    await cluster.peer(1)
    store = cluster.store("elsewhere", sleep=brief)
    async with watching(store) as events:
        await events.next()
        await api.stop()
        task = asyncio.create_task(events.next())
        while store.contact.trouble is None:
            await asyncio.sleep(0.01)
        api.broken = 3  # up, but not yet of use
        await api.start()
        await cluster_when_up(cluster, 4)
        added = await task
        assert isinstance(added, Added)
        assert added.lease.subnets == Subnets(IPv4Network("10.244.4.0/24"))
        assert store.contact.trouble is None
    assert len(asked(api, "list")) == 1


async def cluster_when_up(cluster: KubeCluster, number: int) -> None:
    while True:
        try:
            await cluster.peer(number)
            return
        except StoreUnreachable:
            await asyncio.sleep(0.01)


async def test_changes_forgotten_are_made_good_by_a_list(api: FakeApi, cluster: KubeCluster) -> None:
    lost = await cluster.peer(1)
    await cluster.peer(2)
    async with watching(cluster.store("elsewhere", sleep=brief)) as events:
        await events.next()
        await api.stop()
        api.nodes.pop(lost)
        await api.compact()
        await api.start()
        snapshot = await events.next()
        assert isinstance(snapshot, Snapshot)
        assert [lease.subnets for lease in snapshot.leases] == [Subnets(IPv4Network("10.244.2.0/24"))]
        await cluster.peer(3)
        assert isinstance(await events.next(), Added)


async def test_a_bookmark_saves_the_list(api: FakeApi, cluster: KubeCluster) -> None:
    await cluster.peer(1)
    async with watching(cluster.store("elsewhere", sleep=brief)) as events:
        await events.next()
        later = asyncio.create_task(events.next())
        while not asked(api, "watch"):
            await asyncio.sleep(0.01)
        await api.bookmark()
        await asyncio.sleep(0.1)
        api.log.clear()
        api._oldest = int(asked(api, "watch")[0]["resourceVersion"]) + 50  # the list's revision is forgotten by now
        await api.cut()
        await cluster.peer(2)
        assert isinstance(await later, Added)
    assert len(asked(api, "list")) == 1
    assert asked(api, "watch")[0]["allowWatchBookmarks"] == "true"


class Pauses:
    """Instead of the store's pauses: noted, and short."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0.001)

    async def at_least(self, count: int) -> None:
        while len(self.taken) < count:
            await asyncio.sleep(0.001)


async def test_a_server_is_heard_as_soon_as_it_takes_the_watch(api: FakeApi, cluster: KubeCluster) -> None:
    """Nothing may happen for minutes: readiness doesn't wait for that."""
    await cluster.peer(1)
    store = cluster.store("elsewhere", sleep=brief)
    async with watching(store) as events:
        await events.next()
        await api.stop()
        later = asyncio.create_task(events.next())
        while store.contact.trouble is None:
            await asyncio.sleep(0.01)
        await api.start()
        async with asyncio.timeout(10):
            while store.contact.trouble is not None:
                await asyncio.sleep(0.01)
        assert not later.done()
        await cluster.peer(2)
        assert isinstance(await later, Added)


async def test_watches_that_end_at_once_are_not_a_storm(api: FakeApi, cluster: KubeCluster) -> None:
    await cluster.peer(1)
    pauses = Pauses()
    async with watching(cluster.store("elsewhere", sleep=pauses)) as events:
        await events.next()
        api.hasty = True
        await api.cut()
        later = asyncio.create_task(events.next())
        await pauses.at_least(8)
        assert max(pauses.taken) > 2.5, "it doesn't wait longer each time"
        assert len(asked(api, "watch")) <= len(pauses.taken) + 2
        api.hasty = False
        await cluster.peer(2)
        assert isinstance(await later, Added)
    assert len(asked(api, "list")) == 1


async def test_a_server_that_forgets_everything_is_not_stormed_with_lists(api: FakeApi, cluster: KubeCluster) -> None:
    await cluster.peer(1)
    pauses = Pauses()
    async with watching(cluster.store("elsewhere", sleep=pauses)) as events:
        await events.next()
        await api.expire(ever=True)

        async def until_added() -> Added:
            while not isinstance(event := await events.next(), Added):
                assert isinstance(event, Snapshot)
            return event

        later = asyncio.create_task(until_added())
        await pauses.at_least(8)
        assert len(asked(api, "list")) <= len(pauses.taken) + 2
        assert max(pauses.taken) > 2.5
        await api.expire(ever=False)
        while not later.done():  # a snapshot may hold it already
            await cluster.peer(2)
            await asyncio.sleep(0.05)
        assert (await later).lease.subnets == Subnets(IPv4Network("10.244.2.0/24"))


async def test_what_we_cant_publish_makes_us_not_deaf(
    api: FakeApi, cluster: KubeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    name = await cluster.peer(1)
    store = cluster.store(name, sleep=brief)
    lease = await store.acquire(MINE, None)
    node = api.nodes[name]
    node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"] = "10.9.9.9"
    await api.change("MODIFIED", node)
    api.forbidden = {"patch"}
    async with watching(store) as events:
        assert await events.next() == Snapshot((lease,))
        api.forbidden = set()
        await cluster.peer(2)
        assert isinstance(await events.next(), Added)
        assert "can't be written: the API server says 403" in caplog.text
        await cluster.annotate(name, unrelated="x")
        assert await events.none()
    assert (await cluster.flannels(name))["public-ip"] == "192.168.7.99"


async def test_events_are_told_again_before_they_are_forgotten(api: FakeApi, cluster: KubeCluster) -> None:
    now = 0.0
    name = await cluster.add()
    store = cluster.store(name, monotonic=lambda: now)

    async def told(at: float) -> int:
        nonlocal now
        now = at
        with pytest.raises(StoreError, match="podCIDR"):
            await store.acquire(MINE, None)
        return len(api.events)

    api.forbidden = {"events"}
    assert await told(0) == 0
    api.forbidden = set()
    assert await told(59) == 0, "not each second"
    assert await told(61) == 1
    assert await told(1800) == 1
    assert await told(1862) == 2


@pytest.mark.parametrize("status", [408, 409, 429, 503])
async def test_what_passes_is_tried_again(api: FakeApi, cluster: KubeCluster, status: int) -> None:
    """409: the kubelet wrote the node at that moment; a daemon doesn't end over that."""
    name = await cluster.add("10.244.1.0/24")
    api.refusal = status
    api.broken = 1
    with pytest.raises(StoreUnreachable, match=str(status)):
        await cluster.store(name).acquire(MINE, None)


async def test_forbidden_is_said_and_retried(
    api: FakeApi, cluster: KubeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.peer(1)
    api.forbidden = {"list"}
    store = cluster.store("elsewhere", sleep=brief)
    with pytest.raises(StoreUnreachable, match=r"403 to GET /api/v1/nodes: User .*rights flannel needs"):
        await store.leases()
    async with watching(store) as events:
        task = asyncio.create_task(events.next())
        while store.contact.trouble is None:
            await asyncio.sleep(0.01)
        assert "403" in store.contact.trouble
        api.forbidden = set()
        assert isinstance(await task, Snapshot)
    assert len([line for line in caplog.messages if "403" in line]) == 1, "said once"


async def test_an_event_that_may_not_be_written_is_no_trouble(api: FakeApi, cluster: KubeCluster) -> None:
    api.forbidden = {"events"}
    name = await cluster.add()
    with pytest.raises(StoreError, match="podCIDR"):
        await cluster.store(name).acquire(MINE, None)


async def test_a_rotated_token_is_read_anew(api: FakeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    api.token = "first"
    client = Api(Access(api.url, token=Pem(token)))
    await client.list(NODES)
    api.token = "second"
    with pytest.raises(StoreUnreachable, match=r"401.*expired"):
        await client.list(NODES)
    token.write_text("second\n")
    await client.list(NODES)


async def test_a_list_is_read_in_chunks(api: FakeApi, cluster: KubeCluster) -> None:
    for number in range(1, 12):
        await cluster.peer(number)
    api.requests.clear()
    from pyflannel.store.kubernetes import client

    before, client.PAGE = client.PAGE, 5
    try:
        found, _ = await cluster.admin.list(NODES, keep=lambda node: {"metadata": {"name": node["metadata"]["name"]}})
    finally:
        client.PAGE = before
    assert len({node["metadata"]["name"] for node in found}) == 11
    assert all(list(node) == ["metadata"] for node in found), "a page's other fields are let go of"
    assert [query.get("continue") for query in asked(api, "list")] == [None, "5", "10"]


async def test_the_pod_tells_the_node(api: FakeApi, cluster: KubeCluster) -> None:
    name = await cluster.peer(1)
    api.pods["kube-flannel/ds-1"] = {"spec": {"nodeName": name}}
    store = cluster.store(None, pod=("kube-flannel", "ds-1"))
    lease = await store.recall(MINE, None)
    assert lease is not None
    assert lease.attrs.public_ip == IPv4Address("192.168.7.1")


async def test_a_node_deleted_and_back_under_another_cidr(api: FakeApi, cluster: KubeCluster) -> None:
    name = await cluster.peer(1)
    store = cluster.store(name)
    await store.acquire(MINE, None)
    async with watching(store) as events:
        await events.next()
        node = api.nodes[name]
        node["spec"] = {"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]}
        await api.change("MODIFIED", node)
        assert await events.next() == Removed(Subnets(IPv4Network("10.244.1.0/24")))


async def test_our_address_may_change_while_we_watch(api: FakeApi, cluster: KubeCluster) -> None:
    name = await cluster.peer(1)
    store = cluster.store(name)
    lease = await store.acquire(MINE, None)
    moved = replace(MINE, public_ip=IPv4Address("192.168.7.98"))
    async with watching(store) as events:
        await events.next()
        await store.renew(lease, moved)
        assert await events.next() == Added(lease.with_attrs(moved))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "without an answer|cut the answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "cut the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "no JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "no JSON object"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", "says 502 to GET"),
    ],
)
async def test_what_is_no_api_server(answer: bytes, text: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(StoreUnreachable, match=text):
            await Api(Access(f"http://127.0.0.1:{port}")).get(NODES)
    finally:
        server.close()
