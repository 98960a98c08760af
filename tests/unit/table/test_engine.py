"""Which engine runs, and what becomes of its peers: with a stand-in for the compiled one, whose ways to fail can't be
had from a real kernel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pyflannel.model.rows import Engine, EngineChoice, EngineRoute
from pyflannel.table.contract import Change, Touched
from pyflannel.table.engine import EngineMonitor, EngineRoutesTable, Engines, EngineTable

ROW = Engine("flannel0", (IPv4Address("192.168.7.1"),), 8285, (IPv4Network("10.5.1.0/24"),), ("e0",), 1472)
PEER = EngineRoute(IPv4Network("10.5.2.0/24"), IPv4Address("192.168.7.2"), 8285)
OTHER = EngineRoute(IPv4Network("10.5.3.0/24"), IPv4Address("192.168.7.3"), 8285)


class Part:
    """Either engine."""

    def __init__(self, state: dict[str, Any], *arguments: Any, **_: Any) -> None:
        self.state, self.arguments = state, arguments
        if state.get("refuses"):
            raise OSError(22, state["refuses"])
        state["running"] = self
        self.table: dict[str, tuple[str, str, int]] = dict(state.get("pinned", {}))
        self.why: str | None = None
        self.features = {"all": True}

    def apply(self, remove: Sequence[str], add: Sequence[tuple[str, str, int]]) -> None:
        for _, endpoint, _ in add:
            if endpoint == self.state.get("hates"):
                raise ValueError(f"not {endpoint}")
        for subnet in remove:
            self.table.pop(subnet, None)
        self.table |= {row[0]: row for row in add}

    def routes(self) -> list[tuple[str, str, int]]:
        return list(self.table.values())

    def counters(self) -> dict[str, int]:
        return {}

    def peers(self) -> dict[str, dict[str, int]]:
        return {}

    def problem(self) -> str | None:
        return self.why

    def close(self, keep: bool = False) -> None:
        self.state["running"] = None
        self.state["kept"] = keep


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the compiled engines are told: `user` and `kernel` (their `running`), `missing`, `removed`."""
    found = SimpleNamespace(user={}, kernel={}, missing=None, removed=[])

    class Kernel(Part):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(found.kernel, *arguments, **named)

        @staticmethod
        def missing() -> str | None:
            why: str | None = found.missing
            return why

        @staticmethod
        def remove(pin: str) -> None:
            found.removed.append(pin)
            for each in Path(pin).iterdir():
                each.unlink()

    module = ModuleType("pyflannel_engine")
    module.UserEngine = lambda *a, **k: Part(found.user, *a, **k)  # type: ignore[attr-defined]
    module.KernelEngine = Kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyflannel_engine", module)
    return found


def engines(tmp_path: Path, choice: EngineChoice = "auto") -> Engines:
    return Engines(tmp_path / "pin", choice)


async def started(found: Engines) -> list[str]:
    return [str(failure.error) for failure in await EngineTable(found).apply(Change(create=(ROW,)))]


async def test_the_kernel_where_it_can(native: SimpleNamespace, tmp_path: Path) -> None:
    found = engines(tmp_path)
    assert await started(found) == []
    assert (found.kind, found.why) == ("kernel", "")
    assert native.user["running"].arguments[:3] == ("flannel0", ["192.168.7.1"], 8285)
    assert native.kernel["running"].arguments[-1] == str(tmp_path / "pin")
    assert await EngineTable(found).dump(()) == [ROW]


async def test_user_space_where_it_cannot(native: SimpleNamespace, tmp_path: Path) -> None:
    native.missing, native.kernel["refuses"] = "no bpf()", "Operation not permitted"
    found = engines(tmp_path)
    assert await started(found) == []
    assert (found.kind, found.why) == ("user", "no bpf()")


async def test_a_kernel_that_refuses_is_done_without(native: SimpleNamespace, tmp_path: Path) -> None:
    native.kernel["refuses"] = "the verifier says no"
    found = engines(tmp_path)
    assert await started(found) == []
    assert (found.kind, "the verifier says no" in found.why) == ("user", True)


async def test_what_was_asked_for_and_cannot_be_is_an_error(native: SimpleNamespace, tmp_path: Path) -> None:
    native.missing, native.kernel["refuses"] = "no bpf()", "Operation not permitted"
    found = engines(tmp_path, "kernel")
    (error,) = await started(found)
    assert "--udp-engine=kernel was given, but the kernel engine can't run here: no bpf()" in error
    assert (found.kind, native.user["running"]) == ("", None)
    assert await EngineTable(found).dump([ROW]) == []


async def test_user_space_by_choice_sweeps_what_an_earlier_run_pinned(native: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "pin").mkdir()
    (tmp_path / "pin/program").touch()
    found = engines(tmp_path, "user")
    assert await started(found) == []
    assert (found.kind, native.removed) == ("user", [str(tmp_path / "pin")])


async def test_an_earlier_run_s_programs_go_with_its_backend(native: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "pin").mkdir()
    (tmp_path / "pin/program").touch()
    table = EngineTable(engines(tmp_path))
    assert await table.dump([ROW]) == [], "to be taken over"
    (row,) = await table.dump(())
    assert await table.apply(Change(remove=(row,))) == []
    assert (native.removed, await table.dump(())) == ([str(tmp_path / "pin")], [])


async def test_peers_survive_a_new_engine(native: SimpleNamespace, tmp_path: Path) -> None:
    found = engines(tmp_path)
    await started(found)
    peers = EngineRoutesTable(found)
    assert await peers.apply(Change(create=(PEER, OTHER))) == []
    native.user["running"].why = "the TUN device is gone"
    assert await EngineTable(found).dump([ROW]) == []
    await started(found)
    assert set(await peers.dump(())) == {PEER, OTHER}
    assert native.kernel["kept"], "taken over without a gap"
    found.close()
    assert native.kernel["kept"]


async def test_what_only_one_part_knows_is_mended(native: SimpleNamespace, tmp_path: Path) -> None:
    native.kernel["pinned"] = {"10.5.2.0/24": ("10.5.2.0/24", "192.168.7.2", 8285)}
    found = engines(tmp_path)
    await started(found)
    (torn,) = await EngineRoutesTable(found).dump(())
    assert (torn.key, torn == PEER) == (PEER.key, False)
    assert await EngineRoutesTable(found).apply(Change(replace=(PEER,))) == []
    assert await EngineRoutesTable(found).dump(()) == [PEER]


async def test_one_bad_peer_does_not_hold_up_the_others(native: SimpleNamespace, tmp_path: Path) -> None:
    native.user["hates"] = "192.168.7.3"
    found = engines(tmp_path)
    await started(found)
    (failure,) = await EngineRoutesTable(found).apply(Change(create=(PEER, OTHER)))
    assert (failure.row, "not 192.168.7.3" in str(failure.error)) == (OTHER, True)
    assert await EngineRoutesTable(found).dump(()) == [PEER]


async def test_without_an_engine_no_peer(native: SimpleNamespace, tmp_path: Path) -> None:
    (failure,) = await EngineRoutesTable(engines(tmp_path)).apply(Change(create=(PEER,)))
    assert "no engine runs" in str(failure.error)


async def test_without_the_package_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyflannel_engine", None)
    (error,) = await started(engines(tmp_path))
    assert "pip install pyflannel-engine" in error


async def test_trouble_is_noticed(native: SimpleNamespace, tmp_path: Path) -> None:
    found = engines(tmp_path)
    await started(found)
    native.kernel["running"].why = "somebody detached it"
    told: list[Touched] = []

    class Enough(Exception):
        pass

    def touched(what: Touched) -> None:
        told.append(what)
        raise Enough

    with pytest.raises(Enough):
        await EngineMonitor(found).watch(touched)
    assert told == [Touched(Engine)]
