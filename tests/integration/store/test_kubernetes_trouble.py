"""The Kubernetes store when the API server is cut off, restarted, forgetful or forbidding (on the fake one)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from pyflannel.model.errors import ConfigError, StoreError, StoreUnreachable
from pyflannel.model.lease import Added, LeaseAttrs, Removed, Snapshot, Subnets
from pyflannel.store.kubernetes.access import Access, Pem, at_url, from_kubeconfig, in_cluster
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
        found, _ = await cluster.admin.list(NODES)
    finally:
        client.PAGE = before
    assert len({node["metadata"]["name"] for node in found}) == 11
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


# Access


def kubeconfig(path: Path, user: str, server: str = "https://10.0.0.1:6443", current: str = "c") -> Path:
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: "{current}"
contexts: [{{name: c, context: {{cluster: k, user: u}}}}]
clusters: [{{name: k, cluster: {{server: "{server}", certificate-authority: ca.crt}}}}]
users: [{{name: u, user: {user}}}]
"""
    )
    return path


def test_kubeconfig(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "{token: abc}")
    assert from_kubeconfig(path) == Access("https://10.0.0.1:6443", Pem(tmp_path / "ca.crt"), token=Pem(text="abc"))
    assert from_kubeconfig(path, "https://10.0.0.2:6443/").url == "https://10.0.0.2:6443"
    data = base64.b64encode(b"PEM").decode()
    found = from_kubeconfig(
        kubeconfig(path, f"{{client-certificate-data: {data}, client-key: k.pem, tokenFile: sub/token}}")
    )
    assert (found.cert, found.key, found.token) == (
        Pem(text="PEM"), Pem(tmp_path / "k.pem"), Pem(tmp_path / "sub/token"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"user": "{exec: {command: aws}}"}, "user u's exec is .*kubectl create token"),
        ({"user": "{token: a}", "current": "d"}, 'current-context is "d", expected one of: c'),
        ({"user": "{token: a}", "current": ""}, "current-context is missing"),
        ({"user": "{token: a}", "server": "10.0.0.1"}, 'server is "10.0.0.1", expected https://host:port'),
        ({"user": "{token: a}", "server": "https://a:b@h:1"}, "expected https://host:port"),
        ({"user": "{client-certificate-data: '%%'}"}, "client-certificate-data"),
        ({"user": "{{"}, "expected a kubeconfig"),
    ],
)
def test_a_kubeconfig_that_is_wrong(tmp_path: Path, changes: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as error:
        from_kubeconfig(kubeconfig(tmp_path / "config", **changes))
    assert "%%" not in str(error.value), "a key's text is a secret"


def test_a_kubeconfig_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--kubeconfig-file"):
        from_kubeconfig(tmp_path / "nothing")
    (tmp_path / "list").write_text("- a\n")
    with pytest.raises(ConfigError, match="clusters, users and contexts"):
        from_kubeconfig(tmp_path / "list")
    with pytest.raises(ConfigError, match="--kube-api-url"):
        at_url("kubernetes")


def test_in_cluster(tmp_path: Path) -> None:
    where = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ConfigError, match="--kubeconfig-file or --kube-api-url"):
        in_cluster(where, tmp_path)
    (tmp_path / "token").write_text("abc\n")
    found = in_cluster(where, tmp_path)
    assert found.url == "https://[fd00::1]:443"
    assert found.headers() == {"Authorization": "Bearer abc"}
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST is missing"):
        in_cluster({}, tmp_path)
