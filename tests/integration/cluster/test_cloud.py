"""Pods over emulated clouds: the real SDK writes the route table by which the underlay's router forwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from pyflannel.lab.cloud.process import CloudProcess
from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import flood, matrix
from pyflannel.lab.node import Node
from pyflannel.lab.plan import CLOUDS
from support.lab import eventually, lab

pytestmark = pytest.mark.root

STRANGERS = {"10.244.250.0/24": "", "10.99.0.0/16": ""}  # within the network, and outside


@pytest.fixture(scope="module", params=CLOUDS)
def shared(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with lab(nodes=3, backend=request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    """With somebody's routes in the table, which nothing may touch."""
    cloud = cloud_of(shared)
    table = next(iter(cloud.state()["tables"]))
    for destination, target in STRANGERS.items():
        if destination not in cloud.routes():
            cloud.do("add", table=table, destination=destination, target=target)
    yield shared
    cloud.faults(throttle=0, broken=0, denied=[], lag_s=0.0)
    assert STRANGERS.items() <= cloud.routes().items(), "a stranger's route was touched"


def cloud_of(cluster: Cluster) -> CloudProcess:
    assert cluster.cloud is not None
    return cluster.cloud


def subnet(node: Node) -> str:
    return node.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")


def all_reach_all(cluster: Cluster) -> bool:
    return all(ping.rtt_ms is not None for ping in matrix(cluster))


def test_pods_reach_each_other_through_the_cloud(cluster: Cluster) -> None:
    assert all_reach_all(cluster)
    routes = cloud_of(cluster).routes()
    assert {subnet(node): node.name for node in cluster.nodes}.items() <= routes.items()
    one, two = cluster.nodes[0].pods[0], cluster.nodes[1].pods[0]
    assert one.exec("ping", "-c1", "-W2", "-Mdo", "-s1472", two.address).returncode == 0, "the underlay's full MTU"
    hops = cluster.nodes[0]("ip route get " + two.address)
    assert f"via {cluster.nodes[0].gateway}" in hops, "no route of ours on the node"


def test_a_deleted_route_cuts_pods_off_and_comes_back(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    there = node.pods[0].address
    cloud_of(cluster).remove(subnet(node))
    assert cluster.pods[0].exec("ping", "-c1", "-W1", there).returncode != 0
    eventually(lambda: cloud_of(cluster).routes().get(subnet(node)) == node.name)
    eventually(lambda: cluster.pods[0].exec("ping", "-c1", "-W1", there).returncode == 0)
    eventually(lambda: any("cloud routes" in entry for entry in node.status()["disturbances"]))


def test_through_throttling_and_5xx(cluster: Cluster) -> None:
    node, cloud = cluster.nodes[2], cloud_of(cluster)
    cloud.faults(throttle=6, broken=6)
    cloud.remove(subnet(node))
    eventually(lambda: cloud.routes().get(subnet(node)) == node.name, 60)


def test_a_restart_and_a_crash_lose_no_packet(cluster: Cluster) -> None:
    """The cloud carries the packets, whether flanneld lives or not."""
    node = cluster.nodes[1]
    with flood(cluster.pods[0], node.pods[0].address) as result:
        node.kill_flanneld()
        time.sleep(0.3)
        node.start_flanneld()
        node.wait_ready()
    assert result.lost == 0, result.output
    assert result.sent > 50


def test_a_departed_nodes_route_goes(cluster: Cluster) -> None:
    """Its lease is gone, the grace period passes, a survivor removes it; when it comes back, so does its route."""
    node, cloud = cluster.nodes[2], cloud_of(cluster)
    gone = subnet(node)
    node.kill_flanneld()
    cluster.with_store(lambda store: _release(store, gone))
    time.sleep(3)
    assert gone in cloud.routes(), "not before the grace period is over"
    notes = cluster.nodes[0].status()["cloud"]["notes"]
    assert "departed" in {note["kind"] for note in notes}
    eventually(lambda: gone not in cloud.routes(), 30)
    node.start_flanneld()
    node.wait_ready()
    assert cloud.routes()[subnet(node)] == node.name


async def _release(store: object, net: str) -> None:
    for lease in await store.leases():  # type: ignore[attr-defined]
        if str(lease.subnets.ipv4) == net:
            await store.release(lease.subnets)  # type: ignore[attr-defined]


def test_what_the_commands_say(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    flags = [word for word in node.arguments if word.startswith(("--store", "--local-store"))]
    variables = [f"{name}={value}" for name, value in node.environment.items()]
    for what in ("check", "plan"):
        done = node.exec("env", *variables, sys.executable, "-m", "pyflannel.cli.flannelctl", "cloud", what, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILS" not in done.stdout
    assert f"keep     {subnet(node)}" in done.stdout
    assert "create" not in done.stdout


def test_aws_routes_ipv6() -> None:
    with lab(nodes=2, backend="aws-vpc", ipv6=True) as cluster:
        assert all_reach_all(cluster)
        routes = cloud_of(cluster).routes()
        for node in cluster.nodes:
            assert routes[node.subnet_env()["FLANNEL_IPV6_SUBNET"].replace("::1/", "::/")] == node.name


def test_nodes_outside_speak_vxlan() -> None:
    options = {"Fallback": {"Type": "vxlan"}}
    with lab(nodes=3, backend="gce", options=options, outside=("n3",)) as cluster:
        assert all_reach_all(cluster)
        inner, outer = cluster.nodes[0], cluster.nodes[2]
        assert "flannel.1" in inner("ip route get " + outer.pods[0].address)
        assert "flannel.1" not in inner("ip route get " + cluster.nodes[1].pods[0].address)
        assert set(cloud_of(cluster).routes().values()) == {"n1", "n2"}


def test_what_finds_no_room_goes_by_vxlan_until_there_is_some() -> None:
    """A node's route is deleted, and the table is full before it's back: vxlan instead; then the quota is raised."""
    options = {"Fallback": {"Type": "vxlan"}}
    with lab(nodes=3, backend="tencent-vpc", options=options) as cluster:
        cloud, node = cloud_of(cluster), cluster.nodes[2]
        there = node.pods[0].address
        cloud.do("quota", quota=2)
        cloud.remove(subnet(node))
        eventually(lambda: "flannel.1" in cluster.nodes[0]("ip route get " + there))
        eventually(lambda: all_reach_all(cluster))
        assert set(cloud.routes().values()) == {"n1", "n2"}
        assert node.http("readyz")[0] == 200
        assert "overflow" in {note["kind"] for note in node.status()["cloud"]["notes"]}
        with flood(cluster.pods[0], there) as result:
            node.kill_flanneld()
            node.start_flanneld()
            node.wait_ready()
            time.sleep(1)
        assert result.lost == 0, result.output
        cloud.do("quota", quota=50)
        eventually(lambda: cloud.routes().get(subnet(node)) == "n3", 60)
        eventually(lambda: "flannel.1" not in cluster.nodes[0]("ip route get " + there))
        eventually(lambda: all_reach_all(cluster))
        assert "overflow" not in {note["kind"] for note in node.status()["cloud"]["notes"]}
