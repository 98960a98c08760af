"""The lab's tables, as text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from pyflannel.lab import picture
from pyflannel.lab.measure import Ping, Speed


def text(shown: RenderableType) -> str:
    file = io.StringIO()
    picture.make_console(file).print(shown)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def pings(nodes: int, pods: int, lost: tuple[tuple[str, str], ...] = ()) -> list[Ping]:
    names = [f"n{node}p{pod}" for node in range(1, nodes + 1) for pod in range(1, pods + 1)]
    return [
        Ping(source, target, "10.0.0.1", None if (source, target) in lost else 0.125)
        for source in reversed(names)
        for target in names
        if source != target
    ]


def test_a_matrix_pod_by_pod() -> None:
    found = [*pings(2, 1), Ping("n1p1", "n2p1", "fd00::1", 2.0)]
    table = picture.matrix(found, 80)
    assert table is not None
    assert text(table) == "ms    n1p1  n2p1\nn1p1     ·  2.00\nn2p1  0.12     ·"


def test_one_lost_address_is_a_lost_pod() -> None:
    table = picture.matrix([*pings(2, 1), Ping("n1p1", "n2p1", "fd00::1", None)], 80)
    assert table is not None
    assert text(table).splitlines()[1] == "n1p1     ·  lost"


def test_what_is_too_wide_is_shown_node_by_node_and_then_not_at_all() -> None:
    found = pings(3, 20, lost=(("n3p7", "n1p1"),))
    table = picture.matrix(found, 80)
    assert table is not None
    assert text(table).splitlines() == [
        "ms    n1    n2    n3",
        "n1  0.12  0.12  0.12",
        "n2  0.12  0.12  0.12",
        "n3  lost  0.12  0.12",
    ]
    assert picture.matrix(pings(30, 1), 80) is None


def test_ten_comes_after_two() -> None:
    table = picture.matrix(pings(11, 1), 200)
    assert table is not None
    assert [line.split()[0] for line in text(table).splitlines()[1:]] == [f"n{number}p1" for number in range(1, 12)]


def test_the_verdict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(picture, "say", Console(file=file, width=80, no_color=True).print)
    assert picture.show_matrix(pings(2, 1))
    assert "2 of 2 pings answered" in file.getvalue()
    lost = tuple((f"n1p{number}", "n2p1") for number in range(1, 13))
    assert not picture.show_matrix(pings(2, 12, lost))
    assert "540 of 552 pings answered, 12 lost" in file.getvalue()
    assert "  n1p3 → n2p1 (10.0.0.1)\n" in file.getvalue()
    assert file.getvalue().endswith("  and 2 more\n")


def test_addresses_and_words_are_shown_as_they_are() -> None:
    said = "interface [bold] is gone"
    state = picture.State(
        "n1", "fd00:77::b", "fd00:10:244:a::1/64  fd00:100:1234:b::1/64", "e0", "1500", 7, False, said
    )
    shown = text(picture.state_table([state]))
    assert state.subnets in shown
    assert said in shown


def test_a_pipe_is_not_wrapped() -> None:
    assert "\n" not in text("word " * 150)


def test_states_and_speed() -> None:
    state = picture.State(
        "n1", "192.168.77.11", "10.244.1.1/24", "flannel.1", "1450", 0, False, "flanneld does not run"
    )
    shown = text(picture.state_table([state])).splitlines()
    assert shown[0].split() == ["NODE", "UNDERLAY", "SUBNET", "DEVICE", "MTU", "PID", "STATE"]
    assert shown[1].endswith("1450  -    flanneld does not run")
    assert text(picture.speed_table(Speed(10.0, 0.1), Speed(7.5, 0.15))).splitlines()[-1].split() == [
        "ratio",
        "75%",
        "150%",
    ]
