"""The ledger against its naive twin: a dictionary that is told everything."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from pyflannel.model.lease import Added, Lease, LeaseAttrs, LeaseEvent, Removed, Snapshot, Subnets
from pyflannel.store.ledger import Ledger

# Few of each, so that they meet: IPv4 alone, the same in dual stack, IPv6 alone.
subnets = st.sampled_from(
    [
        *(Subnets(IPv4Network(f"10.5.{number}.0/24")) for number in range(1, 4)),
        *(Subnets(IPv4Network(f"10.5.{number}.0/24"), IPv6Network("fd00:5:0:1::/64")) for number in range(1, 4)),
        Subnets(None, IPv6Network("fd00:5:0:1::/64")),
    ]
)
attrs = st.builds(
    LeaseAttrs,
    st.integers(1, 3).map(lambda host: IPv4Address(f"192.168.7.{host}")),
    st.none(),
    st.just("vxlan"),
    st.sampled_from([None, '{"VNI":1}']),
)
leases = st.builds(Lease, subnets, attrs, st.sampled_from([None, 1000.0, 2000.0]))
snapshots = st.lists(leases, unique_by=lambda lease: lease.subnets).map(lambda found: Snapshot(tuple(found)))
events: st.SearchStrategy[LeaseEvent] = st.one_of(snapshots, leases.map(Added), subnets.map(Removed))


@given(subnets, st.lists(events, max_size=20))
def test_what_is_told_adds_up_to_what_is(own: Subnets, story: list[LeaseEvent]) -> None:
    ledger = Ledger(own)
    there: dict[Subnets, Lease] = {}  # the naive twin: what is in the store
    told: dict[Subnets, LeaseAttrs] = {}  # what somebody knows who only hears of changes
    for event in story:
        change = ledger.apply(event)
        if isinstance(event, Snapshot):
            there = {lease.subnets: lease for lease in event.leases}
        elif isinstance(event, Added):
            there[event.lease.subnets] = event.lease
        else:
            there.pop(event.subnets, None)
        for gone in change.removed:
            assert told.pop(gone.subnets) == gone.attrs
        for lease in change.changed:
            assert told.get(lease.subnets) != lease.attrs, "a renewal is no change"
            told[lease.subnets] = lease.attrs
        peers = {key: lease for key, lease in there.items() if key != own}
        assert ledger.leases == peers
        assert told == {key: lease.attrs for key, lease in peers.items()}
        assert own not in told
        assert not bool(change) or change.changed or change.removed
        concerns_us = isinstance(event, Snapshot) or own == (
            event.lease.subnets if isinstance(event, Added) else event.subnets
        )
        fate = ("seen" if own in there else "gone") if concerns_us else None
        assert (change.own, change.own_lease) == (fate, there.get(own) if fate == "seen" else None)
    assert ledger.complete == any(isinstance(event, Snapshot) for event in story)


@given(subnets, snapshots, snapshots)
def test_the_second_of_two_equal_snapshots_is_silence(own: Subnets, one: Snapshot, two: Snapshot) -> None:
    ledger = Ledger(own)
    ledger.apply(one)
    ledger.apply(two)
    assert not ledger.apply(two)


@given(subnets, st.lists(events, max_size=10), snapshots)
def test_a_snapshot_forgets_the_past(own: Subnets, story: list[LeaseEvent], snapshot: Snapshot) -> None:
    used, fresh = Ledger(own), Ledger(own)
    for event in story:
        used.apply(event)
    used.apply(snapshot)
    fresh.apply(snapshot)
    assert used.leases == fresh.leases
