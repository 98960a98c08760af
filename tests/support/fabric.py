"""A fabric over an emulated network's state, without the API between: for tests of what is the same for all clouds."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from pyflannel.lab.cloud.state import Entry, Machine, Refused, Vpc
from pyflannel.model.node import CloudPlace, IPAddress, IPNetwork
from pyflannel.table.cloud.contract import Check, CloudError, CloudFull, FabricRoute, NotInCloud, RouteTaken
from pyflannel.table.cloud.survey import within


class StateFabric:
    """What the machine called *name* sees and does."""

    name = "test-vpc"

    def __init__(self, vpc: Vpc, name: str) -> None:
        self.vpc, self._name = vpc, name
        self.writes: list[str] = []

    def locate(self, addresses: Sequence[IPAddress]) -> CloudPlace:
        machine = self.vpc.machines.get(self._name)
        if machine is None:
            raise NotInCloud("no metadata service answers")
        self._call("locate")
        return CloudPlace(self.vpc.network, machine.id, machine.nic, tuple(self.vpc.tables))

    def forwards(self, place: CloudPlace) -> bool:
        self._call("forwards")
        return self.vpc.machines[self._name].forwards

    def let_forward(self, place: CloudPlace) -> None:
        self._call("let_forward")
        self.writes.append("forward")
        self.vpc.machines[self._name].forwards = True

    def routes(self, place: CloudPlace, networks: Sequence[IPNetwork]) -> list[FabricRoute]:
        self._call("routes")
        return [
            self._route(entry)
            for table in place.tables
            for entry in self.vpc.shown(table)
            if within(entry.destination, networks)
        ]

    def create(self, place: CloudPlace, table: str, destination: IPNetwork) -> None:
        broken = self._call("create")
        try:
            self.vpc.add(table, str(destination), self._name)
        except Refused as refused:
            raise (CloudFull if refused.why == "quota" else RouteTaken)(refused.why) from None
        self.writes.append(f"+ {destination} {table}")
        if broken:
            raise CloudError("500 after the write")

    def replace(self, place: CloudPlace, route: FabricRoute) -> None:
        self._call("replace")
        self.writes.append(f"= {route.destination} {route.table}")
        self.vpc.retarget(self._entry(route), self._name)

    def delete(self, place: CloudPlace, route: FabricRoute) -> None:
        self._call("delete")
        try:
            self.vpc.remove(self._entry(route))
        except (Refused, CloudError):
            return  # another survivor was faster
        self.writes.append(f"- {route.destination} {route.table}")

    def checks(self, place: CloudPlace) -> list[Check]:
        return [Check("identity", True, self._name), Check("quota", None, "45 of 50", "ask for more")]

    def _call(self, action: str) -> bool:
        """True if the call is to fail after its work."""
        trouble = self.vpc.asked(action)
        if trouble == "broken" and self.vpc.faults.after:
            return True
        if trouble is not None:
            raise CloudError(f"{action}: {trouble}")
        return False

    def _entry(self, route: FabricRoute) -> Entry:
        found = [entry for entry in self.vpc.tables[route.table] if entry.id == route.handle]
        if not found:
            raise CloudError(f"{route.handle} is gone")
        return found[0]

    def _route(self, entry: Entry) -> FabricRoute:
        machine = self.vpc.machines.get(entry.target)
        addresses = frozenset(map(ip_address, machine.addresses)) if machine else frozenset()
        hop = machine.nic if machine else entry.target
        state = "active" if entry.details.get("gateway") or self.vpc.state_of(entry) == "active" else "blackhole"
        return FabricRoute(
            entry.table, entry.destination, hop, addresses, "active" if state == "active" else "blackhole",
            entry.details.get("mark") == "yes", entry.id,
        )  # fmt: skip


def network(nodes: int, *, tables: Sequence[str] = ("rtb-1",), quota: int = 50) -> Vpc:
    """A network of machines n1, n2, … at 10.0.0.1, 10.0.0.2, …"""
    vpc = Vpc("test-vpc", "vpc-1", "here-1", list(tables), quota=quota)
    for number in range(1, nodes + 1):
        vpc.add_machine(Machine(f"n{number}", f"i-{number}", f"eni-{number}", [f"10.0.0.{number}"]))
    return vpc
