"""The tables whose rows are written in batches over rtnetlink: addresses, routes, neighbours, FDB."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from errno import EADDRNOTAVAIL, EEXIST, ENODEV, ENOENT, ENXIO, ESRCH
from socket import AF_INET, AF_INET6
from typing import Generic, TypeVar

from pyflannel.model.errors import TableError
from pyflannel.model.rows import PROTOCOL, Address, FdbEntry, Neighbour, Route
from pyflannel.table.contract import Change, Failure, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.table.ownership import owns_address, owns_neighbour, owns_route
from pyflannel.wire import rtnetlink
from pyflannel.wire.netlink import NetlinkError, Request
from pyflannel.wire.rtnetlink import CREATE, REPLACE, Names

ABSENT = frozenset({ENOENT, ESRCH, ENODEV, ENXIO, EADDRNOTAVAIL})  # what removing a row that isn't there answers
R = TypeVar("R", Address, Route, Neighbour, FdbEntry)


class _Batched(Generic[R]):
    """What they share: encode each row, send all at once, match the refusals with their rows."""

    name: str
    row_type: type[R]
    _new: int
    _delete: int
    _encode: Callable[[int, int, R, Names], Request]

    def __init__(self, kernel: Kernel, scope: Scope) -> None:
        self._kernel, self._scope = kernel, scope

    async def apply(self, change: Change[R]) -> list[Failure[R]]:
        """Removals first, then creations and replacements: one batch, without a round trip per row."""
        names = self._kernel.fresh_names()
        plan = [(self._delete, 0, row) for row in change.remove]
        plan += [(self._new, self._create_flags(row), row) for row in change.create]
        plan += [(self._new, REPLACE, row) for row in change.replace]
        failures: list[Failure[R]] = []
        requests: list[Request] = []
        sent: list[tuple[int, int, R]] = []
        for kind, flags, row in plan:
            try:
                requests.append(type(self)._encode(kind, flags, row, names))
                sent.append((kind, flags, row))
            except KeyError:
                if kind == self._new:
                    failures.append(Failure(row, TableError(row, f"there is no device {row.device}", ENODEV)))
        results = await self._kernel.batch(requests) if requests else []
        for (kind, flags, row), error in zip(sent, results, strict=True):
            if error is None or (kind == self._delete and error.errno in ABSENT):
                continue
            if error.errno == ENODEV:
                self._kernel.names_stale = True
            why = await self._explain(row, error) if flags == CREATE and error.errno == EEXIST else str(error)
            if why is not None:
                failures.append(Failure(row, TableError(row, why, error.errno), kind == self._delete))
        return failures

    def _create_flags(self, row: R) -> int:
        return CREATE

    async def _explain(self, row: R, error: NetlinkError) -> str | None:
        """Why *row* is there already without being ours; None if that is fine after all."""
        return str(error)


class AddressesTable(_Batched[Address]):
    """Addresses on our devices."""

    name, row_type = "addresses", Address
    _new, _delete = rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR
    _encode = staticmethod(rtnetlink.address_request)

    async def dump(self, wanted: Collection[Address]) -> list[Address]:
        self._kernel.links()
        names = self._kernel.names.name
        rows = (
            Address(names[info.index], info.ip, info.prefix_len)
            for info in self._kernel.addresses()
            if info.index in names
        )
        return [row for row in rows if owns_address(row, self._scope)]


class NeighboursTable(_Batched[Neighbour]):
    """Permanent neighbour entries on our devices. One that was learnt is made permanent in place."""

    name, row_type = "neighbours", Neighbour
    _new, _delete = rtnetlink.RTM_NEWNEIGH, rtnetlink.RTM_DELNEIGH
    _encode = staticmethod(rtnetlink.neighbour_request)

    def _create_flags(self, row: Neighbour) -> int:
        return REPLACE  # a failed or learnt entry may stand there: all on our device is ours

    async def dump(self, wanted: Collection[Neighbour]) -> list[Neighbour]:
        self._kernel.links()
        return [
            row
            for family in (AF_INET, AF_INET6)
            for row in _neighbours(self._kernel, family, 0)
            if isinstance(row, Neighbour) and owns_neighbour(row, self._scope)
        ]


class FdbTable(_Batched[FdbEntry]):
    """Permanent forwarding entries of our VXLAN devices."""

    name, row_type = "fdb", FdbEntry
    _new, _delete = rtnetlink.RTM_NEWNEIGH, rtnetlink.RTM_DELNEIGH
    _encode = staticmethod(rtnetlink.fdb_request)

    def _create_flags(self, row: FdbEntry) -> int:
        return REPLACE  # a learnt entry may stand there: all on our device is ours

    async def dump(self, wanted: Collection[FdbEntry]) -> list[FdbEntry]:
        self._kernel.links()
        ours = [index for name, index in self._kernel.names.index.items() if name in self._scope.devices]
        return [
            row
            for index in ours
            for row in _neighbours(self._kernel, rtnetlink.AF_BRIDGE, index)
            if isinstance(row, FdbEntry) and owns_neighbour(row, self._scope)
        ]


class RoutesTable(_Batched[Route]):
    """Routes of the main table into the cluster's networks, marked with our protocol."""

    name, row_type = "routes", Route
    _new, _delete = rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE
    _encode = staticmethod(rtnetlink.route_request)

    async def dump(self, wanted: Collection[Route]) -> list[Route]:
        self._kernel.links()
        families = {network.version for network in self._scope.networks}
        rows = [row for version in sorted(families) for row in self._all(AF_INET if version == 4 else AF_INET6)]
        ours = {row.key: row for row in rows if owns_route(row, self._scope)}
        # Go flannel's host-gw routes bear no mark. What equals a wanted row in all else is adopted in place.
        unmarked = {row: row.protocol for row in rows}
        for row in wanted:
            if row.key not in ours:
                found = next((p for p in (3, 4) if _with_protocol(row, p) in unmarked), None)
                if found is not None:
                    ours[row.key] = _with_protocol(row, found)
        return list(ours.values())

    def _all(self, family: int) -> Iterable[Route]:
        for info in self._kernel.routes(family):
            row = rtnetlink.route_of(info, self._kernel.names)
            if row is not None:
                yield row

    async def _explain(self, row: Route, error: NetlinkError) -> str | None:
        family = AF_INET if row.destination.version == 4 else AF_INET6
        rival = next((other for other in self._all(family) if other.key == row.key), None)
        if rival == row:
            return None
        if rival is None:
            return f"{error}: a route of several next hops stands there, which isn't ours"
        words = str(rival).removeprefix("route ").removesuffix(f" proto {rival.protocol}")
        return f"a route that isn't ours stands there: `ip route del {words}` makes room (protocol {rival.protocol})"


def _with_protocol(row: Route, protocol: int) -> Route:
    if protocol == PROTOCOL:
        return row
    return Route(row.destination, row.device, row.gateway, row.onlink, row.blackhole, row.metric, protocol)


def _neighbours(kernel: Kernel, family: int, index: int) -> Iterable[Neighbour | FdbEntry]:
    for message in kernel.dump(rtnetlink.neighbours_dump(family, index)):
        row = rtnetlink.parse_neighbour(message.body, kernel.names)
        if row is not None:
            yield row
