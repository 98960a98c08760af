"""From lease events to rows, with a reconciler over tables in memory."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network

from pyflannel.backend.registry import factory
from pyflannel.daemon.peers import Peers
from pyflannel.model.lease import Added, Lease, LeaseAttrs, Removed, Snapshot, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past
from pyflannel.model.rows import Address, FdbEntry, Neighbour, Route, Sysctl, VxlanLink
from pyflannel.reconcile.reconciler import Reconciler
from support.kernel import FakeTable

CONFIG = NetworkConfig.parse('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
OWN = Subnets(IPv4Network("10.5.1.0/24"))


def lease(number: int, vni: int = 1) -> Lease:
    data = f'{{"VNI":{vni},"VtepMAC":"02:00:00:00:00:{number:02x}"}}'
    return Lease(
        Subnets(IPv4Network(f"10.5.{number}.0/24")), LeaseAttrs(IPv4Address(f"192.168.7.{number}"), None, "vxlan", data)
    )


def peers() -> tuple[Peers, Reconciler]:
    reconciler = Reconciler([FakeTable(kind) for kind in (VxlanLink, Address, Sysctl, Neighbour, FdbEntry, Route)])
    address = IPv4Address("192.168.7.1")
    node = Node("n1", "e0", 2, 1500, address, None, address)
    backend = factory(CONFIG)(CONFIG, node, Past(), random.Random(1))
    return Peers(OWN, backend, reconciler), reconciler


def routes(reconciler: Reconciler) -> list[str]:
    return sorted(str(row.destination) for row in reconciler.desired.rows(Route).values())


def test_events_become_rows() -> None:
    found, reconciler = peers()
    assert len(reconciler.desired.rows(VxlanLink)) == 1
    found.on(Added(lease(2)))
    assert not reconciler.complete
    found.on(Snapshot((lease(1), lease(3), lease(4))))
    assert reconciler.complete
    assert routes(reconciler) == ["10.5.3.0/24", "10.5.4.0/24"]
    found.on(Removed(lease(3).subnets))
    assert routes(reconciler) == ["10.5.4.0/24"]
    assert len(reconciler.desired.rows(VxlanLink)) == 1, "our own rows stay"


def test_unreachable_peers_are_told_until_they_change() -> None:
    found, reconciler = peers()
    found.on(Snapshot((lease(2, vni=7), lease(3))))
    assert found.problems() == ["peer 10.5.2.0/24: its VNI is 7, ours 1: restart the daemon with the older config"]
    assert routes(reconciler) == ["10.5.3.0/24"]
    found.on(Added(lease(2)))
    assert found.problems() == []
    assert routes(reconciler) == ["10.5.2.0/24", "10.5.3.0/24"]
    found.on(Added(lease(2, vni=7)))
    assert routes(reconciler) == ["10.5.3.0/24"]
    found.on(Removed(lease(2).subnets))
    assert found.problems() == []


def test_a_lease_over_our_own_subnet_is_no_peer() -> None:
    found, reconciler = peers()
    wide = Lease(Subnets(IPv4Network("10.5.0.0/23")), lease(9).attrs)
    found.on(Snapshot((wide,)))
    assert routes(reconciler) == []
    assert "it overlaps our own 10.5.1.0/24" in found.problems()[0]


def test_a_checkpoint_writes_but_does_not_sweep() -> None:
    found, reconciler = peers()
    found.assume([lease(2)])
    assert routes(reconciler) == ["10.5.2.0/24"]
    assert not reconciler.complete
    found.on(Snapshot((lease(3),)))
    assert routes(reconciler) == ["10.5.3.0/24"], "what the snapshot doesn't know goes"
