"""The monitor: what it must hear, and what must cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
import pytest_asyncio

from pyflannel.model.rows import FdbEntry, Neighbour, Route, VxlanLink
from pyflannel.table import monitor as monitor_module
from pyflannel.table.contract import Change, Scope, Touched
from pyflannel.table.kernel import Kernel
from pyflannel.table.links import LinksTable
from pyflannel.table.monitor import Monitor
from pyflannel.table.rtables import FdbTable, NeighboursTable, RoutesTable
from support.netns import Netns, host, inside

pytestmark = pytest.mark.root

SCOPE = Scope(frozenset({"flannel.1"}), (ip_network("10.5.0.0/16"), ip_network("fd99::/48")), "pyflannel test")
LINK = VxlanLink("flannel.1", 1, 8472, "e0", ip_address("192.168.7.1"), "02:00:00:00:00:01", 1450)
PLAIN = Route(ip_network("10.5.2.0/24"), "e0", ip_address("192.168.7.2"))
PLAIN6 = Route(ip_network("fd99:0:0:2::/64"), "e0", ip_address("fd00:7::2"))


class Watched:
    """A namespace with a kernel, tables, and a monitor that runs."""

    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        self.seen: list[Touched] = []
        self.underlay = 0
        with inside(netns.name):
            self.kernel = Kernel()
            self.monitor = Monitor(self.kernel, SCOPE, self._on_underlay)
        self.routes = RoutesTable(self.kernel, SCOPE)

    def _on_underlay(self) -> None:
        self.underlay += 1

    def forget(self) -> None:
        self.seen.clear()
        self.underlay = 0

    async def quiet(self) -> None:
        """Wait until all that was announced has been heard: a mark of our own comes through after it."""
        probe = f"fd99:0:0:f{len(self.seen) & 0xFFF:03x}::/64"
        self.netns(f"ip -6 route add blackhole {probe} proto 241")
        await self._heard(probe, present=True)
        self.netns(f"ip -6 route del blackhole {probe} proto 241")
        await self._heard(probe, present=False)
        self.seen[:] = [what for what in self.seen if not (what.row and probe in str(what.row))]

    async def _heard(self, probe: str, present: bool) -> None:
        async with asyncio.timeout(5):
            while not any(what.row and probe in str(what.row) and what.present == present for what in self.seen):
                await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Watched]:
    with host("m") as netns:
        watched = Watched(netns)
        await LinksTable(watched.kernel, SCOPE).apply(Change(create=(LINK,)))
        task = asyncio.create_task(watched.monitor.watch(watched.seen.append))
        async with asyncio.timeout(5):
            while not watched.seen:
                await asyncio.sleep(0.005)
        await watched.quiet()
        watched.forget()
        yield watched
        task.cancel()
        watched.monitor.close()
        watched.kernel.close()


async def test_a_pods_link_that_comes_and_goes_costs_nothing(node: Watched) -> None:
    node.netns("ip link add cni0 address 02:00:00:00:0c:01 type bridge")  # as the CNI plugin pins it
    node.netns("ip link set cni0 up")
    node.netns("ip addr add 10.5.1.1/24 dev cni0")
    await node.quiet()
    node.forget()
    for command in (
        "ip link add veth1 type veth peer name pod1",
        "ip link set veth1 up",
        "ip link set pod1 up",
        "ip link set veth1 master cni0",
        "ip -6 addr add fe80::77/64 dev veth1 nodad",
        "ip link del veth1",
    ):
        node.netns(command)
    await node.quiet()
    assert node.seen == []
    assert node.underlay == 0


@pytest.mark.parametrize("command", ["ip link set e0 down", "ip link del e0", "ip link set e0 name e9"])
async def test_a_device_that_carries_our_routes_is_watched(node: Watched, command: str) -> None:
    """Plain routes go with their device, unannounced; nothing but the device tells."""
    await node.routes.apply(Change(create=(PLAIN,)))
    if "name" in command:
        node.netns("ip link set e0 down")
    await node.quiet()
    node.forget()
    node.netns(command)
    await node.quiet()
    assert Touched() in node.seen
    assert node.underlay


async def test_a_device_that_we_wait_for_is_noticed_when_it_comes(node: Watched) -> None:
    (failure,) = await node.routes.apply(Change(create=(replace(PLAIN, device="late0"),)))
    assert "there is no device late0" in str(failure.error)
    await node.quiet()
    node.forget()
    node.netns("ip link add late0 type veth peer name late1")
    await node.quiet()
    assert Touched() in node.seen
    node.forget()
    node.netns("ip link set late0 up")
    await node.quiet()
    assert Touched() in node.seen


@pytest.mark.parametrize(
    "command",
    [
        "ip addr add 192.168.8.1/24 dev far0",
        "ip addr del 192.168.7.1/24 dev e0",
        "ip route add default via 192.168.7.254",
        "ip link set e0 mtu 1400",
    ],
)
async def test_what_the_choice_of_the_underlay_rests_on_is_told(node: Watched, command: str) -> None:
    node.netns(command)
    await node.quiet()
    assert node.underlay


async def test_a_route_put_over_ours_is_noticed_whatever_its_form(node: Watched) -> None:
    await node.routes.apply(Change(create=(PLAIN, PLAIN6)))
    for command in (
        "ip route replace 10.5.2.0/24 via 192.168.7.9 dev e0",
        "ip -6 route append fd99:0:0:2::/64 via fd00:7::3 dev e0",
        "ip route prepend 10.5.2.0/24 nexthop via 192.168.7.8 dev e0 nexthop via 192.168.7.7 dev e0",
        "ip route prepend blackhole 10.5.2.0/24",
    ):
        await node.quiet()
        node.forget()
        node.netns(command)
        await node.quiet()
        assert any(what.row_type in (Route, None) for what in node.seen), command


async def test_thousands_of_our_own_writes_wake_nobody(node: Watched) -> None:
    """But for FDB entries, whose notifications don't tell who wrote them: each comes as the row that it is."""
    count = 5_000
    bases = [ip_address(int(ip_address("10.5.0.0")) + at) for at in range(count)]
    macs = [(0x02_00_00_01_00_00 + at).to_bytes(6, "big").hex(":") for at in range(count)]
    entries = [FdbEntry("flannel.1", mac, ip_address("192.168.7.2")) for mac in macs]
    await NeighboursTable(node.kernel, SCOPE).apply(
        Change(create=tuple(Neighbour("flannel.1", base, mac) for base, mac in zip(bases, macs, strict=True)))
    )
    await FdbTable(node.kernel, SCOPE).apply(Change(create=tuple(entries)))
    await node.routes.apply(
        Change(create=tuple(replace(PLAIN, destination=ip_network(f"{base}/32")) for base in bases))
    )
    await node.quiet()
    assert [what.row for what in node.seen] == entries
    assert all(what.present for what in node.seen)
    assert node.underlay == 0


async def test_lost_notifications_make_everything_be_read(node: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that overflows for real: what was announced meanwhile is known afterwards all the same."""
    monkeypatch.setattr(monitor_module, "BUFFER_BYTES", 4096)
    seen: list[Touched] = []
    with inside(node.netns.name):
        small = Monitor(node.kernel, SCOPE)
    task = asyncio.create_task(small.watch(seen.append))
    await asyncio.sleep(0)
    seen.clear()
    # Without an await in between nothing is read, and the buffer fills.
    for at in range(40):
        node.netns(f"ip link add gone{at} type veth peer name peer{at}")
    node.netns("ip link add new0 type veth peer name new1")
    async with asyncio.timeout(5):
        while Touched() not in seen:
            await asyncio.sleep(0.005)
    assert "new0" in small._names.index
    seen.clear()
    node.netns("bridge fdb add 02:00:00:00:01:02 dev flannel.1 dst 192.168.7.2 self permanent")
    async with asyncio.timeout(5):
        while not any(isinstance(what.row, FdbEntry) for what in seen):
            await asyncio.sleep(0.005)
    task.cancel()
    small.close()
