"""The store in trouble: traffic goes on, and everything catches up afterwards."""

from __future__ import annotations

import json
import subprocess

import pytest

from pyflannel.lab import faults
from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import flood, matrix
from support.lab import Make, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def store() -> str:
    return "etcd"


def members(cluster: Cluster) -> list[str]:
    """Subnets of the second node's peers, as its routes say."""
    return sorted(line.split()[0] for line in cluster.nodes[1]("ip route").splitlines() if "proto 241" in line)


def etcdctl(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    assert cluster.etcd is not None
    endpoints = ",".join(cluster.etcd.endpoints)
    command = ["ip", "netns", "exec", cluster.underlay, "etcdctl", "--endpoints", endpoints, *words]
    env = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_etcd_dies_and_comes_back(make: Make) -> None:
    cluster = make(nodes=3, wait=True)
    late = cluster.nodes[2]
    assert cluster.etcd is not None
    (etcd,) = cluster.etcd.members
    one, two = cluster.pods[:2]
    with flood(one, two.address) as traffic:
        etcd.kill()
        eventually(lambda: "traffic goes on, retrying" in cluster.nodes[0].log())
        cluster.nodes[0]("ip route flush proto 241")  # healing needs no store
        eventually(lambda: "proto 241" in cluster.nodes[0]("ip route"))
        late.stop_flanneld()
        etcd.start()
        eventually(lambda: "answers again" in cluster.nodes[0].log(), 20)
    assert traffic.lost <= 5  # by the flush
    late.start_flanneld()
    late.wait_ready()
    eventually(lambda: all(ping.rtt_ms is not None for ping in matrix(cluster, 1)))
    assert cluster.nodes[0].ready()


def test_a_boot_without_the_store_uses_the_checkpoint(make: Make) -> None:
    cluster = make()
    assert cluster.etcd is not None
    (etcd,) = cluster.etcd.members
    node = cluster.nodes[0]
    eventually(lambda: (node.path / "lib/checkpoint.json").exists())
    net = node.subnet_env()["FLANNEL_SUBNET"]
    node.kill_flanneld()
    etcd.kill()
    node("ip link del flannel.1")
    (node.path / "run/subnet.env").unlink()
    node.start_flanneld()
    eventually(lambda: node.subnet_env().get("FLANNEL_SUBNET") == net, 20)
    assert "starting from the leases known at" in node.log()
    eventually(lambda: all(ping.rtt_ms is not None for ping in matrix(cluster, 1)))
    etcd.start()
    eventually(lambda: "store: " in node.log() and "answers again" in node.log().split("starting from")[1], 20)
    eventually(node.ready, 20)
    assert "10.244" in etcdctl(cluster, "get", "--prefix", "/coreos.com/network/subnets/").stdout


def test_compaction_while_cut_off(make: Make) -> None:
    cluster = make(nodes=3)
    _, cut, gone = cluster.nodes
    before = members(cluster)
    faults.cut(cluster, cut)
    eventually(lambda: "traffic goes on, retrying" in cut.log(), 20)
    gone.kill_flanneld()
    net = gone.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")
    etcdctl(cluster, "del", f"/coreos.com/network/subnets/{net.replace('/', '-')}")
    revision = 0
    for _ in range(5):
        put = json.loads(etcdctl(cluster, "put", "/noise", "x", "-w", "json").stdout)
        revision = put["header"]["revision"]
    assert etcdctl(cluster, "compact", str(revision)).returncode == 0
    faults.heal(cluster, cut)
    eventually(lambda: members(cluster) == [subnet for subnet in before if subnet != net], 20)
    assert "no longer keeps the changes" in cut.log()


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_one_of_three_members_fails(make: Make, fault: str) -> None:
    cluster = make(members=3)
    assert cluster.etcd is not None
    for etcd in cluster.etcd.members:
        if fault == "freeze":
            etcd.freeze()
        else:
            etcd.kill()
        node = cluster.nodes[0]
        node.stop_flanneld()
        node.start_flanneld()
        node.wait_ready(40)
        assert all(ping.rtt_ms is not None for ping in matrix(cluster))
        if fault == "freeze":
            etcd.thaw()
        else:
            etcd.start()
        eventually(lambda: etcdctl(cluster, "endpoint", "health").returncode == 0, 20)
