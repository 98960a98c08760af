"""Watches the kernel for disturbances of our tables, and for changes of the underlay."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from errno import ENOBUFS

from pyflannel.model.rows import LINKS, Address, Neighbour, Route, VxlanLink
from pyflannel.table.contract import Scope, Touched
from pyflannel.table.kernel import BUFFER_BYTES, SOL_NETLINK, Kernel, enlarge
from pyflannel.table.ownership import owns_address, owns_neighbour, owns_route
from pyflannel.wire import netlink, rtlink, rtnetlink
from pyflannel.wire.facts import AddressInfo, LinkInfo
from pyflannel.wire.netlink import Message
from pyflannel.wire.rtnetlink import Names

log = logging.getLogger(__name__)

NETLINK_ADD_MEMBERSHIP = 1
# rtnetlink groups: links, neighbours (FDB entries too), IPv4 and IPv6 addresses and routes
GROUPS = (1, 3, 5, 7, 9, 11)
_NEW_OR_DEL_NEIGH = (rtnetlink.RTM_NEWNEIGH, rtnetlink.RTM_DELNEIGH)
_NEW_OR_DEL_ROUTE = (rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE)
_NEW_OR_DEL_ADDR = (rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR)
_NEW_OR_DEL_LINK = (rtlink.RTM_NEWLINK, rtlink.RTM_DELLINK)


class Monitor:
    """A Source: notifications of the kernel, judged and passed on.

    What the kernel does to rows when a device goes (or is taken down) it doesn't announce row by row: then all
    tables are reported, if rows of ours stand on it (`Kernel.used`); pods' links, which come and go all day, cost
    nothing. *on_underlay* is called when an address, a link that has one, or a route that isn't ours changed; often
    many times in a row.
    """

    def __init__(self, kernel: Kernel, scope: Scope, on_underlay: Callable[[], None] = lambda: None) -> None:
        self._kernel, self._scope, self._on_underlay = kernel, scope, on_underlay
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        enlarge(self._socket, BUFFER_BYTES)
        self._socket.bind((0, 0))
        for group in GROUPS:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._links: dict[int, tuple[LinkInfo, VxlanLink | None]] = {}
        self._names = Names()  # those of _links; the kernel socket's may lag behind what is announced
        self._numbered: set[int] = set()  # indexes of links that have, or had, an address of their own
        self._touched: Callable[[Touched], None] = lambda what: None

    def close(self) -> None:
        self._socket.close()

    async def watch(self, touched: Callable[[Touched], None]) -> None:
        """Report until cancelled."""
        self._touched = touched
        self._survey()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._read)
        touched(Touched())
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(self._socket)

    def _survey(self) -> None:
        """Learn the links anew. Raises NetlinkError."""
        self._links = {link.index: (link, None) for link in self._kernel.links()}
        self._names = Names.of({index: link.name for index, (link, _) in self._links.items()})
        self._numbered = {info.index for info in self._kernel.addresses() if not _made_by_the_kernel(info)}

    def _read(self) -> None:
        try:
            for _ in range(64):  # then let others run
                self._take(self._socket.recv(1 << 17))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
            log.debug("notifications were lost: reading all tables")
            self._kernel.names_stale = True
            with suppress(OSError):  # what can't be read now, the tables will say
                self._survey()
            self._touched(Touched())
            self._on_underlay()

    def _take(self, data: bytes) -> None:
        for message in netlink.messages(data):
            if message.type in _NEW_OR_DEL_LINK:
                self._link(message)
            elif message.pid == self._kernel.port_id:
                continue  # our own doing
            elif message.type in _NEW_OR_DEL_NEIGH:
                self._neighbour(message)
            elif message.type in _NEW_OR_DEL_ROUTE:
                self._route(message)
            elif message.type in _NEW_OR_DEL_ADDR:
                self._address(message)

    def _link(self, message: Message) -> None:
        if message.body[0] == rtnetlink.AF_BRIDGE:
            return  # about a bridge's port, not about the link
        link = rtlink.parse_link(message.body)
        ours = link.name in self._scope.devices
        row = rtlink.parse_vxlan(message.body, self._names) if ours else None
        now = (link, row) if message.type == rtlink.RTM_NEWLINK else None
        before = self._links.get(link.index)
        if now == before:
            return  # statistics, carrier, wireless: nothing that we look at
        self._remember(link, now)
        ours = ours or (before is not None and before[0].name in self._scope.devices)
        used = ours or self._stood_on(link.name) or (before is not None and self._stood_on(before[0].name))
        if used and (before is None or now is None or (before[0].name, before[0].up) != (link.name, link.up)):
            self._touched(Touched())  # routes over it may have gone unannounced
        if not ours:
            if used or link.index in self._numbered:
                self._on_underlay()
        elif message.pid != self._kernel.port_id:
            for kind in LINKS:
                self._touched(Touched(kind))
        if now is None:
            self._numbered.discard(link.index)

    def _remember(self, link: LinkInfo, now: tuple[LinkInfo, VxlanLink | None] | None) -> None:
        before = self._links.pop(link.index, None)
        if before is not None and self._names.index.get(before[0].name) == link.index:
            del self._names.index[before[0].name]
        self._names.name.pop(link.index, None)
        if now is not None:
            self._links[link.index] = now
            self._names.index[link.name], self._names.name[link.index] = link.index, link.name
        self._kernel.names_stale = True

    def _stood_on(self, name: str) -> bool:
        return name in self._scope.devices or name in self._kernel.used

    def _neighbour(self, message: Message) -> None:
        row = rtnetlink.parse_neighbour(message.body, self._names)
        if row is not None:
            if owns_neighbour(row, self._scope):
                self._touched(Touched(type(row), row, message.type == rtnetlink.RTM_NEWNEIGH))
            return
        # A permanent neighbour that is deleted is announced as a failed one.
        family, index = rtnetlink.neighbour_device(message.body)
        if family != rtnetlink.AF_BRIDGE and self._names.name.get(index) in self._scope.devices:
            self._touched(Touched(Neighbour))

    def _route(self, message: Message) -> None:
        info = rtnetlink.parse_route(message.body)
        if info is None:
            return
        row = rtnetlink.route_of(info, self._names)
        if row is None:
            self._touched(Touched(Route))  # over a device that just went
        elif owns_route(row, self._scope):
            self._touched(Touched(Route, row, message.type == rtnetlink.RTM_NEWROUTE))
        elif self._in_network(row) or row.device in self._scope.devices:
            self._touched(Touched(Route))  # somebody else's where ours may have been, or are to be
        elif not info.destination.is_link_local:  # IPv6 gives every link such a route too
            self._on_underlay()

    def _in_network(self, row: Route) -> bool:
        net = row.destination
        return any(net.version == other.version and net.network_address in other for other in self._scope.networks)

    def _address(self, message: Message) -> None:
        info = rtnetlink.parse_address(message.body)
        if info is None or _made_by_the_kernel(info):
            return
        present = message.type == rtnetlink.RTM_NEWADDR
        name = self._names.name.get(info.index)
        if name is None:
            self._touched(Touched(Address))
            return
        if present:
            self._numbered.add(info.index)
        elif self._stood_on(name):
            self._touched(Touched(Route))  # routes whose gateway it made reachable went with it, unannounced
        row = Address(name, info.ip, info.prefix_len)
        if owns_address(row, self._scope):
            self._touched(Touched(Address, row, present))
        elif name not in self._scope.devices:
            self._on_underlay()


def _made_by_the_kernel(info: AddressInfo) -> bool:
    """IPv6 gives every link an address; it is no row of ours, and nobody is reached by it."""
    return info.ip.version == 6 and info.ip.is_link_local
