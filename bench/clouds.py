"""The clouds' backends over emulated clouds: how long a deleted route stays away, what a look costs. Run as root."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.measure import median
from pyflannel.lab.node import Node
from pyflannel.lab.plan import CLOUD_OPTIONS, CLOUDS

ROUNDS = 10
WATCHED_S = 10


@dataclass(frozen=True)
class Figures:
    """One cloud's. Times in seconds; `calls` of its API that a node makes with each look."""

    back: list[float]
    ready_s: float
    rss_mb: float
    calls: float


def main() -> None:
    every = CLOUD_OPTIONS["SyncSeconds"]
    print(f"a deleted route is back after … (SyncSeconds {every}, {ROUNDS} rounds)")
    print(f"{'cloud':12} {'median':>8} {'worst':>8}   {'restart to ready':>16} {'RSS':>9} {'calls a look':>13}")
    for kind in CLOUDS:
        found = measure(kind, every)
        print(
            f"{kind:12} {median(found.back):6.2f} s {max(found.back):6.2f} s   {found.ready_s:14.2f} s "
            f"{found.rss_mb:6.1f} MB {found.calls:13.1f}",
            flush=True,
        )


def measure(kind: str, every_s: int) -> Figures:
    with Cluster(Plan("bench", 2, backend=kind)) as cluster:
        cloud, node = cluster.cloud, cluster.nodes[1]
        assert cloud is not None
        net = node.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")
        back = []
        for index in range(ROUNDS):
            time.sleep(every_s + index * every_s / ROUNDS)  # at all times between two looks
            cloud.remove(net)
            began = time.perf_counter()
            while cloud.routes().get(net) != node.name:
                assert time.perf_counter() - began < 30
            back.append(time.perf_counter() - began)
        before = cloud.state()["calls"]
        time.sleep(WATCHED_S)
        calls = (cloud.state()["calls"] - before) / (WATCHED_S / every_s) / len(cluster.nodes)
        node.kill_flanneld()
        began = time.perf_counter()
        node.start_flanneld()
        node.wait_ready()
        return Figures(back, time.perf_counter() - began, rss_mb(node), calls)


def rss_mb(node: Node) -> float:
    """Resident memory of the node's flanneld."""
    (line,) = [line for line in Path(f"/proc/{node.pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
