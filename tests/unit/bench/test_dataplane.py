"""The pure parts of the benchmark of the data planes: a wrong figure there would be believed."""

from __future__ import annotations

import json

import pytest
from bench.dataplane.aims import Aim, best_peer, render_aims
from bench.dataplane.cpu import Spent, machine_ticks, process_ticks
from bench.dataplane.loads import rtt_figures, tcp_figures, udp_figures
from bench.dataplane.report import Column, Result, cell, dump, in_turn, percentile, ratios, render
from bench.dataplane.world import segmentation_on

from pyflannel.lab.shell import LabError

ROUNDS = {
    "vxlan": {"tcp1 bbr": [{"gbps": 10.0}, {"gbps": 5.0}, {"gbps": 8.0}]},
    "naive": {"tcp1 bbr": [{"gbps": 1.0}, {}, {"gbps": 2.0}]},
}
GBPS = Column("1 stream", "tcp1 bbr", ("gbps",), 1, True)


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios(ROUNDS, "vxlan", "naive", "tcp1 bbr", "gbps") == [10, 4]  # the round that failed is left out
    assert ratios(ROUNDS, "vxlan", "fastd", "tcp1 bbr", "gbps") == []
    assert ratios(ROUNDS, "vxlan", "naive", "tcp4 bbr", "gbps") == []


def test_cells() -> None:
    assert cell(GBPS, "vxlan", ROUNDS) == "8.0 (5.0–10.0) n×7"
    assert cell(GBPS, "naive", ROUNDS) == "1.5 (1.0–2.0) v×0.175"
    assert cell(Column("", "tcp1 bbr", ("retransmits",)), "naive", ROUNDS) == "–"


def test_a_table_has_whom_was_measured() -> None:
    labels = {"raw": "raw veth", "vxlan": "vxlan", "naive": "naive loop"}
    lines = render("TCP", [GBPS], labels, ROUNDS).splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["vxlan", "naive loop"]
    assert len({len(line) for line in lines[2:]}) == 1


def test_json_has_medians_and_all_samples() -> None:
    result = Result(rounds={"naive": {"tcp1 bbr": [{"gbps": 1.0}, {}, {"gbps": 2.0}]}}, left_out={"fastd": "apt"})
    found = json.loads(json.dumps(dump({"cores": 2}, {"naive": "naive loop"}, {"cut": result})))["underlays"]["cut"]
    assert found["candidates"]["naive"]["medians"] == {"tcp1 bbr": {"gbps": 1.5}}
    assert found["candidates"]["naive"]["rounds"]["tcp1 bbr"] == [{"gbps": 1.0}, {}, {"gbps": 2.0}]
    assert found["left_out"] == {"fastd": "apt"}


@pytest.mark.parametrize(("share", "found"), [(1, 1), (50, 50), (99, 99), (100, 100)])
def test_percentiles_are_values_that_were_there(share: int, found: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == found
    assert percentile([7], share) == 7


def test_turns() -> None:
    assert [in_turn("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert in_turn([], 3) == []


def test_processor_time() -> None:
    assert machine_ticks("cpu  10 20 30 4000 500 6 7 800 9 9\ncpu0 1 1 1 1\n") == 10 + 20 + 30 + 6 + 7
    assert process_ticks("42 (a (b) c) S 1 42 42 0 -1 0 1 2 3 4 130 17 900 900 20 0 5") == 130 + 17
    assert Spent(3.0, 9.0) - Spent(1.0, 4.0) == Spent(2.0, 5.0)
    assert Spent(None, 9.0) - Spent(None, 4.0) == Spent(None, 5.0)


def test_tcp() -> None:
    got = {"bytes": 2_000_000_000, "bits_per_second": 8e9}
    said = json.dumps({"end": {"sum_received": got, "sum_sent": {"retransmits": 3}}})
    found = tcp_figures(said, Spent(1.0, 3.0))
    assert found == {"gbps": 8.0, "retransmits": 3.0, "machine_s_per_gb": 1.5, "engine_s_per_gb": 0.5}
    with pytest.raises(LabError, match="not a byte"):
        tcp_figures(said.replace("2000000000", "0"), Spent(1.0, 3.0))


def test_udp() -> None:
    found = udp_figures(1400, 400_000, 100_000, 2.0, Spent(None, 1.0))
    assert found == {
        "kpps": 50.0,
        "offered_kpps": 200.0,
        "loss_percent": 75.0,
        "gbps": 0.56,
        "machine_us_per_packet": 10.0,
    }
    lost = udp_figures(64, 100, 0, 1.0, Spent(1.0, 1.0))
    assert lost["loss_percent"] == 100
    assert "engine_us_per_packet" not in lost
    with pytest.raises(LabError, match="not a packet"):
        udp_figures(64, 0, 0, 1.0, Spent(None, 1.0))


def test_round_trips() -> None:
    assert rtt_figures("4\n3000\n1000\n2000\n") == {"rtt_lost_percent": 25, "rtt_p50_us": 2.0, "rtt_p99_us": 3.0}
    assert rtt_figures("4\n") == {"rtt_lost_percent": 100}


def test_what_has_to_be_switched_off() -> None:
    said = """\
tcp-segmentation-offload: on
\ttx-tcp-segmentation: on
\ttx-tcp6-segmentation: off
generic-segmentation-offload: on
tx-udp_tnl-csum-segmentation: on
tx-esp-segmentation: off [fixed]
tx-gso-partial: on
tx-gso-list: on
tx-checksum-ip-generic: on
"""
    names = ["tx-tcp-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gso-partial", "tx-gso-list"]
    assert segmentation_on(said) == names


def test_aims() -> None:
    assert Aim("kernel", "vxlan", "", "gbps", 1).met([0.9, 1.0, 1.2])
    assert not Aim("kernel", "vxlan", "", "gbps", 1).met([0.9, 0.99, 1.2])
    assert Aim("user", "fastd", "", "rtt_p50_us", 1, low=True).met([0.9, 1.0, 1.2])
    assert not Aim("user", "fastd", "", "rtt_p50_us", 1, low=True).met([0.9, 1.1, 1.2])


def test_the_best_peer_is_chosen_by_the_load() -> None:
    rounds = {
        "fastd": {"tcp1 bbr": [{"gbps": 2.0, "engine_s_per_gb": 9.0}]},
        "tinc": {"tcp1 bbr": [{"gbps": 1.0, "engine_s_per_gb": 8.0}], "tcp4 bbr": [{"gbps": 1.0}]},
        "naive": {"tcp1 bbr": [{"gbps": 3.0}]},
        "user": {"tcp1 bbr": [{"gbps": 9.0}]},
    }
    assert best_peer(rounds, "tcp1 bbr", "gbps") == "fastd"
    assert best_peer(rounds, "tcp1 bbr", "engine_s_per_gb", low=True) == "tinc"
    assert best_peer(rounds, "tcp4 bbr", "gbps") == "tinc"
    assert best_peer(rounds, "idle", "gbps") is None
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in render_aims(rounds, ["bbr"]).splitlines()[4:]]
    assert rows == [
        ["user", "gbps of tcp1 bbr", "× naive", "≥ 12", "3 (3–3)", "no"],
        ["user", "gbps of tcp1 bbr", "× fastd", "≥ 6", "4.5 (4.5–4.5)", "no"],
    ]
    assert render_aims({}, ["bbr"]) == ""
