"""What to do about our own lease, and when. Pure: the clock is an argument, in Unix seconds."""

from __future__ import annotations

from typing import Literal

from pyflannel.model.lease import Lease

RETRY_FIRST_S, RETRY_LAST_S = 1.0, 60.0  # Ours to tune; flannel retries each minute


def renew_at(lease: Lease, margin_s: float, failures: int, last_failure: float | None) -> float | None:
    """When to renew next: *margin_s* before the lease expires, after a failure a growing pause later. None for a
    reservation: it never expires."""
    if lease.expires is None:
        return None
    due = lease.expires - margin_s
    if failures and last_failure is not None:
        due = max(due, last_failure + min(RETRY_FIRST_S * 2 ** (failures - 1), RETRY_LAST_S))
    return due


def when_gone(lease: Lease, now: float) -> Literal["revoked", "expired"]:
    """Our lease is not in the store any more. Before its time, somebody took it away: flannel's daemon ends then,
    and so does ours. After its time (we were cut off for long), it is ours to take again if it is still free."""
    return "expired" if lease.expires is not None and now >= lease.expires else "revoked"
