"""The kernel's tables, in a real namespace, read back by `ip`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pyflannel.model.node import IPNetwork
from pyflannel.model.rows import Address, FdbEntry, Neighbour, Route, Sysctl, VxlanLink
from pyflannel.table.contract import Change, Scope, Touched
from pyflannel.table.kernel import Kernel
from pyflannel.table.links import LinksTable
from pyflannel.table.monitor import Monitor
from pyflannel.table.rtables import AddressesTable, FdbTable, NeighboursTable, RoutesTable
from pyflannel.table.sysctls import SysctlsTable
from support.netns import Netns, host, inside

pytestmark = pytest.mark.root

NETWORKS: tuple[IPNetwork, ...] = (ip_network("10.5.0.0/16"), ip_network("fd99::/48"))
SCOPE = Scope(frozenset({"flannel.1", "flannel-v6.1"}), NETWORKS, "pyflannel test")
LINK = VxlanLink("flannel.1", 1, 8472, "e0", ip_address("192.168.7.1"), "02:00:00:00:00:01", 1450)
LINK6 = VxlanLink("flannel-v6.1", 1, 8472, "e0", ip_address("fd00:7::1"), "02:00:00:00:00:61", 1430)


class Host:
    """A namespace, its kernel and its tables."""

    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        with inside(netns.name):
            self.kernel = Kernel()
        self.links = LinksTable(self.kernel, SCOPE)
        self.addresses = AddressesTable(self.kernel, SCOPE)
        self.routes = RoutesTable(self.kernel, SCOPE)
        self.neighbours = NeighboursTable(self.kernel, SCOPE)
        self.fdb = FdbTable(self.kernel, SCOPE)

    def show(self, command: str) -> list[str]:
        return [" ".join(line.split()) for line in self.netns(command).splitlines()]


@pytest.fixture
def node() -> Iterator[Host]:
    with host() as netns:
        found = Host(netns)
        yield found
        found.kernel.close()


async def make(node: Host, *links: VxlanLink) -> None:
    assert not await node.links.apply(Change(create=links))


def peer(number: int) -> tuple[Route, Neighbour, FdbEntry]:
    base, mac = ip_address(f"10.5.{number}.0"), f"02:00:00:00:01:{number:02x}"
    return (
        Route(ip_network(f"10.5.{number}.0/24"), "flannel.1", base, onlink=True),
        Neighbour("flannel.1", base, mac),
        FdbEntry("flannel.1", mac, ip_address(f"192.168.7.{number}")),
    )


async def test_a_vxlan_device_is_flannels(node: Host) -> None:
    await make(node, LINK, LINK6)
    assert await node.links.dump(()) == [LINK, LINK6]
    (shown,) = node.netns.json("ip -j -d link show flannel.1")
    data = shown["linkinfo"]["info_data"]
    assert (shown["mtu"], shown["address"], shown["ifalias"]) == (1450, LINK.mac, SCOPE.mark)
    assert "UP" in shown["flags"]
    assert (data["id"], data["link"], data["local"], data["port"]) == (1, "e0", "192.168.7.1", 8472)
    assert (data["learning"], data["udp_csum"], data["ttl"]) == (False, True, 0)
    assert shown.get("txqlen", 0) == 0
    (shown,) = node.netns.json("ip -j -d link show flannel-v6.1")
    assert shown["linkinfo"]["info_data"]["local6"] == "fd00:7::1"


@pytest.mark.parametrize(
    "changed", [{"mtu": 1400}, {"mac": "02:00:00:00:00:99"}, {"learning": True}, {"up": False}], ids=str
)
async def test_what_the_kernel_can_change_is_changed_in_place(node: Host, changed: dict[str, Any]) -> None:
    await make(node, LINK)
    (before,) = node.netns.json("ip -j link show flannel.1")
    wanted = replace(LINK, **changed)
    assert not await node.links.apply(Change(replace=(wanted,)))
    (after,) = node.netns.json("ip -j link show flannel.1")
    assert await node.links.dump(()) == [wanted]
    assert before["ifindex"] == after["ifindex"]


@pytest.mark.parametrize("changed", [{"vni": 7}, {"port": 4789}, {"local": ip_address("192.168.7.9")}, {"gbp": True}])
async def test_what_it_cannot_is_made_anew(node: Host, changed: dict[str, Any]) -> None:
    await make(node, LINK)
    wanted = replace(LINK, **changed)
    assert not await node.links.apply(Change(replace=(wanted,)))
    assert await node.links.dump(()) == [wanted]


async def test_go_flannels_device_is_kept_and_marked(node: Host) -> None:
    node.netns(
        f"ip link add flannel.1 address {LINK.mac} mtu 1450 type vxlan id 1 dev e0 local 192.168.7.1 "
        "dstport 8472 nolearning"
    )
    node.netns("ip link set flannel.1 up")
    assert await node.links.dump(()) == [LINK]
    await node.links.mark()
    (shown,) = node.netns.json("ip -j link show flannel.1")
    assert shown["ifalias"] == SCOPE.mark


async def test_devices_of_others_are_left_alone(node: Host) -> None:
    node.netns("ip link add vx9 type vxlan id 9 dev e0 dstport 4789")
    node.netns("ip link add flannel.1 type bridge")
    assert await node.links.dump(()) == []
    (failure,) = await node.links.apply(Change(create=(LINK,)))
    assert "a bridge device of this name is there, and not ours: `ip link del flannel.1`" in str(failure.error)
    (failure,) = await node.links.apply(Change(create=(replace(LINK, name="flannel.9", vni=9, port=4789),)))
    assert "vx9 uses VNI 9 on port 4789 already" in str(failure.error)
    assert {"vx9", "flannel.1"} <= {link["ifname"] for link in node.netns.json("ip -j link")}


async def test_a_marked_device_is_ours_whatever_its_name(node: Host) -> None:
    await make(node, LINK)
    node.netns("ip link set flannel.1 down")
    node.netns("ip link set flannel.1 name old.1")
    (row,) = await node.links.dump(())
    assert row.name == "old.1"
    assert not await node.links.apply(Change(remove=(row,)))
    assert not node.netns("ip link show old.1", check=False)


async def test_rows_of_a_peer_are_as_ip_shows_them(node: Host) -> None:
    await make(node, LINK, LINK6)
    route, neighbour, entry = peer(2)
    base6 = ip_address("fd99:0:0:2::")
    six = (
        Route(ip_network("fd99:0:0:2::/64"), "flannel-v6.1", base6, onlink=True),
        Neighbour("flannel-v6.1", base6, "02:00:00:00:00:66"),
        FdbEntry("flannel-v6.1", "02:00:00:00:00:66", ip_address("fd00:7::2")),
    )
    assert not await node.neighbours.apply(Change(create=(neighbour, six[1])))
    assert not await node.fdb.apply(Change(create=(entry, six[2])))
    assert not await node.routes.apply(Change(create=(route, six[0])))
    assert "10.5.2.0/24 via 10.5.2.0 dev flannel.1 proto 241 onlink" in node.show("ip route")
    assert "fd99:0:0:2::/64 via fd99:0:0:2:: dev flannel-v6.1 proto 241 metric 1024 onlink pref medium" in node.show(
        "ip -6 route"
    )
    assert "10.5.2.0 lladdr 02:00:00:00:01:02 PERMANENT" in node.show("ip neigh show dev flannel.1")
    assert "02:00:00:00:01:02 dst 192.168.7.2 self permanent" in node.show("bridge fdb show dev flannel.1")
    assert "02:00:00:00:00:66 dst fd00:7::2 self permanent" in node.show("bridge fdb show dev flannel-v6.1")
    assert set(await node.routes.dump(())) == {route, six[0]}
    assert set(await node.neighbours.dump(())) == {neighbour, six[1]}
    assert set(await node.fdb.dump(())) == {entry, six[2]}
    for table, rows in (
        (node.routes, (route, six[0])),
        (node.neighbours, (neighbour, six[1])),
        (node.fdb, (entry, six[2])),
    ):
        await gone(table, rows)


async def gone(table: Any, rows: tuple[Any, ...]) -> None:
    assert not await table.apply(Change(remove=rows))
    assert not await table.apply(Change(remove=rows))  # absent: fine
    assert await table.dump(()) == []


async def test_a_moved_peer_has_one_destination(node: Host) -> None:
    await make(node, LINK)
    _, _, entry = peer(2)
    moved = replace(entry, remote=ip_address("192.168.7.99"))
    await node.fdb.apply(Change(create=(entry,)))
    assert not await node.fdb.apply(Change(replace=(moved,)))
    assert await node.fdb.dump(()) == [moved]
    assert sum(entry.mac in line for line in node.show("bridge fdb show dev flannel.1")) == 1


async def test_a_route_changes_in_place(node: Host) -> None:
    await make(node, LINK)
    before = Route(ip_network("fd99:0:0:2::/64"), "e0", ip_address("fd00:7::2"))
    after = replace(before, gateway=ip_address("fd00:7::3"))
    await node.routes.apply(Change(create=(before,)))
    assert not await node.routes.apply(Change(replace=(after,)))
    assert await node.routes.dump(()) == [after]
    assert len([line for line in node.show("ip -6 route") if line.startswith("fd99")]) == 1


async def test_somebody_elses_route_is_not_overwritten(node: Host) -> None:
    node.netns("ip route add 10.5.2.0/24 via 192.168.7.77 dev e0 proto static")
    row = Route(ip_network("10.5.2.0/24"), "e0", ip_address("192.168.7.2"))
    assert await node.routes.dump((row,)) == []
    (failure,) = await node.routes.apply(Change(create=(row,)))
    assert "`ip route del 10.5.2.0/24 via 192.168.7.77 dev e0` makes room (protocol 4)" in str(failure.error)
    assert "10.5.2.0/24 via 192.168.7.77 dev e0 proto static" in node.show("ip route")


async def test_go_flannels_equal_route_is_adopted_in_place(node: Host) -> None:
    node.netns("ip route add 10.5.2.0/24 via 192.168.7.2 dev e0")
    row = Route(ip_network("10.5.2.0/24"), "e0", ip_address("192.168.7.2"))
    assert await node.routes.dump((row,)) == [replace(row, protocol=3)]
    assert not await node.routes.apply(Change(replace=(row,)))
    assert await node.routes.dump((row,)) == [row]


async def test_foreign_rows_are_not_seen_as_ours(node: Host) -> None:
    await make(node, LINK)
    node.netns("ip route add 172.30.0.0/16 dev flannel.1")
    node.netns("ip route add 10.5.9.0/24 via 192.168.7.9")  # not on our device, not marked
    node.netns("ip route add 10.66.0.0/16 via 192.168.7.9 proto 241")  # another daemon's network
    node.netns("ip addr add 172.30.0.1/32 dev flannel.1")
    node.netns("ip addr add 10.5.1.0/32 dev flannel.1")
    node.netns("ip neigh add 192.168.7.50 lladdr 02:00:00:00:00:50 dev e0 nud permanent")
    assert await node.routes.dump(()) == []
    assert await node.addresses.dump(()) == [Address("flannel.1", ip_address("10.5.1.0"), 32)]
    assert await node.neighbours.dump(()) == []


async def test_one_bad_row_fails_alone_among_thousands(node: Host) -> None:
    await make(node, LINK)
    via = ip_address("10.5.0.1")
    rows = [
        Route(ip_network((int(ip_address("10.5.0.0")) + (at << 4), 28)), "flannel.1", via, onlink=True)
        for at in range(4000)
    ]
    bad = Route(ip_network("10.5.255.0/24"), "e0", ip_address("203.0.113.1"))
    rows.insert(1234, bad)
    (failure,) = await node.routes.apply(Change(create=tuple(rows)))
    assert failure.row == bad
    assert "Network is unreachable" in str(failure.error) or "invalid gateway" in str(failure.error)
    assert len(await node.routes.dump(())) == 4000


async def test_rows_of_a_missing_device_fail_with_its_name(node: Host) -> None:
    route, neighbour, entry = peer(2)
    pairs: list[tuple[Any, Any]] = [(node.routes, route), (node.neighbours, neighbour), (node.fdb, entry)]
    for table, row in pairs:
        (failure,) = await table.apply(Change(create=(row,)))
        assert "there is no device flannel.1" in str(failure.error)
        assert not await table.apply(Change(remove=(row,)))


async def test_sysctls(node: Host) -> None:
    await make(node, LINK)
    row = Sysctl("net/ipv6/conf/flannel.1/accept_ra", "0")
    with inside(node.netns.name):
        table = SysctlsTable()
        assert await table.dump((row,)) != [row]
        assert not await table.apply(Change(create=(row,)))
        assert await table.dump((row,)) == [row]
        (failure,) = await table.apply(Change(create=(Sysctl("net/ipv6/conf/none/accept_ra", "0"),)))
    assert "No such file" in str(failure.error)


DISTURBANCES = {
    "ip route del 10.5.2.0/24": Touched(Route, peer(2)[0], present=False),
    "ip neigh del 10.5.2.0 dev flannel.1": Touched(Neighbour),
    "bridge fdb del 02:00:00:00:01:02 dev flannel.1 dst 192.168.7.2 self": Touched(FdbEntry, peer(2)[2], present=False),
    "ip addr del 10.5.1.0/32 dev flannel.1": Touched(
        Address, Address("flannel.1", ip_address("10.5.1.0"), 32), present=False
    ),
    "ip link set flannel.1 mtu 1300": Touched(VxlanLink),
    "ip link set flannel.1 address 02:00:00:00:00:99": Touched(VxlanLink),
    "ip link set flannel.1 down": Touched(),
    "ip link del flannel.1": Touched(),
    "ip link set e0 down": Touched(),
}


@pytest.mark.parametrize("command", DISTURBANCES)
async def test_every_disturbance_is_noticed_and_our_own_writes_are_not(node: Host, command: str) -> None:
    seen: list[Touched] = []
    underlay: list[int] = []
    await make(node, LINK)
    await node.addresses.apply(Change(create=(Address("flannel.1", ip_address("10.5.1.0"), 32),)))
    with inside(node.netns.name):
        monitor = Monitor(node.kernel, SCOPE, lambda: underlay.append(1))
    task = asyncio.create_task(monitor.watch(seen.append))
    await asyncio.sleep(0.05)
    assert seen == [Touched()]
    seen.clear()
    route, neighbour, entry = peer(2)
    await node.neighbours.apply(Change(create=(neighbour,)))
    await node.routes.apply(Change(create=(route,)))
    await node.fdb.apply(Change(create=(entry,)))
    await asyncio.sleep(0.05)
    assert set(seen) <= {Touched(FdbEntry, entry)}  # its notification doesn't say who wrote it
    seen.clear()
    node.netns(command)
    async with asyncio.timeout(2):
        while DISTURBANCES[command] not in seen:
            await asyncio.sleep(0.005)
    assert underlay or " e0 " not in command
    task.cancel()
    monitor.close()
