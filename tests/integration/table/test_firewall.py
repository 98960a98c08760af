"""The firewall's table over both real managers."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

import pytest

from pyflannel.model.errors import ConfigError
from pyflannel.model.lease import Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.rows import Chain, Family
from pyflannel.reconcile.diff import diff
from pyflannel.rules.traffic import Traffic, chains
from pyflannel.table.contract import Change, Touched
from pyflannel.table.firewall import FirewallMonitor, FirewallTable, choose_manager
from pyflannel.table.iptables import Iptables
from pyflannel.table.nftables import Nftables
from support.netns import Netns, inside, namespace

pytestmark = pytest.mark.root

CONFIG = NetworkConfig.parse(
    '{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56","NoMasquerade":["192.168.0.0/16"]}'
)
OWN = Subnets(IPv4Network("10.42.1.0/24"), IPv6Network("2001:cafe:42:1::/64"))
Manager = Literal["nftables", "iptables"]
MANAGERS: tuple[Manager, ...] = ("nftables", "iptables")


@pytest.fixture
def netns() -> Iterator[Netns]:
    with namespace("fw") as made:
        yield made


def table(netns: Netns, manager: Manager) -> FirewallTable:
    return FirewallTable(manager, ("ip", "netns", "exec", netns.name))


def wanted(manager: Manager) -> tuple[Chain, ...]:
    return chains(CONFIG, OWN, Traffic(masquerade=True), manager)


async def reconcile(found: FirewallTable, rows: tuple[Chain, ...]) -> Change[Chain]:
    """Bring the table to *rows*; what there was to do."""
    actual: dict[Hashable, Chain] = {row.key: row for row in await found.dump(rows)}
    change: Change[Chain] = diff({row.key: row for row in rows}, actual)
    assert not await found.apply(change)
    return change


DISTURBANCES = {
    "nftables": [
        "nft flush ruleset",
        "nft flush chain ip flannel-ipv4 postrtg",
        "nft delete table ip6 flannel-ipv6",
        "nft insert rule ip flannel-ipv4 forward ip saddr 1.2.3.4 drop",
        "nft add rule ip flannel-ipv4 forward ip saddr 1.2.3.4 accept",
    ],
    "iptables": [
        "iptables -t nat -F",
        "iptables -F FORWARD",
        "iptables -t nat -F FLANNEL-POSTRTG",
        "ip6tables -t nat -D FLANNEL-POSTRTG 3",
        "iptables -I FLANNEL-FWD -s 1.2.3.4 -j DROP",
        "iptables -A FORWARD -m comment --comment flanneld\\040forward -j FLANNEL-FWD",
    ],
}


@pytest.mark.parametrize(("manager", "command"), [(m, c) for m in MANAGERS for c in DISTURBANCES[m]])
async def test_every_disturbance_shows_and_is_mended(netns: Netns, manager: Manager, command: str) -> None:
    found, rows = table(netns, manager), wanted(manager)
    assert len((await reconcile(found, rows)).create) == 4
    assert not await reconcile(found, rows), "what is right is not written"
    netns(command)
    assert await reconcile(found, rows), command
    assert not await reconcile(found, rows)


@pytest.mark.parametrize("manager", MANAGERS)
async def test_switching_sweeps_the_other(netns: Netns, manager: Manager) -> None:
    other: Manager = "iptables" if manager == "nftables" else "nftables"
    netns("nft add table ip mine")
    netns("iptables -A FORWARD -s 1.2.3.4 -j ACCEPT")
    await reconcile(table(netns, other), wanted(other))
    found = table(netns, manager)
    change = await reconcile(found, wanted(manager))
    assert {row.manager for row in change.remove} == {other}
    left = netns("nft list ruleset") + netns("iptables-save") + netns("ip6tables-save")
    assert ("FLANNEL" in left) == (manager == "iptables")
    assert ("flannel-ipv4" in left) == (manager == "nftables")
    assert "table ip mine" in left
    assert "-s 1.2.3.4/32 -j ACCEPT" in left
    assert not await reconcile(found, wanted(manager))


async def test_a_chain_of_somebody_else_in_our_table_stays(netns: Netns) -> None:
    found = table(netns, "nftables")
    await reconcile(found, wanted("nftables"))
    netns("nft add chain ip flannel-ipv4 mine")
    await reconcile(found, ())
    assert netns("nft list ruleset").split() == [
        "table",
        "ip",
        "flannel-ipv4",
        "{",
        "comment",
        '"rules',
        "for",
        'flannel-ipv4"',
        "chain",
        "mine",
        "{",
        "}",
        "}",
    ]


async def test_half_cleaned_leftovers_of_go_flannel_are_removed(netns: Netns) -> None:
    """Its switch to nftables leaves an empty chain with its jump, and the whole of FLANNEL-FWD."""
    netns("iptables -t nat -N FLANNEL-POSTRTG")
    netns("iptables -t nat -A POSTROUTING -m comment --comment x -j FLANNEL-POSTRTG")
    netns("iptables -t nat -D POSTROUTING -m comment --comment x -j FLANNEL-POSTRTG")
    netns("iptables -N FLANNEL-FWD")
    netns("iptables -A FLANNEL-FWD -s 10.42.0.0/16 -j ACCEPT")
    await reconcile(table(netns, "nftables"), wanted("nftables"))
    assert "FLANNEL" not in netns("iptables-save")


async def test_disturbances_are_told(netns: Netns) -> None:
    with inside(netns.name):
        monitor = FirewallMonitor()
    seen: list[Touched] = []
    task = asyncio.create_task(monitor.watch(seen.append))
    await asyncio.sleep(0.05)
    assert seen == [Touched(Chain)]
    seen.clear()
    netns("nft add table ip other")
    await asyncio.sleep(0.05)
    assert seen == []
    await reconcile(table(netns, "nftables"), wanted("nftables"))
    seen.clear()
    await asyncio.sleep(0.05)
    seen.clear()
    netns("nft flush ruleset")
    async with asyncio.timeout(2):
        while not seen:
            await asyncio.sleep(0.005)
    task.cancel()
    monitor.close()


async def test_which_manager(netns: Netns) -> None:
    prefix = ("ip", "netns", "exec", netns.name)
    works, missing, ipt = Nftables(prefix), Nftables(("false",)), Iptables(prefix)
    assert await choose_manager(None, (4, 6), works, ipt) == "nftables"
    assert await choose_manager(None, (4, 6), works, Iptables(("env", "PATH=/nowhere"))) == "nftables"
    assert await choose_manager(False, (4, 6), works, ipt) == "iptables"
    assert await choose_manager(None, (4, 6), missing, ipt) == "iptables"
    with pytest.raises(ConfigError, match="EnableNFTables is true"):
        await choose_manager(True, (4, 6), missing, ipt)


@pytest.mark.parametrize(
    ("commands", "family"),
    [
        (["iptables -P FORWARD DROP"], 4),
        (["ip6tables -P FORWARD DROP"], 6),
        (["iptables -t nat -N FLANNEL-POSTRTG"], 4),
        (["ip6tables -N FLANNEL-FWD", "ip6tables -A FORWARD -j FLANNEL-FWD"], 6),
    ],
)
async def test_iptables_is_kept_where_it_has_a_say(netns: Netns, commands: list[str], family: Family) -> None:
    prefix = ("ip", "netns", "exec", netns.name)
    for command in commands:
        netns(command)
    other: Family = 6 if family == 4 else 4
    nft, ipt = Nftables(prefix), Iptables(prefix)
    assert await choose_manager(None, (family,), nft, ipt) == "iptables"
    assert await choose_manager(None, (other,), nft, ipt) == "nftables", "a family that the cluster hasn't"
    assert await choose_manager(True, (family,), nft, ipt) == "nftables", "the config's word goes first"


async def test_missing_programs_are_named(netns: Netns) -> None:
    found = FirewallTable("iptables", ("env", "PATH=/nowhere"))
    failures = await found.apply(Change(create=wanted("iptables")))
    assert len(failures) == 4
