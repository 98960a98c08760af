"""For any set of leases: what the backends plan hangs together."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflannel.backend.contract import Backend
from pyflannel.backend.registry import factory
from pyflannel.model.errors import Unreachable
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past, UnderlayRoute
from pyflannel.model.rows import FdbEntry, Neighbour, Route, Row
from pyflannel.reconcile.desired import Desired

ROUTES = (UnderlayRoute(ip_network("192.168.0.0/17"), "e0", on_link=True),)
TYPES = {kind: NetworkConfig.parse(f'{{"Network":"10.0.0.0/8","Backend":{kind}}}') for kind in (
    '{"Type":"vxlan"}', '{"Type":"vxlan","DirectRouting":true}', '{"Type":"host-gw"}',
)}  # fmt: skip


def node(number: int, kind: str) -> tuple[Backend, Subnets]:
    """Backend and subnets of node *number*; those from 128 on are beyond a router."""
    address = IPv4Address(f"192.168.{number}.1")
    config = TYPES[kind]
    value = Node(f"n{number}", "e0", 2, 1500, address, None, address, None, ROUTES)
    return factory(config)(config, value, Past(), random.Random(number)), Subnets(IPv4Network(f"10.{number}.0.0/24"))


def plan(backend: Backend, leases: list[Lease]) -> dict[Subnets, tuple[Row, ...]]:
    found = {}
    for lease in leases:
        try:
            found[lease.subnets] = backend.reach(lease)
        except Unreachable:
            found[lease.subnets] = ()
    return found


clusters = st.tuples(
    st.sampled_from(sorted(TYPES)),
    st.lists(
        st.tuples(st.integers(1, 250), st.sampled_from(sorted(TYPES))), max_size=12, unique_by=lambda item: item[0]
    ),
)


@given(clusters)
def test_every_row_has_one_peer(cluster: tuple[str, list[tuple[int, str]]]) -> None:
    kind, others = cluster
    ours, _ = node(0, kind)
    leases = [Lease(subnets, backend.attrs()) for backend, subnets in (node(*other) for other in others)]
    rows = plan(ours, leases)
    assert rows == plan(ours, leases), "the same in, the same out"
    keys = [(type(row), row.key) for found in rows.values() for row in found]
    assert len(keys) == len(set(keys)), "no two peers want one key"
    for lease in leases:
        for row in rows[lease.subnets]:
            match row:
                case Route(destination=destination):
                    assert destination == lease.subnets.ipv4
                case Neighbour(ip=ip):
                    assert lease.subnets.ipv4 is not None
                    assert ip == lease.subnets.ipv4.network_address
                case FdbEntry(remote=remote):
                    assert remote == lease.attrs.public_ip


@given(clusters, st.randoms())
def test_removing_a_peer_removes_exactly_its_rows(
    cluster: tuple[str, list[tuple[int, str]]], chance: random.Random
) -> None:
    kind, others = cluster
    ours, _ = node(0, kind)
    leases = [Lease(subnets, backend.attrs()) for backend, subnets in (node(*other) for other in others)]
    rows = plan(ours, leases)
    desired = Desired()
    for subnets, found in rows.items():
        desired.want(subnets, found)
    chance.shuffle(leases)
    for lease in leases:
        gone = desired.want(lease.subnets, ())
        assert gone == {(type(row), row.key) for row in rows[lease.subnets]}


@pytest.mark.parametrize("kind", sorted(TYPES))
@given(numbers=st.lists(st.integers(0, 120), min_size=2, max_size=2, unique=True))
def test_two_nodes_agree(kind: str, numbers: list[int]) -> None:
    """What one sends is what the other's published address and MAC take."""
    (one, net1), (two, net2) = node(numbers[0], kind), node(numbers[1], kind)
    there = one.reach(Lease(net2, two.attrs()))
    back = two.reach(Lease(net1, one.attrs()))
    assert len(there) == len(back)
    for rows, attrs in ((there, two.attrs()), (back, one.attrs())):
        for row in rows:
            if isinstance(row, FdbEntry):
                assert row.remote == attrs.public_ip
                assert row.mac in str(attrs.backend_data)
            elif isinstance(row, Route) and row.device == "e0":
                assert row.gateway == attrs.public_ip


def test_a_lease_without_type_is_nobodys_peer() -> None:
    ours, _ = node(0, '{"Type":"vxlan"}')
    lease = Lease(Subnets(IPv4Network("10.9.0.0/24")), LeaseAttrs(IPv4Address("192.168.9.1")))
    assert plan(ours, [lease]) == {lease.subnets: ()}
