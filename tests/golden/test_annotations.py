"""What our backends come to as annotations, to the byte, and how flannel v0.28 reads them.

Source: control-plane reference, 4.4, 4.5, 4.8 and B.2. The readers below do it flannel's way, not ours.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from pyflannel.backend.registry import factory
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past, UnderlayRoute
from pyflannel.store.kubernetes.annotations import Annotations, Families

PREFIX = "flannel.alpha.coreos.com/"
MAC, MAC6 = "12:c6:65:89:b4:e3", "12:c6:65:89:b4:e6"
NODE = Node(
    "n1", "e0", 2, 1500, IPv4Address("192.168.77.17"), IPv6Address("fd00:7::17"), IPv4Address("192.168.77.17"),
    IPv6Address("fd00:7::17"), (UnderlayRoute(ip_network("192.168.77.0/24"), "e0", on_link=True),),
)  # fmt: skip
FOUR = '"Network":"10.244.0.0/16"'
SIX = '"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd44::/48"'
DUAL = '"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48"'

V4 = f'backend-data={{"VNI":1,"VtepMAC":"{MAC}"}}'
V6 = f'backend-v6-data={{"VNI":1,"VtepMAC":"{MAC6}"}}'
GOLDEN = {
    "vxlan": (FOUR, [V4, "backend-type=vxlan", "public-ip=192.168.77.17"]),
    "vxlan, dual": (DUAL, [V4, "backend-type=vxlan", V6, "public-ip=192.168.77.17", "public-ipv6=fd00:7::17"]),
    "vxlan, IPv6": (SIX, ["backend-type=vxlan", V6, "public-ipv6=fd00:7::17"]),
    "host-gw": (FOUR, ["backend-data=null", "backend-type=host-gw", "public-ip=192.168.77.17"]),
    "host-gw, dual": (
        DUAL,
        ["backend-data=null", "backend-type=host-gw", "backend-v6-data=null", "public-ip=192.168.77.17", "public-ipv6=fd00:7::17"],
    ),
    "host-gw, IPv6": (
        SIX,
        ["backend-data=null", "backend-type=host-gw", "backend-v6-data=null", "public-ip=0.0.0.0", "public-ipv6=fd00:7::17"],
    ),
    "udp": (FOUR, ["backend-data=null", "backend-type=", "public-ip=192.168.77.17"]),
    "alloc": (FOUR, ["backend-data=null", "backend-type=", "public-ip=192.168.77.17"]),
}  # fmt: skip


def published(case: str) -> LeaseAttrs:
    config = NetworkConfig.parse(f'{{{GOLDEN[case][0]},"Backend":{{"Type":"{case.partition(",")[0]}"}}}}', "f")
    past = Past(macs={"flannel.1": MAC, "flannel-v6.1": MAC6})
    return factory(config)(config, NODE, past, random.Random(1)).attrs()


def written(case: str) -> dict[str, str]:
    missing = Annotations().missing({"metadata": {"name": "n1"}}, published(case))
    return {name.removeprefix(PREFIX): value for name, value in missing.items() if value is not None}


@pytest.mark.parametrize("case", GOLDEN)
def test_to_the_byte(case: str) -> None:
    found = written(case)
    assert found.pop("kube-subnet-manager") == "true"
    assert sorted(f"{name}={value}" for name, value in found.items()) == sorted(GOLDEN[case][1])


def flannels_mac(data: str) -> str | None:
    """How flannel gets its VTEP's MAC back at a restart: it doesn't parse the JSON."""
    parts = data.strip('"}').split(':"')
    return parts[1] if len(parts) == 2 else None


def test_flannel_gets_its_mac_back() -> None:
    """When it takes over a node of ours."""
    found = written("vxlan, dual")
    assert (flannels_mac(found["backend-data"]), flannels_mac(found["backend-v6-data"])) == (MAC, MAC6)
    assert flannels_mac('{"VtepMAC": "12:c6:65:89:b4:e3", "VNI": 1}') != MAC, "else this shows nothing"


def flannels_lease(annotations: dict[str, str], ipv4: bool, ipv6: bool) -> tuple[str, ...] | None:
    """What flannel makes of a node: each family that is enabled there needs its address."""
    if annotations.get("kube-subnet-manager") != "true":
        return None
    try:
        v4 = (str(IPv4Address(annotations.get("public-ip", ""))), annotations.get("backend-data", "")) if ipv4 else ()
        v6 = (
            (str(IPv6Address(annotations.get("public-ipv6", ""))), annotations.get("backend-v6-data", ""))
            if ipv6
            else ()
        )
    except ValueError:
        return None
    return (annotations.get("backend-type", ""), *v4, *v6)


@pytest.mark.parametrize(
    ("case", "lease"),
    [
        ("vxlan", ("vxlan", "192.168.77.17", V4.partition("=")[2])),
        ("vxlan, dual", ("vxlan", "192.168.77.17", V4.partition("=")[2], "fd00:7::17", V6.partition("=")[2])),
        ("host-gw, IPv6", ("host-gw", "fd00:7::17", "null")),
        ("udp", ("", "192.168.77.17", "null")),
    ],
)
def test_flannel_reads_ours(case: str, lease: tuple[str, ...]) -> None:
    families = GOLDEN[case][0]
    assert flannels_lease(written(case), families != SIX, families != FOUR) == lease


@pytest.mark.parametrize("case", ["vxlan", "vxlan, dual", "vxlan, IPv6", "host-gw", "host-gw, dual", "udp"])
def test_we_read_flannels(case: str) -> None:
    """GOLDEN is what flannel writes, too."""
    families = GOLDEN[case][0]
    lines = [*GOLDEN[case][1], "kube-subnet-manager=true"]
    node = {
        "metadata": {"name": "n2", "annotations": dict((PREFIX + line).split("=", 1) for line in lines)},
        "spec": {"podCIDR": "10.244.5.0/24", "podCIDRs": ["10.244.5.0/24", "fd44:0:0:5::/64"]},
    }
    lease = Annotations().lease(node, Families(families != SIX, families != FOUR))
    v4 = IPv4Network("10.244.5.0/24") if families != SIX else None
    v6 = IPv6Network("fd44:0:0:5::/64") if families != FOUR else None
    assert lease == Lease(Subnets(v4, v6), published(case))
