"""A checkpoint that anything has happened to is read whole, or not at all."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.store import checkpoint
from pyflannel.store.checkpoint import Checkpoint


def lease(number: int, expires: float | None = 5e8) -> Lease:
    attrs = LeaseAttrs(IPv4Address(f"192.168.7.{number}"), None, "vxlan", '{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}')
    return Lease(Subnets(IPv4Network(f"10.5.{number}.0/24")), attrs, expires)


WHOLE = Checkpoint('{"Network":"10.5.0.0/16"}', lease(1), (lease(2), lease(3, None)), 1.5e9)


def test_half_a_file_is_none_at_every_length(tmp_path: Path) -> None:
    path, text = tmp_path / "c", WHOLE.to_text()
    for length in range(0, len(text), 7):
        path.write_text(text[:length])
        assert checkpoint.load(path) is None
    path.write_text(text)
    assert checkpoint.load(path) == WHOLE


@pytest.mark.parametrize(
    "spoilt",
    [
        {"own": ["10.5.1.0-24", '{"PublicIP":"1.2.3.4"}', "soon"]},
        {"own": ["10.5.1.0-24", '{"PublicIP":"1.2.3.4"}', True]},
        {"own": ["10.5.1.0", '{"PublicIP":"1.2.3.4"}', 5]},
        {"own": ["10.5.1.0-24", "{}}", 5]},
        {"own": None},
        {"at": "now"},
        {"at": 10**400},
        {"at": float("inf")},
        {"peers": [1]},
        {"peers": {"10.5.2.0-24": 5}},
        {"peers": {"10.5.2.0-24": ["{}", None, None]}},
    ],
    ids=str,
)
def test_a_spoilt_field_spoils_all(spoilt: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c"
    path.write_text(json.dumps(json.loads(WHOLE.to_text()) | spoilt))
    assert checkpoint.load(path) is None
    assert len(caplog.records) == 1
    assert str(path) in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\0" * 4096, b"[" * 100_000])
def test_what_is_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(content)
    assert checkpoint.load(tmp_path / "c") is None


def test_a_folder_in_its_place_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.load(tmp_path) is None
    assert "can't be used" in caplog.text


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    checkpoint.save(path, WHOLE)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, Checkpoint("{}", lease(9), (), 2.0))
    monkeypatch.undo()
    assert checkpoint.load(path) == WHOLE
    assert [file.name for file in tmp_path.iterdir()] == ["c"]
