"""The cloud's tables under the reconciler, over a network in memory: healing, departures, strangers, trouble."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from pyflannel.lab.cloud.state import Machine, Vpc
from pyflannel.model.rows import CloudForwarding, CloudRoute, Route
from pyflannel.reconcile.desired import BASE
from pyflannel.reconcile.reconciler import Reconciler
from pyflannel.table.cloud.memory import load
from pyflannel.table.cloud.routes import CloudPoll
from pyflannel.table.contract import Change, Failure, Touched
from support import clouds
from support.clouds import GRACE_S, subnet
from support.fabric import StateFabric, network
from support.kernel import FakeTable


class Daemon(clouds.Daemon):
    """A daemon over the state itself, without an API between."""

    fabric: StateFabric

    def __init__(self, vpc: Vpc, folder: Path, number: int = 1) -> None:
        super().__init__(StateFabric(vpc, f"n{number}"), number, folder, base="10.0.0.0")


@pytest.fixture
def vpc() -> Vpc:
    return network(3)


@pytest.fixture
def daemon(vpc: Vpc, tmp_path: Path) -> Daemon:
    return Daemon(vpc, tmp_path)


def there(vpc: Vpc, table: str = "rtb-1") -> dict[str, str]:
    return {str(entry.destination): entry.target for entry in vpc.tables[table]}


async def test_our_route_is_written_and_comes_back(daemon: Daemon, vpc: Vpc) -> None:
    daemon.peers()
    await daemon.look()
    assert there(vpc) == {"10.5.1.0/24": "n1"}
    vpc.remove(vpc.tables["rtb-1"][0])
    await daemon.look()
    assert there(vpc) == {"10.5.1.0/24": "n1"}
    assert [entry.gone for entry in daemon.reconciler.journal.entries] == [1]
    writes = list(daemon.fabric.writes)
    await daemon.look()
    assert daemon.fabric.writes == writes, "what is right is not written again"


async def test_all_our_tables_get_the_route(tmp_path: Path) -> None:
    vpc = network(1, tables=("rtb-1", "rtb-2"))
    daemon = Daemon(vpc, tmp_path)
    await daemon.look()
    assert there(vpc) == there(vpc, "rtb-2") == {"10.5.1.0/24": "n1"}


async def test_forwarding_is_kept_on(daemon: Daemon, vpc: Vpc) -> None:
    vpc.machines["n1"].forwards = False
    await daemon.look()
    assert vpc.machines["n1"].forwards
    vpc.faults.denied = ["let_forward"]
    vpc.machines["n1"].forwards = False
    await daemon.look()
    assert daemon.reconciler.problems() == ["cloud forwarding: forwarding of eni-1: let_forward: denied; 1 rows failed"]


async def test_a_departed_nodes_route_goes_and_a_strangers_stays(daemon: Daemon, vpc: Vpc) -> None:
    vpc.add("rtb-1", "10.5.2.0/24", "n2")
    vpc.add("rtb-1", "10.5.77.0/24", "n3")  # nobody's lease
    vpc.add("rtb-1", "10.5.78.0/24", "", gateway="vpn")
    vpc.add("rtb-1", "10.9.0.0/16", "n2")  # outside of the network
    daemon.peers(2)
    await daemon.look()
    daemon.reconciler.drop(subnet(2))
    await daemon.look()
    await daemon.look(60)
    assert "10.5.2.0/24" in there(vpc)
    assert sorted(note.kind for note in daemon.table.notes) == ["departed", "foreign", "foreign"]
    await daemon.look(60)
    left = {"10.5.1.0/24": "n1", "10.5.77.0/24": "n3", "10.5.78.0/24": "", "10.9.0.0/16": "n2"}
    assert there(vpc) == left
    assert daemon.fabric.writes == ["+ 10.5.1.0/24 rtb-1", "- 10.5.2.0/24 rtb-1"]
    assert not daemon.reconciler.journal.entries, "nobody else did that"


async def test_a_lease_that_comes_back_saves_its_route(daemon: Daemon, vpc: Vpc) -> None:
    vpc.add("rtb-1", "10.5.2.0/24", "n2")
    daemon.peers(2)
    await daemon.look()
    daemon.reconciler.drop(subnet(2))
    await daemon.look(90)
    daemon.reconciler.want(subnet(2), daemon.rows(2))
    await daemon.look(90)
    daemon.reconciler.drop(subnet(2))
    await daemon.look(90)
    assert "10.5.2.0/24" in there(vpc)


async def test_the_grace_period_outlives_a_restart_and_time_that_nobody_watched_is_left_out(
    daemon: Daemon, vpc: Vpc
) -> None:
    vpc.add("rtb-1", "10.5.2.0/24", "n2")
    daemon.peers(2)
    await daemon.look()
    daemon.reconciler.drop(subnet(2))
    await daemon.look(60)
    daemon.boot()
    daemon.now += 1e6  # off for days
    await daemon.look(0)
    assert not daemon.reconciler.complete
    await daemon.look(90)  # grace is over, but nobody knows the leases yet
    assert "10.5.2.0/24" in there(vpc)
    daemon.peers()
    await daemon.look(0)
    assert "10.5.2.0/24" not in there(vpc)


async def test_a_snapshot_that_has_the_lease_stops_a_clock_that_ran_at_boot(daemon: Daemon, vpc: Vpc) -> None:
    vpc.add("rtb-1", "10.5.2.0/24", "n2")
    daemon.peers(2)
    await daemon.look()
    daemon.boot()
    for _ in range(3):
        await daemon.look(90)  # the store is out of reach
    daemon.peers(2)
    await daemon.look(0)
    daemon.reconciler.drop(subnet(2))
    await daemon.look(0)
    assert "10.5.2.0/24" in there(vpc)


async def test_a_route_repointed_just_before_its_removal_stays(daemon: Daemon, vpc: Vpc) -> None:
    entry = vpc.add("rtb-1", "10.5.2.0/24", "n2")
    daemon.peers(2)
    await daemon.look()
    daemon.reconciler.drop(subnet(2))
    row = CloudRoute("rtb-1", ip_network("10.5.2.0/24"), ip_address("10.0.0.2"), expired=True)
    vpc.retarget(entry, "n3")
    assert await daemon.table.apply(Change(remove=(row,))) == []
    assert there(vpc)["10.5.2.0/24"] == "n3"


async def test_a_stranger_on_our_subnet_is_told_and_left(daemon: Daemon, vpc: Vpc) -> None:
    vpc.add_machine(Machine("stranger", "i-x", "eni-x", ["10.0.0.99"]))
    entry = vpc.add("rtb-1", "10.5.1.0/24", "stranger")
    daemon.peers(2, 3)
    await daemon.look()
    assert there(vpc)["10.5.1.0/24"] == "stranger"
    (problem,) = daemon.reconciler.problems()
    assert "a route that isn't ours stands there, via eni-x: delete it in table rtb-1" in problem
    vpc.remove(entry)
    await daemon.look()
    assert there(vpc)["10.5.1.0/24"] == "n1"
    assert daemon.reconciler.problems() == []


async def test_the_former_nodes_route_is_taken_over_in_place(daemon: Daemon, vpc: Vpc) -> None:
    vpc.add("rtb-1", "10.5.1.0/24", "n2")  # had our subnet before, and holds another lease now
    daemon.peers(2)
    await daemon.look()
    assert daemon.fabric.writes == ["= 10.5.1.0/24 rtb-1"]


async def test_two_daemons_write_at_once(vpc: Vpc, tmp_path: Path) -> None:
    """Each writes its own; both look; and a subnet that two believe to own goes to nobody silently."""
    one, two = Daemon(vpc, tmp_path, 1), Daemon(vpc, tmp_path, 2)
    one.peers(2)
    two.peers(1)
    await asyncio.gather(one.look(), two.look())
    assert there(vpc) == {"10.5.1.0/24": "n1", "10.5.2.0/24": "n2"}
    await asyncio.gather(one.look(), two.look())
    assert one.fabric.writes == ["+ 10.5.1.0/24 rtb-1"]
    assert two.fabric.writes == ["+ 10.5.2.0/24 rtb-1"]
    one.reconciler.drop(subnet(2))
    third = Daemon(vpc, tmp_path, 3)
    third.peers(1, 2)
    await third.look()
    third.reconciler.drop(subnet(2))
    two.fabric.vpc.set_running("n2", False)
    for _ in range(5):
        await asyncio.gather(one.look(), third.look())
    assert there(vpc) == {"10.5.1.0/24": "n1", "10.5.3.0/24": "n3"}
    assert one.reconciler.problems() == third.reconciler.problems() == []


async def test_quota_half_way(tmp_path: Path) -> None:
    vpc = network(1, tables=("rtb-1", "rtb-2"), quota=1)
    vpc.add("rtb-2", "10.77.0.0/16", "", gateway="vpn")
    daemon = Daemon(vpc, tmp_path)
    daemon.peers()
    await daemon.look()
    assert there(vpc) == {"10.5.1.0/24": "n1"}
    assert there(vpc, "rtb-2") == {"10.77.0.0/16": ""}
    assert "quota" in daemon.reconciler.problems()[0]
    vpc.quota = 2
    await daemon.look()
    assert there(vpc, "rtb-2") == {"10.77.0.0/16": "", "10.5.1.0/24": "n1"}
    assert daemon.reconciler.in_sync()


async def test_no_room_is_no_trouble_where_there_is_another_way(tmp_path: Path) -> None:
    vpc = network(1, quota=1)
    entry = vpc.add("rtb-1", "10.99.0.0/16", "")
    daemon, turns = Daemon(vpc, tmp_path), list[bool]()
    daemon.boot(turns.append)
    daemon.peers()
    for _ in range(3):
        await daemon.look()
    assert turns == [True]
    assert daemon.reconciler.problems() == []
    assert [note.kind for note in daemon.table.notes] == ["overflow"]
    assert not daemon.reconciler.journal.entries, "nobody disturbs anything"
    vpc.remove(entry)
    for _ in range(2):
        await daemon.look()
    assert turns == [True, False]
    assert daemon.table.notes == []
    assert there(vpc) == {"10.5.1.0/24": "n1"}


async def test_a_node_that_had_no_room_looks_again(tmp_path: Path) -> None:
    """After a restart it says nothing else before its route has shown."""
    vpc = network(1)
    daemon, turns = Daemon(vpc, tmp_path), list[bool]()
    daemon.place = replace(daemon.place, full=True)
    daemon.boot(turns.append)
    daemon.peers()
    await daemon.look()
    assert turns == []
    await daemon.look()
    assert turns == [False]


async def test_a_spare_route_is_neither_missed_nor_removed(daemon: Daemon, vpc: Vpc) -> None:
    spare = [replace(row, spare=True) for number in (2, 3) for row in daemon.rows(number)]
    vpc.add("rtb-1", "10.5.3.0/24", "n3")
    daemon.peers(3)
    await daemon.look()
    daemon.reconciler.sweep({subnet(number): (spare[number - 2],) for number in (2, 3)})
    for _ in range(10):
        await daemon.look(GRACE_S)
    assert daemon.table.notes == []
    assert there(vpc) == {"10.5.1.0/24": "n1", "10.5.3.0/24": "n3"}


async def test_a_write_that_succeeded_and_said_otherwise(daemon: Daemon, vpc: Vpc) -> None:
    await daemon.look()
    vpc.remove(vpc.tables["rtb-1"][0])
    daemon.now += 10
    vpc.faults.after = True
    real = daemon.fabric.create

    def create(*arguments: Any) -> None:
        vpc.faults.broken = 1
        real(*arguments)

    daemon.fabric.create = create  # type: ignore[method-assign,assignment]
    await daemon.look()
    assert daemon.reconciler.problems()
    await daemon.look()
    assert daemon.reconciler.problems() == []
    assert there(vpc) == {"10.5.1.0/24": "n1"}
    assert daemon.fabric.writes.count("+ 10.5.1.0/24 rtb-1") == 2


async def test_a_cloud_that_shows_late_is_not_written_twice(daemon: Daemon, vpc: Vpc) -> None:
    clock = [0.0]
    vpc._now = lambda: clock[0]
    vpc.faults.lag_s = 3.0
    daemon.peers()
    await daemon.look()
    assert vpc.shown("rtb-1") == []
    await daemon.look(1)
    assert daemon.fabric.writes == ["+ 10.5.1.0/24 rtb-1"]
    assert not daemon.reconciler.journal.entries
    clock[0] = 4.0
    await daemon.look(10)
    assert daemon.reconciler.in_sync()


async def test_a_route_deleted_just_after_it_showed_is_back_at_the_next_look(daemon: Daemon, vpc: Vpc) -> None:
    daemon.peers()
    await daemon.look()
    await daemon.look(1)
    vpc.remove(vpc.tables["rtb-1"][0])
    await daemon.look(1)
    assert there(vpc) == {"10.5.1.0/24": "n1"}


async def test_a_cloud_out_of_reach_is_told_and_nothing_is_lost(daemon: Daemon, vpc: Vpc) -> None:
    daemon.peers(2)
    vpc.faults.broken = 2
    await daemon.look()
    assert any("can't be read" in problem for problem in daemon.reconciler.problems())
    assert there(vpc) == {}
    for _ in range(2):
        await daemon.look()
    assert there(vpc) == {"10.5.1.0/24": "n1"}
    assert daemon.reconciler.problems() == []


async def test_what_an_sdk_raises_is_told_and_ends_nothing(daemon: Daemon, vpc: Vpc) -> None:
    real = daemon.fabric.routes

    def routes(*arguments: Any) -> Any:
        raise KeyError("RouteSet")

    daemon.fabric.routes = routes  # type: ignore[method-assign,assignment]
    daemon.peers()
    await daemon.look()
    assert "the cloud's SDK failed: KeyError: 'RouteSet'" in daemon.reconciler.problems()[0]
    daemon.fabric.routes = real  # type: ignore[method-assign]
    for _ in range(2):
        await daemon.look()
    assert daemon.reconciler.problems() == []
    assert there(vpc) == {"10.5.1.0/24": "n1"}


async def test_memory_that_is_spoilt_or_cannot_be_written_keeps_routes(
    vpc: Vpc, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "n1.json").write_text("{")
    daemon = Daemon(vpc, tmp_path)
    assert "can't be used" in caplog.text
    vpc.add("rtb-1", "10.5.2.0/24", "n2")
    daemon.peers()
    for _ in range(5):
        await daemon.look(90)
    assert "10.5.2.0/24" in there(vpc)
    daemon.file = tmp_path / "n1.json/impossible"
    daemon.boot()
    await daemon.look()
    assert "can't be written" in caplog.text


def test_memory_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "cloud-routes.json"
    for bad in ("[]", '{"version": 9}', '{"version": 1, "routes": [[1]]}', '{"version":1,"routes":[["a","b","c",1]]}'):
        file.write_text(bad)
        assert load(file) == {}
    file.write_text(json.dumps({"version": 1, "routes": [["rtb", "10.5.1.0/24", "eni-1", 7]]}))
    ((key, past),) = load(file).items()
    assert (key, past.next_hop, past.gone_s) == (("rtb", ip_network("10.5.1.0/24")), "eni-1", 7.0)


class Slow(FakeTable):
    """A cloud that answers when it's let."""

    def __init__(self) -> None:
        super().__init__(CloudRoute)
        self.let = asyncio.Event()

    async def apply(self, change: Change[Any]) -> list[Failure[Any]]:
        await self.let.wait()
        return await super().apply(change)


@asynccontextmanager
async def running(reconciler: Reconciler) -> AsyncIterator[None]:
    task = asyncio.create_task(reconciler.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


async def test_the_kernels_tables_do_not_wait_for_the_cloud() -> None:
    slow, routes = Slow(), FakeTable(Route)
    reconciler = Reconciler([slow, routes])
    row = Route(ip_network("10.5.9.0/24"), "e0")
    reconciler.want(BASE, (row, CloudRoute("rtb", ip_network("10.5.1.0/24"), ip_address("10.0.0.1"), own=True)))
    async with running(reconciler):
        settled = asyncio.create_task(reconciler.settle())
        await until(lambda: bool(routes.rows))
        del routes.rows[row.key]
        reconciler.touched(Touched(Route, row, present=False))
        await until(lambda: bool(routes.rows))
        assert not slow.rows
        assert not settled.done(), "settled means that the cloud was asked, too"
        slow.let.set()
        await settled
        assert slow.rows


async def test_the_poll_asks_at_once_and_again() -> None:
    seen: list[Touched] = []
    task = asyncio.create_task(CloudPoll(0.001).watch(seen.append))
    await until(lambda: len(seen) >= 4)
    task.cancel()
    assert seen[:2] == [Touched(CloudForwarding), Touched(CloudRoute)]
