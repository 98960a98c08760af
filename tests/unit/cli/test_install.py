"""flannelctl install-cni: whole files or none, whenever it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pyflannel.cli import flannelctl, install
from pyflannel.cli.install import InstallError, names_flannel, put, put_conflist

OURS = json.dumps({"name": "cbr0", "cniVersion": "1.0.0", "plugins": [{"type": "flannel"}]}).encode()
FLANNELS = json.dumps({"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}).encode()
FOREIGN = json.dumps({"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}).encode()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "is_flannel"),
    [
        (OURS, True),
        (b'{"type": "flannel"}', True),
        (FOREIGN, False),
        (b"{}", False),
        (b'{"plugins": ["flannel"]}', False),
        (OURS[:20], None),
        (b"", None),
        (b"[]", None),
        (b'{"plugins": 1}', None),
        (b"\xff\xfe", None),
    ],
)
def test_whose_config_it_is(text: bytes, is_flannel: bool | None) -> None:
    assert names_flannel(text) is is_flannel


def test_a_new_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        assert "installed, 3 bytes" in put(b"abc", tmp_path / "flannel", 0o755)
    finally:
        os.umask(old)
    assert (tmp_path / "flannel").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "flannel").stat().st_mode) == 0o755
    assert names(tmp_path) == ["flannel"]


def test_the_right_file_is_not_touched(tmp_path: Path) -> None:
    target = tmp_path / "flannel"
    put(b"abc", target, 0o755)
    before = target.stat()
    assert put(b"abc", target, 0o755).endswith("as it should be")
    assert target.stat() == before
    target.chmod(0o644)  # a plugin that can't be run isn't right
    assert "installed" in put(b"abc", target, 0o755)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "flannel").symlink_to(tmp_path / "elsewhere")
    put(b"ours", tmp_path / "flannel", 0o755)
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
    assert (tmp_path / "flannel").read_bytes() == b"ours"
    assert not (tmp_path / "flannel").is_symlink()


def test_a_link_in_the_temporary_files_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / ".flannel.new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InstallError, match="was not replaced"):
        put(b"ours", tmp_path / "flannel", 0o755)
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"


@pytest.mark.parametrize("there", [None, b"", FLANNELS, FLANNELS[:30]], ids=["none", "empty", "flannel's", "half"])
def test_flannels_conflist_and_a_half_one_are_replaced(tmp_path: Path, there: bytes | None) -> None:
    target = tmp_path / "10-flannel.conflist"
    if there is not None:
        target.write_bytes(there)
    put_conflist(OURS, "it", target)
    assert target.read_bytes() == OURS


def test_a_foreign_conflist_stays_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "10-flannel.conflist"
    target.write_bytes(FOREIGN)
    with pytest.raises(InstallError, match="configures another network"):
        put_conflist(OURS, "it", target)
    assert target.read_bytes() == FOREIGN
    put_conflist(OURS, "it", target, force=True)
    assert target.read_bytes() == OURS


@pytest.mark.parametrize("content", [FOREIGN, OURS[:-1], b"{}"])
def test_what_is_no_flannel_conflist_is_never_installed(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InstallError, match="mend cni-conf"):
        put_conflist(content, "it", tmp_path / "10-flannel.conflist")
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    put(b"old", tmp_path / "flannel", 0o755)
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InstallError, match="File too large"):
            put(b"x" * 5000, tmp_path / "flannel", 0o755)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert (tmp_path / "flannel").read_bytes() == b"old"
    assert names(tmp_path) == ["flannel"]


def killed_at_line(count: int, target: Path) -> bool:
    """Install in a child that gets SIGKILL before the *count*th line of the module runs; False if it got through."""
    child = os.fork()
    if child == 0:
        seen = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_filename != install.__file__:
                return None
            if event == "line":
                seen += 1
                if seen == count:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            put(b"new" * 100_000, target, 0o755)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_line_it_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "flannel"
    seen = set()
    for count in range(1, 200):
        put(b"old", target, 0o755)
        killed = killed_at_line(count, target)
        content = target.read_bytes()
        assert content in (b"old", b"new" * 100_000), count
        assert set(names(tmp_path)) <= {"flannel", ".flannel.new"}, count
        seen.add(content)
        if not killed:
            break
    else:
        pytest.fail("it never got through")
    assert count > 20
    assert len(seen) == 2
    put(b"after", target, 0o755)  # what a killed run left doesn't stand in the way, and goes
    assert names(tmp_path) == ["flannel"]


def test_two_runs_at_once_take_turns(tmp_path: Path) -> None:
    target = tmp_path / "flannel"
    with (tmp_path / ".flannel.new").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half of the oth")
        other.flush()
        thread = threading.Thread(target=put, args=(b"ours", target, 0o755))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive(), "it waits for the other"
        (tmp_path / ".flannel.new").replace(target)  # the other is through
    thread.join(5)
    assert target.read_bytes() == b"ours"
    assert names(tmp_path) == ["flannel"]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        flannelctl.main(["install-cni", *words])
    return int(ended.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin, conf, bins, confs = (tmp_path / name for name in ("plugin", "conf.json", "bin", "net.d"))
    plugin.write_bytes(b"\x7fELF")
    conf.write_bytes(OURS)
    words = [f"--plugin={plugin}", f"--conf={conf}", f"--bin-dir={bins}", f"--conf-dir={confs}"]
    assert run(*words) == 1
    assert f"{bins} is not there: make it" in capsys.readouterr().err
    bins.mkdir()
    confs.mkdir()
    assert run(*words, "--only=plugin") == 0
    assert (names(bins), names(confs)) == (["flannel"], [])
    assert run(*words) == 0
    assert (confs / "10-flannel.conflist").read_bytes() == OURS
    assert "as it should be" in capsys.readouterr().out
    assert run(*words, "--only=both") == 2
    assert run(*words, "--conf-name=../x.conflist") == 2
    plugin.write_bytes(b"")
    assert run(*words) == 1
    assert "is empty" in capsys.readouterr().err
    assert (bins / "flannel").read_bytes() == b"\x7fELF"
