"""TUN devices in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from pyflannel.model.rows import TunLink
from pyflannel.table.contract import Change, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.table.tuns import TunsTable
from support.netns import Netns, host, inside

pytestmark = pytest.mark.root

SCOPE = Scope(frozenset({"flannel0"}), (ip_network("10.5.0.0/16"),), "pyflannel test")
ROW = TunLink("flannel0", 1472)


@pytest.fixture
def node() -> Iterator[tuple[Netns, TunsTable]]:
    with host("tun") as netns, inside(netns.name):
        kernel = Kernel()
        yield netns, TunsTable(kernel, SCOPE)
        kernel.close()


async def test_it_is_made_persistent_and_marked(node: tuple[Netns, TunsTable]) -> None:
    netns, table = node
    assert await table.apply(Change(create=(ROW,))) == []
    assert await table.dump(()) == [ROW]
    shown = netns("ip -d link show flannel0")
    for word in ("mtu 1472", "alias pyflannel test", "tun type tun pi off", "persist on", "POINTOPOINT"):
        assert word in shown


async def test_it_is_mended_in_place(node: tuple[Netns, TunsTable]) -> None:
    netns, table = node
    await table.apply(Change(create=(ROW,)))
    before = netns("cat /sys/class/net/flannel0/ifindex")
    netns("ip link set flannel0 down mtu 1300")
    assert await table.dump(()) == [TunLink("flannel0", 1300, up=False)]
    assert await table.apply(Change(replace=(ROW,))) == []
    assert await table.dump(()) == [ROW]
    assert netns("cat /sys/class/net/flannel0/ifindex") == before


async def test_it_goes_and_others_stay(node: tuple[Netns, TunsTable]) -> None:
    netns, table = node
    netns("ip tuntap add vpn0 mode tun")
    await table.apply(Change(create=(ROW,)))
    assert await table.apply(Change(remove=(ROW, TunLink("flannel7", 1472)))) == []
    assert await table.dump(()) == []
    assert "vpn0" in netns("ip link")
    assert "flannel0" not in netns("ip link")


async def test_anothers_device_of_this_name_is_named_and_left(node: tuple[Netns, TunsTable]) -> None:
    netns, table = node
    netns("ip tuntap add flannel0 mode tun")
    assert await table.dump(()) == [], "without our mark it isn't ours"
    (failure,) = await table.apply(Change(create=(ROW,)))
    assert "is there, and not ours: `ip link del flannel0`" in str(failure.error)
    assert "alias" not in netns("ip link show flannel0")
