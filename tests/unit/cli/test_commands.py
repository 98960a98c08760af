"""The commands as an operator meets them: output, errors in one line, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'


def call(module: str, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"pyflannel.cli.{module}", *words]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    )


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = f"--local-store={tmp_path}/s.db"
    done = call("flannelctl", "config", path, "set", "-", text=CONFIG)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == "IPv4: 10.5.0.0/16, a /24 a node from 10.5.1.0 to 10.5.255.0\nbackend: vxlan\nroom: 255 nodes\n"
    )
    return path


def test_config(store: str, tmp_path: Path) -> None:
    assert call("flannelctl", "config", store, "get").stdout == CONFIG + "\n"
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"Network": "10.5.0.0/16", "SubnetLen": 8}')
    for verb in ("validate", "set"):
        done = call("flannelctl", "config", store, verb, str(wrong))
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            done.stderr
            == f"flannelctl: {wrong}: SubnetLen is 8, expected a length from 18 (the Network's prefix 16 + 2) to 30\n"
        )
    assert call("flannelctl", "config", store, "get").stdout == CONFIG + "\n"


def test_leases(store: str) -> None:
    def leases(*words: str) -> subprocess.CompletedProcess[str]:
        return call("flannelctl", "leases", store, *words)

    assert leases("list").stdout == "no leases\n"
    assert (
        leases("reserve", "10.5.34.0/24", "--public-ip", "192.168.7.9").stdout
        == "10.5.34.0/24 is reserved for 192.168.7.9\n"
    )
    (entry,) = json.loads(leases("list", "--json").stdout)
    assert (entry["ipv4"], entry["public_ip"], entry["expires"]) == ("10.5.34.0/24", "192.168.7.9", None)
    assert "never (reserved)" in leases("show", "10.5.34.0/24").stdout
    assert "it is leased by 192.168.7.9" in leases("reserve", "10.5.34.0/24", "--public-ip", "192.168.7.1").stderr
    assert "say --yes" in leases("release", "10.5.34.0/24").stderr
    assert leases("release", "10.5.34.0/24", "--yes").stdout == "10.5.34.0/24 is free\n"
    for code, *words in (
        (1, "show", "10.5.34.0/24"),
        (2, "show", "x"),
        (2, "reserve", "10.5.34.0/24"),
        (2, "reserve", "10.5.34.0/24", "--public-ip", "y"),
        (2, "reserve", "10.5.34.0/24,10.5.35.0/24", "--public-ip", "192.168.7.9"),
        (1, "reserve", "10.6.34.0/24", "--public-ip", "192.168.7.9"),
    ):
        done = leases(*(str(word) for word in words))
        assert done.returncode == code, words
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


def test_flanneld_says_what_is_wrong(tmp_path: Path) -> None:
    for words, code, text in (
        (("--nope",), 2, "nope"), (("--help",), 0, "flanneld"), (("--version",), 0, "pyflannel"),
        (("--kube-subnet-mgr",), 1, "--kubeconfig-file"), (("--etcd-endpoints=ftp://x:1",), 1, "--etcd-endpoints"),
    ):  # fmt: skip
        done = call("flanneld", f"--subnet-file={tmp_path}/subnet.env", *words)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert text in done.stderr
        assert "Traceback" not in done.stderr
        last_words = tmp_path / "subnet.error"  # for the CNI plugin
        assert last_words.exists() == (code == 1), words
        if last_words.exists():
            assert text in last_words.read_text()
            assert last_words.read_text().strip() in done.stderr
            last_words.unlink()


def test_version_and_help() -> None:
    assert call("flannelctl", "version").stdout.startswith("pyflannel ")
    shown = call("flannelctl", "--help").stdout
    assert all(word in shown for word in ("config", "leases", "lab", "version"))


def test_addresses_are_no_pictures(store: str) -> None:
    call(
        "flannelctl",
        "config",
        store,
        "set",
        "-",
        text='{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10:100::/48","Backend":{"Type":"vxlan"}}',
    )
    call("flannelctl", "leases", store, "reserve", "fd00:10:100:a::/64", "--public-ipv6", "fd00::1")
    assert "fd00:10:100:a::/64" in call("flannelctl", "leases", store, "list").stdout


def test_lab_errors_are_one_line() -> None:
    done = call("flannelctl", "lab", "ping", "--name", "nosuch")
    assert done.returncode == 1
    assert done.stderr == "flannelctl: no lab called nosuch is up: `flannelctl lab up --name nosuch`\n"
