"""How fast rows reach the kernel and come back: our tables beside pyroute2, in a namespace of its own.

    sudo python bench/netlink.py [--rows 5000] [--dump 40000] [--peer-rows 1000]

Ours is measured through `Table.apply` and `Table.dump`, so it includes the encoding, the matching of errors and the
making of rows. pyroute2 does what its users do: one call per row; its rate is taken from fewer rows, since it is
constant. Rates are rows per second of wall time, the best of three runs; on a busy machine compare ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

from pyflannel.model.rows import FdbEntry, Neighbour, Route, VxlanLink
from pyflannel.table.contract import Change, Scope, Touched
from pyflannel.table.kernel import Kernel
from pyflannel.table.links import LinksTable
from pyflannel.table.monitor import Monitor
from pyflannel.table.netns import inside
from pyflannel.table.rtables import FdbTable, NeighboursTable, RoutesTable

NETWORK = ip_network("10.0.0.0/8")
DEVICE, UNDERLAY, UNDERLAY_IP = "flannel.1", "e0", ip_address("172.16.0.1")
LINK = VxlanLink(DEVICE, 1, 8472, UNDERLAY, UNDERLAY_IP, "02:00:00:00:00:01", 1450)
SCOPE = Scope(frozenset({DEVICE}), (NETWORK,), "pyflannel bench")
RUNS = 3


@dataclass(frozen=True, slots=True)
class Peer:
    """What one peer of vxlan, or of host-gw, needs."""

    subnet: IPv4Network
    mac: str
    remote: IPv4Address

    @property
    def onlink(self) -> Route:
        return Route(self.subnet, DEVICE, self.subnet.network_address, onlink=True)

    @property
    def plain(self) -> Route:
        return Route(self.subnet, UNDERLAY, self.remote)

    @property
    def neighbour(self) -> Neighbour:
        return Neighbour(DEVICE, self.subnet.network_address, self.mac)

    @property
    def entry(self) -> FdbEntry:
        return FdbEntry(DEVICE, self.mac, self.remote)


def peers(count: int) -> list[Peer]:
    base, remote = int(IPv4Address("10.0.0.0")), int(IPv4Address("172.16.1.0"))
    return [
        Peer(
            IPv4Network((base + (at << 8), 24)),
            (0x02_00_00_01_00_00 + at).to_bytes(6, "big").hex(":"),
            IPv4Address(remote + at),
        )
        for at in range(count)
    ]


@contextmanager
def namespace() -> Iterator[str]:
    """A namespace with an underlay of 65,534 addresses."""
    name = f"pfbench-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            "link set lo up",
            f"link add {UNDERLAY} type veth peer name far0",
            "link set far0 up",
            f"link set {UNDERLAY} up",
            f"addr add {UNDERLAY_IP}/12 dev {UNDERLAY}",
        ):
            subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


class Results:
    """Rows of the table that is printed: name, rows, our best time, the peer's rate."""

    def __init__(self) -> None:
        self._best: dict[str, tuple[int, float]] = {}
        self._peer: dict[str, float] = {}

    def ours(self, name: str, rows: int, seconds: float) -> None:
        self._best[name] = (rows, min(seconds, self._best.get(name, (0, seconds))[1]))

    def peer(self, name: str, rows: int, seconds: float) -> None:
        self._peer[name] = max(rows / seconds, self._peer.get(name, 0.0))

    def show(self) -> None:
        print(f"{'':34}{'rows':>8}{'ms':>9}{'rows/s':>10}{'pyroute2/s':>12}{'times':>7}")
        for name, (rows, seconds) in self._best.items():
            rate, peer = rows / seconds, self._peer.get(name)
            shown = f"{peer:12,.0f}{rate / peer:7.1f}" if peer else ""
            print(f"{name:34}{rows:8,}{seconds * 1e3:9.1f}{rate:10,.0f}{shown}")


async def timed_apply(table: Any, change: Change[Any]) -> float:
    began = time.perf_counter()
    failures = await table.apply(change)
    seconds = time.perf_counter() - began
    assert not failures, str(failures[0].error)
    return seconds


async def timed_dump(table: Any, expected: int) -> float:
    began = time.perf_counter()
    rows = await table.dump(())
    seconds = time.perf_counter() - began
    assert len(rows) == expected, (len(rows), expected)
    return seconds


async def ours(kernel: Kernel, results: Results, count: int, dump_count: int) -> None:
    all_peers = peers(count)
    routes, neighbours, fdb = RoutesTable(kernel, SCOPE), NeighboursTable(kernel, SCOPE), FdbTable(kernel, SCOPE)
    cases: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("neighbours", neighbours, tuple(peer.neighbour for peer in all_peers)),
        ("fdb", fdb, tuple(peer.entry for peer in all_peers)),
        ("routes, onlink over vxlan", routes, tuple(peer.onlink for peer in all_peers)),
        ("routes, host-gw", routes, tuple(peer.plain for peer in all_peers)),
    ]
    for _ in range(RUNS):
        for name, table, rows in cases:
            results.ours(f"{name}: create", count, await timed_apply(table, Change(create=rows)))
            results.ours(f"{name}: replace", count, await timed_apply(table, Change(replace=rows)))
            results.ours(f"{name}: dump", count, await timed_dump(table, count))
            results.ours(f"{name}: remove", count, await timed_apply(table, Change(remove=rows)))
    many = tuple(peer.plain for peer in peers(dump_count))
    await timed_apply(routes, Change(create=many))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(RUNS):
        results.ours(f"routes: dump of {dump_count:,}", dump_count, await timed_dump(routes, dump_count))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    await timed_apply(routes, Change(remove=many))
    print(f"memory: peak {before / 1024:.1f} MB before the dump of {dump_count:,}, {grown / 1024:.1f} MB more after")


async def monitored(name: str, kernel: Kernel, results: Results, count: int) -> None:
    """What the monitor costs while we write: three notifications per peer, ours and so to be ignored."""
    with inside(name):
        monitor = Monitor(kernel, SCOPE)
    seen: list[Touched] = []
    task = asyncio.create_task(monitor.watch(seen.append))
    await asyncio.sleep(0.1)
    all_peers = peers(count)
    tables: list[tuple[Any, tuple[Any, ...]]] = [
        (NeighboursTable(kernel, SCOPE), tuple(peer.neighbour for peer in all_peers)),
        (FdbTable(kernel, SCOPE), tuple(peer.entry for peer in all_peers)),
        (RoutesTable(kernel, SCOPE), tuple(peer.plain for peer in all_peers)),
    ]
    for table, rows in tables:
        loop_time = time.process_time()
        await table.apply(Change(create=rows))
        writing = time.process_time() - loop_time
        await asyncio.sleep(0.5)
        results.ours(f"monitor: own {table.name}", count, time.process_time() - loop_time - writing)
        await table.apply(Change(remove=rows))
        await asyncio.sleep(0.5)
    task.cancel()
    monitor.close()


def pyroute2(results: Results, count: int, dump_count: int) -> None:
    """The peer: one call per row."""
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        (vxlan,), (under,) = ipr.link_lookup(ifname=DEVICE), ipr.link_lookup(ifname=UNDERLAY)
        some = peers(count)

        def each(name: str, call: Callable[[Peer], Any]) -> None:
            began = time.perf_counter()
            for peer in some:
                call(peer)
            results.peer(name, count, time.perf_counter() - began)

        def neighbour(verb: str) -> Callable[[Peer], Any]:
            return lambda peer: ipr.neigh(
                verb, dst=str(peer.subnet.network_address), lladdr=peer.mac, ifindex=vxlan, state=0x80
            )

        def entry(verb: str) -> Callable[[Peer], Any]:
            return lambda peer: ipr.fdb(verb, ifindex=vxlan, lladdr=peer.mac, dst=str(peer.remote), state=0x80, flags=2)

        def plain(verb: str) -> Callable[[Peer], Any]:
            return lambda peer: ipr.route(verb, dst=str(peer.subnet), gateway=str(peer.remote), oif=under, proto=241)

        def onlink(verb: str) -> Callable[[Peer], Any]:
            return lambda peer: ipr.route(
                verb, dst=str(peer.subnet), gateway=str(peer.subnet.network_address), oif=vxlan, proto=241, flags=4
            )

        for label, call in (
            ("neighbours", neighbour),
            ("fdb", entry),
            ("routes, onlink over vxlan", onlink),
            ("routes, host-gw", plain),
        ):
            each(f"{label}: create", call("add"))
            each(f"{label}: replace", call("replace"))
            began = time.perf_counter()
            found = _dump(ipr, label, vxlan)
            results.peer(f"{label}: dump", found, time.perf_counter() - began)
            each(f"{label}: remove", call("del"))


def _dump(ipr: Any, label: str, vxlan: int) -> int:
    from socket import AF_INET

    if label == "neighbours":
        return len(list(ipr.get_neighbours(AF_INET)))
    if label == "fdb":
        return len(list(ipr.fdb("dump", ifindex=vxlan)))
    return len(list(ipr.get_routes(AF_INET)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--dump", type=int, default=40_000)
    parser.add_argument("--peer-rows", type=int, default=1_000)
    chosen = parser.parse_args()
    results = Results()
    with namespace() as name:
        with inside(name):
            kernel = Kernel()

        async def run() -> None:
            assert not await LinksTable(kernel, SCOPE).apply(Change(create=(LINK,)))
            await ours(kernel, results, chosen.rows, chosen.dump)
            await monitored(name, kernel, results, chosen.rows)

        asyncio.run(run())
        with inside(name):
            pyroute2(results, chosen.peer_rows, chosen.dump)
        kernel.close()
    results.show()


if __name__ == "__main__":
    main()
