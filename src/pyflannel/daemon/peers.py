"""From lease events to rows: the place where stores, backends and the reconciler meet. Decides; does no I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pyflannel.backend.contract import Backend
from pyflannel.model.errors import Unreachable
from pyflannel.model.lease import Lease, LeaseEvent, Snapshot, Subnets
from pyflannel.model.rows import Row
from pyflannel.reconcile.desired import BASE
from pyflannel.reconcile.reconciler import Reconciler
from pyflannel.store.ledger import Ledger, LedgerChange

log = logging.getLogger(__name__)


class Peers:
    """Keeps the reconciler's wishes equal to what the leases say."""

    def __init__(self, own: Subnets, backend: Backend, reconciler: Reconciler, extra: tuple[Row, ...] = ()) -> None:
        self.own, self.backend = own, backend
        self._reconciler, self._extra = reconciler, extra
        self.ledger = Ledger(own)
        self.unreachable: dict[Subnets, str] = {}
        reconciler.want(BASE, (*backend.base(own), *extra))

    def on(self, event: LeaseEvent) -> LedgerChange:
        """Take in *event*. Returns what it changed."""
        change = self.ledger.apply(event)
        if isinstance(event, Snapshot):
            self._reconciler.sweep(self._plan(self.ledger.leases.values()))
            log.info("%d peers%s", len(self.ledger.leases), self._missing())
            return change
        for gone in change.removed:
            self.unreachable.pop(gone.subnets, None)
            self._reconciler.drop(gone.subnets)
            log.info("peer %s (%s) is gone", gone.subnets, gone.attrs.address())
        for lease in change.changed:
            self._reconciler.want(lease.subnets, self._reach(lease))
            log.info(
                "peer %s at %s%s",
                lease.subnets,
                lease.attrs.address(),
                " (unreachable)" * (lease.subnets in self.unreachable),
            )
        return change

    def assume(self, leases: Iterable[Lease]) -> None:
        """Start from remembered leases: their rows are written, nothing is removed."""
        for lease in leases:
            self._reconciler.want(lease.subnets, self._reach(lease))

    def rebuild(self, backend: Backend) -> None:
        """This node changed (an address, the underlay's routes): plan everything anew."""
        self.backend = backend
        self._reconciler.want(BASE, (*backend.base(self.own), *self._extra))
        for subnets, rows in self._plan(self.ledger.leases.values()).items():
            self._reconciler.want(subnets, rows)

    def problems(self) -> list[str]:
        """Peers that can't be reached from here, and why."""
        return [f"peer {subnets}: {why}" for subnets, why in self.unreachable.items()]

    def _plan(self, leases: Iterable[Lease]) -> dict[Subnets, tuple[Row, ...]]:
        plan = {lease.subnets: self._reach(lease) for lease in leases}
        self.unreachable = {subnets: why for subnets, why in self.unreachable.items() if subnets in plan}
        return plan

    def _reach(self, peer: Lease) -> tuple[Row, ...]:
        try:
            if peer.subnets.overlaps(self.own):
                raise Unreachable(f"it overlaps our own {self.own}: `flannelctl leases release` the one that is stale")
            rows = self.backend.reach(peer)
        except Unreachable as error:
            if self.unreachable.get(peer.subnets) != str(error):
                log.warning("peer %s can't be reached: %s", peer.subnets, error)
            self.unreachable[peer.subnets] = str(error)
            return ()
        self.unreachable.pop(peer.subnets, None)
        return rows

    def _missing(self) -> str:
        return f", {len(self.unreachable)} of them unreachable" if self.unreachable else ""
