"""What the clouds' tests share: a daemon's tables over a real SDK, and strangers' routes that nothing may touch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol

from pyflannel.lab.cloud.state import Entry, Vpc
from pyflannel.model.lease import Subnets
from pyflannel.model.node import CloudPlace
from pyflannel.model.rows import CloudForwarding, CloudRoute
from pyflannel.reconcile.desired import BASE
from pyflannel.reconcile.reconciler import Reconciler
from pyflannel.table.cloud.contract import Fabric
from pyflannel.table.cloud.routes import CloudRoutesTable, ForwardingTable
from pyflannel.table.contract import Table, Touched

NETWORK = ip_network("10.5.0.0/16")
GRACE_S = 100.0
MACHINES = [(f"n{number}", f"127.0.0.{number + 10}", "::1") for number in range(1, 4)]
STRANGERS = ("10.5.250.0/24", "10.99.0.0/16")


def subnet(number: int) -> Subnets:
    return Subnets(IPv4Network(f"10.5.{number}.0/24"))


def address(number: int) -> Any:
    return ip_address(MACHINES[number - 1][1])


def table_of(vpc: Vpc) -> dict[str, str]:
    """The main table: destination → machine."""
    return {str(entry.destination): entry.target for entry in vpc.tables[next(iter(vpc.tables))]}


def strangers(vpc: Vpc) -> list[tuple[str, str, str, str]]:
    """Every entry of theirs, with all that it holds."""
    return [
        (entry.id, str(entry.destination), entry.target, str(sorted(entry.details.items())))
        for entries in vpc.tables.values()
        for entry in entries
        if str(entry.destination) in STRANGERS
    ]


class Daemon:
    """Node *number*'s tables over *fabric*, with a clock that tests turn. `base` is the first machine's address less 1."""

    def __init__(self, fabric: Fabric, number: int, folder: Path, base: str = "127.0.0.10") -> None:
        self.now, self.number, self.fabric, self.file = 0.0, number, fabric, folder / f"n{number}.json"
        self._base = ip_address(base)
        self.place: CloudPlace = fabric.locate([self._base + number])
        self.boot()

    def boot(self, overflow: Callable[[bool], None] | None = None) -> None:
        """A new process: what was on disk is there."""
        self.table = CloudRoutesTable(
            self.fabric, self.place, [NETWORK], self.file, GRACE_S, overflow=overflow, monotonic=lambda: self.now
        )
        tables: list[Table[Any]] = [self.table, ForwardingTable(self.fabric, self.place)]
        self.reconciler = Reconciler(tables, monotonic=lambda: self.now)
        self.reconciler.want(BASE, (CloudForwarding(self.place.next_hop), *self.rows(self.number, own=True)))

    def rows(self, number: int, own: bool = False) -> tuple[CloudRoute, ...]:
        net = ip_network(f"10.5.{number}.0/24")
        return tuple(CloudRoute(table, net, self._base + number, own) for table in self.place.tables)

    def peers(self, *numbers: int) -> None:
        """A complete snapshot."""
        self.reconciler.sweep({subnet(number): self.rows(number) for number in numbers})

    async def look(self, passed_s: float = 30.0) -> None:
        """*passed_s* later, the poll comes."""
        self.now += passed_s
        self.reconciler.touched(Touched(CloudRoute))
        self.reconciler.touched(Touched(CloudForwarding))
        await self.reconciler.reconcile()


class Opens(Protocol):
    """An emulated cloud, and how node *number*'s daemon opens it."""

    @property
    def vpc(self) -> Vpc: ...

    def open(self, number: int = 1) -> Fabric: ...


# What each cloud's daemons must live through


async def life_of_two(cloud: Opens, folder: Path) -> None:
    """Two daemons write at once, a deleted route comes back, a departed node's goes after its grace period."""
    one, two = Daemon(cloud.open(1), 1, folder), Daemon(cloud.open(2), 2, folder)
    one.peers(2)
    two.peers(1)
    await asyncio.gather(one.look(), two.look())
    both = {"10.5.1.0/24": "n1", "10.5.2.0/24": "n2"}
    assert both.items() <= table_of(cloud.vpc).items()
    assert [cloud.vpc.machines[name].forwards for name in ("n1", "n2")] == [True, True]
    cloud.vpc.remove(_own(cloud.vpc))
    await asyncio.gather(one.look(), two.look())
    assert both.items() <= table_of(cloud.vpc).items()
    one.reconciler.drop(subnet(2))
    await one.look(60)
    assert "10.5.2.0/24" in table_of(cloud.vpc)
    await one.look(60)
    assert "10.5.2.0/24" not in table_of(cloud.vpc)
    assert one.reconciler.problems() == two.reconciler.problems() == []


async def trouble_that_passes(cloud: Opens, folder: Path, faults: Mapping[str, Any], looks: int = 3) -> None:
    """In the end there is one route, and nothing is complained of."""
    one = Daemon(cloud.open(1), 1, folder)
    one.peers()
    for name, value in faults.items():
        setattr(cloud.vpc.faults, name, value)
    for _ in range(looks):
        await one.look()
    assert table_of(cloud.vpc)["10.5.1.0/24"] == "n1"
    assert one.reconciler.problems() == []
    assert len(cloud.vpc.tables[next(iter(cloud.vpc.tables))]) == len(STRANGERS) + 1


async def shows_late(cloud: Opens, folder: Path, create: str) -> None:
    """A route that isn't shown yet is created again, and found to be there. *create*: what the API calls that."""
    clock = [0.0]
    cloud.vpc._now = lambda: clock[0]
    cloud.vpc.faults.lag_s = 3.0
    one = Daemon(cloud.open(1), 1, folder)
    one.peers()
    await one.look()
    await one.look(10)
    assert cloud.vpc.calls.count(create) == 2
    clock[0] = 5.0
    await one.look(10)
    assert one.reconciler.problems() == []
    assert one.reconciler.in_sync()


async def stranger_on_our_subnet(cloud: Opens, folder: Path, via: str, **details: str) -> None:
    """Its route stays, and is told, by what it leads to."""
    main = next(iter(cloud.vpc.tables))
    entry = cloud.vpc.add(main, "10.5.1.0/24", "", alike=False, **details)
    one = Daemon(cloud.open(1), 1, folder)
    one.peers()
    await one.look()
    assert f"a route that isn't ours stands there, via {via}" in one.reconciler.problems()[0]
    assert entry in cloud.vpc.tables[main]


def _own(vpc: Vpc) -> Entry:
    found = vpc.find(next(iter(vpc.tables)), ip_network("10.5.1.0/24"))
    assert found is not None
    return found
