"""Rows are replaced under traffic: not one packet is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pyflannel.model.rows import FdbEntry, Neighbour, Route, VxlanLink
from pyflannel.table.contract import Change, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.table.links import LinksTable
from pyflannel.table.rtables import FdbTable, NeighboursTable, RoutesTable
from support.netns import Netns, host, inside, namespace

pytestmark = pytest.mark.root

PINGS = 1_500
SCOPE = Scope(frozenset({"flannel.1"}), (ip_network("10.5.0.0/16"), ip_network("fd99::/48")), "pyflannel test")
LINK = VxlanLink("flannel.1", 1, 8472, "e0", ip_address("192.168.7.1"), "02:00:00:00:00:01", 1450)
MAC = "02:00:00:00:00:02"
# A pair of each kind of row, both of which lead to the peer: it has two addresses everywhere.
ROUTES = tuple(Route(ip_network("10.5.2.0/24"), "e0", ip_address(f"192.168.7.{at}")) for at in (2, 3))
ROUTES6 = tuple(Route(ip_network("fd99:0:0:2::/64"), "e0", ip_address(f"fd00:7::{at}")) for at in (2, 3))
ENTRIES = tuple(FdbEntry("flannel.1", MAC, ip_address(f"192.168.7.{at}")) for at in (2, 3))
OVERLAY = Route(ip_network("10.5.2.0/24"), "flannel.1", ip_address("10.5.2.0"), onlink=True)
NEIGHBOUR = Neighbour("flannel.1", ip_address("10.5.2.0"), MAC)


class Pair:
    """This node and a peer on one link; 10.5.2.9 and fd99:0:0:2::9 are pods of the peer's."""

    def __init__(self, node: Netns, peer: Netns) -> None:
        self.node, self.peer = node, peer
        with inside(node.name):
            self.kernel = Kernel()
        self.links = LinksTable(self.kernel, SCOPE)
        self.routes = RoutesTable(self.kernel, SCOPE)
        self.neighbours = NeighboursTable(self.kernel, SCOPE)
        self.fdb = FdbTable(self.kernel, SCOPE)
        node(f"ip link set far0 netns {peer.name} name e0")
        for at in (2, 3):
            peer(f"ip addr add 192.168.7.{at}/24 dev e0")
            peer(f"ip addr add fd00:7::{at}/64 dev e0 nodad")
        peer("ip link set e0 up")
        peer("ip addr add 10.5.2.9/32 dev lo")
        peer("ip addr add fd99:0:0:2::9/128 dev lo")

    async def lossless(self, table: Any, rows: tuple[Any, ...], pod: str) -> None:
        """Replace the row by the next of *rows*, over and over, while packets go to *pod*."""
        process = await asyncio.create_subprocess_exec(
            *f"ip netns exec {self.node.name} ping -q -i 0.001 -c {PINGS} -W 2 {pod}".split(),
            stdout=asyncio.subprocess.PIPE,
        )
        done = asyncio.create_task(process.communicate())
        replaced = 0
        for row in itertools.cycle(rows):
            assert not await table.apply(Change(replace=(row,)))
            replaced += 1
            await asyncio.sleep(0.001)
            if done.done():
                break
        output = (await done)[0].decode()
        assert f"{PINGS} packets transmitted, {PINGS} received, 0% packet loss" in output
        assert replaced > 20  # enough of them; how many fit in depends on the machine's load


@pytest.fixture
def pair() -> Iterator[Pair]:
    with host("n") as node, namespace("p") as peer:
        found = Pair(node, peer)
        yield found
        found.kernel.close()


@pytest.mark.parametrize(("rows", "pod"), [(ROUTES, "10.5.2.9"), (ROUTES6, "fd99:0:0:2::9")], ids=["IPv4", "IPv6"])
async def test_a_route_changes_its_gateway(pair: Pair, rows: tuple[Route, ...], pod: str) -> None:
    assert not await pair.routes.apply(Change(create=rows[:1]))
    pair.node(f"ping -c1 -W2 {pod}")
    await pair.lossless(pair.routes, rows, pod)


async def test_go_flannels_route_gets_our_mark(pair: Pair) -> None:
    pair.node("ip route add 10.5.2.0/24 via 192.168.7.2 dev e0")
    pair.node("ping -c1 -W2 10.5.2.9")
    await pair.lossless(pair.routes, (ROUTES[0], replace(ROUTES[0], protocol=3)), "10.5.2.9")


async def vxlan(pair: Pair) -> None:
    pair.peer("ip link add flannel.1 address 02:00:00:00:00:02 type vxlan id 1 dev e0 dstport 8472 nolearning")
    pair.peer("ip link set flannel.1 up")
    pair.peer("ip addr add 10.5.2.0/32 dev flannel.1")
    pair.peer("ip neigh add 10.5.1.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent")
    pair.peer("bridge fdb add 02:00:00:00:00:01 dev flannel.1 dst 192.168.7.1 self permanent")
    pair.peer("ip route add 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink")
    assert not await pair.links.apply(Change(create=(LINK,)))
    pair.node("ip addr add 10.5.1.0/32 dev flannel.1")
    assert not await pair.neighbours.apply(Change(create=(NEIGHBOUR,)))
    assert not await pair.fdb.apply(Change(create=ENTRIES[:1]))
    assert not await pair.routes.apply(Change(create=(OVERLAY,)))
    pair.node("ping -c1 -W2 10.5.2.9")


@pytest.mark.parametrize("kind", ["routes", "neighbours", "fdb", "learning", "mtu"])
async def test_rows_of_a_vxlan_peer_are_replaced(pair: Pair, kind: str) -> None:
    await vxlan(pair)
    rows: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "routes": (pair.routes, (OVERLAY, replace(OVERLAY, protocol=3))),
        "neighbours": (pair.neighbours, (NEIGHBOUR,)),
        "fdb": (pair.fdb, ENTRIES),
        "learning": (pair.links, (replace(LINK, learning=True), LINK)),
        "mtu": (pair.links, (replace(LINK, mtu=1400), LINK)),
    }
    await pair.lossless(*rows[kind], "10.5.2.9")
