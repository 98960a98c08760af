"""The clouds' backend: what is published, which routes are whose, and who speaks vxlan with whom."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from pyflannel.backend.cloud import Cloud, overflows
from pyflannel.backend.registry import factory
from pyflannel.backend.vxlan import Vxlan
from pyflannel.model.errors import ConfigError, Unreachable
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import CloudPlace, Node, Past
from pyflannel.model.rows import CloudForwarding, CloudRoute, FdbEntry, Neighbour, Route, VxlanLink

PLACE = CloudPlace("vpc-1", "i-1", "eni-1", ("rtb-1", "rtb-2"))
NODE = Node(
    "n1", "e0", 2, 9001, IPv4Address("10.0.0.1"), IPv6Address("fd00::1"), IPv4Address("10.0.0.1"),
    IPv6Address("fd00::1"), cloud=PLACE,
)  # fmt: skip
OWN = Subnets(IPv4Network("10.5.1.0/24"))
FALLBACK: dict[str, Any] = {"Fallback": {"Type": "vxlan"}}


def build(node: Node = NODE, kind: str = "aws-vpc", ipv6: bool = False, **fields: Any) -> Cloud:
    six = {"EnableIPv6": True, "IPv6Network": "fd05::/48"} if ipv6 else {}
    config = NetworkConfig.parse(json.dumps({"Network": "10.5.0.0/16", **six, "Backend": {"Type": kind, **fields}}))
    made = factory(config)(config, node, Past(), random.Random(node.name))
    assert isinstance(made, Cloud)
    return made


def peer(attrs: LeaseAttrs, number: int = 2) -> Lease:
    return Lease(Subnets(IPv4Network(f"10.5.{number}.0/24")), attrs)


@pytest.mark.parametrize("kind", ["aws-vpc", "gce", "ali-vpc", "tencent-vpc"])
def test_each_cloud_is_flannels(kind: str) -> None:
    """A lease without a type and data, no device, the underlay's MTU as it is."""
    backend = build(kind=kind)
    assert (backend.type, backend.mtu, backend.devices) == (kind, 9001, ())
    assert backend.attrs() == LeaseAttrs(NODE.public_ip, NODE.public_ipv6)


@pytest.mark.parametrize("mtu", [1460, 1500, 8500, 9001])
def test_the_underlays_mtu_is_kept(mtu: int) -> None:
    assert build(replace(NODE, mtu=mtu)).mtu == mtu


def test_a_node_writes_the_route_to_itself_in_each_of_its_tables() -> None:
    assert build().base(OWN) == (
        CloudForwarding("eni-1"),
        CloudRoute("rtb-1", IPv4Network("10.5.1.0/24"), IPv4Address("10.0.0.1"), own=True),
        CloudRoute("rtb-2", IPv4Network("10.5.1.0/24"), IPv4Address("10.0.0.1"), own=True),
    )


def test_a_peers_route_is_the_peers() -> None:
    assert build().reach(peer(LeaseAttrs(IPv4Address("10.0.0.2")))) == (
        CloudRoute("rtb-1", IPv4Network("10.5.2.0/24"), IPv4Address("10.0.0.2")),
        CloudRoute("rtb-2", IPv4Network("10.5.2.0/24"), IPv4Address("10.0.0.2")),
    )


def test_a_peer_of_another_backend_is_named() -> None:
    with pytest.raises(Unreachable, match="its backend is vxlan, ours aws-vpc: give it this config"):
        build().reach(peer(LeaseAttrs(IPv4Address("10.0.0.2"), None, "vxlan", '{"VtepMAC":"02:00:00:00:00:02"}')))


def test_ipv6_where_the_cloud_routes_it() -> None:
    node = replace(NODE, cloud=replace(PLACE, families=(4, 6), tables=("rtb-1",)))
    own = Subnets(IPv4Network("10.5.1.0/24"), IPv6Network("fd05:0:0:1::/64"))
    six = CloudRoute("rtb-1", IPv6Network("fd05:0:0:1::/64"), IPv6Address("fd00::1"), own=True)
    assert six in build(node, ipv6=True).base(own)
    with pytest.raises(ConfigError, match="EnableIPv6 is true, expected false: gce has no routes for it"):
        build(kind="gce", ipv6=True)


def test_outside_of_the_cloud_there_must_be_a_fallback() -> None:
    with pytest.raises(ConfigError, match=r"place in gce is missing, expected a machine there, or Backend\.Fallback"):
        build(replace(NODE, cloud=None), kind="gce")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Fallback": {"Type": "udp"}}, 'Backend.Fallback.Type is "udp", expected "vxlan"'),
        ({"Fallback": {}}, "Backend.Fallback.Type is missing"),
        ({"Fallback": 1}, "Backend.Fallback is 1, expected an object"),
        ({"Fallback": {"Type": "vxlan", "VNI": -1}}, "Backend.Fallback.VNI is -1"),
        ({"SyncSeconds": 0}, "Backend.SyncSeconds is 0"),
        ({"GraceSeconds": "x"}, 'Backend.GraceSeconds is "x"'),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**fields)
    assert words in str(caught.value)


# Mixed: a network in the cloud, nodes elsewhere


def test_with_a_fallback_a_node_is_a_vxlan_node_that_tells_its_network() -> None:
    backend = build(**FALLBACK)
    attrs = backend.attrs()
    assert attrs.backend_type == "vxlan"
    data = json.loads(attrs.backend_data or "")
    assert data.keys() == {"VNI", "VtepMAC", "Cloud"}
    assert data["Cloud"] == "vpc-1"
    assert (backend.mtu, backend.devices) == (9001 - 50, ("flannel.1",))
    rows = {type(row) for row in backend.base(OWN)}
    assert {VxlanLink, CloudForwarding, CloudRoute} <= rows


def test_peers_of_our_network_go_by_its_routes_and_all_others_by_vxlan() -> None:
    """Both ends decide alike: else packets would go one way only."""
    here, there = build(**FALLBACK), build(_node(2), **FALLBACK)
    outside = build(replace(_node(3), cloud=None), **FALLBACK)
    other = build(replace(_node(4), cloud=replace(PLACE, network="vpc-2")), **FALLBACK)
    ends = {1: here, 2: there, 3: outside, 4: other}

    def way(one: int, two: int) -> set[type[Any]]:
        return {type(row) for row in ends[one].reach(peer(ends[two].attrs(), two))}

    for one in ends:
        for two in ends.keys() - {one}:
            inside = {one, two} == {1, 2}
            assert (way(one, two) == {CloudRoute}) == inside, (one, two)
            assert (FdbEntry in way(one, two)) != inside


def test_a_plain_vxlan_node_and_a_mixed_one_know_each_other() -> None:
    config = NetworkConfig.parse('{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')
    plain = Vxlan.build(config, _node(5), Past(), random.Random(5))
    mixed = build(**FALLBACK)
    assert {type(row) for row in plain.reach(peer(mixed.attrs(), 1))} >= {Route, FdbEntry}
    assert {type(row) for row in mixed.reach(peer(plain.attrs(), 5))} >= {Route, FdbEntry}


def test_backend_data_that_is_no_json_is_a_strangers() -> None:
    with pytest.raises(Unreachable, match="it publishes no VTEP MAC"):
        build(**FALLBACK).reach(peer(LeaseAttrs(IPv4Address("10.0.0.9"), None, "vxlan", "{")))


def _node(number: int) -> Node:
    ip, ip6 = IPv4Address(f"10.0.0.{number}"), IPv6Address(f"fd00::{number}")
    place = replace(PLACE, instance=f"i-{number}", next_hop=f"eni-{number}")
    return replace(NODE, name=f"n{number}", address=ip, public_ip=ip, address6=ip6, public_ipv6=ip6, cloud=place)


# No room for a route


def test_a_node_without_room_says_so_and_speaks_vxlan_with_all() -> None:
    full = build(replace(NODE, cloud=replace(PLACE, full=True)), **FALLBACK)
    data = json.loads(full.attrs().backend_data or "")
    assert (data["Cloud"], data["Overflow"]) == ("vpc-1", True)
    assert overflows(full.attrs())
    own = [row for row in full.base(OWN) if isinstance(row, CloudRoute)]
    assert [row.own for row in own] == [True, True], "it goes on trying"
    ip = IPv4Address("10.0.0.2")
    other = build(replace(NODE, name="n2", public_ip=ip, address=ip), **FALLBACK)
    for here, there in ((full, other), (other, full)):
        rows = here.reach(peer(there.attrs()))
        assert {type(row) for row in rows} == {Route, FdbEntry, Neighbour, CloudRoute}
        assert all(row.spare for row in rows if isinstance(row, CloudRoute)), "stays if it's there, isn't missed"


def test_without_a_fallback_there_is_no_other_way() -> None:
    full = build(replace(NODE, cloud=replace(PLACE, full=True)))
    assert full.attrs() == LeaseAttrs(NODE.public_ip, NODE.public_ipv6)
    assert {type(row) for row in full.reach(peer(LeaseAttrs(IPv4Address("10.0.0.2"))))} == {CloudRoute}


def test_a_peer_that_vxlan_does_not_reach_keeps_its_route() -> None:
    full = build(replace(NODE, cloud=replace(PLACE, full=True)), **FALLBACK)
    other = LeaseAttrs(
        IPv4Address("10.0.0.2"), None, "vxlan", '{"VNI":9,"VtepMAC":"02:00:00:00:00:02","Cloud":"vpc-1"}'
    )
    rows = full.reach(peer(other))
    assert [(type(row), row.spare) for row in rows if isinstance(row, CloudRoute)] == [(CloudRoute, False)] * 2
