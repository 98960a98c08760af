"""Whatever was asked for, in whatever order: the tables end up as the last wishes say."""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv4Network, ip_address

from hypothesis import given
from hypothesis import strategies as st

from pyflannel.model.lease import Subnets
from pyflannel.model.rows import FdbEntry, Route, Row
from pyflannel.reconcile.desired import Desired
from pyflannel.reconcile.diff import diff
from pyflannel.reconcile.reconciler import Reconciler
from pyflannel.table.contract import Touched
from support.kernel import FakeTable

OWNERS = [Subnets(IPv4Network(f"10.5.{number}.0/24")) for number in range(1, 5)]
routes = st.builds(
    Route,
    st.sampled_from([IPv4Network(f"10.5.{number}.0/24") for number in range(1, 4)]),
    st.sampled_from(["flannel.1", "e0"]),
)
entries = st.builds(
    FdbEntry,
    st.just("flannel.1"),
    st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:02"]),
    st.sampled_from([ip_address("192.168.7.1"), ip_address("192.168.7.2")]),
)
wishes = st.lists(
    st.tuples(
        st.sampled_from(OWNERS),
        st.lists(st.one_of(routes, entries), max_size=4, unique_by=lambda row: (type(row), row.key)),
    ),
    max_size=12,
)


def slow(final: dict[Subnets, tuple[Row, ...]]) -> set[Row]:
    """The naive twin of Desired: the lowest owner of each slot has it."""
    slots: dict[tuple[type, object], Row] = {}
    for owner in sorted(final, key=lambda subnets: int(subnets.ipv4.network_address) if subnets.ipv4 else 0):
        for row in final[owner]:
            slots.setdefault((type(row), row.key), row)
    return set(slots.values())


@given(wishes)
def test_desired_is_what_the_last_wishes_say(asked: list[tuple[Subnets, list[Row]]]) -> None:
    desired, final = Desired(), dict[Subnets, tuple[Row, ...]]()
    for owner, rows in asked:
        before = {**desired.rows(Route), **desired.rows(FdbEntry)}
        changed = {key for _, key in desired.want(owner, tuple(rows))}
        after = {**desired.rows(Route), **desired.rows(FdbEntry)}
        assert changed == {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        final[owner] = tuple(rows)
    assert {*desired.rows(Route).values(), *desired.rows(FdbEntry).values()} == slow(final)
    for owner in OWNERS:
        desired.want(owner, ())
    assert not desired.rows(Route)
    assert not desired.rows(FdbEntry)
    assert not desired.clashes()


@given(st.lists(routes, unique_by=lambda row: row.key), st.lists(routes, unique_by=lambda row: row.key))
def test_a_diff_applied_leaves_no_diff(want: list[Route], have: list[Route]) -> None:
    desired, actual = (dict[Hashable, Route]((row.key, row) for row in rows) for rows in (want, have))
    change = diff(desired, actual)
    for row in change.remove:
        del actual[row.key]
    assert not actual.keys() & {row.key for row in change.create}
    actual |= {row.key: row for row in (*change.create, *change.replace)}
    assert actual == desired
    assert not diff(desired, actual)


@given(wishes, st.sets(st.integers(0, 30)), st.lists(routes, unique_by=lambda row: row.key))
async def test_the_tables_follow(asked: list[tuple[Subnets, list[Row]]], faults: set[int], stale: list[Route]) -> None:
    """With leftovers of an earlier run, and with writes that fail now and then."""
    tables = [FakeTable(Route), FakeTable(FdbEntry)]
    tables[0].rows = {row.key: row for row in stale}
    clock = iter(range(10**6))
    reconciler = Reconciler(tables, monotonic=lambda: float(next(clock)))
    final: dict[Subnets, tuple[Row, ...]] = {}
    for step, (owner, rows) in enumerate(asked):
        if step in faults:
            tables[step % 2].fail |= {row.key for row in rows}
        reconciler.want(owner, tuple(rows))
        final[owner] = tuple(rows)
        await reconciler.reconcile()
    reconciler.sweep({owner: rows for owner, rows in final.items() if rows})
    for table in tables:
        table.fail.clear()
    for _ in range(3):
        reconciler.touched(Touched())
        await reconciler.reconcile()
    assert {row for table in tables for row in table.rows.values()} == slow(final)
    assert reconciler.in_sync()
