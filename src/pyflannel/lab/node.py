"""A node of the lab: a network and a mount namespace, a real flanneld, and pods behind a bridge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from pyflannel.lab.shell import LabError, batch, run
from pyflannel.wire import subnet_env

HEALTHZ_PORT = 8081
READY_S = 20.0


@dataclass
class Pod:
    """A namespace with one interface, eth0, behind its node's bridge."""

    name: str
    netns: str
    addresses: list[str] = field(default_factory=list)

    def exec(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        return run("ip", "netns", "exec", self.netns, *command, check=check)

    @property
    def address(self) -> str:
        return self.addresses[0]


@dataclass
class Node:
    """One node. `pid` is flanneld's (0: it doesn't run), `holder` keeps the mount namespace alive."""

    name: str
    netns: str
    folder: str
    address: str
    address6: str
    gateway: str
    port: str
    arguments: list[str] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    holder: int = 0
    pid: int = 0

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Node:
        pods = [Pod(**pod) for pod in data["pods"]]
        return cls(**{**data, "pods": pods})

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def path(self) -> Path:
        return Path(self.folder)

    # Commands

    def exec(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run *command* on the node."""
        return run(*self.enter(), *command, check=check)

    def __call__(self, command: str) -> str:
        """Run *command* (split at blanks) on the node; its output. Raises LabError if it fails."""
        return self.exec(*command.split(), check=True).stdout

    def ip_json(self, arguments: str) -> list[dict[str, Any]]:
        """What `ip -j ARGUMENTS` prints."""
        return [item for item in json.loads(self(f"ip -j {arguments}") or "[]") if item]

    def enter(self) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.holder), "-m", "-n")

    # The machine

    def hold(self) -> None:
        """Make the mount namespace: /run/flannel and /var/lib/flannel are the node's own."""
        for inner in ("run", "lib"):
            (self.path / inner).mkdir(parents=True, exist_ok=True)
        script = (
            "mkdir -p /run/flannel /var/lib/flannel && "
            f"mount --bind {self.path}/run /run/flannel && mount --bind {self.path}/lib /var/lib/flannel && "
            "echo held && exec sleep infinity"
        )
        holder = subprocess.Popen(
            ["ip", "netns", "exec", self.netns, "unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it outlives us: a caller that reads our errors must see their end
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != b"held":
            raise LabError(f"{self.name}: no mount namespace (not root?)")
        holder.stdout.close()
        self.holder = holder.pid

    # flanneld

    def start_flanneld(self, *extra: str) -> None:
        """Start it; `wait_ready` waits until it is."""
        command = [sys.executable, "-m", "pyflannel.cli.flanneld", *self.arguments, *extra]
        with (self.path / "log").open("ab") as log:
            process = subprocess.Popen(
                [*self.enter(), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.pid = process.pid
        _children[process.pid] = process

    def stop_flanneld(self, number: signal.Signals = signal.SIGTERM, within_s: float = 10.0) -> int | None:
        """Send *number* and wait for the end. Its exit code, if we started it."""
        pid, self.pid = self.pid, 0
        if not alive(pid):
            return _reap(pid)
        os.kill(pid, number)
        if not wait_for(lambda: not alive(pid), within_s):
            os.kill(pid, signal.SIGKILL)
        return _reap(pid)

    def kill_flanneld(self) -> None:
        """As if the plug were pulled."""
        self.stop_flanneld(signal.SIGKILL)

    def running(self) -> bool:
        return alive(self.pid)

    def ready(self) -> bool:
        """What /readyz says."""
        return self.http("readyz")[0] == 200

    def http(self, path: str) -> tuple[int, str]:
        """Status (0: no answer) and body of a path of the health server."""
        done = self.exec("curl", "-s", "-m", "2", "-w", "\n%{http_code}", f"http://127.0.0.1:{HEALTHZ_PORT}/{path}")
        body, _, code = done.stdout.rpartition("\n")
        return int(code or 0), body

    def wait_ready(self, within_s: float = READY_S) -> float:
        """Seconds until it is ready. Raises LabError with the end of its log."""
        began = time.monotonic()
        if not wait_for(lambda: self.ready() or not self.running(), within_s) or not self.ready():
            why = "ended" if not self.running() else self.http("readyz")[1]
            raise LabError(f"flanneld on {self.name} is not ready: {why}\n{self.log()[-2000:]}")
        return time.monotonic() - began

    def status(self) -> dict[str, Any]:
        code, body = self.http("status")
        return dict(json.loads(body)) if code == 200 else {}

    def log(self) -> str:
        try:
            return (self.path / "log").read_text(errors="replace")
        except OSError:
            return ""

    def subnet_env(self) -> dict[str, str]:
        try:
            return subnet_env.decode((self.path / "run/subnet.env").read_text())
        except OSError:
            return {}

    # Pods

    def add_pods(self, count: int) -> None:
        """As the CNI bridge plugin does it: a bridge cni0 with the subnet's first address, a veth per pod."""
        env = self.subnet_env()
        gateways = [env[name] for name in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if name in env]
        mtu = env["FLANNEL_MTU"]
        lines = [f"link add cni0 mtu {mtu} type bridge", "link set cni0 up"]
        lines += [f"addr add {gateway} dev cni0{_nodad(gateway)}" for gateway in gateways]
        batch(self.netns, lines)
        for number in range(1, count + 1):
            pod = Pod(f"{self.name}p{number}", f"{self.netns}p{number}")
            run("ip", "netns", "add", pod.netns)
            run("ip", "netns", "exec", pod.netns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
            batch(
                self.netns,
                [
                    f"link add veth{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod.netns}",
                    f"link set veth{number} master cni0 up",
                ],
            )
            inner = ["link set lo up", "link set eth0 up"]
            for gateway in gateways:
                interface = ip_interface(gateway)
                address = interface.ip + number
                pod.addresses.append(str(address))
                inner += [
                    f"addr add {address}/{interface.network.prefixlen} dev eth0{_nodad(gateway)}",
                    f"route add default via {interface.ip}",
                ]
            batch(pod.netns, inner)
            self.pods.append(pod)


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


_children: dict[int, subprocess.Popen[bytes]] = {}


def alive(pid: int) -> bool:
    """True while the process runs; a child of ours that has ended is not alive."""
    if pid <= 0:
        return False
    child = _children.get(pid)
    if child is not None:
        return child.poll() is None
    return Path(f"/proc/{pid}").exists()


def _reap(pid: int) -> int | None:
    child = _children.pop(pid, None)
    return child.wait() if child is not None else None


def wait_for(holds: Callable[[], bool], within_s: float, pause_s: float = 0.01) -> bool:
    """Poll until *holds*; False if it doesn't in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
