"""Rows per second over our netlink, beside pyroute2 in the same run, in a namespace of their own.

The limit is the kernel's: a row costs it 10 to 15 µs. Run as root: `make bench`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from ipaddress import ip_address, ip_network
from typing import Any

from pyroute2 import IPRoute

from pyflannel.model.rows import FdbEntry, Neighbour, Route, VxlanLink
from pyflannel.table.contract import Change, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.table.links import LinksTable
from pyflannel.table.netns import inside
from pyflannel.table.rtables import FdbTable, NeighboursTable, RoutesTable

COUNT = 5_000
ROUNDS = 3
NETNS = f"pfbench-{os.getpid()}"
SCOPE = Scope(frozenset({"flannel.1"}), (ip_network("10.0.0.0/8"),))


def rows() -> tuple[list[Route], list[Neighbour], list[FdbEntry]]:
    routes, neighbours, entries = [], [], []
    for number in range(COUNT):
        base = ip_address(int(ip_address("10.1.0.0")) + (number << 8))
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        routes.append(Route(ip_network(f"{base}/24"), "flannel.1", base, onlink=True))
        neighbours.append(Neighbour("flannel.1", base, mac))
        entries.append(FdbEntry("flannel.1", mac, ip_address(int(ip_address("172.16.0.0")) + number)))
    return routes, neighbours, entries


async def ours() -> dict[str, list[float]]:
    with inside(NETNS):
        kernel = Kernel()
    link = VxlanLink("flannel.1", 1, 8472, "e0", ip_address("192.168.7.1"), "02:00:00:00:ff:ff", 1450)
    assert not await LinksTable(kernel, SCOPE).apply(Change(create=(link,)))
    found: dict[str, list[float]] = {}
    routes, neighbours, entries = rows()
    plan: list[tuple[Any, tuple[Any, ...]]] = [
        (NeighboursTable(kernel, SCOPE), tuple(neighbours)),
        (FdbTable(kernel, SCOPE), tuple(entries)),
        (RoutesTable(kernel, SCOPE), tuple(routes)),
    ]
    for _ in range(ROUNDS):
        for table, made in plan:
            began = time.perf_counter()
            assert not await table.apply(Change(create=made))
            written = time.perf_counter()
            assert len(await table.dump(())) == COUNT
            found.setdefault(f"{table.name}: write", []).append(written - began)
            found.setdefault(f"{table.name}: read", []).append(time.perf_counter() - written)
        for table, made in reversed(plan):
            assert not await table.apply(Change(remove=made))
    kernel.close()
    return found


def theirs() -> dict[str, list[float]]:
    """pyroute2, a request at a time: its way for programs."""
    found: dict[str, list[float]] = {}
    with inside(NETNS):
        ipr = IPRoute()
    index = ipr.link_lookup(ifname="flannel.1")[0]
    some = COUNT // 5  # it would take too long otherwise
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for row in rows()[0][:some]:
            ipr.route("add", dst=str(row.destination), gateway=str(row.gateway), oif=index, flags=["onlink"], proto=241)
        found.setdefault("routes: write", []).append((time.perf_counter() - began) * COUNT / some)
        for row in rows()[0][:some]:
            ipr.route("del", dst=str(row.destination), oif=index)
    ipr.close()
    return found


def main() -> None:
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    try:
        for command in ("link add e0 type veth peer name e1", "link set e0 up", "addr add 192.168.7.1/24 dev e0"):
            subprocess.run(["ip", "-n", NETNS, *command.split()], check=True)
        mine, peer = asyncio.run(ours()), theirs()
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=False)
    print(f"{COUNT} rows, median of {ROUNDS}")
    for name, times in mine.items():
        middle = sorted(times)[ROUNDS // 2]
        beside = sorted(peer[name])[ROUNDS // 2] if name in peer else None
        ratio = f", pyroute2 {COUNT / beside:,.0f}/s: {beside / middle:.1f} ×" if beside else ""
        print(f"{name:18} {middle * 1e3:7.1f} ms  {COUNT / middle:10,.0f}/s{ratio}")


if __name__ == "__main__":
    main()
