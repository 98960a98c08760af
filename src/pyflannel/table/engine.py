"""The packet engine as two tables: the engine of a TUN device, and the peers that it carries packets to.

The engine is two of one wire format. The user-space one runs in this process's own threads. The kernel's (eBPF) goes
before it where the kernel has what it takes: it carries what is ordinary, and leaves the rest to the other.

Rule: programs in the kernel are pinned: they go on when this process ends, and the next one takes them over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyflannel.model.errors import TableError
from pyflannel.model.rows import Engine, EngineChoice, EngineRoute
from pyflannel.table.contract import Change, Failure, Touched

if TYPE_CHECKING:
    from pyflannel_engine import KernelEngine, UserEngine

log = logging.getLogger(__name__)

LOOK_S = 0.25  # Ours to tune: between two looks whether the engine is well; costs microseconds


class Engines:
    """The engine that runs, if any. `pin` is the folder that keeps the kernel's part alive."""

    def __init__(self, pin: Path, choice: EngineChoice = "auto") -> None:
        self._pin, self._choice = pin, choice
        self._user: UserEngine | None = None
        self._kernel: KernelEngine | None = None
        self.row: Engine | None = None
        self.why = ""  # why it is this one

    @property
    def kind(self) -> str:
        """kernel or user; empty if none runs."""
        return "kernel" if self._kernel else "user" if self._user else ""

    @property
    def left_behind(self) -> bool:
        """Does an earlier run's kernel part still carry packets, and nobody here looks after it?"""
        return self._kernel is None and self._pin.is_dir() and any(self._pin.iterdir())

    def start(self, row: Engine) -> None:
        """Run for *row*; peers that were known stay known. Raises OSError, ValueError, with nothing half done."""
        try:
            from pyflannel_engine import UserEngine
        except ImportError as error:
            raise OSError(
                f"the packet engine isn't installed ({error}): `pip install pyflannel-engine`, or `make engine` in the "
                "source tree"
            ) from None
        peers = self.peers()
        local, own = [str(ip) for ip in row.local], [str(net) for net in row.own]
        self._stop_user()  # it holds the port
        self.row = None
        self._user = UserEngine(row.device, local, row.port, own, mtu=row.mtu)
        try:
            self._start_kernel(row, local, own)
            self.apply((), [EngineRoute(*peer) for peer in peers])
        except (OSError, ValueError):
            self._stop_user()
            raise
        self.row = row

    def _start_kernel(self, row: Engine, local: list[str], own: list[str]) -> None:
        from pyflannel_engine import KernelEngine

        before, self._kernel = self._kernel, None
        if before is not None:
            before.close(keep=True)  # the new one takes it over, without a gap
        missing = "--udp-engine=user was given"
        if self._choice != "user":
            try:
                self._kernel = KernelEngine(
                    row.device, list(row.underlays), local, row.port, own, str(self._pin), mtu=row.mtu
                )
            except OSError as error:
                missing = KernelEngine.missing() or str(error)
            else:
                missing = ""
        if self._kernel is None:
            if self._choice == "kernel":
                raise OSError(f"--udp-engine=kernel was given, but the kernel engine can't run here: {missing}")
            if self._pin.is_dir():
                KernelEngine.remove(str(self._pin))
        parts = self._kernel.features if self._kernel else self._user.features if self._user else {}
        self.why = missing
        log.info("engine: %s%s; %s", self.kind, f" ({missing})" if missing else "", _listed(parts))

    def stop(self) -> None:
        """End it for good: nothing is left in the kernel."""
        self._stop_user()
        if self._kernel is not None:
            kernel, self._kernel = self._kernel, None
            kernel.close(keep=False)
        if self.left_behind:
            from pyflannel_engine import KernelEngine

            KernelEngine.remove(str(self._pin))
        self.row = None

    def close(self) -> None:
        """Let go of it at this process's end: the kernel's part goes on."""
        self._stop_user()
        if self._kernel is not None:
            kernel, self._kernel = self._kernel, None
            kernel.close(keep=True)

    def _stop_user(self) -> None:
        if self._user is not None:
            user, self._user = self._user, None
            user.close()

    def problem(self) -> str | None:
        """Why it doesn't carry packets any more; None while it does, or if none runs."""
        return next((why for part in self._parts() if (why := part.problem())), None)

    def apply(self, remove: Collection[EngineRoute], add: Collection[EngineRoute]) -> None:
        """Raises OSError, ValueError."""
        gone = [str(row.subnet) for row in remove]
        come = [(str(row.subnet), str(row.endpoint), row.port) for row in add]
        for part in self._parts():
            part.apply(gone, come)

    def peers(self) -> set[tuple[Any, Any, int]]:
        """(subnet, endpoint, port) of those that every part knows alike."""
        found = [set(part.routes()) for part in self._parts()]
        alike = set.intersection(*found) if found else set()
        return {(ip_network(subnet), ip_address(endpoint), port) for subnet, endpoint, port in alike}

    def known(self) -> set[Any]:
        """Subnets of which any part knows something."""
        return {ip_network(route[0]) for part in self._parts() for route in part.routes()}

    def status(self) -> dict[str, Any]:
        """For people and metrics: which engine, its abilities, counters in all and by peer."""
        named = {"kernel": self._kernel, "user": self._user}
        parts = {
            name: {"features": dict(part.features), "counters": part.counters(), "peers": part.peers()}
            for name, part in named.items()
            if part is not None
        }
        return {"kind": self.kind, "why": self.why, "problem": self.problem(), "parts": parts}

    def _parts(self) -> Sequence[KernelEngine | UserEngine]:
        return [part for part in (self._user, self._kernel) if part is not None]


class EngineTable:
    """The engine itself."""

    name, row_type = "engine", Engine

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def dump(self, wanted: Collection[Engine]) -> list[Engine]:
        row = self._engines.row
        if row is not None and self._engines.problem() is None:
            return [row]
        if row is None and not wanted and self._engines.left_behind:
            return [Engine("(an earlier run's)", (), 0, (), (), 0)]
        return []

    async def apply(self, change: Change[Engine]) -> list[Failure[Engine]]:
        stopped = [_tried(row, self._engines.stop, removing=True) for row in change.remove]
        started = [_tried(row, partial(self._engines.start, row)) for row in (*change.create, *change.replace)]
        return [*chain(*stopped), *chain(*started)]


class EngineRoutesTable:
    """Its peers."""

    name, row_type = "peers", EngineRoute

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def dump(self, wanted: Collection[EngineRoute]) -> list[EngineRoute]:
        rows = [EngineRoute(*peer) for peer in self._engines.peers()]
        # Where the parts disagree (one was just begun), the row counts as another than any that can be wanted.
        torn = self._engines.known() - {row.subnet for row in rows}
        return rows + [EngineRoute(subnet, subnet.network_address, 0) for subnet in torn]

    async def apply(self, change: Change[EngineRoute]) -> list[Failure[EngineRoute]]:
        add = (*change.create, *change.replace)
        if self._engines.row is None and add:
            return [Failure(row, TableError(row, "no engine runs")) for row in add]
        try:
            self._engines.apply(change.remove, add)
            return []
        except (OSError, ValueError):  # for one of them: find out which
            removed = [_tried(row, partial(self._engines.apply, (row,), ()), removing=True) for row in change.remove]
            return [*chain(*removed), *chain(*(_tried(row, partial(self._engines.apply, (), (row,))) for row in add))]


class EngineMonitor:
    """A Source: looks whether the engine is well."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def watch(self, touched: Callable[[Touched], None]) -> None:
        said: str | None = None
        while True:
            problem = self._engines.problem()
            if problem is not None and problem != said:
                log.warning("engine: %s", problem)
            if problem is not None:
                touched(Touched(Engine))
            said = problem
            await asyncio.sleep(LOOK_S)


def _tried(row: Any, work: Callable[[], None], removing: bool = False) -> list[Failure[Any]]:
    try:
        work()
    except (OSError, ValueError) as error:
        return [Failure(row, TableError(row, str(error), getattr(error, "errno", None)), removing)]
    return []


def _listed(features: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name}: {value}" if isinstance(value, str) else name for name, value in features.items() if value
    )
