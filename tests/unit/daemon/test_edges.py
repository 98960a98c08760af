"""The daemon's edges: health, HTTP, systemd, logs, identity."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pyflannel.daemon import systemd
from pyflannel.daemon.health import Health
from pyflannel.daemon.http import serve
from pyflannel.daemon.logs import set_up
from pyflannel.model.errors import ConfigError
from pyflannel.node.identity import identity
from pyflannel.store.contract import Contact


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def get(url: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def test_the_health_server() -> None:
    problems: list[str] = ["one", "two"]
    port = free_port()
    task = asyncio.create_task(serve("127.0.0.1", port, lambda: problems, lambda: {"a": 1}))
    await asyncio.sleep(0.2)
    base = f"http://127.0.0.1:{port}"
    assert await get(f"{base}/healthz") == (200, "flanneld is running")
    assert await get(f"{base}/readyz") == (503, "flanneld is not ready yet\none\ntwo")
    problems.clear()
    assert await get(f"{base}/readyz") == (200, "flanneld is ready")
    code, text = await get(f"{base}/status")
    assert (code, json.loads(text)) == (200, {"a": 1})
    assert (await get(f"{base}/other"))[0] == 404
    with pytest.raises(ConfigError, match=f'--healthz-port is "127.0.0.1:{port}"'):
        await serve("127.0.0.1", port, list, dict)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_health_tells_the_truth_both_ways() -> None:
    now = [100.0]
    contact = Contact()
    health = Health(contact, lambda: now[0])
    assert health.problems() == ["starting"]
    health.starting = None
    assert health.problems() == []
    rows = ["routes: 3 rows failed"]
    health.ask(lambda: rows)
    assert health.problems() == rows
    rows.clear()
    contact.failed(now[0], "refused")
    assert health.problems() == []
    now[0] += 31
    assert health.problems() == ["the store is unreachable for 31 s (refused); running on the last leases known"]
    contact.ok(now[0])
    assert health.problems() == []
    assert health.set("file", "can't be written")
    assert not health.set("file", "can't be written")
    assert health.problems() == ["can't be written"]
    assert health.set("file", None)
    assert health.problems() == []


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if abstract else name)
        sock.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        systemd.notify("READY=1")
        assert sock.recv(100) == b"READY=1"
    systemd.notify("READY=1")  # nobody listens any more: no matter
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")


@pytest.mark.parametrize("form", ["text", "json"])
def test_logs(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(form, 0)
    log = logging.getLogger("pyflannel.daemon.test")
    log.debug("hidden")
    log.warning("%d rows", 3)
    line = capsys.readouterr().err
    logging.getLogger().handlers.clear()
    assert "hidden" not in line
    assert line.count("\n") == 1
    assert "3 rows" in line
    if form == "json":
        assert json.loads(line)["message"] == "3 rows"


def test_an_identity_lasts(tmp_path: Path) -> None:
    first = identity(tmp_path / "a")
    assert identity(tmp_path / "a") == first
    assert identity(tmp_path / "b") != first
    (tmp_path / "file").write_text("")
    assert identity(tmp_path / "file") != identity(tmp_path / "file")
