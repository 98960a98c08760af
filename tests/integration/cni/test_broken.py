"""The `flannel` CNI plugin given broken input, or killed: one error or nothing, and nothing half-written."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.cni import Answer, Host, left, plugin, speaking
from support.netns import Netns

pytestmark = pytest.mark.root

# More of it, without processes: crates/cni/src/fuzz.rs.
CORPUS = Path(__file__).parents[3] / "crates" / "cni" / "corpus"


def broken(kind: str, count: int) -> list[bytes]:
    """The corpus' files of *kind*, and *count* of them changed in up to four bytes."""
    rng = random.Random(20261124)
    seeds = [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]
    found = [*seeds, b"\xff\xfe", b"[" * 5000, b'{"a":' * 200]
    for number in range(count):
        text = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.randint(1, 4) if text else 0):
            text[rng.randrange(len(text))] = rng.randrange(256)
        found.append(bytes(text))
    return found


def judge(answer: subprocess.CompletedProcess[bytes], text: bytes) -> bool:
    """One JSON error on stdout, or success; never anything else. True if it was success."""
    assert answer.stderr == b"", text
    if answer.returncode == 0:
        return True
    error = json.loads(answer.stdout)
    assert answer.returncode == 1, text
    assert error["msg"], text
    assert isinstance(error["code"], int), text
    return False


def call(command: str, netns: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    """Without delegates to be found."""
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere",
                   "CNI_NETNS": f"/run/netns/{netns}"}  # fmt: skip
    return subprocess.run([plugin()], input=text, capture_output=True, timeout=30, check=False, env=environment)


def test_a_broken_config(host: Host, pod: Netns) -> None:
    whole = json.dumps(host.config).encode()
    odd: list[Any] = [None, True, -1, 2**70, 1e308, "", "a", "../x", [], {}, [[]], {"type": 1}, "x" * 5000]
    corpus = [b"{}" * 10, whole + whole, whole[:-1], *broken("config", 150)]
    for name in ("cniVersion", "name", "delegate", "ipam", "runtimeConfig", "subnetFile", "dataDir", "mendBridge"):
        corpus += [json.dumps(host.config | {name: value}).encode() for value in odd]
    for text in corpus:
        assert not judge(call("ADD", pod.name, text), text), text
    assert left(host) == []


def test_a_broken_subnet_env(host: Host, pod: Netns) -> None:
    config = json.dumps({**host.config, "cniVersion": "1.1.0"}).encode()
    for text in broken("subnet.env", 100):
        host.subnet_file.write_bytes(text)
        for command in ("ADD", "STATUS"):
            assert not judge(call(command, pod.name, config), text), text
    assert left(host) == []


def test_a_broken_state(host: Host, pod: Netns) -> None:
    config = json.dumps({**host.config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}).encode()
    host.data_dir.mkdir()
    for text in broken("state", 100):
        (host.data_dir / "c1").write_bytes(text)
        assert judge(call("CHECK", pod.name, config), text)
        judge(call("GC", pod.name, config), text)
        assert not judge(call("DEL", pod.name, config), text), "there was no delegate"
        assert left(host) == ["c1"], "what failed is kept"


def test_killed_at_any_system_call(host: Host, pod: Netns, tmp_path: Path) -> None:
    """What is kept is whole, and a DEL leaves nothing: strace ends the plugin at each of its calls in turn."""
    _, path = speaking(tmp_path, "echo '{}'")
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": path,
                   "CNI_NETNS": f"/run/netns/{pod.name}", "PATH": "/usr/bin:/bin"}  # fmt: skip

    def traced(*words: str) -> int:
        command = ["strace", "-qq", "-o", str(tmp_path / "trace"), *words, str(plugin())]
        config = json.dumps(host.config).encode()
        return subprocess.run(command, input=config, capture_output=True, env=environment, check=False).returncode

    def files() -> list[Path]:
        return list(host.data_dir.iterdir()) if host.data_dir.exists() else []

    assert traced() == 0
    assert host("DEL", netns=pod.name, CNI_PATH=path).ok
    calls = [line.partition("(")[0] for line in (tmp_path / "trace").read_text().splitlines() if line[0].islower()]
    assert {"openat", "write", "fsync", "rename"} <= {*calls}
    seen, deaths = set(), 0
    for at, name in enumerate(calls):
        if name in ("execve", "exit_group"):
            continue
        ended = traced("-e", f"inject={name}:signal=SIGKILL:when={calls[: at + 1].count(name)}")
        assert ended in (-9, 0), name  # it reads the delegate's answer in one call or in two
        deaths += ended == -9
        kept = [file for file in files() if file.name[0] != "."]
        seen.add((len(kept), len(files())))
        for file in kept:
            assert file.stat().st_mode & 0o777 == 0o600
            assert json.loads(file.read_text())["ipam"]["ranges"] == [[{"subnet": "10.5.72.0/24"}]]
        assert host("DEL", netns=pod.name, CNI_PATH=path) == Answer(0, "", "")
        assert files() == []
    assert deaths > 50
    assert seen == {(0, 0), (0, 1), (1, 1)}, "before, while and after the file was written"
