"""Renewal over long outages, and at the edge of a lease's life."""

from __future__ import annotations

from ipaddress import IPv4Network

from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.store.renewal import RETRY_LAST_S, SLACK_S, pause_s, renew_at, when_gone

OURS = Lease(Subnets(IPv4Network("10.5.1.0/24")), LeaseAttrs(), 86_400.0)


def test_pauses_double_up_to_a_minute_and_stay_there_for_ever() -> None:
    assert [pause_s(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    # 1,025 failures are 17 hours without the store: a power of two is no float any more.
    assert pause_s(1_025) == pause_s(10**9) == RETRY_LAST_S
    assert renew_at(OURS, 3600, 1_025, 200_000) == 200_060


def test_a_failure_never_makes_a_renewal_early() -> None:
    assert renew_at(OURS, 3600, 1, 10) == 82_800


def test_the_store_may_end_a_lease_a_little_before_our_clock_does() -> None:
    assert when_gone(OURS, 86_400 - SLACK_S) == "expired"
    assert when_gone(OURS, 86_400 - SLACK_S - 1) == "revoked"


def test_a_reservation_that_is_gone_was_taken_away() -> None:
    assert when_gone(Lease(OURS.subnets, OURS.attrs, None), 1e12) == "revoked"
