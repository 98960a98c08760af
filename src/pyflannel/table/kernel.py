"""The kernel's netlink socket: batches without a round trip per row, dumps, and the names of devices."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from errno import EBUSY

from pyflannel.model.node import IPAddress
from pyflannel.wire import netlink, rtlink, rtnetlink
from pyflannel.wire.facts import AddressInfo, LinkInfo, RouteInfo
from pyflannel.wire.netlink import F_ACK, F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Message, NetlinkError, Request
from pyflannel.wire.rtnetlink import Names

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

# Ours to tune.
BATCH = 1_000  # messages per send; the event loop runs between two batches
BUFFER_BYTES = 8 << 20  # takes a batch of which every message fails
PATIENCE_S = 5.0  # rtnetlink answers within the call; this is for a kernel in trouble
DUMP_TRIES = 5  # a table that changes while it's read is read again


class Kernel:
    """One rtnetlink socket of the network namespace in which it was made, and the device names last read there.

    Calls take microseconds to milliseconds and don't wait for anybody, so they are made on the event loop; batches
    let it run in between.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._socket.settimeout(PATIENCE_S)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        enlarge(self._socket, BUFFER_BYTES)
        self._seq = int(time.monotonic()) & 0xFFFF
        self.port_id: int = self._socket.getsockname()[0]
        self.names = Names()
        self.names_stale = True
        self.used: set[str] = set()  # devices that rows of ours stand on: what happens to them happens to the rows

    def close(self) -> None:
        self._socket.close()

    async def batch(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Send *requests* in their order; what became of each. Only refusals and the last one are answered."""
        results: list[NetlinkError | None] = []
        for start in range(0, len(requests), BATCH):
            if start:
                await asyncio.sleep(0)
            results += self._send(requests[start : start + BATCH])
        return results

    def _send(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        first, last = self._seq + 1, self._seq + len(requests)
        self._seq = last
        data = [netlink.pack(request, first + at) for at, request in enumerate(requests[:-1])]
        data.append(netlink.pack(requests[-1], last, F_ACK))
        self._socket.send(b"".join(data))
        results: list[NetlinkError | None] = [None] * len(requests)
        while True:
            for message in netlink.messages(self._socket.recv(1 << 17)):
                if message.type == NLMSG_ERROR and first <= message.seq <= last:
                    results[message.seq - first] = netlink.error(message)
                    if message.seq == last:
                        return results

    def dump(self, request: Request) -> list[Message]:
        """All answers to *request*, consistent: read again if the table changed meanwhile. Raises NetlinkError."""
        for _ in range(DUMP_TRIES):
            found = self._dump(request)
            if found is not None:
                return found
        raise NetlinkError(EBUSY, "the table keeps changing while it's read")

    def _dump(self, request: Request) -> list[Message] | None:
        self._seq += 1
        self._socket.send(netlink.pack(request, self._seq))
        found: list[Message] = []
        torn = False
        while True:
            for message in netlink.messages(self._socket.recv(1 << 17)):
                if message.seq != self._seq:
                    continue
                torn = torn or bool(message.flags & F_DUMP_INTR)
                if message.type in (NLMSG_DONE, NLMSG_ERROR):
                    if error := netlink.error(message):
                        raise error
                    return None if torn else found
                found.append(message)

    def links(self) -> list[LinkInfo]:
        """Every link; the names are known from then on."""
        links = [rtlink.parse_link(message.body) for message in self.dump(rtlink.links_dump())]
        self.names, self.names_stale = Names.of({link.index: link.name for link in links}), False
        return links

    def fresh_names(self) -> Names:
        """Names of devices, read again if a link was touched since."""
        if self.names_stale:
            self.links()
        return self.names

    def addresses(self) -> list[AddressInfo]:
        """Every address of every link."""
        parsed = (rtnetlink.parse_address(message.body) for message in self.dump(rtnetlink.addresses_dump()))
        return [info for info in parsed if info is not None]

    def routes(self, family: int) -> list[RouteInfo]:
        """Unicast and blackhole routes of the main table, of AF_INET or AF_INET6."""
        parsed = (rtnetlink.parse_route(message.body) for message in self.dump(rtnetlink.routes_dump(family)))
        return [info for info in parsed if info is not None]

    def route_to(self, ip: IPAddress) -> RouteInfo | None:
        """How the kernel would reach *ip* (`ip route get`); None if it can't."""
        self._seq += 1
        self._socket.send(netlink.pack(rtnetlink.route_lookup(ip), self._seq))
        while True:
            for message in netlink.messages(self._socket.recv(1 << 17)):
                if message.seq == self._seq:  # an answer that came too late for its own call may lie before
                    found = message.type == rtnetlink.RTM_NEWROUTE
                    return rtnetlink.parse_route(message.body, any_table=True) if found else None


def enlarge(sock: socket.socket, size: int) -> None:
    """Buffers of *size* bytes, beyond the system's limit where we may."""
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)
