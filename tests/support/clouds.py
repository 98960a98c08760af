"""What the clouds' tests share: a daemon's tables over a real SDK, and strangers' routes that nothing may touch."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from pyflannel.lab.cloud.state import Vpc
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
    """Node *number*'s tables over *fabric*, with a clock that tests turn."""

    def __init__(self, fabric: Fabric, number: int, folder: Path) -> None:
        self.now, self.number, self.fabric = 0.0, number, fabric
        self.place: CloudPlace = fabric.locate([address(number)])
        self.table = CloudRoutesTable(
            fabric, self.place, [NETWORK], folder / f"n{number}.json", GRACE_S, monotonic=lambda: self.now
        )
        tables: list[Table[Any]] = [self.table, ForwardingTable(fabric, self.place)]
        self.reconciler = Reconciler(tables, monotonic=lambda: self.now)
        self.reconciler.want(BASE, (CloudForwarding(self.place.next_hop), *self.rows(number, own=True)))

    def rows(self, number: int, own: bool = False) -> tuple[CloudRoute, ...]:
        net = ip_network(f"10.5.{number}.0/24")
        return tuple(CloudRoute(table, net, address(number), own) for table in self.place.tables)

    def peers(self, *numbers: int) -> None:
        """A complete snapshot."""
        self.reconciler.sweep({subnet(number): self.rows(number) for number in numbers})

    async def look(self, passed_s: float = 30.0) -> None:
        """*passed_s* later, the poll comes."""
        self.now += passed_s
        self.reconciler.touched(Touched(CloudRoute))
        self.reconciler.touched(Touched(CloudForwarding))
        await self.reconciler.reconcile()
