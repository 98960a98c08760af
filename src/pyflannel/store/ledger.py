"""Folds lease events into the set of our peers' leases.

Rule 1: our own lease is never a peer; its fate is told apart.
Rule 2: a snapshot is compared with attributes and all: a peer that moved while we didn't listen has changed.
Rule 3: the removal of what we never knew is nothing.
Rule 4: leases are told apart by the whole of their subnets. Two that overlap (a node's IPv4-only and dual-stack form
        while it switches) are two peers; what they both claim is settled where rows are (reconcile/desired.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyflannel.model.lease import Added, Lease, LeaseEvent, Removed, Snapshot, Subnets

Fate = Literal["seen", "gone"]


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """What an event changed: peers new or with new attributes, peers gone, and (if told) what became of our lease."""

    changed: tuple[Lease, ...] = ()
    removed: tuple[Lease, ...] = ()
    own: Fate | None = None
    own_lease: Lease | None = None

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


class Ledger:
    """Our peers' leases by subnet. `complete` once a snapshot has come."""

    def __init__(self, own: Subnets) -> None:
        self._own = own
        self.leases: dict[Subnets, Lease] = {}
        self.complete = False

    def apply(self, event: LeaseEvent) -> LedgerChange:
        """Take in *event*."""
        if isinstance(event, Snapshot):
            return self._snapshot(event)
        if isinstance(event, Removed):
            if event.subnets == self._own:
                return LedgerChange(own="gone")
            gone = self.leases.pop(event.subnets, None)
            return LedgerChange(removed=(gone,) if gone is not None else ())
        return self._added(event)

    def _added(self, event: Added) -> LedgerChange:
        lease = event.lease
        if lease.subnets == self._own:
            return LedgerChange(own="seen", own_lease=lease)
        before = self.leases.get(lease.subnets)
        self.leases[lease.subnets] = lease
        same = before is not None and before.attrs == lease.attrs  # a renewal
        return LedgerChange(changed=() if same else (lease,))

    def _snapshot(self, event: Snapshot) -> LedgerChange:
        self.complete = True
        own = next((lease for lease in event.leases if lease.subnets == self._own), None)
        peers = {lease.subnets: lease for lease in event.leases if lease.subnets != self._own}
        changed = tuple(
            lease
            for subnets, lease in peers.items()
            if (before := self.leases.get(subnets)) is None or before.attrs != lease.attrs
        )
        removed = tuple(lease for subnets, lease in self.leases.items() if subnets not in peers)
        self.leases = peers
        return LedgerChange(changed, removed, "gone" if own is None else "seen", own)
