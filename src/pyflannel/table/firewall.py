"""The firewall as a table of chains, whichever manager holds them; switching managers sweeps the other's."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from pyflannel.model.errors import ConfigError, TableError
from pyflannel.model.network import SOURCE
from pyflannel.model.rows import Chain, Family
from pyflannel.table.contract import Change, Failure, Touched
from pyflannel.table.iptables import Iptables
from pyflannel.table.kernel import SOL_NETLINK, enlarge
from pyflannel.table.monitor import NETLINK_ADD_MEMBERSHIP
from pyflannel.table.nftables import Nftables
from pyflannel.wire import netlink

log = logging.getLogger(__name__)

NETLINK_NETFILTER, NFNLGRP_NFTABLES = 12, 7
_OURS = (b"flannel-ipv", b"FLANNEL-")  # names in every notification about our tables and chains


class FirewallTable:
    """Both managers' chains of ours. The one not in use is looked at until it is seen empty once."""

    name, row_type = "firewall", Chain

    def __init__(self, manager: Literal["nftables", "iptables"], prefix: Sequence[str] = ()) -> None:
        self._manager = manager
        self._nft, self._ipt = Nftables(prefix), Iptables(prefix)
        self._other_clean = False

    async def dump(self, wanted: Collection[Chain]) -> list[Chain]:
        chains = await self._of(self._manager)
        if not self._other_clean:
            others = await self._of("iptables" if self._manager == "nftables" else "nftables")
            self._other_clean = not others
            chains += others
        return chains

    async def _of(self, manager: str) -> list[Chain]:
        return await (self._nft.dump() if manager == "nftables" else self._ipt.dump())

    async def apply(self, change: Change[Chain]) -> list[Failure[Chain]]:
        failures: list[Failure[Chain]] = []
        written = (*change.create, *change.replace)
        for manager in ("nftables", "iptables"):
            remove = [chain for chain in change.remove if chain.manager == manager]
            write = [chain for chain in written if chain.manager == manager]
            if not (remove or write):
                continue
            if manager == "nftables":
                words = await self._nft.apply(remove, write)
                failed: dict[Family, str] = {} if words is None else {4: words, 6: words}
            else:
                failed = await self._ipt.apply(remove, write)
            failures += [
                Failure(chain, TableError(chain, failed[chain.family]), chain in remove)
                for chain in (*remove, *write)
                if chain.family in failed
            ]
        return failures


class FirewallMonitor:
    """A Source: nftables' notifications (iptables-nft's too), and a look every *resync_s* seconds (0: none) where
    iptables may be the legacy one, which tells nobody."""

    def __init__(self, resync_s: float = 0.0) -> None:
        self._resync_s = resync_s
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, NETLINK_NETFILTER)
        enlarge(self._socket, 1 << 20)
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)

    def close(self) -> None:
        self._socket.close()

    async def watch(self, touched: Callable[[Touched], None]) -> None:
        """Report until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._read, touched)
        touched(Touched(Chain))
        try:
            while True:
                await asyncio.sleep(self._resync_s or 3600)
                if self._resync_s:
                    touched(Touched(Chain))
        finally:
            loop.remove_reader(self._socket)

    def _read(self, touched: Callable[[Touched], None]) -> None:
        try:
            for _ in range(64):
                data = self._socket.recv(1 << 17)
                if any(word in message.body for message in netlink.messages(data) for word in _OURS):
                    touched(Touched(Chain))
        except BlockingIOError:
            return
        except OSError:  # notifications were lost
            touched(Touched(Chain))


async def choose_manager(
    wish: bool | None, families: Collection[Family], nft: Nftables, ipt: Iptables
) -> Literal["nftables", "iptables"]:
    """What the config says (*wish*: EnableNFTables). Else nftables where `nft` works, unless iptables has a say in
    *families* already. Raises ConfigError if the config says nftables and that can't be."""
    if wish is False:
        return "iptables"
    trouble = await nft.works()
    if trouble is not None and wish:
        raise ConfigError(SOURCE, "EnableNFTables", True, f"false, or an nft that works here ({trouble})")
    if wish is None:
        trouble = trouble or await ipt.kept(families)
    if trouble is None:
        return "nftables"
    log.info("using iptables: %s", trouble)
    return "iptables"
