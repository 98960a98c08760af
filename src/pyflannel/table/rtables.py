"""The tables whose rows are written in batches over rtnetlink: addresses, routes, neighbours, FDB."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from errno import EADDRNOTAVAIL, EEXIST, ENODEV, ENOENT, ENXIO, ESRCH
from socket import AF_INET, AF_INET6
from typing import Generic, TypeVar

from pyflannel.model.errors import TableError
from pyflannel.model.rows import Address, FdbEntry, Neighbour, Route
from pyflannel.table.contract import Change, Failure, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.table.ownership import adoptable, owns_address, owns_neighbour, owns_route
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
        taken: list[tuple[R, NetlinkError]] = []
        for (kind, flags, row), error in zip(sent, results, strict=True):
            if error is None or (kind == self._delete and error.errno in ABSENT):
                continue
            if error.errno == ENODEV:
                self._kernel.names_stale = True
            if flags == CREATE and error.errno == EEXIST:
                taken.append((row, error))
            else:
                failures.append(Failure(row, TableError(row, str(error), error.errno), kind == self._delete))
        return failures + await self._occupied(taken) if taken else failures

    def _create_flags(self, row: R) -> int:
        return CREATE

    async def _occupied(self, taken: list[tuple[R, NetlinkError]]) -> list[Failure[R]]:
        """What is to be said of rows whose key something else holds."""
        return [Failure(row, TableError(row, str(error), error.errno)) for row, error in taken]


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
    """Routes of the main table into the cluster's networks, marked with our protocol.

    Of several routes under one key (`ip route append`, `prepend`) the kernel uses the first; so do we.
    """

    name, row_type = "routes", Route
    _new, _delete = rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE
    _encode = staticmethod(rtnetlink.route_request)

    async def apply(self, change: Change[Route]) -> list[Failure[Route]]:
        self._kernel.used.update(row.device for row in (*change.create, *change.replace) if row.device)
        return await super().apply(change)

    async def dump(self, wanted: Collection[Route]) -> list[Route]:
        self._kernel.links()
        families = {network.version for network in self._scope.networks}
        first: dict[Hashable, Route] = {}
        ours: dict[Hashable, Route] = {}
        for row in (row for version in sorted(families) for row in self._all(version)):
            first.setdefault(row.key, row)
            if owns_route(row, self._scope):
                ours.setdefault(row.key, row)
        for row in wanted:
            head = first.get(row.key)
            if head is None or head is ours.get(row.key):
                continue
            if adoptable(head, row):
                ours[row.key] = head  # Go flannel's host-gw routes bear no mark: replaced in place
            else:
                ours.pop(row.key, None)  # hidden behind somebody else's, which a replacement would hit
        self._kernel.used.update(row.device for row in ours.values() if row.device)
        return list(ours.values())

    def _all(self, version: int) -> Iterable[Route]:
        for info in self._kernel.routes(AF_INET if version == 4 else AF_INET6):
            row = rtnetlink.route_of(info, self._kernel.names)
            if row is not None:
                yield row

    def in_the_way(self, rows: Sequence[Route]) -> list[str]:
        """What would keep *rows* from being made: somebody else's under their keys. Reads only."""
        standing = self._standing(rows)
        return [
            _rivalry(rival, None)
            for row in rows
            if (rival := standing.get(row.key)) and not (adoptable(rival, row) or owns_route(rival, self._scope))
        ]

    def _standing(self, rows: Sequence[Route]) -> dict[Hashable, Route]:
        """The routes that the kernel uses, by key, in the families of *rows*."""
        found: dict[Hashable, Route] = {}
        for version in sorted({row.destination.version for row in rows}):
            for other in self._all(version):
                found.setdefault(other.key, other)
        return found

    async def _occupied(self, taken: list[tuple[Route, NetlinkError]]) -> list[Failure[Route]]:
        """Adopt in place what equals the wanted route in all but its mark, or bears it; name the rival of others."""
        rivals = self._standing([row for row, _ in taken])
        adopted: list[Route] = []
        failures: list[Failure[Route]] = []
        for row, error in taken:
            rival = rivals.get(row.key)
            if rival is not None and (adoptable(rival, row) or owns_route(rival, self._scope)):
                adopted.append(row)
            else:
                failures.append(Failure(row, TableError(row, _rivalry(rival, error), error.errno)))
        requests = [self._encode(self._new, REPLACE, row, self._kernel.names) for row in adopted]
        for row, refusal in zip(adopted, await self._kernel.batch(requests), strict=True):
            if refusal is not None:
                failures.append(Failure(row, TableError(row, str(refusal), refusal.errno)))
        return failures


def _rivalry(rival: Route | None, error: NetlinkError | None) -> str:
    if rival is None:  # gone again, or of a kind that isn't read: with a type of service, over a vanished device
        return f"{error}: `ip route show table main` tells what stands there"
    words = str(rival).removeprefix("route ").removesuffix(f" proto {rival.protocol}")
    return f"a route that isn't ours stands there: `ip route del {words}` makes room (protocol {rival.protocol})"


def _neighbours(kernel: Kernel, family: int, index: int) -> Iterable[Neighbour | FdbEntry]:
    for message in kernel.dump(rtnetlink.neighbours_dump(family, index)):
        row = rtnetlink.parse_neighbour(message.body, kernel.names)
        if row is not None:
            yield row
