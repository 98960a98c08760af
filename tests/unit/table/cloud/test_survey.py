"""What routes mean: rules 1 to 4 of survey, case by case; and that no state of a cloud lets a stranger's route go."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflannel.model.rows import CloudRoute
from pyflannel.reconcile.diff import diff
from pyflannel.table.cloud.contract import FabricRoute
from pyflannel.table.cloud.memory import Past, remember
from pyflannel.table.cloud.survey import Survey, survey, within

NET1, NET2 = ip_network("10.5.1.0/24"), ip_network("10.5.2.0/24")
OWN = CloudRoute("rtb", NET1, ip_address("10.0.0.1"), own=True)
PEER = CloudRoute("rtb", NET2, ip_address("10.0.0.2"))
GRACE_S = 100.0


def route(net: Any, hop: int, state: Literal["active", "blackhole", "pending"] = "active", **more: Any) -> FabricRoute:
    return FabricRoute("rtb", net, f"eni-{hop}", frozenset({ip_address(f"10.0.0.{hop}")}), state, **more)


MINE, THEIRS = route(NET1, 1), route(NET2, 2)


def kinds(result: Survey) -> list[str]:
    return [note.kind for note in result.notes]


def test_all_is_well() -> None:
    result = survey([MINE, THEIRS], [OWN, PEER], {}, GRACE_S)
    assert result == Survey([OWN, PEER])


def test_a_route_being_made_counts() -> None:
    assert survey([route(NET1, 1, "pending")], [OWN], {}, GRACE_S).present == [OWN]


@pytest.mark.parametrize("row", [OWN, PEER])
def test_a_route_beside_the_right_one_is_told(row: CloudRoute) -> None:
    """GCE takes two of one destination, and deals packets out to both."""
    result = survey([route(row.destination, 7), MINE, THEIRS], [OWN, PEER], {}, GRACE_S)
    assert (result.present, kinds(result), result.rivals) == ([OWN, PEER], ["elsewhere"], {})
    assert f"takes a share of what is for {row.gateway}" in str(result.notes[0])


def test_our_own_is_missing() -> None:
    assert survey([THEIRS], [OWN, PEER], {}, GRACE_S).present == [PEER]


@pytest.mark.parametrize(
    ("there", "kind"),
    [([], "missing"), ([route(NET2, 2, "blackhole")], "black hole"), ([route(NET2, 7)], "elsewhere")],
)
def test_a_peers_route_is_looked_at_and_left_to_the_peer(there: list[FabricRoute], kind: str) -> None:
    result = survey(there, [PEER], {}, GRACE_S)
    assert (result.present, kinds(result)) == ([PEER], [kind])
    assert "10.0.0.2" in str(result.notes[0])


@pytest.mark.parametrize(
    ("there", "pasts", "why"),
    [
        (route(NET1, 1, "blackhole"), {}, "a black hole"),
        (route(NET1, 9, marked=True), {}, "marked"),
        (route(NET1, 9), {("rtb", NET1): Past("eni-9")}, "the subnet's former node"),
        (route(NET1, 2), {}, "a node that holds another lease"),
    ],
)
def test_a_route_to_our_subnet_that_is_the_clusters_is_replaced(
    there: FabricRoute, pasts: dict[Any, Past], why: str
) -> None:
    result = survey([there], [OWN, PEER], pasts, GRACE_S)
    change = diff({OWN.key: OWN, PEER.key: PEER}, {row.key: row for row in result.present})
    assert change.replace == (OWN,), why
    assert len(change) == 1
    assert not result.rivals


def test_a_strangers_route_to_our_subnet_stays() -> None:
    result = survey([route(NET1, 9)], [OWN, PEER], {("rtb", NET1): Past("eni-8")}, GRACE_S)
    assert result.present == [PEER]  # so ours will be created, which fails: told as a rival
    assert result.rivals == {OWN.key: route(NET1, 9)}


def test_a_departed_route_goes_after_the_grace_period_and_not_before() -> None:
    young = survey([MINE, THEIRS], [OWN], {PEER.key: Past("eni-2", GRACE_S - 1)}, GRACE_S)
    assert (young.present, kinds(young)) == ([OWN], ["departed"])
    assert "goes in 1 s" in str(young.notes[0])
    old = survey([MINE, THEIRS], [OWN], {PEER.key: Past("eni-2", GRACE_S)}, GRACE_S)
    assert old.present == [OWN, CloudRoute("rtb", NET2, ip_address("10.0.0.2"), expired=True)]


@pytest.mark.parametrize("past", [{}, {PEER.key: Past("eni-9", 1e9)}], ids=["never seen", "led elsewhere"])
def test_what_nobody_knows_stays(past: dict[Any, Past]) -> None:
    result = survey([MINE, THEIRS], [OWN], past, GRACE_S)
    assert (result.present, kinds(result)) == ([OWN], ["foreign"])


def test_within() -> None:
    assert within(NET1, [ip_network("10.5.0.0/16")])
    assert within(ip_network("fd00::/64"), [ip_network("10.5.0.0/16"), ip_network("fd00::/48")])
    assert not within(ip_network("10.0.0.0/8"), [ip_network("10.5.0.0/16")])


# Memory


def test_a_lease_that_comes_back_stops_the_clock() -> None:
    pasts = remember({}, [THEIRS], [PEER], 5, GRACE_S)
    assert pasts == {PEER.key: Past("eni-2")}
    pasts = remember(pasts, [THEIRS], [], 60, GRACE_S)
    assert pasts == {PEER.key: Past("eni-2", 60)}
    assert remember(pasts, [THEIRS], [PEER], 60, GRACE_S) == {PEER.key: Past("eni-2")}
    assert remember(pasts, [], [PEER], 60, GRACE_S) == {PEER.key: Past("eni-2")}, "not shown for a moment"


def test_where_a_route_led_while_leased_is_what_counts() -> None:
    """Somebody points a departed node's route elsewhere: that is not ours to remove."""
    pasts = remember({}, [THEIRS], [PEER], 0, GRACE_S)
    pasts = remember(pasts, [route(NET2, 9)], [], 1e6, GRACE_S)
    assert kinds(survey([route(NET2, 9)], [], pasts, GRACE_S)) == ["foreign"]


def test_what_never_led_to_its_node_is_not_remembered() -> None:
    assert remember({}, [route(NET2, 9)], [PEER], 0, GRACE_S) == {}


def test_a_mark_is_counted_from_its_first_sight() -> None:
    marked = route(NET2, 2, marked=True)
    pasts = remember({}, [marked], [], 1e6, GRACE_S)
    assert pasts == {PEER.key: Past("eni-2", 0.0)}
    assert remember(pasts, [marked], [], 7, GRACE_S) == {PEER.key: Past("eni-2", 7)}


def test_what_is_gone_is_forgotten_after_a_while() -> None:
    pasts = {PEER.key: Past("eni-2")}
    pasts = remember(pasts, [], [], GRACE_S, GRACE_S)
    assert pasts == {PEER.key: Past("eni-2", GRACE_S)}
    assert remember(pasts, [], [], 1, GRACE_S) == {}


# No state of a cloud lets a stranger's route go

NETS = [ip_network(f"10.5.{number}.0/24") for number in range(5)]
HOPS = range(1, 6)
ROUTES = st.builds(route, st.sampled_from(NETS), st.sampled_from(HOPS), st.sampled_from(("active", "blackhole")))
PASTS = st.dictionaries(
    st.sampled_from([("rtb", net) for net in NETS]),
    st.builds(lambda hop, gone: Past(f"eni-{hop}", gone), st.sampled_from(HOPS), st.floats(0, 2 * GRACE_S)),
)


@given(st.lists(ROUTES, unique_by=lambda found: found.key), st.sets(st.sampled_from(NETS)), PASTS)
def test_only_what_is_known_is_touched(found: list[FabricRoute], leased: set[Any], pasts: dict[Any, Past]) -> None:
    wanted: dict[Any, CloudRoute] = {
        ("rtb", net): CloudRoute("rtb", net, ip_address(f"10.0.0.{NETS.index(net) + 1}"), own=NETS.index(net) == 0)
        for net in leased
    }
    there = {one.key: one for one in found}
    result = survey(found, list(wanted.values()), pasts, GRACE_S)
    change = diff(wanted, {row.key: row for row in result.present})
    for row in change.remove:
        assert row.expired
        assert pasts[row.key].gone_s >= GRACE_S
        assert pasts[row.key].next_hop == there[row.key].next_hop
    for row in (*change.create, *change.replace):
        assert row.own
    for row in change.replace:
        past = pasts.get(row.key)
        holders = {one.gateway for one in wanted.values()}
        assert (
            there[row.key].state == "blackhole"
            or (past is not None and past.next_hop == there[row.key].next_hop)
            or there[row.key].addresses & holders
        )
