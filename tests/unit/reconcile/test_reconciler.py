"""The reconciler against tables in memory: what is written, what is not, in which order, and what is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest

from pyflannel.model.lease import Subnets
from pyflannel.model.rows import FdbEntry, Neighbour, Route, Row, VxlanLink
from pyflannel.reconcile.reconciler import Reconciler
from pyflannel.table.contract import Change, Touched
from support.kernel import FakeTable

LINK = VxlanLink("flannel.1", 1, 8472, "e0", ip_address("192.168.7.1"), "02:00:00:00:00:01", 1450)


def peer(number: int, mac: str = "") -> tuple[Subnets, tuple[Row, ...]]:
    net = ip_network(f"10.5.{number}.0/24")
    assert isinstance(net, IPv4Network)
    lladdr = mac or f"02:00:00:00:01:{number:02x}"
    return Subnets(net), (
        Route(net, "flannel.1", net.network_address, onlink=True),
        Neighbour("flannel.1", net.network_address, lladdr),
        FdbEntry("flannel.1", lladdr, ip_address(f"192.168.7.{number}")),
    )


class Lab:
    """A reconciler over four tables in memory, and its log of effects."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.tables: dict[type[Any], FakeTable] = {
            kind: FakeTable(kind, self.log) for kind in (Route, FdbEntry, Neighbour, VxlanLink)
        }
        self.reconciler = Reconciler(list(self.tables.values()))

    def present(self) -> set[Row]:
        return {row for table in self.tables.values() for row in table.rows.values()}

    def disturb(self, row: Row, now: Row | None = None) -> None:
        """Somebody removes *row*, or puts *now* in its place; the monitor tells."""
        table = self.tables[type(row)]
        if now is None:
            del table.rows[row.key]
        else:
            table.rows[row.key] = now
        self.reconciler.touched(Touched(type(row), now or row, now is not None))


@asynccontextmanager
async def running(lab: Lab) -> AsyncIterator[Reconciler]:
    task = asyncio.create_task(lab.reconciler.run())
    try:
        yield lab.reconciler
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_referents_come_first_and_go_last() -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.reconciler.want("this node", (LINK,))
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        route, neighbour, entry = rows
        assert lab.log == [f"+ {LINK}", f"+ {neighbour}", f"+ {entry}", f"+ {route}"]
        assert reconciler.in_sync()
        lab.log.clear()
        reconciler.drop(owner)
        await reconciler.settle()
        assert lab.log == [f"- {route}", f"- {entry}", f"- {neighbour}"]


async def test_nothing_unknown_is_removed_before_a_snapshot() -> None:
    lab = Lab()
    stale_owner, stale = peer(9)
    for row in stale:
        lab.tables[type(row)].rows[row.key] = row
    owner, rows = peer(2)
    lab.reconciler.want(owner, rows)
    async with running(lab) as reconciler:
        await reconciler.settle()
        assert lab.present() == {*rows, *stale}
        reconciler.drop(owner)  # asked for in so many words: that may go
        await reconciler.settle()
        assert lab.present() == set(stale)
        reconciler.sweep({owner: rows})
        await reconciler.settle()
        assert lab.present() == set(rows)
        assert not reconciler.journal.entries  # an earlier run's leftovers are nobody's disturbance
    assert stale_owner != owner


async def test_what_is_right_is_not_written() -> None:
    lab = Lab()
    owner, rows = peer(2)
    for row in rows:
        lab.tables[type(row)].rows[row.key] = row
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
    assert lab.log == []


async def test_an_event_dumps_no_table() -> None:
    lab = Lab()
    plan = dict(peer(number) for number in range(2, 200))
    lab.reconciler.sweep(plan)
    async with running(lab) as reconciler:
        await reconciler.settle()
        dumps = {table.dumps for table in lab.tables.values()}
        owner, rows = peer(201)
        reconciler.want(owner, rows)
        await reconciler.settle()
        assert {table.dumps for table in lab.tables.values()} == dumps
        assert set(rows) <= lab.present()


async def test_a_changed_mac_leaves_no_old_entry() -> None:
    lab = Lab()
    owner, before = peer(2)
    _, after = peer(2, mac="02:aa:00:00:00:02")
    lab.reconciler.sweep({owner: before})
    async with running(lab) as reconciler:
        await reconciler.settle()
        lab.log.clear()
        reconciler.want(owner, after)
        await reconciler.settle()
    assert lab.present() == set(after)
    assert lab.log == [f"= {after[1]}", f"+ {after[2]}", f"- {before[2]}"]


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_a_removed_row_comes_back(index: int) -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        lab.disturb(rows[index])
        await reconciler.settle()
        assert lab.present() == set(rows)
        (entry,) = reconciler.journal.entries
        assert (entry.gone, entry.changed, entry.extra, entry.first) == (1, 0, 0, str(rows[index]))
        assert entry.healed_ms is not None


async def test_a_changed_row_is_put_right_in_place() -> None:
    lab = Lab()
    owner, rows = peer(2)
    neighbour = rows[1]
    assert isinstance(neighbour, Neighbour)
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        lab.log.clear()
        lab.disturb(neighbour, replace(neighbour, mac="06:66:66:66:66:66"))
        await reconciler.settle()
    assert lab.log == [f"= {neighbour}"]


async def test_a_new_device_is_filled_again() -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.reconciler.want("this node", (LINK,))
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        for table in lab.tables.values():
            table.rows.clear()  # the device went, its rows with it, and only its going is told
        reconciler.touched(Touched(VxlanLink, LINK, present=False))
        await reconciler.settle()
        assert lab.present() == {LINK, *rows}
        assert {entry.table for entry in reconciler.journal.entries} == {table.name for table in lab.tables.values()}


async def test_our_own_echo_costs_nothing() -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        dumps = {table.dumps for table in lab.tables.values()}
        for row in rows:
            reconciler.touched(Touched(type(row), row, present=True))
        await reconciler.settle()
        assert {table.dumps for table in lab.tables.values()} == dumps


async def test_a_failed_row_is_tried_again_and_holds_nobody_up() -> None:
    lab = Lab()
    owner, rows = peer(2)
    other, others = peer(3)
    lab.tables[Route].fail.add(rows[0].key)
    lab.reconciler.sweep({owner: rows, other: others})
    async with running(lab) as reconciler:
        await reconciler.settle()
        assert lab.present() == {*rows, *others} - {rows[0]}
        assert not reconciler.in_sync()
        assert reconciler.problems() == [f"route: {rows[0]}: injected; 1 rows failed"]
        async with asyncio.timeout(5):
            while not reconciler.in_sync():
                await asyncio.sleep(0.01)
        assert lab.present() == {*rows, *others}
        assert reconciler.problems() == []
    assert not lab.tables[Route].fail


async def test_a_failed_removal_is_tried_again() -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        lab.tables[FdbEntry].fail.add(rows[2].key)
        reconciler.drop(owner)
        await reconciler.settle()
        assert lab.present() == {rows[2]}
        async with asyncio.timeout(5):
            while not reconciler.in_sync():
                await asyncio.sleep(0.01)
        assert lab.present() == set()


async def test_an_unreadable_table_is_read_again() -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.tables[Neighbour].unreadable = [OSError(105, "No buffer space available")]
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        assert reconciler.problems() == ["neighbour can't be read: [Errno 105] No buffer space available"]
        async with asyncio.timeout(5):
            while not reconciler.in_sync():
                await asyncio.sleep(0.01)
        assert lab.present() == set(rows)


async def test_a_kernel_that_does_not_answer_is_asked_again() -> None:
    lab = Lab()
    owner, rows = peer(2)
    apply, left = lab.tables[Route].apply, [1]

    async def silent_once(change: Change[Any]) -> Any:
        if left:
            left.pop()
            raise TimeoutError("timed out")
        return await apply(change)

    lab.tables[Route].apply = silent_once  # type: ignore[method-assign]
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        assert reconciler.problems() == ["route can't be read: timed out"]
        async with asyncio.timeout(5):
            while not reconciler.in_sync():
                await asyncio.sleep(0.01)
    assert lab.present() == set(rows)
    assert not left


async def test_a_periodic_resync_finds_what_no_event_told() -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.reconciler = Reconciler(list(lab.tables.values()), resync_s=0.05)
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        lab.tables[Route].rows.clear()
        async with asyncio.timeout(5):
            while lab.present() != set(rows):
                await asyncio.sleep(0.01)
    assert [entry.table for entry in reconciler.journal.entries] == ["route"]


async def test_a_fight_is_slowed_down(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab()
    owner, rows = peer(2)
    lab.reconciler.sweep({owner: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        for _ in range(25):
            if rows[0].key in lab.tables[Route].rows:
                lab.disturb(rows[0])
            await reconciler.settle()
        assert reconciler.journal.total == 20
        assert "somebody keeps undoing our rows" in caplog.text


async def test_two_leases_with_one_mac() -> None:
    lab = Lab()
    (first, rows), (second, others) = peer(2, "02:aa:00:00:00:01"), peer(3, "02:aa:00:00:00:01")
    lab.reconciler.sweep({second: others, first: rows})
    async with running(lab) as reconciler:
        await reconciler.settle()
        assert rows[2] in lab.present()
        assert others[2] not in lab.present()
        assert reconciler.problems() == [f"10.5.2.0/24 and 10.5.3.0/24 both claim {others[2]}"]
        reconciler.drop(first)
        await reconciler.settle()
        assert lab.present() == set(others)
        assert reconciler.problems() == []
