"""Whatever happens in a cloud's tables: nobody else's route is ever touched, and each node's own comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyflannel.lab.cloud.state import Entry, Refused
from support.clouds import GRACE_S, Daemon, subnet
from support.fabric import StateFabric, network

NODES = 3
TABLES = ("rtb-1", "rtb-2")
number = st.integers(1, NODES)
anywhere = st.integers(1, NODES + 3)  # subnets that are leased now, later, or never
table = st.sampled_from(TABLES)


class Cloud(RuleBasedStateMachine):
    """Three nodes that lease subnets and give them back, and somebody with the same rights at the console."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        self.vpc = network(NODES, tables=TABLES, quota=8)
        self.theirs: dict[str, tuple[str, str, str]] = {}
        self.leased = set(range(1, NODES + 1))
        self.daemons = {each: self._daemon(each) for each in self.leased}

    def _daemon(self, each: int) -> Daemon:
        return Daemon(StateFabric(self.vpc, f"n{each}"), each, Path(self.folder.name), base="10.0.0.0")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(each=number)
    def lease(self, each: int) -> None:
        self.leased.add(each)

    @rule(each=number)
    def give_back(self, each: int) -> None:
        """The node is gone; its daemon with it."""
        self.leased.discard(each)

    @rule(each=number)
    def restart(self, each: int) -> None:
        self.daemons[each].boot()

    @rule(net=anywhere, where=table)
    def theirs_comes(self, net: int, where: str) -> None:
        """A VPN's route, within the cluster's network."""
        try:
            entry = self.vpc.add(where, f"10.5.{net}.0/24", "", gateway="vpn-1")
        except Refused:
            return
        self.theirs[entry.id] = self._facts(entry)

    @rule(net=anywhere, where=table)
    def somebody_deletes_ours(self, net: int, where: str) -> None:
        for entry in list(self.vpc.tables[where]):
            if entry.id not in self.theirs and str(entry.destination) == f"10.5.{net}.0/24":
                self.vpc.remove(entry)

    @rule(throttle=st.integers(0, 3), broken=st.integers(0, 3), after=st.booleans())
    def trouble(self, throttle: int, broken: int, after: bool) -> None:
        self.vpc.faults.throttle, self.vpc.faults.broken, self.vpc.faults.after = throttle, broken, after

    @rule(each=number, running=st.booleans())
    def machine(self, each: int, running: bool) -> None:
        self.vpc.set_running(f"n{each}", running)

    @rule(passed_s=st.sampled_from([0.0, 1.0, 30.0, GRACE_S]))
    def look(self, passed_s: float) -> None:
        """All daemons at once, as they would: in any order, and between each other's calls."""

        async def all_look() -> None:
            await asyncio.gather(*(self.daemons[each].look(passed_s) for each in sorted(self.leased)))

        for each in self.leased:
            self.daemons[each].peers(*(self.leased - {each}))
        asyncio.run(all_look())

    @rule()
    def quiet(self) -> None:
        """Trouble ends; after some looks each node's own route is there, unless somebody's is, or nothing has room."""
        self.trouble(0, 0, False)
        for each in self.leased:
            self.vpc.set_running(f"n{each}", True)
        for _ in range(3):
            self.look(60.0)
        for each in self.leased:
            for where in TABLES:
                entries = self.vpc.tables[where]
                there = [entry for entry in entries if entry.destination == subnet(each).ipv4]
                if not there:
                    assert len(entries) >= self.vpc.quota
                elif there[0].id not in self.theirs:
                    assert there[0].target == f"n{each}"

    @invariant()
    def nobody_elses_route_was_touched(self) -> None:
        if not hasattr(self, "vpc"):
            return
        now = {entry.id: self._facts(entry) for entries in self.vpc.tables.values() for entry in entries}
        assert self.theirs.items() <= now.items()

    @staticmethod
    def _facts(entry: Entry) -> tuple[str, str, str]:
        return (entry.table, str(entry.destination), entry.target)


TestCloud = Cloud.TestCase
TestCloud.settings = settings(max_examples=60, stateful_step_count=25)
