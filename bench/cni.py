"""How long the CNI plugin takes to start, beside Debian's plugins and a static program that does nothing. Run as root.

A pod's start and end wait for it. VERSION does what every call does first: start, read the variables, answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyflannel.lab.measure import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the plugin as tests call it

from support.cni import DEBIANS, Host, plugin  # noqa: E402
from support.netns import namespace  # noqa: E402

STARTS, PODS = 400, 40
AIM_MS = 3.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        nothing = Path(folder, "nothing")
        subprocess.run(["cc", "-O1", "-static", "-x", "c", "-", "-o", nothing], input=b"int main(){}", check=True)
        programs = {
            "flannel": plugin(),
            "bridge": Path(DEBIANS, "bridge"),
            "host-local": Path(DEBIANS, "host-local"),
            "nothing, static": nothing,
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(STARTS):  # interleaved: whatever else the machine does hits all alike
            for name, program in programs.items():
                times[name].append(start(program))
        ours = median(times["flannel"])
        print(f"{'VERSION':18} {'median':>8} {'p99':>9} {'of ours':>8} {'size':>9}   ({STARTS} starts each)")
        for name, program in programs.items():
            found = sorted(times[name])
            size = program.stat().st_size / 1e6
            middle, late = median(found), found[len(found) * 99 // 100]
            print(f"{name:18} {middle:5.2f} ms {late:6.2f} ms {middle / ours:7.2f}× {size:6.2f} MB")
        print(f"aim: under {AIM_MS:g} ms: {'met' if ours < AIM_MS else 'MISSED'}")
        pods(Path(folder))


def start(program: Path) -> float:
    """Milliseconds from the call to the end of a VERSION."""
    quiet = [
        (os.POSIX_SPAWN_OPEN, number, "/dev/null", flags, 0)
        for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY))
    ]
    began = time.perf_counter()
    pid = os.posix_spawn(program, [str(program)], {"CNI_COMMAND": "VERSION"}, file_actions=quiet)
    os.waitpid(pid, 0)
    return (time.perf_counter() - began) * 1e3


def pods(folder: Path) -> None:
    """A pod's ADD and DEL: through flannel, and by the delegate alone with the config that flannel makes for it."""
    with namespace("bench") as netns, namespace("pod") as pod:
        host = Host(netns, folder)
        host.lease()
        assert host("ADD", netns=pod.name).ok
        made = json.loads((host.data_dir / "c1").read_text())
        assert host("DEL", netns=pod.name).ok
        times: dict[str, list[float]] = {
            f"{who} {what}": [] for who in ("flannel", "bridge") for what in ("ADD", "DEL")
        }
        for _ in range(PODS):
            for who, program, config in (
                ("flannel", plugin(), host.config),
                ("bridge", Path(DEBIANS, "bridge"), made),
            ):
                for what in ("ADD", "DEL"):
                    times[f"{who} {what}"].append(call(program, what, config, netns.name, pod.name))
        print(f"\n{'a pod':18} {'median':>8}   ({PODS} pods each; bridge and host-local do the work)")
        for name, found in times.items():
            print(f"{name:18} {median(found):5.1f} ms")


def call(program: Path, command: str, config: object, node: str, pod: str) -> float:
    environment = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": f"/run/netns/{pod}",
        "CNI_PATH": DEBIANS, "PATH": os.environ["PATH"],
    }  # fmt: skip
    began = time.perf_counter()
    subprocess.run(
        ["nsenter", f"--net=/run/netns/{node}", program],
        input=json.dumps(config).encode(), env=environment, capture_output=True, check=True,
    )  # fmt: skip
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
