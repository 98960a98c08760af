"""Whose process is it? A number that was written down proves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from pyflannel.lab import process, shell


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def test_a_child_is_alive_until_it_ends() -> None:
    pid = process.adopt(sleeper())
    assert process.alive(pid, "no-such-namespace")
    assert process.end(pid, "no-such-namespace", signal.SIGTERM) == -signal.SIGTERM
    assert not process.alive(pid, "no-such-namespace")
    assert process.end(pid, "no-such-namespace", signal.SIGTERM) is None


def test_one_that_does_not_listen_is_killed() -> None:
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 60; done"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert process.end(process.adopt(child), "x", signal.SIGTERM, within_s=0.05) == -signal.SIGKILL


def test_somebody_elses_process_of_that_number_is_left_alone() -> None:
    stranger = sleeper()  # not adopted: as if another command had written its number down
    try:
        assert not process.alive(stranger.pid, "no-such-namespace")
        assert process.end(stranger.pid, "no-such-namespace", signal.SIGKILL) is None
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_nothing_is_cleared_where_there_is_no_namespace() -> None:
    stranger = sleeper()
    try:
        process.clear(["no-such-namespace"])
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_missing_programs_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(shell.LabError, match=r"^missing programs: apt install etcd-server iperf3 iproute2$"):
        shell.need("ip", "bridge", "iperf3", "etcd")
    with pytest.raises(shell.LabError, match=r"^no-such-program is not installed: apt install no-such-program$"):
        shell.run("no-such-program")


def test_not_root_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(shell.LabError, match="needs root: sudo flannelctl lab"):
        shell.need_root()
