"""Keeping our lease: renewed in time, published anew when we change, taken again if it was lost innocently."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from pyflannel.model.errors import LeaseTaken, StoreError
from pyflannel.model.lease import Lease, LeaseAttrs
from pyflannel.store.contract import Store
from pyflannel.store.renewal import renew_at, when_gone

log = logging.getLogger(__name__)


class Revoked(Exception):
    """Our lease is somebody else's, or was taken away: the daemon ends, and leaves everything in place."""


class Tenure:
    """Our lease, and what we publish in it."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        margin_s: float,
        *,
        provisional: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._margin_s, self._clock = store, margin_s, clock
        self.lease, self.wanted = lease, lease.attrs
        self._failures, self._failed_at = 0, 0.0
        self._due = provisional  # remembered from a checkpoint: to be confirmed at once
        self._wake = asyncio.Event()

    def publish(self, attrs: LeaseAttrs) -> None:
        """Let *attrs* be published from now on."""
        self.wanted = attrs
        self._now_due()

    def seen(self, lease: Lease) -> None:
        """The store says what our lease is. One that others overwrote is put right."""
        if lease.attrs != self.wanted and self.wanted == self.lease.attrs:
            if not lease.attrs.same_node(self.wanted):
                raise Revoked(f"{lease.subnets} was given to {lease.attrs.address()}")
            log.warning("our lease was changed by somebody else: publishing it again")
            self._now_due()

    def gone(self) -> None:
        """The store has no lease of ours. Raises Revoked if that was before its time."""
        if self._due:
            return  # about to be written anyway
        if when_gone(self.lease, self._clock()) == "revoked":
            raise Revoked(f"the lease of {self.lease.subnets} was taken away before its time")
        log.warning("our lease of %s has expired while the store was out of reach: taking it again", self.lease.subnets)
        self._now_due()

    def problems(self) -> list[str]:
        """What is wrong with our lease."""
        expires = self.lease.expires
        if expires is not None and self._clock() >= expires:
            return [f"the lease of {self.lease.subnets} has expired, and the store doesn't renew it"]
        return []

    async def keep(self) -> None:
        """Renew for ever. Raises Revoked."""
        while True:
            at = renew_at(self.lease, self._margin_s, self._failures, self._failed_at)
            if self._due:
                at = self._clock() if not self._failures else self._failed_at + min(2 ** (self._failures - 1), 60)
            if at is None or at > self._clock():
                self._wake.clear()
                pause = None if at is None else min(at - self._clock(), 60.0)  # the wall clock may be set
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            await self._renew()

    async def _renew(self) -> None:
        wanted, self._due = self.wanted, False
        try:
            self.lease = await self._store.renew(self.lease, wanted)
        except LeaseTaken as error:
            raise Revoked(str(error)) from None
        except StoreError as error:
            self._due = self._due or wanted != self.lease.attrs
            if not self._failures:
                log.warning("our lease can't be renewed: %s; trying again", error)
            self._failures, self._failed_at = self._failures + 1, self._clock()
            return
        if self._failures:
            log.info("our lease is renewed again")
        self._failures = 0

    def _now_due(self) -> None:
        self._due, self._failures = True, 0
        self._wake.set()
