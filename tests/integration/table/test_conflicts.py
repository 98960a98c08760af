"""What stands where our rows are to be: adopted if it is the same, mended if it is ours, else named and left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from pyroute2 import IPRoute

from pyflannel.model.rows import Address, FdbEntry, Neighbour, Route, VxlanLink
from pyflannel.table.contract import Change, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.table.links import LinksTable
from pyflannel.table.rtables import AddressesTable, FdbTable, NeighboursTable, RoutesTable
from pyflannel.wire.netlink import Message, Request
from pyflannel.wire.rtnetlink import neighbours_dump
from support.netns import Netns, host, inside

pytestmark = pytest.mark.root

SCOPE = Scope(
    frozenset({"flannel.1", "flannel-v6.1"}), (ip_network("10.5.0.0/16"), ip_network("fd99::/48")), "pyflannel test"
)
LINK = VxlanLink("flannel.1", 1, 8472, "e0", ip_address("192.168.7.1"), "02:00:00:00:00:01", 1450)
LINK6 = VxlanLink("flannel-v6.1", 1, 8472, "e0", ip_address("fd00:7::1"), "02:00:00:00:00:61", 1430)
PLAIN = Route(ip_network("10.5.2.0/24"), "e0", ip_address("192.168.7.2"))
PLAIN6 = Route(ip_network("fd99:0:0:2::/64"), "e0", ip_address("fd00:7::2"))
ONLINK = Route(ip_network("10.5.2.0/24"), "flannel.1", ip_address("10.5.2.0"), onlink=True)


class Host:
    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        with inside(netns.name):
            self.kernel = Kernel()
        self.links = LinksTable(self.kernel, SCOPE)
        self.routes = RoutesTable(self.kernel, SCOPE)

    def routes_to(self, net: object) -> list[str]:
        family = "-6" if ":" in str(net) else "-4"
        return [" ".join(line.split()) for line in self.netns(f"ip {family} route show {net}").splitlines()]


@pytest.fixture
def node() -> Iterator[Host]:
    with host("c") as netns:
        found = Host(netns)
        yield found
        found.kernel.close()


@pytest.mark.parametrize("protocol", ["boot", "static", "bird"])
@pytest.mark.parametrize("row", [PLAIN, PLAIN6], ids=str)
async def test_creating_what_is_there_unmarked_adopts_it_in_place(node: Host, row: Route, protocol: str) -> None:
    node.netns(f"ip route add {row.destination} via {row.gateway} dev e0 proto {protocol}")
    assert await node.routes.apply(Change(create=(row,))) == []
    (shown,) = node.routes_to(row.destination)
    assert "proto 241" in shown
    assert await node.routes.dump(()) == [row]


@pytest.mark.parametrize("protocol", ["kernel", "ra"])
async def test_what_the_kernel_or_a_router_made_is_never_adopted(node: Host, protocol: str) -> None:
    node.netns(f"ip route add {PLAIN.destination} via {PLAIN.gateway} dev e0 proto {protocol}")
    assert await node.routes.dump((PLAIN,)) == []
    (failure,) = await node.routes.apply(Change(create=(PLAIN,)))
    assert "isn't ours" in str(failure.error)
    assert protocol in node.routes_to(PLAIN.destination)[0]


async def test_a_marked_route_that_nobody_knew_of_is_put_right(node: Host) -> None:
    node.netns(f"ip route add {PLAIN.destination} via 192.168.7.99 dev e0 proto 241")
    assert await node.routes.apply(Change(create=(PLAIN,))) == []
    assert await node.routes.dump(()) == [PLAIN]


async def test_many_conflicts_are_explained_by_one_look(node: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        replace(PLAIN, destination=ip_network((int(ip_address("10.5.0.0")) + (at << 4), 28)), protocol=3)
        for at in range(200)
    ]
    assert await node.routes.apply(Change(create=tuple(rows))) == []
    dumps: list[Request] = []
    dump = Kernel.dump

    def counted(self: Kernel, request: Request) -> list[Message]:
        dumps.append(request)
        return dump(self, request)

    monkeypatch.setattr(Kernel, "dump", counted)
    wanted = tuple(replace(row, gateway=ip_address("192.168.7.3"), protocol=241) for row in rows)
    failures = await node.routes.apply(Change(create=wanted))
    assert len(failures) == 200
    assert all("`ip route del 10.5." in str(failure.error) for failure in failures)
    assert len(dumps) <= 2  # links perhaps, and the routes once


async def test_an_appended_next_hop_is_noticed_and_taken_out_again(node: Host) -> None:
    """IPv6 makes one multipath route of the two: half of the peer's packets would go astray."""
    await node.routes.apply(Change(create=(PLAIN6,)))
    node.netns(f"ip route append {PLAIN6.destination} via fd00:7::3 dev e0")
    (found,) = await node.routes.dump((PLAIN6,))
    assert found != PLAIN6
    assert await node.routes.apply(Change(replace=(PLAIN6,))) == []
    assert node.routes_to(PLAIN6.destination) == [
        "fd99:0:0:2::/64 via fd00:7::2 dev e0 proto 241 metric 1024 pref medium"
    ]
    node.netns(f"ip route append {PLAIN6.destination} via fd00:7::3 dev e0")
    (found,) = await node.routes.dump(())
    assert await node.routes.apply(Change(remove=(found,))) == []
    assert node.routes_to(PLAIN6.destination) == []


async def test_somebody_elses_multipath_route_is_named(node: Host) -> None:
    node.netns(f"ip route add {PLAIN.destination} nexthop via 192.168.7.8 dev e0 nexthop via 192.168.7.9 dev e0")
    assert await node.routes.dump((PLAIN,)) == []
    (failure,) = await node.routes.apply(Change(create=(PLAIN,)))
    assert "`ip route del 10.5.2.0/24` makes room" in str(failure.error)
    node.netns("ip route del 10.5.2.0/24")
    assert await node.routes.apply(Change(create=(PLAIN,))) == []


async def test_routes_behind_ours_or_for_a_type_of_service_are_not_taken_for_it(node: Host) -> None:
    await node.links.apply(Change(create=(LINK,)))
    await node.routes.apply(Change(create=(ONLINK,)))
    node.netns("ip route append 10.5.2.0/24 via 10.5.2.9 dev flannel.1 onlink")
    node.netns("ip route add 10.5.2.0/24 tos 0x10 via 10.5.2.9 dev flannel.1 onlink")
    assert await node.routes.dump((ONLINK,)) == [ONLINK]


async def test_a_route_hidden_behind_somebody_elses_is_reported_not_overwritten(node: Host) -> None:
    await node.links.apply(Change(create=(LINK,)))
    await node.routes.apply(Change(create=(ONLINK,)))
    node.netns("ip route prepend 10.5.2.0/24 via 192.168.7.9 dev e0")
    assert await node.routes.dump((ONLINK,)) == []  # wanted, but not in force
    (failure,) = await node.routes.apply(Change(create=(ONLINK,)))
    assert "`ip route del 10.5.2.0/24 via 192.168.7.9 dev e0` makes room" in str(failure.error)
    assert len(node.routes_to("10.5.2.0/24")) == 2
    assert await node.routes.dump(()) == [ONLINK]  # not wanted: to be swept


@pytest.mark.parametrize("net", ["10.5.1.0/24", "fd99:0:0:1::/64"])
async def test_blackholes_beside_the_bridges_route(node: Host, net: str) -> None:
    hole = Route(ip_network(net), blackhole=True, metric=1 << 20)
    assert await node.routes.apply(Change(create=(hole,))) == []
    node.netns(f"ip route add {net} dev e0 metric 5")
    assert await node.routes.dump((hole,)) == [hole]
    (shown,) = [line for line in node.routes_to(net) if "1048576" in line]
    assert shown.startswith(f"blackhole {net} ")
    assert "proto 241" in shown
    assert await node.routes.apply(Change(replace=(hole,))) == []
    assert await node.routes.apply(Change(remove=(hole,))) == []
    assert await node.routes.dump(()) == []
    assert [line.split()[0] for line in node.routes_to(net)] == [net]


async def test_a_device_too_large_for_its_underlay_works_and_is_reported(node: Host) -> None:
    (failure,) = await node.links.apply(Change(create=(replace(LINK, mtu=1500),)))
    assert "e0's MTU 1500 allows 1450 at most" in str(failure.error)
    assert await node.links.dump(()) == [replace(LINK, mtu=1450)]
    node.netns("ip link set e0 mtu 1400")
    node.netns("ip link set flannel.1 mtu 1300 down")
    (failure,) = await node.links.apply(Change(replace=(LINK,)))
    assert "e0's MTU 1400 allows 1350 at most" in str(failure.error)
    assert await node.links.dump(()) == [replace(LINK, mtu=1350)]
    (failure,) = await node.links.apply(Change(create=(LINK6,)))
    assert "e0's MTU 1400 allows 1330 at most" in str(failure.error)


async def test_our_device_of_the_other_family_is_not_blamed(node: Host) -> None:
    assert await node.links.apply(Change(create=(LINK6,))) == []
    node.netns("ip link add vx9 type vxlan id 1 dev e0 local 192.168.7.1 dstport 8472")
    (failure,) = await node.links.apply(Change(create=(LINK,)))
    assert "vx9 uses VNI 1 on port 8472 already: `ip link del vx9`" in str(failure.error)


async def test_an_ipv6_address_can_be_a_source_at_once(node: Host) -> None:
    await node.links.apply(Change(create=(LINK6,)))
    row = Address("flannel-v6.1", ip_address("fd99:0:0:1::"), 128)
    assert await AddressesTable(node.kernel, SCOPE).apply(Change(create=(row,))) == []
    (shown,) = node.netns.json("ip -j -6 addr show dev flannel-v6.1 scope global")
    (address,) = [found for found in shown["addr_info"] if found.get("local") == "fd99:0:0:1::"]
    assert not address.get("tentative", False)


async def test_a_learnt_entry_becomes_ours_in_place(node: Host) -> None:
    await node.links.apply(Change(create=(LINK,)))
    node.netns("bridge fdb add 02:00:00:00:01:02 dev flannel.1 dst 192.168.7.66 self dynamic")
    node.netns("ip neigh add 10.5.2.0 lladdr 02:00:00:00:00:66 dev flannel.1 nud stale")
    fdb, neighbours = FdbTable(node.kernel, SCOPE), NeighboursTable(node.kernel, SCOPE)
    assert (await fdb.dump(()), await neighbours.dump(())) == ([], [])
    entry = FdbEntry("flannel.1", "02:00:00:00:01:02", ip_address("192.168.7.2"))
    neighbour = Neighbour("flannel.1", ip_address("10.5.2.0"), "02:00:00:00:01:02")
    assert await fdb.apply(Change(create=(entry,))) == []
    assert await neighbours.apply(Change(create=(neighbour,))) == []
    assert (await fdb.dump(()), await neighbours.dump(())) == ([entry], [neighbour])
    assert len(node.netns("bridge fdb show dev flannel.1").splitlines()) == 1


async def test_a_device_that_is_made_anew_has_a_new_index_and_rows_find_it(node: Host) -> None:
    await node.links.apply(Change(create=(LINK,)))
    await node.routes.apply(Change(create=(ONLINK,)))
    node.netns("ip link del flannel.1")  # no monitor runs: the index known here is a dead one
    (failure,) = await node.routes.apply(Change(create=(ONLINK,)))
    assert failure.error.errno is not None
    assert await node.links.apply(Change(create=(LINK,))) == []
    assert await node.routes.apply(Change(create=(ONLINK,))) == []


async def test_pyroute2_reads_what_we_wrote(node: Host) -> None:
    """An independent reader, beside `ip`."""
    await node.links.apply(Change(create=(LINK,)))
    await node.routes.apply(Change(create=(ONLINK, PLAIN6)))
    await FdbTable(node.kernel, SCOPE).apply(
        Change(create=(FdbEntry("flannel.1", "02:00:00:00:01:02", ip_address("192.168.7.2")),))
    )
    await asyncio.to_thread(_read_by_pyroute2, node.netns.name)  # it wants an event loop of its own


def _read_by_pyroute2(name: str) -> None:
    with inside(name), IPRoute() as ipr:
        (index,) = ipr.link_lookup(ifname="flannel.1")
        (link,) = ipr.get_links(index)
        data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        assert (data.get_attr("IFLA_VXLAN_ID"), data.get_attr("IFLA_VXLAN_PORT")) == (1, 8472)
        assert data.get_attr("IFLA_VXLAN_LOCAL") == "192.168.7.1"
        marked = {
            route.get_attr("RTA_DST"): (route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_OIF") == index)
            for route in ipr.get_routes()
            if route["proto"] == 241
        }
        assert marked == {"10.5.2.0": ("10.5.2.0", True), "fd99:0:0:2::": ("fd00:7::2", False)}
        (entry,) = list(ipr.fdb("dump", ifindex=index))
        assert (entry.get_attr("NDA_LLADDR"), entry.get_attr("NDA_DST")) == ("02:00:00:00:01:02", "192.168.7.2")


async def test_dumps_stay_whole_while_the_table_changes(node: Host) -> None:
    """Another socket's refusals and answers don't get mixed up with ours."""
    await node.links.apply(Change(create=(LINK,)))
    for at in range(3):
        bad = tuple(
            replace(ONLINK, destination=ip_network(f"10.5.{n}.0/24"), device="e0", onlink=False) for n in range(5)
        )
        failures = await node.routes.apply(Change(create=bad))
        assert len(failures) == 5, at
        assert node.kernel.dump(neighbours_dump(2)) is not None
        assert node.kernel.route_to(ip_address("192.168.7.2")) is not None
        assert node.kernel.route_to(ip_address("203.0.113.1")) is None
