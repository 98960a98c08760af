"""What is judged of a node that Go flannel runs: safe, or what is in the way. Without a node."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pyflannel.backend.vxlan import Vxlan
from pyflannel.cli import adopt
from pyflannel.cli.adopt import lines
from pyflannel.daemon.rehearsal import Rehearsal, Scene, running
from pyflannel.daemon.takeover import judge
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past
from pyflannel.model.rows import Chain, FdbEntry, Route, Rule
from pyflannel.wire import subnet_env

CONFIG = NetworkConfig.parse('{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')
NODE = Node("n1", "eth0", 2, 1500, IPv4Address("192.0.2.1"), None, IPv4Address("192.0.2.1"))
OWN = Subnets(IPv4Network("10.5.1.0/24"))
MAC = "02:00:00:00:00:01"
BACKEND = Vxlan.build(CONFIG, NODE, Past(macs={"flannel.1": MAC}), Random(1))
ENV = subnet_env.encode(CONFIG, OWN, 1450, True)
NET2 = IPv4Network("10.5.2.0/24")
ROUTE2 = Route(NET2, "flannel.1", IPv4Address("10.5.2.0"), onlink=True)
MASQ = Chain("iptables", 4, "masquerade", (Rule("masquerade", "10.5.0.0/16"),))


def keyed(*rows: Any) -> dict[Any, Any]:
    return {row.key: row for row in rows}


def found(*scenes: Scene, **more: Any) -> Rehearsal:
    """A node on which all is as it should be, but for *scenes* and *more*."""
    whole: dict[str, Any] = {
        "store": "etcd", "config": CONFIG, "node": NODE, "lease": Lease(OWN, BACKEND.attrs()), "pids": (), "env": ENV,
        "backend": BACKEND, "manager": "iptables", "env_wanted": ENV, "scenes": scenes, "peers": 1,
    }  # fmt: skip
    return Rehearsal(**{**whole, **more})


def test_flannels_own_state_is_safe() -> None:
    flannels = replace(ROUTE2, protocol=3)
    judgement = judge(
        found(Scene("routes", keyed(flannels), keyed(ROUTE2)), Scene("firewall", keyed(MASQ), keyed(MASQ)))
    )
    assert judgement.safe
    assert [(step.table, step.verb) for step in judgement.steps] == [
        ("lease", "keep"), ("subnet.env", "keep"), ("routes", "mark"), ("firewall", "keep"),
    ]  # fmt: skip


def test_another_mac_is_published_and_safe() -> None:
    """After a reboot flannel's device has a new one: peers follow."""
    attrs = replace(BACKEND.attrs(), backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}')
    judgement = judge(found(lease=Lease(OWN, attrs)))
    assert judgement.safe
    assert judgement.steps[0].verb == "replace"
    assert "peers learn it at once" in judgement.steps[0].why


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        (replace(BACKEND.attrs(), backend_data='{"VNI":9,"VtepMAC":"02:00:00:00:00:01"}'), "restart flannel first"),
        (replace(BACKEND.attrs(), backend_data="nonsense"), "restart flannel first"),
        (replace(BACKEND.attrs(), public_ip=IPv4Address("192.0.2.77")), "give flannel's --iface and --public-ip"),
        (LeaseAttrs(IPv4Address("192.0.2.1")), "flannel runs as udp or alloc, the config says vxlan"),
    ],
)
def test_what_flannel_publishes_and_we_would_not(attrs: LeaseAttrs, words: str) -> None:
    judgement = judge(found(lease=Lease(OWN, attrs)))
    assert not judgement.safe
    assert words in judgement.obstacles[0]


def test_a_lease_that_does_not_fit_the_config() -> None:
    outside = Subnets(IPv4Network("10.9.1.0/24"))
    words = " ".join(judge(found(lease=Lease(outside, BACKEND.attrs()), kept=False)).obstacles)
    assert "doesn't fit the config any more" in words
    assert "subnet.env says 10.5.1.0/24, the store 10.9.1.0/24" in words


def test_what_flannel_left_behind_goes_and_a_peers_way_must_not() -> None:
    old = Route(IPv4Network("10.5.9.0/24"), "flannel.1", IPv4Address("10.5.9.0"), onlink=True, protocol=3)
    entry = FdbEntry("flannel.1", "02:00:00:00:00:09", IPv4Address("192.0.2.9"))
    judgement = judge(found(Scene("routes", keyed(old), {}), Scene("fdb", keyed(entry), {})))
    assert judgement.safe
    assert [step.verb for step in judgement.steps[2:]] == ["remove", "remove"]
    unreachable = {Subnets(IPv4Network("10.5.9.0/24")): "its backend is ipip"}
    judgement = judge(found(Scene("routes", keyed(old), {}), unreachable=unreachable))
    assert "its node still leases that subnet" in judgement.obstacles[0]
    assert "its backend is ipip" in judgement.notes[0]


def test_a_file_with_other_words_is_told_word_by_word() -> None:
    judgement = judge(found(env=ENV.replace("MTU=1450", "MTU=1400")))
    assert judgement.safe
    assert judgement.steps[1].why == "FLANNEL_MTU 1400 → 1450"


def test_many_rows_are_counted_and_some_listed() -> None:
    rows = [Route(IPv4Network((f"10.5.{number}.0", 24)), "flannel.1") for number in range(2, 52)]
    rehearsal = found(Scene("routes", {}, keyed(*rows)), pids=(812,))
    shown = "\n".join(lines(rehearsal, judge(rehearsal)))
    assert "routes      create 50" in shown
    assert "… and 30 more (--json lists them)" in shown
    assert "next: stop flannel (process 812), and start" in shown
    assert len(adopt._dict(rehearsal, judge(rehearsal))["steps"]) == 52
    json.dumps(adopt._dict(rehearsal, judge(rehearsal)))


def test_processes_of_this_namespace_called_flanneld(tmp_path: Path) -> None:
    for name, comm, netns in (("self", "x", "a"), ("12", "flanneld", "a"), ("13", "flanneld", "b"), ("14", "sh", "a")):
        (tmp_path / name / "ns").mkdir(parents=True)
        (tmp_path / name / "comm").write_text(f"{comm}\n")
        (tmp_path / name / "ns/net").symlink_to(f"net:[{netns}]")
    (tmp_path / "15").mkdir()
    assert running(tmp_path) == (12,)
