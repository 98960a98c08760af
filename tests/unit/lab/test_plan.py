"""What a lab may look like, what it's called, and what of a machine is its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.plan import Plan
from pyflannel.lab.shell import LabError
from pyflannel.model.network import NetworkConfig


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "--name is , expected 1 to 8 letters and digits"),
        ({"name": "toolongname"}, "--name is toolongname, expected 1 to 8 letters and digits"),
        ({"name": "a/../b"}, "--name is a/../b, expected 1 to 8 letters and digits"),
        ({"name": "l\u00e4b"}, "--name is l\u00e4b, expected 1 to 8 letters and digits"),
        ({"name": "a\n"}, "--name is a\n, expected 1 to 8 letters and digits"),
        ({"nodes": 0}, "--nodes is 0, expected 1 to 200"),
        ({"nodes": 201}, "--nodes is 201, expected 1 to 200"),
        ({"pods": -1}, "--pods is -1, expected 0 to 200"),
        ({"members": 0}, "--members is 0, expected 1 to 9"),
        ({"mtu": 1279}, "--mtu is 1279, expected 1280 to 65535"),
        ({"store": "redis"}, "--store is redis, expected local or etcd"),
        ({"node_flags": {"n4": ("-v=1",)}}, "flags are given for n4, which this lab of 3 nodes lacks"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError) as caught:
        Cluster(Plan(**wrong))
    assert str(caught.value) == said


def test_a_plan_outlives_the_disk() -> None:
    plan = Plan("x", 2, options={"VNI": 7}, ipv6=True, node_flags={"n2": ("-v=1",)}, command=("sleep", "9"))
    assert Plan.load(json.loads(json.dumps(plan.dump()))) == plan


@pytest.mark.parametrize(
    ("plan", "families"),
    [
        (Plan(), ("10.244.0.0/16", "None")),
        (Plan(ipv6=True), ("10.244.0.0/16", "fd00:10:244::/48")),
        (Plan(ipv4=False, ipv6=True), ("None", "fd00:10:244::/48")),
    ],
)
def test_its_config_is_flannels(plan: Plan, families: tuple[str, str]) -> None:
    config = NetworkConfig.parse(plan.config())
    assert (str(config.network), str(config.ipv6_network)) == families
    assert config.backend_type == "vxlan"
    assert config.nftables is None


def test_options_reach_the_backend() -> None:
    plan = Plan(backend="host-gw", options={"Port": 4789}, nftables=False)
    found = json.loads(plan.config())
    assert found["Backend"] == {"Type": "host-gw", "Port": 4789}
    assert found["EnableNFTables"] is False


def test_only_what_a_lab_makes_is_its_own() -> None:
    own = ["lab-n1", "lab-n12", "lab-n1p1", "lab-n200p200", "lab-net"]
    others = [
        "lab",
        "lab-",
        "lab-web",
        "lab-n",
        "lab-n1p",
        "lab-n1x",
        "lab-n1p1p1",
        "lab-network",
        "lab2-n1",
        "xlab-n1",
    ]
    assert Plan("lab").own([*others, *own]) == own
