"""The systemd units: read by systemd, rated by it, and run under a real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.netns import Netns, host
from support.nspawn import Machine

UNITS = Path(__file__).parents[2] / "deploy/systemd"
WORST_EXPOSURE = 2.5  # of 10; what is left: root, CAP_NET_ADMIN, the host's network
CONFIG = '{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan"}}'


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """The units where systemd-analyze looks for them, with programs of the names they call."""
    units, programs = tmp_path / "etc/systemd/system", tmp_path / "opt/pyflannel/bin"
    units.mkdir(parents=True)
    programs.mkdir(parents=True)
    text = (UNITS / "flanneld.service").read_text()
    (units / "flanneld.service").write_text(text.replace("/opt/pyflannel/bin/flanneld", "/bin/true"))
    return units


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)


def verify(unit: Path) -> str:
    # It exits 0 on an unknown key: what counts is that it says nothing.
    return run("systemd-analyze", "verify", "--man=no", unit).stderr


def test_systemd_has_nothing_to_say_about_the_unit(etc: Path) -> None:
    assert verify(etc / "flanneld.service") == ""


def test_verify_would_say_something(etc: Path) -> None:
    unit = etc / "flanneld.service"
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in verify(unit)


def test_the_drop_ins_are_understood(etc: Path) -> None:
    drop_ins = etc / "flanneld.service.d"
    drop_ins.mkdir()
    (drop_ins / "udp.conf").write_text((UNITS / "flanneld.service.d/udp.conf.example").read_text())
    assert verify(etc / "flanneld.service") == ""
    docker = (
        (UNITS / "docker.service.d/flannel.conf").read_text().replace("/opt/pyflannel/bin/mk-docker-opts", "/bin/true")
    )
    (etc / "docker.service.d").mkdir()
    (etc / "docker.service.d/flannel.conf").write_text(docker.replace("/usr/bin/dockerd", "/bin/true"))
    (etc / "docker.service").write_text("[Service]\nExecStart=/bin/false\n")
    assert verify(etc / "docker.service") == ""


def test_the_exposure_stays_low() -> None:
    text = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNITS / "flanneld.service").stdout
    found = re.search(r"Overall exposure level for flanneld.service: ([\d.]+)", text)
    assert found, text
    assert float(found[1]) <= WORST_EXPOSURE, text


def test_every_variable_of_the_environment_file_is_a_flag() -> None:
    from pyflannel.cli.options import FLAGS

    text = (UNITS / "flanneld.default").read_text()
    names = re.findall(r"^#?(FLANNELD_\w+)=", text, re.MULTILINE)
    assert len(names) > 3
    assert set(names) <= {flag.variable for flag in FLAGS}


@pytest.fixture
def netns() -> Iterator[Netns]:
    with host("sd") as found:
        found("ip route add default via 192.168.7.254")
        yield found


CHECK = r"""
said() { systemctl show flanneld -p ActiveState,SubState,Result,StatusText,NRestarts,Type | sort; }
until_active() { for _ in $(seq 100); do systemctl is-active -q flanneld && return; sleep 0.1; done; echo LATE; }
until_active; echo "== started"; said
pid=$(systemctl show flanneld -p MainPID --value); echo "MainPID=$pid"
cat /run/flannel/subnet.env; ip -o -d link show flannel.1; cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra
grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/$pid/status
/opt/pyflannel/bin/flannelctl status
nft list tables
echo "== killed"; kill -9 ${pid/#0/1000000}; sleep 0.3; ip -o link show flannel.1 | wc -l; sleep 1.2; until_active; said
echo "== stopped"; systemctl stop flanneld; said; ls /run/flannel; ip -o link show flannel.1 | wc -l
echo "== again"; systemctl start flanneld; said
"""


def booted(netns: Netns, script: str, extra: str = "") -> str:
    """What *script* says beside a flanneld with the embedded store, its unit's [Service] followed by *extra*."""
    with tempfile.TemporaryDirectory(prefix="pf-nspawn-") as folder:  # outside of pytest's: other users may look there
        machine = Machine(Path(folder), netns.name)
        machine.unit(UNITS / "flanneld.service")
        machine.program("flanneld", "pyflannel.cli.flanneld")
        machine.program("flannelctl", "pyflannel.cli.flannelctl")
        machine.write("etc/default/flanneld", "FLANNELD_STORE=local\nFLANNELD_IP_MASQ=true\n")
        machine.write("net-conf.json", CONFIG)
        machine.path("var/lib/flannel").mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-m", "pyflannel.cli.flannelctl", "config", "--store=local",
             f"--local-store={machine.path('var/lib/flannel/store.db')}", "set", machine.path("net-conf.json")],
            check=True, env={**os.environ, "PYTHONPATH": str(UNITS.parents[1] / "src")},
        )  # fmt: skip
        machine.write("etc/systemd/system/flanneld.service.d/test.conf", f"[Service]\n{extra}\n")
        return machine.boot(script, "flanneld.service")


@pytest.mark.root
def test_where_sysctls_are_read_only_the_node_still_gets_ready(netns: Netns) -> None:
    """As in a container that isn't privileged: the same capabilities, root and /proc/sys read-only."""
    script = CHECK.partition('echo "== killed"')[0]
    text = booted(netns, script, "ReadWritePaths=\nReadWritePaths=-/run/xtables.lock")
    assert re.search(r": ready$", text, re.MULTILINE), text
    assert "accept_ra stays 1, wanted 0: /proc/sys is read-only here" in text


@pytest.mark.root
def test_flanneld_lives_under_a_real_systemd(netns: Netns) -> None:
    text = booted(netns, CHECK)
    parts = dict(re.findall(r"== (\w+)\n(.*?)(?=\n== |\Z)", text, re.DOTALL))
    started = parts["started"]
    assert "ActiveState=active" in started, text
    assert "Type=notify" in started, text
    assert "StatusText=10.9." in started, text
    assert "FLANNEL_NETWORK=10.9.0.0/16" in started, text
    assert "dstport 8472" in started, text
    assert "NoNewPrivs:\t1" in started, text
    assert "CapBnd:\t0000000000003000" in started, text  # NET_ADMIN, NET_RAW
    assert "Seccomp:\t2" in started, text
    assert re.search(r": ready$", started, re.MULTILINE), text
    assert parts["killed"].startswith("1\n"), text  # the device outlives the daemon
    assert "NRestarts=1" in parts["killed"], text
    assert "ActiveState=active" in parts["killed"], text
    assert "ActiveState=inactive" in parts["stopped"], text
    assert "Result=success" in parts["stopped"], text
    assert "subnet.env" in parts["stopped"], text
    assert "ActiveState=active" in parts["again"], text
