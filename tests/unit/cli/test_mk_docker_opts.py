"""mk-docker-opts writes what flannel's script writes (control-plane reference, 5.4)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyflannel.cli.mk_docker_opts import compose, conflict

ENV = "FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
BIP, MASQ, MTU = (
    'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\n',
    'DOCKER_OPT_IPMASQ="--ip-masq=true"\n',
    'DOCKER_OPT_MTU="--mtu=1472"\n',
)
ALL = " --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"
CASES = {
    "": f'{BIP}{MASQ}{MTU}DOCKER_OPTS="{ALL}"\n',
    "-i": f"{BIP}{MASQ}{MTU}",
    "-c": f'DOCKER_OPTS="{ALL}"\n',
    "-k CUSTOM_KEY": f'{BIP}{MASQ}{MTU}CUSTOM_KEY="{ALL}"\n',
    "-m": f'{BIP}{MTU}DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"\n',
    "-f /nowhere": 'DOCKER_OPTS=""\n',
}


def call(tmp_path: Path, options: str, **env: str) -> tuple[int, str, str]:
    source, target = tmp_path / "subnet.env", tmp_path / "docker"
    source.write_text(ENV)
    words = ["-f", str(source), "-d", str(target), *options.split()]
    command = [sys.executable, "-m", "pyflannel.cli.mk_docker_opts", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin", **env}
    )
    return done.returncode, target.read_text() if target.exists() else "", done.stderr


@pytest.mark.parametrize("options", CASES)
def test_options(tmp_path: Path, options: str) -> None:
    assert call(tmp_path, options) == (0, CASES[options], "")


def test_a_preset_variable_is_kept(tmp_path: Path) -> None:
    code, text, _ = call(tmp_path, "-c", DOCKER_OPTS="--debug", OTHER_DOCKER_OPT_X="no")
    assert (code, text) == (0, f'DOCKER_OPTS="--debug {ALL}"\n')


def test_wrong_calls(tmp_path: Path) -> None:
    for options in ("-h", "-?", "-z"):
        code, text, errors = call(tmp_path, options)
        assert (code, text) == (1, "")
        assert "OPTIONS" in errors
    with pytest.raises(ValueError, match="maybe"):
        compose({"FLANNEL_IPMASQ": "maybe"}, individual=True, combined=True, key="K", masquerade=True, preset="")


def test_a_route_that_leads_the_subnet_away() -> None:
    assert conflict("10.1.74.1/24", "10.1.74.0/24 via 192.168.7.9 dev e0\n") == "10.1.74.0/24 via 192.168.7.9 dev e0"
    assert conflict("10.1.74.1/24", "10.1.74.0/24 dev docker0\n10.1.75.0/24 via 192.168.7.9\n") is None
