"""A cloud network's state: machines, route tables, quotas, and the trouble that a cloud can make. No I/O.

The front ends (gce.py, ali.py, tencent.py) speak each cloud's API over it; AWS has a real moto server instead, of which
this keeps a copy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network


@dataclass
class Machine:
    """An instance. `nic` is its interface's id (an ENI); `addresses` are that interface's, IPv4 first."""

    name: str
    id: str
    nic: str
    addresses: list[str]
    zone: str = ""
    running: bool = True
    forwards: bool = True
    fields: dict[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """A route. `target` is a Machine's name; "" or a stranger's name if it leads to none of them. `since` is when
    (monotonic seconds) the change became known; `details` are the front end's own (description, priority, …)."""

    id: str
    table: str
    destination: Network
    target: str
    since: float = 0.0
    details: dict[str, str] = field(default_factory=dict)


@dataclass
class Faults:
    """Trouble on order. The next `throttle` calls are refused as too many, the next `broken` end in a 5xx, of which
    those that write have done their work if `after` is set; `denied` actions lack their permission; what is written
    shows after `lag_s` seconds."""

    throttle: int = 0
    broken: int = 0
    after: bool = False
    denied: list[str] = field(default_factory=list)
    lag_s: float = 0.0


class Refused(Exception):
    """The state doesn't allow it: `why` is "quota", "exists", "missing", "invalid", or a front end's own."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Vpc:
    """One network of one cloud. Thread-safe; `changed` is called after each change of a route or a machine."""

    def __init__(
        self,
        cloud: str,
        network: str,
        region: str,
        tables: list[str],
        *,
        quota: int = 50,
        page: int = 20,
        marked: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """*quota*: routes a table may hold; *page*: items in an answer; *tables*: their ids, the main one first."""
        self.cloud, self.network, self.region, self.quota, self.page, self._now = (
            cloud,
            network,
            region,
            quota,
            page,
            now,
        )
        self.tables: dict[str, list[Entry]] = {name: [] for name in tables}
        self._ghosts: list[tuple[Entry, float]] = []  # removed, and still shown until then
        self.machines: dict[str, Machine] = {}
        self.faults = Faults()
        self.calls: list[str] = []  # every action that was asked for, in order
        self.changed: list[Callable[[], None]] = []
        self.lock = threading.RLock()
        self._count = 0

    def add_machine(self, machine: Machine) -> Machine:
        with self.lock:
            self.machines[machine.name] = machine
        return machine

    def machine_at(self, address: str) -> Machine | None:
        """The machine that bears *address*."""
        with self.lock:
            return next((machine for machine in self.machines.values() if address in machine.addresses), None)

    def set_running(self, name: str, running: bool) -> None:
        """Stop, or start, a machine: routes to it are black holes meanwhile."""
        with self.lock:
            self.machines[name].running = running
        self._tell()

    # Routes

    def shown(self, table: str) -> list[Entry]:
        """The entries of *table* as the API shows them now."""
        with self.lock:
            now = self._now()
            self._ghosts = [(entry, until) for entry, until in self._ghosts if until > now]
            ghosts = [entry for entry, _ in self._ghosts if entry.table == table]
            return [entry for entry in self.tables[table] if entry.since <= now] + ghosts

    def find(self, table: str, destination: Network) -> Entry | None:
        """The entry as it is, shown or not."""
        with self.lock:
            return next((entry for entry in self.tables[table] if entry.destination == destination), None)

    def add(self, table: str, destination: str, target: str, *, alike: bool = False, **details: str) -> Entry:
        """A new entry; *alike*: beside others of its destination. Raises Refused."""
        with self.lock:
            net = ip_network(destination)
            if not alike and self.find(table, net) is not None:
                raise Refused("exists")
            if len(self.tables[table]) >= self.quota:
                raise Refused("quota")
            self._count += 1
            entry = Entry(str(self._count), table, net, target, self._now() + self.faults.lag_s, dict(details))
            self.tables[table].append(entry)
        self._tell()
        return entry

    def retarget(self, entry: Entry, target: str) -> None:
        """Let *entry* lead to *target*, at once."""
        with self.lock:
            entry.target = target
        self._tell()

    def remove(self, entry: Entry) -> None:
        """Raises Refused if it's gone."""
        with self.lock:
            if entry not in self.tables[entry.table]:
                raise Refused("missing")
            self.tables[entry.table].remove(entry)
            if self.faults.lag_s:
                self._ghosts.append((entry, self._now() + self.faults.lag_s))
        self._tell()

    def state_of(self, entry: Entry) -> str:
        """active or blackhole."""
        machine = self.machines.get(entry.target)
        return "active" if machine is not None and machine.running else "blackhole"

    def forwarding(self) -> dict[Network, str | None]:
        """What the network's router does: destination → the next hop's address, None to drop. By the main table."""
        with self.lock:
            found: dict[Network, str | None] = {}
            for entry in self.tables[next(iter(self.tables))]:
                machine = self.machines.get(entry.target)
                usable = machine is not None and machine.running and machine.forwards
                version = entry.destination.version
                address = next(
                    (ip for ip in (machine.addresses if machine and usable else ()) if (":" in ip) == (version == 6)),
                    None,
                )
                if found.get(entry.destination) is None:
                    found[entry.destination] = address
            return found

    # Trouble

    def asked(self, action: str) -> str | None:
        """Note a call; the trouble it's to meet: "throttle", "broken", "denied", or None."""
        with self.lock:
            self.calls.append(action)
            faults = self.faults
            if action in faults.denied:
                return "denied"
            if faults.throttle > 0:
                faults.throttle -= 1
                return "throttle"
            if faults.broken > 0:
                faults.broken -= 1
                return "broken"
            return None

    def _tell(self) -> None:
        for call in self.changed:
            call()
