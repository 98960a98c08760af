"""Faults do what they say, and are undone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyflannel.lab import faults
from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import flood, ping
from pyflannel.lab.shell import LabError
from support.lab import eventually, lab

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with lab(ipv6=True) as found:
        yield found


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_loss_is_one_way_and_ends(cluster: Cluster, way: str) -> None:
    one, _ = cluster.nodes
    here, there = cluster.pods

    def passed(netns_of: int) -> int:
        """Packets that the node's vxlan device has received."""
        link = cluster.nodes[netns_of].ip_json("-s link show flannel.1")[0]
        return int(link["stats64"]["rx"]["packets"])

    assert ping(here, there) != []
    faults.lose(cluster, one, way=way, match="udp dport 8472")
    before = passed(0), passed(1)
    assert ping(here, there, 3, within_s=1) == []
    arrived = passed(0) - before[0], passed(1) - before[1]
    assert arrived[0] == 0
    assert (arrived[1] >= 3) == (way == "in")
    assert one.exec("ping", "-c1", "-W2", cluster.nodes[1].address).returncode == 0, "only the tunnel is lossy"
    faults.stop_losing(cluster, one)
    assert ping(here, there) != []


def test_some_are_lost(cluster: Cluster) -> None:
    here, there = cluster.pods
    faults.lose(cluster, cluster.nodes[0], 90)
    faults.lose(cluster, cluster.nodes[0], 30)  # in its place, not on top
    with flood(here, there.address, 0.002) as traffic:
        eventually(lambda: len(ping(here, there, 200)) < 200)
    faults.stop_losing(cluster, cluster.nodes[0])
    assert 0.1 < traffic.lost / traffic.sent < 0.5
    with flood(here, there.address, 0.002) as traffic:
        assert len(ping(here, there, 20)) == 20
    assert traffic.lost == 0


def test_frozen_is_alive_and_silent(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    faults.freeze(node)
    assert node.running()
    assert node.http("readyz", 0.2) == (0, "")
    faults.thaw(node)
    eventually(node.ready)


def test_killed_is_gone(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    faults.kill(node)
    assert not node.running()
    with pytest.raises(LabError, match="no flanneld runs on n2"):
        faults.freeze(node)
    node.start_flanneld()
    node.wait_ready()


def test_a_cut_cable_and_back(cluster: Cluster) -> None:
    here, there = cluster.pods
    faults.cut(cluster, cluster.nodes[0])
    assert ping(here, there, within_s=1) == []
    faults.heal(cluster, cluster.nodes[0])
    eventually(lambda: ping(here, there, within_s=1) != [])


@pytest.mark.parametrize(("percent", "way"), [(0, "in"), (101, "in"), (50, "up")])
def test_nonsense_is_refused(cluster: Cluster, percent: int, way: str) -> None:
    with pytest.raises(LabError, match="expected"):
        faults.lose(cluster, cluster.nodes[0], percent, way=way)
