"""What to do about our own lease, and when. Pure: the clock is an argument, in Unix seconds."""

from __future__ import annotations

from typing import Literal

from pyflannel.model.lease import Lease

# Ours to tune.
RETRY_FIRST_S, RETRY_LAST_S = 1.0, 60.0  # flannel retries each minute
SLACK_S = 10.0  # a store counts a lease's life from when it grants it, we from when its answer comes: a little later


def renew_at(lease: Lease, margin_s: float, failures: int, last_failure: float | None) -> float | None:
    """When to renew next: *margin_s* before the lease expires, after a failure a growing pause later. None for a
    reservation: it never expires."""
    if lease.expires is None:
        return None
    due = lease.expires - margin_s
    if failures and last_failure is not None:
        due = max(due, last_failure + pause_s(failures))
    return due


def pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row (from 1 on), in seconds."""
    # A store may be away for days: the exponent must not grow with them (2.0 ** 1024 is an OverflowError).
    return min(RETRY_FIRST_S * 2.0 ** min(failures - 1, 30), RETRY_LAST_S)


def when_gone(lease: Lease, now: float) -> Literal["revoked", "expired"]:
    """Our lease is not in the store any more. Before its time, somebody took it away: flannel's daemon ends then,
    and so does ours. After its time (we were cut off for long), it is ours to take again if it is still free. A few
    seconds before its time by our clock count as after it."""
    return "expired" if lease.expires is not None and now >= lease.expires - SLACK_S else "revoked"
