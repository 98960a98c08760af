"""What `flannelctl cloud` says, over an emulated network's state."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyflannel.cli import cloud
from pyflannel.cli.cloud import Step, check_lines, steps
from pyflannel.cli.flannelctl import main
from pyflannel.model.node import Node
from pyflannel.model.rows import CloudRoute
from pyflannel.table.cloud.contract import Check, FabricRoute
from pyflannel.table.cloud.memory import Past
from support.fabric import StateFabric, network


def row(number: int, own: bool = False) -> CloudRoute:
    return CloudRoute("rtb", ip_network(f"10.5.{number}.0/24"), ip_address(f"10.0.0.{number}"), own)


def route(number: int, hop: int, **more: Any) -> FabricRoute:
    addresses = frozenset({ip_address(f"10.0.0.{hop}")})
    return FabricRoute("rtb", ip_network(f"10.5.{number}.0/24"), f"eni-{hop}", addresses, **more)


def verbs(found: list[Step]) -> list[str]:
    return [step.verb for step in found]


@pytest.mark.parametrize(
    ("there", "verb", "why"),
    [
        ([route(1, 1)], "keep", "this node's"),
        ([], "create", "missing"),
        ([route(1, 9, state="blackhole")], "replace", "leads elsewhere: 10.5.1.0/24 via eni-9 table rtb (blackhole)"),
        ([route(1, 9)], "blocked", "somebody else's is there: 10.5.1.0/24 via eni-9"),
        ([route(1, 1), route(7, 7)], "leave", "foreign"),
    ],
)
def test_own_route(there: list[FabricRoute], verb: str, why: str) -> None:
    found = steps(there, [row(1, own=True)], {}, 600)
    assert found[-1].verb == verb
    assert why in found[-1].why


def test_peers_and_the_departed() -> None:
    pasts = {row(3).key: Past("eni-3", 700), row(4).key: Past("eni-4", 10)}
    there = [route(1, 1), route(2, 2), route(3, 3), route(4, 4)]
    found = steps(there, [row(1, own=True), row(2)], pasts, 600)
    assert verbs(found) == ["keep", "keep", "remove", "leave"]
    assert "goes in 590 s" in found[-1].why


def test_checks_for_people() -> None:
    shown = check_lines(
        [Check("quota", None, "45 of 50", "ask"), Check("who", False, "nobody", "log in"), Check("a", True, "b", "c")]
    )
    assert shown == [
        "  look   quota: 45 of 50", "         ask", "  FAILS  who: nobody", "         log in", "  ok     a: b",
    ]  # fmt: skip


# The commands


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This machine as n1 of an emulated network, with a net-conf.json and no store."""
    vpc = network(2)
    vpc.add("rtb-1", "10.5.77.0/24", "n2")
    monkeypatch.setattr("pyflannel.table.cloud.registry.open_fabric", lambda config: StateFabric(vpc, "n1"))
    node = Node("n1", "e0", 2, 9001, IPv4Address("10.0.0.1"), public_ip=IPv4Address("10.0.0.1"))
    monkeypatch.setattr("pyflannel.daemon.underlay.Underlay.look", lambda self: node)
    file = tmp_path / "net-conf.json"
    file.write_text('{"Network": "10.5.0.0/16", "Backend": {"Type": "aws-vpc"}}')
    return file


def test_check(here: Path) -> None:
    done = CliRunner().invoke(cloud.app, ["check", "--config", str(here)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "test-vpc: i-1 in vpc-1, next hop eni-1, tables rtb-1",
        "  ok     MTU: 9001 on e0, and for pods",
        "  ok     identity: n1",
        "  look   quota: 45 of 50",
        "         ask for more",
    ]


def test_plan_before_there_is_a_lease(here: Path) -> None:
    words = ["plan", "--json", "--config", str(here), "--store=local", f"--local-store={here.parent}/none.db"]
    done = CliRunner().invoke(cloud.app, words)
    assert done.exit_code == 0, done.output
    assert [(step["do"], step["route"]) for step in json.loads(done.output)["steps"]] == [
        ("create", "a route in rtb-1"),
        ("leave", "10.5.77.0/24"),
    ]


def test_a_config_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cloud", "check", "--config", "/nowhere"])
    assert ended.value.code == 1
    assert '--config is "/nowhere", expected a file that can be read' in capsys.readouterr().err


def test_a_backend_that_is_no_clouds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net-conf.json"
    file.write_text('{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')
    with pytest.raises(SystemExit):
        main(["cloud", "check", "--config", str(file)])
    assert "the config's backend is vxlan, which is no cloud's" in capsys.readouterr().err
