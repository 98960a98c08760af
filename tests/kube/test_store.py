"""The Kubernetes store, case by case: on the fake API server and on the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from pyflannel.model.errors import ConfigError, LeasePending, LeaseTaken, StoreError
from pyflannel.model.lease import Added, Lease, LeaseAttrs, Removed, Snapshot, Subnets
from pyflannel.store.kubernetes.access import Access
from support.kube.cluster import CONFIG, DUAL, KubeCluster, watching
from support.kube.fake import fake_api

MAC = '{"VNI":1,"VtepMAC":"0a:00:00:00:00:99"}'
MINE = LeaseAttrs(IPv4Address("192.168.7.99"), None, "vxlan", MAC)


@pytest.fixture(params=["fake", "real"])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KubeCluster]:
    if request.param == "fake":
        async with fake_api() as api:
            access = Access(api.url)
            yield KubeCluster(access, access, tmp_path)
        return
    real = request.getfixturevalue("control_plane")
    made = KubeCluster(real.admin_access, real.flannel_access, tmp_path)
    yield made
    await made.clean()


def subnets(number: int) -> Subnets:
    return Subnets(IPv4Network(f"10.244.{number}.0/24"))


def of(snapshot: object, *numbers: int) -> set[Subnets]:
    """The subnets of *snapshot* among 10.244.<numbers>.0/24."""
    assert isinstance(snapshot, Snapshot)
    return {lease.subnets for lease in snapshot.leases} & {subnets(number) for number in numbers}


async def test_acquire_publishes_what_flannel_publishes(cluster: KubeCluster) -> None:
    name = await cluster.add("10.244.30.0/24")  # without any annotation: Go flannel crashes on that
    store = cluster.store(name)
    lease = await store.acquire(MINE, None)
    assert lease == Lease(subnets(30), MINE)
    assert await cluster.flannels(name) == {
        "backend-data": MAC, "backend-type": "vxlan", "kube-subnet-manager": "true", "public-ip": "192.168.7.99",
    }  # fmt: skip
    before = (await cluster.node(name))["metadata"]["resourceVersion"]
    assert await store.acquire(MINE, None) == lease
    assert (await cluster.node(name))["metadata"]["resourceVersion"] == before, "what is right was written again"


async def test_dual_stack(cluster: KubeCluster) -> None:
    cluster.config = DUAL
    name = await cluster.add("10.244.31.0/24", "fd44:0:0:31::/64")
    mine = replace(MINE, public_ipv6=IPv6Address("fd00:7::99"), backend_v6_data=MAC)
    store = cluster.store(name)
    lease = await store.acquire(mine, None)
    assert lease.subnets == Subnets(IPv4Network("10.244.31.0/24"), IPv6Network("fd44:0:0:31::/64"))
    found = await cluster.flannels(name)
    assert (found["backend-v6-data"], found["public-ipv6"]) == (MAC, "fd00:7::99")
    assert lease in await store.leases()
    async with watching(cluster.store("elsewhere")) as events:
        snapshot = await events.next()
        assert isinstance(snapshot, Snapshot)
        assert lease in snapshot.leases
        # One family's change alone is told; flannel waits for both.
        await cluster.annotate(name, public_ipv6="fd00:7::98")
        moved = replace(mine, public_ipv6=IPv6Address("fd00:7::98"))
        assert await events.next() == Added(Lease(lease.subnets, moved))


async def test_what_another_backend_left_is_removed(cluster: KubeCluster) -> None:
    cluster.config = (
        '{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd44::/48", "Backend": {"Type": "vxlan"}}'
    )
    name = await cluster.add(
        "10.244.32.0/24", "fd44:0:0:32::/64",
        annotations={f"flannel.alpha.coreos.com/{key}": value for key, value in (
            ("backend-data", MAC), ("public-ip", "192.168.7.32"), ("backend-type", "vxlan"), ("other", "kept"),
        )},
    )  # fmt: skip
    mine = LeaseAttrs(None, IPv6Address("fd00:7::32"), "vxlan", None, MAC)
    await cluster.store(name).acquire(mine, None)
    assert await cluster.flannels(name) == {
        "backend-type": "vxlan", "backend-v6-data": MAC, "public-ipv6": "fd00:7::32", "kube-subnet-manager": "true",
        "other": "kept",
    }  # fmt: skip


async def test_recall_is_by_name(cluster: KubeCluster) -> None:
    name = await cluster.peer(33)
    found = await cluster.store(name).recall(replace(MINE, public_ip=IPv4Address("192.168.7.200")), None)
    assert found is not None
    assert found.subnets == subnets(33)
    assert found.attrs.backend_data == '{"VNI":1,"VtepMAC":"0a:00:00:00:00:21"}'
    assert await cluster.store("never-seen").recall(MINE, None) is None


async def test_no_node_and_no_pod_cidr_are_waited_for(cluster: KubeCluster) -> None:
    with pytest.raises(LeasePending, match=r"no node never-seen: .*NODE_NAME"):
        await cluster.store("never-seen").acquire(MINE, None)
    name = await cluster.add()
    store = cluster.store(name)
    for _ in range(2):
        with pytest.raises(LeasePending, match=r"no spec.podCIDR yet: .*--allocate-node-cidrs=true and --cluster-cidr"):
            await store.acquire(MINE, None)
    items = (await cluster.admin.get("/api/v1/namespaces/default/events"))["items"]
    told = [event for event in items if event["involvedObject"]["name"] == name and "flannel" in event["message"]]
    assert [event["reason"] for event in told] == ["FlannelNoPodCIDR"], "once is enough"
    assert "--allocate-node-cidrs" in told[0]["message"]
    assert await cluster.flannels(name) == {}


async def test_a_pod_cidr_outside_of_the_network_is_refused_before_anything_is_written(cluster: KubeCluster) -> None:
    name = await cluster.add("10.99.1.0/24")
    with pytest.raises(ConfigError, match=r"10\.99\.1\.0/24.*Network 10\.244\.0\.0/16.*--cluster-cidr"):
        await cluster.store(name).acquire(MINE, None)
    assert await cluster.flannels(name) == {}
    cluster.config = DUAL
    name = await cluster.add("10.244.34.0/24")
    with pytest.raises(ConfigError, match="IPv6Network fd44::/48"):
        await cluster.store(name).acquire(MINE, None)


async def test_watch(cluster: KubeCluster) -> None:
    peer = await cluster.peer(40)
    async with watching(cluster.store("elsewhere")) as events:
        assert of(await events.next(), 40, 41) == {subnets(40)}
        other = await cluster.peer(41)
        added = await events.next()
        assert isinstance(added, Added)
        assert (added.lease.subnets, added.lease.attrs.public_ip) == (subnets(41), IPv4Address("192.168.7.41"))
        await cluster.annotate(peer, backend_data=MAC)
        changed = await events.next()
        assert isinstance(changed, Added)
        assert (changed.lease.subnets, changed.lease.attrs.backend_data) == (subnets(40), MAC)
        await cluster.annotate(peer, unrelated="x")  # no event of ours: the next is another's
        await cluster.annotate(other, kube_subnet_manager=None)
        assert await events.next() == Removed(subnets(41))
        await cluster.annotate(other, kube_subnet_manager="true")
        assert isinstance(await events.next(), Added)
        await cluster.delete(other)
        assert await events.next() == Removed(subnets(41))
        assert await events.none()


async def test_nodes_that_cant_be_read_are_left_out(cluster: KubeCluster) -> None:
    for number, changes in enumerate(
        ({"public_ip": "nonsense"}, {"public_ip": ""}, {"kube_subnet_manager": "yes"}, {"backend_data": "{nonsense"}),
        50,
    ):
        await cluster.peer(number, **changes)
    found = {lease.subnets: lease for lease in await cluster.store("elsewhere").leases()}
    assert not {subnets(number) for number in (50, 51, 52)} & found.keys()
    assert found[subnets(53)].attrs.backend_data is None


async def test_the_last_of_two_nodes_with_one_cidr(cluster: KubeCluster) -> None:
    first = await cluster.peer(60)
    async with watching(cluster.store("elsewhere")) as events:
        assert of(await events.next(), 60) == {subnets(60)}
        await cluster.peer(60, public_ip="192.168.7.61")  # the same machine, joined again under another name
        again = await events.next()
        assert isinstance(again, Added)
        assert again.lease.attrs.public_ip == IPv4Address("192.168.7.61")
        await cluster.delete(first)
        assert await events.next() == again, "the subnet has an owner still"


async def test_our_own_lease_is_told_as_we_published_it(cluster: KubeCluster) -> None:
    name = await cluster.peer(70)
    store = cluster.store(name)
    lease = await store.acquire(MINE, None)
    async with watching(store) as events:
        snapshot = await events.next()
        assert isinstance(snapshot, Snapshot)
        assert lease in snapshot.leases
        # An administrator's overwrite is for the peers, and works at once.
        await cluster.annotate(name, public_ip_overwrite="203.0.113.7")
        assert await events.none(), "to us, nothing has changed"
    assert (await cluster.flannels(name))["public-ip"] == "203.0.113.7"
    async with watching(store) as events:
        await events.next()
        await cluster.annotate(name, kube_subnet_manager=None, backend_data="null")
        assert await events.none()
    found = await cluster.flannels(name)
    assert (found["kube-subnet-manager"], found["backend-data"]) == ("true", MAC), "what others broke is mended"


async def test_renew_publishes_and_notices_another_cidr(cluster: KubeCluster) -> None:
    name = await cluster.add("10.244.80.0/24")
    store = cluster.store(name)
    lease = await store.acquire(MINE, None)
    moved = replace(MINE, public_ip=IPv4Address("192.168.7.98"))
    assert await store.renew(lease, moved) == Lease(lease.subnets, moved)
    assert (await cluster.flannels(name))["public-ip"] == "192.168.7.98"
    with pytest.raises(LeaseTaken, match=r"10\.244\.80\.0/24 now instead of 10\.244\.81\.0/24"):
        await store.renew(Lease(subnets(81), MINE))


async def test_chosen_addresses(cluster: KubeCluster) -> None:
    prefix = "flannel.alpha.coreos.com/"
    name = await cluster.add(
        annotations={f"{prefix}node-public-ip": "10.1.2.3", f"{prefix}node-public-ipv6": "fd00::3"}
    )
    assert await cluster.store(name).chosen_addresses() == ("10.1.2.3", "fd00::3")
    assert await cluster.store("never-seen").chosen_addresses() == ("", "")


async def test_network_unavailable(cluster: KubeCluster) -> None:
    name = await cluster.add("10.244.90.0/24")
    path = f"/api/v1/nodes/{name}/status"
    ready = {"type": "Ready", "status": "False", "reason": "x", "message": "y"}
    await cluster.admin.patch(path, {"status": {"conditions": [ready]}})
    await cluster.store(name, set_condition=False).network_is_up()
    assert [each["type"] for each in (await cluster.node(name))["status"]["conditions"]] == ["Ready"]
    await cluster.store(name).network_is_up()
    found = {each["type"]: each for each in (await cluster.node(name))["status"]["conditions"]}
    assert set(found) == {"Ready", "NetworkUnavailable"}
    up = found["NetworkUnavailable"]
    assert (up["status"], up["reason"], up["message"]) == (
        "False", "FlannelIsUp", "Flannel is running on this node",
    )  # fmt: skip
    assert up["lastTransitionTime"].endswith("Z")


async def test_another_prefix(cluster: KubeCluster) -> None:
    name = await cluster.add("10.244.91.0/24")
    await cluster.store(name, prefix="org.com/9").acquire(MINE, None)
    assert (await cluster.node(name))["metadata"]["annotations"]["org.com/9-public-ip"] == "192.168.7.99"
    assert subnets(91) not in {lease.subnets for lease in await cluster.store(name).leases()}


async def test_alloc_watches_its_own_node_alone(cluster: KubeCluster) -> None:
    await cluster.peer(92)
    cluster.config = CONFIG.replace("vxlan", "alloc")
    name = await cluster.add("10.244.93.0/24")
    store = cluster.store(name)
    lease = await store.acquire(replace(MINE, backend_type="", backend_data=None), None)
    assert (await cluster.flannels(name))["backend-data"] == "null"
    async with watching(store) as events:
        assert await events.next() == Snapshot((lease,))
        await cluster.delete(name)
        assert await events.next() == Removed(subnets(93))


async def test_what_is_not_ours_to_give(cluster: KubeCluster) -> None:
    store = cluster.store("elsewhere")
    with pytest.raises(StoreError, match="kubectl delete node"):
        await store.release(subnets(1))
    with pytest.raises(StoreError, match="podCIDR"):
        await store.reserve(subnets(1), MINE)
    with pytest.raises(StoreError, match="ConfigMap kube-flannel-cfg"):
        await store.write_config(CONFIG)
