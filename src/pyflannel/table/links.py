"""VXLAN devices: made, kept as they are where they fit, changed in place where the kernel can."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from errno import EEXIST, EINVAL

from pyflannel.model.errors import TableError
from pyflannel.model.rows import VxlanLink
from pyflannel.table.contract import Change, Failure, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.table.ownership import owns_link
from pyflannel.wire import rtlink
from pyflannel.wire.netlink import NetlinkError, Request
from pyflannel.wire.rtnetlink import Names

log = logging.getLogger(__name__)

HEADROOM, HEADROOM6 = 50, 70  # what the kernel takes off the underlay's MTU: outer IP, UDP, VXLAN, inner Ethernet


class LinksTable:
    """The devices of our backend, and what a former backend of ours left (known by its mark)."""

    name, row_type = "links", VxlanLink

    def __init__(self, kernel: Kernel, scope: Scope) -> None:
        self._kernel, self._scope = kernel, scope

    async def dump(self, wanted: Collection[VxlanLink]) -> list[VxlanLink]:
        found = self._kernel.dump(rtlink.links_dump())
        links = [rtlink.parse_link(message.body) for message in found]
        self._kernel.names = Names.of({link.index: link.name for link in links})
        rows = []
        for message, link in zip(found, links, strict=True):
            row = rtlink.parse_vxlan(message.body, self._kernel.names)
            if row is not None and owns_link(link, self._scope):
                rows.append(row)
        self._kernel.used.update(row.underlay for row in rows if row.underlay)
        return rows

    async def apply(self, change: Change[VxlanLink]) -> list[Failure[VxlanLink]]:
        failures: list[Failure[VxlanLink]] = []
        actual = {row.name: row for row in await self.dump(())} if change.replace else {}
        for row in change.remove:
            failures += self._failed(row, await self._remove(row), removing=True)
        for row in change.create:
            failures += self._failed(row, await self._create(row))
        for row in change.replace:
            failures += self._failed(row, await self._replace(row, actual.get(row.name)))
        self._kernel.names_stale = True
        return failures

    async def mark(self) -> None:
        """Put our mark on devices that bear our names already (Go flannel's): if the backend changes one day, they
        are known as ours and swept."""
        for link in self._kernel.links():
            if owns_link(link, self._scope) and link.alias != self._scope.mark:
                await self._do(rtlink.link_set(link.index, alias=self._scope.mark))

    async def _create(self, row: VxlanLink) -> NetlinkError | str | None:
        names = self._kernel.fresh_names()
        if row.underlay is not None:
            self._kernel.used.add(row.underlay)
        if row.underlay not in names.index:
            return f"there is no device {row.underlay} to stand on"
        error = await self._do(rtlink.vxlan_create(row, names))
        if error is not None:
            return self.in_the_way(row) or error if error.errno == EEXIST else error
        self._kernel.links()
        return await self._settle(row)

    async def _settle(self, row: VxlanLink) -> NetlinkError | str | None:
        index = self._kernel.names.index[row.name]
        # The alias can't be set at creation. MTU before up: pods' first packets see it. Up whatever the MTU.
        marked = await self._do(rtlink.link_set(index, alias=self._scope.mark))
        sized = await self._size(row, index)
        return await self._do(rtlink.link_set(index, up=row.up)) or sized or marked

    async def _size(self, row: VxlanLink, index: int) -> NetlinkError | str | None:
        """Set the MTU; the largest there can be, and a complaint, if the underlay's is too small for it."""
        error = await self._do(rtlink.link_set(index, mtu=row.mtu))
        if error is None or error.errno != EINVAL:
            return error
        under = next((link for link in self._kernel.links() if link.name == row.underlay), None)
        most = under.mtu - (HEADROOM6 if _over_ipv6(row) else HEADROOM) if under else row.mtu
        if under is None or row.mtu <= most:
            return error
        return await self._do(rtlink.link_set(index, mtu=most)) or (
            f"{under.name}'s MTU {under.mtu} allows {most} at most, which it has for now: raise {under.name}'s MTU, or "
            "lower MTU in the network config's Backend"
        )

    async def _replace(self, row: VxlanLink, actual: VxlanLink | None) -> NetlinkError | str | None:
        if actual is None:
            return await self._create(row)
        if not in_place(actual, row):
            log.warning("%s is made anew: it is %s", row, actual)
            return await self._remove(actual) or await self._create(row)
        index = self._kernel.names.index[row.name]
        if actual.mac != row.mac and (error := await self._do(rtlink.link_set(index, mac=row.mac))):
            return error
        if actual.learning != row.learning and (error := await self._do(rtlink.vxlan_learning(index, row.learning))):
            return error
        return await self._settle(row)

    async def _remove(self, row: VxlanLink) -> NetlinkError | None:
        index = self._kernel.fresh_names().index.get(row.name)
        if index is None:
            return None
        self._kernel.names_stale = True
        return await self._do(rtlink.link_delete(index))

    def in_the_way(self, row: VxlanLink) -> str | None:
        """What would keep *row* from being made. Reads only."""
        messages = self._kernel.dump(rtlink.links_dump())
        for message in messages:
            link = rtlink.parse_link(message.body)
            if link.name == row.name:
                return (
                    f"a {link.kind or 'hardware'} device of this name is there, and not ours: `ip link del {row.name}`"
                )
        names = Names.of({link.index: link.name for link in self._kernel.links()})
        for message in messages:
            other = rtlink.parse_vxlan(message.body, names)
            # Those that share all of this can't be told apart by what arrives; our own of the other family can.
            if other is not None and _incoming(other) == _incoming(row):
                return (
                    f"{other.name} uses VNI {row.vni} on port {row.port} already: `ip link del {other.name}`, "
                    "or another VNI or Port in the network config"
                )
        return None

    async def _do(self, request: Request) -> NetlinkError | None:
        (error,) = await self._kernel.batch([request])
        return error

    def _failed(
        self, row: VxlanLink, error: NetlinkError | str | None, removing: bool = False
    ) -> list[Failure[VxlanLink]]:
        if error is None:
            return []
        errno = error.errno if isinstance(error, NetlinkError) else None
        return [Failure(row, TableError(row, str(error), errno), removing)]


def in_place(actual: VxlanLink, wanted: VxlanLink) -> bool:
    """Can *actual* be made *wanted* without being removed?"""
    return replace(wanted, mac=actual.mac, mtu=actual.mtu, learning=actual.learning, up=actual.up) == actual


def _incoming(row: VxlanLink) -> tuple[int, int, bool, bool]:
    return (row.vni, row.port, _over_ipv6(row), row.gbp)


def _over_ipv6(row: VxlanLink) -> bool:
    return row.local is not None and row.local.version == 6
