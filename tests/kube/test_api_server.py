"""The Kubernetes store against what only real programs do: compaction, restarts, RBAC, pod CIDRs, 500 nodes."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.model.errors import LeasePending, StoreError, StoreUnreachable
from pyflannel.model.lease import Added, Lease, LeaseAttrs, Removed, Snapshot, Subnets
from pyflannel.store.kubernetes.access import in_cluster
from pyflannel.store.kubernetes.client import Api
from pyflannel.store.kubernetes.store import NODES
from support.kube.cluster import DUAL, KubeCluster, watching
from support.kube.control import ControlPlane

MAC = '{"VNI":1,"VtepMAC":"0a:00:00:00:00:99"}'
MINE = LeaseAttrs(IPv4Address("192.168.7.99"), None, "vxlan", MAC)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(scope="module")
def plane(etcd: EtcdCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One that these tests may stop and start."""
    made = ControlPlane(tmp_path_factory.mktemp("kube"), etcd.endpoints[0])
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
async def cluster(plane: ControlPlane, tmp_path: Path) -> AsyncIterator[KubeCluster]:
    made = KubeCluster(plane.admin_access, plane.flannel_access, tmp_path)
    yield made
    await made.clean()


def subnets(number: int) -> Subnets:
    return Subnets(IPv4Network(f"10.244.{number}.0/24"))


async def test_a_restart_loses_nothing(plane: ControlPlane, cluster: KubeCluster) -> None:
    gone = await cluster.peer(1)
    store = cluster.store("elsewhere")
    async with watching(store) as events:
        assert isinstance(await events.next(), Snapshot)
        await asyncio.to_thread(plane.stop_api)
        later = asyncio.create_task(events.next(60))
        while store.contact.trouble is None:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(plane.start_api)
        await cluster.delete(gone)
        assert await later == Removed(subnets(1))
        assert store.contact.trouble is None


async def test_after_a_compaction_all_nodes_are_listed(
    plane: ControlPlane, cluster: KubeCluster, etcd: EtcdCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gone = await cluster.peer(1)
    await cluster.peer(2)
    store = cluster.store("elsewhere")
    async with watching(store) as events:
        assert isinstance(await events.next(), Snapshot)
        later = asyncio.create_task(events.next(60))
        await asyncio.to_thread(plane.stop_api)
        # While nobody serves, a node goes and etcd forgets how.
        key = f"/registry/minions/{gone}"
        await asyncio.to_thread(_etcdctl, etcd, "del", key)
        cluster.made.remove(gone)
        status = json.loads(await asyncio.to_thread(_etcdctl, etcd, "endpoint", "status", "-w", "json"))
        await asyncio.to_thread(_etcdctl, etcd, "compact", str(status[0]["Status"]["header"]["revision"]))
        await asyncio.to_thread(plane.start_api)
        snapshot = await later
    assert isinstance(snapshot, Snapshot)
    assert {lease.subnets for lease in snapshot.leases} == {subnets(2)}
    assert any("no longer keeps the changes" in line for line in caplog.messages)


def _etcdctl(etcd: EtcdCluster, *words: str) -> str:
    done = subprocess.run(
        ["etcdctl", "--endpoints", etcd.endpoints[0], *words],
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


async def test_the_manifests_rights_are_enough_and_no_more(plane: ControlPlane, cluster: KubeCluster) -> None:
    name = await cluster.add("10.244.3.0/24")
    flannel = Api(plane.flannel_access)
    for path in (f"{NODES}/{name}", "/api/v1/namespaces/kube-system/configmaps/x"):
        with pytest.raises(StoreUnreachable, match="says 403 to PATCH"):
            await flannel.patch(path, {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(StoreUnreachable, match="says 403 to GET"):
        await flannel.get("/api/v1/secrets")
    nobody = Api(plane.flannel_access.__class__(plane.url, plane.flannel_access.ca))
    with pytest.raises(StoreUnreachable, match=r"40[13] to GET /api/v1/nodes"):
        await nobody.list(NODES)
    stranger = Api(plane.flannel_access.__class__(plane.url))
    with pytest.raises(StoreUnreachable, match="certificate that isn't trusted"):
        await stranger.list(NODES)


async def test_a_pods_own_way_in_and_a_token_that_is_replaced(plane: ControlPlane, tmp_path: Path) -> None:
    parts = urlsplit(plane.url)
    given = plane.flannel_access
    assert given.ca is not None
    assert given.token is not None
    (tmp_path / "ca.crt").write_text(given.ca.read())
    (tmp_path / "token").write_text("expired")
    where = {"KUBERNETES_SERVICE_HOST": str(parts.hostname), "KUBERNETES_SERVICE_PORT": str(parts.port)}
    api = Api(in_cluster(where, tmp_path))
    with pytest.raises(StoreUnreachable, match="says 401 to GET"):
        await api.list(NODES)
    (tmp_path / "token").write_text(given.token.read())
    await api.list(NODES)


async def test_the_controller_manager_gives_what_is_waited_for(plane: ControlPlane, cluster: KubeCluster) -> None:
    name = await cluster.add()
    store = cluster.store(name)
    with pytest.raises(LeasePending):
        await store.acquire(MINE, None)
    plane.start_controllers()
    try:
        lease = await _acquired(cluster, name, MINE)
    finally:
        plane.stop_controllers()
    assert lease.subnets.ipv4 is not None
    assert lease.subnets.ipv4.subnet_of(IPv4Network("10.244.0.0/16"))
    described = await asyncio.to_thread(plane.kubectl, "describe", "node", name)
    assert "FlannelNoPodCIDR" in described, "the cause is where people look"


async def test_dual_stack_from_the_controller_manager(plane: ControlPlane, cluster: KubeCluster) -> None:
    cluster.config = DUAL
    name = await cluster.add()
    mine = LeaseAttrs(IPv4Address("192.168.7.9"), IPv6Address("fd00:7::9"), "vxlan", MAC, MAC)
    plane.start_controllers(dual=True)
    try:
        lease = await _acquired(cluster, name, mine)
    finally:
        plane.stop_controllers()
    assert lease.subnets.ipv4 is not None
    assert lease.subnets.ipv6 is not None


async def _acquired(cluster: KubeCluster, name: str, attrs: LeaseAttrs) -> Lease:
    async with asyncio.timeout(60):
        while True:
            try:
                return await cluster.store(name).acquire(attrs, None)
            except LeasePending:
                await asyncio.sleep(0.2)


async def test_500_nodes(plane: ControlPlane, cluster: KubeCluster) -> None:
    slots = asyncio.Semaphore(16)

    async def join(number: int) -> None:
        async with slots:
            name = await cluster.add(f"10.244.{number >> 1}.{(number & 1) << 7}/25")
            mine = LeaseAttrs(IPv4Address((10 << 24) + number + 1), None, "vxlan", MAC)
            await cluster.store(name).acquire(mine, None)

    async with watching(cluster.store("elsewhere")) as events:
        assert isinstance(await events.next(), Snapshot)
        joining = asyncio.gather(*(join(number) for number in range(500)))
        seen: set[Subnets] = set()
        while len(seen) < 500:
            event = await events.next(60)
            assert isinstance(event, Added)
            seen.add(event.lease.subnets)
        await joining
    assert {lease.subnets for lease in await cluster.store("elsewhere").leases()} == seen
    await asyncio.to_thread(plane.kubectl, "delete", "node", "--all", "--wait=false")
    cluster.made.clear()


async def test_a_node_that_is_not_ours_cant_be_renewed(cluster: KubeCluster) -> None:
    name = await cluster.add("10.244.5.0/24")
    with pytest.raises(StoreError):
        await cluster.store(name).renew(Lease(subnets(6), MINE))
