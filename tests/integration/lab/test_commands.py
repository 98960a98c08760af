"""`flannelctl lab`, as a newcomer uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.lab import eventually

pytestmark = pytest.mark.root
NAME = f"c{os.getpid() % 0xFFFFF:x}"


def lab(*words: str, name: bool = True) -> subprocess.CompletedProcess[str]:
    extra = ["--name", NAME] if name else []
    verb, *rest = words
    command = [sys.executable, "-m", "pyflannel.cli.flannelctl", "lab", verb, *extra, *rest]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def up() -> Iterator[None]:
    done = lab("up", "--nodes", "2", "--dual-stack")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "n2p1" in done.stdout
        yield
    finally:
        assert lab("down").returncode == 0
        assert NAME not in os.popen("ip netns").read()


def test_a_session(up: None) -> None:
    done = lab("ping")
    assert done.returncode == 0
    assert "4 of 4 pings answered" in done.stdout
    assert "FLANNEL_SUBNET=10.244." in lab("exec", "n1", "cat", "/run/flannel/subnet.env").stdout
    assert "eth0" in lab("exec", "n2p1", "ip", "link").stdout
    assert "flanneld is ready" in lab("status").stdout
    assert "ready after" in lab("restart", "n2").stdout
    assert "daemon" in lab("logs", "n1").stdout
    assert lab("cut", "n2").returncode == 0
    broken = lab("ping")
    assert broken.returncode == 1
    assert "lost" in broken.stdout
    assert lab("heal", "n2").returncode == 0
    eventually(lambda: lab("ping").returncode == 0, 20)  # the kernel's neighbours take a second
    again = lab("up")
    assert again.returncode == 1
    assert again.stderr == f"flannelctl: a lab called {NAME} is up: `flannelctl lab down --name {NAME}` first\n"
    assert "no node n9 in this lab: n1, n2" in lab("cut", "n9").stderr


@pytest.mark.parametrize(
    "options", [[], ["--backend", "host-gw", "--dual-stack", "--store", "etcd"]], ids=["plain", "more"]
)
def test_the_demo(options: list[str]) -> None:
    done = lab("demo", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pings answered" in done.stdout
    assert "the routes deleted: back after" in done.stdout
    assert "nothing left behind" in done.stdout
    assert NAME not in os.popen("ip netns").read()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", "0"], "--nodes is 0, expected 1 to 200"),
        (["--backend", "nope"], 'Backend.Type is "nope", expected one of'),
        (["--store", "redis"], "--store is redis, expected local or etcd"),
    ],
)
def test_wrong_calls_leave_nothing(words: list[str], said: str) -> None:
    done = lab("up", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert NAME not in os.popen("ip netns").read()
