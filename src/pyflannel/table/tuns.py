"""TUN devices: made by ioctl (linux/if_tun.h), persistent, so that they outlive the daemon."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Collection

from pyflannel.model.errors import TableError
from pyflannel.model.rows import TunLink
from pyflannel.table.contract import Change, Failure, Scope
from pyflannel.table.kernel import Kernel
from pyflannel.wire import rtlink
from pyflannel.wire.netlink import Request

CLONE_DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
_IFREQ = struct.Struct("16sH22x")


class TunsTable:
    """Those that carry our mark; nothing else tells ours from a VPN's."""

    name, row_type = "tuns", TunLink

    def __init__(self, kernel: Kernel, scope: Scope) -> None:
        self._kernel, self._scope = kernel, scope

    async def dump(self, wanted: Collection[TunLink]) -> list[TunLink]:
        return [
            TunLink(link.name, link.mtu, link.up)
            for link in self._kernel.links()
            if link.kind == "tun" and link.alias == self._scope.mark
        ]

    async def apply(self, change: Change[TunLink]) -> list[Failure[TunLink]]:
        failures: list[Failure[TunLink]] = []
        for row in change.remove:
            index = self._kernel.fresh_names().index.get(row.name)
            if index is not None:
                failures += await self._do(row, rtlink.link_delete(index), removing=True)
        for row in change.create:
            try:
                await self._create(row)
            except OSError as error:
                failures.append(Failure(row, TableError(row, _explain(row, error), error.errno)))
            else:
                failures += await self._set(row)
        for row in change.replace:
            failures += await self._set(row)
        self._kernel.names_stale = True
        return failures

    async def _create(self, row: TunLink) -> None:
        """Raises OSError. The device is marked before it is persistent: a crash leaves none that nobody knows."""
        if row.name in {link.name for link in self._kernel.links()}:
            raise FileExistsError(f"a device of this name is there, and not ours: `ip link del {row.name}`")
        device = os.open(CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, TUNSETIFF, _IFREQ.pack(row.name.encode(), IFF_TUN | IFF_NO_PI))
            self._kernel.links()
            index = self._kernel.names.index[row.name]
            (error,) = await self._kernel.batch([rtlink.link_set(index, alias=self._scope.mark)])
            if error is not None:
                raise error
            fcntl.ioctl(device, TUNSETPERSIST, 1)
        finally:
            os.close(device)

    async def _set(self, row: TunLink) -> list[Failure[TunLink]]:
        index = self._kernel.fresh_names().index.get(row.name)
        if index is None:
            return [Failure(row, TableError(row, "the device has gone"))]
        return await self._do(row, rtlink.link_set(index, mtu=row.mtu, up=row.up))

    async def _do(self, row: TunLink, request: Request, removing: bool = False) -> list[Failure[TunLink]]:
        (error,) = await self._kernel.batch([request])
        return [] if error is None else [Failure(row, TableError(row, str(error), error.errno), removing)]


def _explain(row: TunLink, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{CLONE_DEVICE} is missing: `modprobe tun`; in a container, let it have that device"
    if isinstance(error, PermissionError):
        return (
            f"{CLONE_DEVICE} or the device may not be opened: run with CAP_NET_ADMIN, in a container with that device"
        )
    return str(error)
