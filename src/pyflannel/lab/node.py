"""A node of the lab: a network and a mount namespace, a real flanneld, and pods behind a bridge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from pyflannel.lab.process import adopt, alive, end, wait_for
from pyflannel.lab.shell import NAMESPACES, LabError, batch, run, sysctls
from pyflannel.table.netns import inside
from pyflannel.wire import subnet_env

HEALTHZ_PORT = 8081
READY_S = 20.0
# Before a namespace's interfaces come: they route, and don't wait for duplicate address detection.
NODE_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.forwarding=1",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
)
POD_SYSCTLS = ("net.ipv6.conf.default.accept_dad=0",)
_LINES_SHOWN = 15


@dataclass
class Pod:
    """A namespace with one interface, eth0, behind its node's bridge."""

    name: str
    netns: str
    addresses: list[str] = field(default_factory=list)

    def exec(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run *command* in the pod."""
        return run("ip", "netns", "exec", self.netns, *command, check=check)

    @property
    def address(self) -> str:
        """Its IPv4 address, or the IPv6 one of a cluster that has no other."""
        return self.addresses[0]


@dataclass
class Node:
    """One node.

    `arguments` are flanneld's, `command` is what stands in for it (empty: the real one); `pid` is its process (0: none
    was started), `holder` the one that keeps the mount namespace alive. `port` is the underlay's end of its cable.
    `environment` is added to flanneld's.
    """

    name: str
    netns: str
    folder: str
    address: str
    address6: str
    gateway: str
    port: str
    arguments: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    holder: int = 0
    pid: int = 0

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Node:
        """What `dump` gave, through JSON."""
        pods = [Pod(**pod) for pod in data["pods"]]
        return cls(**{**data, "pods": pods})

    def dump(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @property
    def path(self) -> Path:
        """Its folder: `log`, `run` (its /run/flannel) and `lib` (its /var/lib/flannel)."""
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
        """The words before a command that is to run on the node. Raises LabError if the node is gone."""
        if not alive(self.holder, self.netns):  # its number may be another's by now, in the machine's own namespaces
            raise LabError(f"{self.name} is gone (a crash?): `flannelctl lab down` cleans up")
        return ("nsenter", f"--net={NAMESPACES / self.netns}", f"--mount=/proc/{self.holder}/ns/mnt")

    # The machine

    def hold(self) -> subprocess.Popen[bytes]:
        """Begin to make the mount namespace, in which /run/flannel and /var/lib/flannel are the node's own; `held`
        ends it."""
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
        self.holder = adopt(holder)
        return holder

    def held(self, holder: subprocess.Popen[bytes]) -> None:
        """Wait until the mount namespace is there. Raises LabError."""
        assert holder.stdout is not None
        with holder.stdout as output:
            if output.readline().strip() != b"held":
                raise LabError(f"{self.name}: no mount namespace can be made here (unshare and mount --bind failed)")

    def let_go(self) -> None:
        """End the mount namespace; what still runs in it keeps it until it ends."""
        holder, self.holder = self.holder, 0
        end(holder, self.netns, signal.SIGKILL)

    # flanneld

    def start_flanneld(self, *extra: str) -> None:
        """Start it; `wait_ready` waits until it is. Raises LabError if it runs already."""
        if self.running():
            raise LabError(f"flanneld runs on {self.name} already, as process {self.pid}")
        command = [*(self.command or (sys.executable, "-m", "pyflannel.cli.flanneld")), *self.arguments, *extra]
        with (self.path / "log").open("ab") as log:
            self.pid = adopt(
                subprocess.Popen(
                    [*self.enter(), *command],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env={**os.environ, **self.environment},
                )
            )

    def stop_flanneld(self, number: signal.Signals = signal.SIGTERM, within_s: float = 10.0) -> int | None:
        """Send *number* and wait for the end. Its exit code, if we started it."""
        pid, self.pid = self.pid, 0
        return end(pid, self.netns, number, within_s)

    def kill_flanneld(self) -> None:
        """As if the plug were pulled."""
        self.stop_flanneld(signal.SIGKILL)

    def running(self) -> bool:
        """Does flanneld run? A frozen one does."""
        return alive(self.pid, self.netns)

    def ready(self) -> bool:
        """What /readyz says."""
        return self.http("readyz")[0] == 200

    def http(self, path: str, timeout_s: float = 2.0) -> tuple[int, str]:
        """Status (0: no answer) and body of a path of the health server."""
        connection = HTTPConnection("127.0.0.1", HEALTHZ_PORT, timeout=timeout_s)
        try:
            with inside(self.netns):
                connection.connect()  # a socket stays in the namespace it was opened in
            connection.request("GET", f"/{path}")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, HTTPException):
            return 0, ""
        finally:
            connection.close()

    def wait_ready(self, within_s: float = READY_S) -> float:
        """Seconds until it is ready. Raises LabError with the end of its log."""
        began = time.monotonic()
        if not wait_for(lambda: self.ready() or not self.running(), within_s) or not self.ready():
            code, body = self.http("readyz")
            lines = self.log().splitlines()[-_LINES_SHOWN:]
            if not self.running():
                why = f"flanneld on {self.name} ended at its start"
            elif code:
                why = f"flanneld on {self.name} is not ready after {within_s:g} s: {'; '.join(body.splitlines()[1:])}"
            else:
                why = f"flanneld on {self.name} doesn't answer on port {HEALTHZ_PORT} after {within_s:g} s"
            raise LabError(
                "\n".join([f"{why}. The end of its log:" if lines else f"{why}, and logged nothing", *lines])
            )
        return time.monotonic() - began

    def status(self) -> dict[str, Any]:
        """What /status says; empty without an answer."""
        code, body = self.http("status")
        return dict(json.loads(body)) if code == 200 else {}

    def log(self) -> str:
        """All that flanneld has written, over all its runs."""
        try:
            return (self.path / "log").read_text(errors="replace")
        except OSError:
            return ""

    def subnet_env(self) -> dict[str, str]:
        """The names and values of subnet.env; empty before there is one."""
        try:
            return subnet_env.decode((self.path / "run/subnet.env").read_text())
        except OSError:
            return {}

    # Pods

    def add_pods(self, count: int) -> None:
        """As the CNI bridge plugin does it: a bridge cni0 with the subnet's first address, a veth per pod. More can be
        added later. Without any there is no bridge: a runtime makes its own. Raises LabError while there is no
        subnet.env."""
        if not count:
            return
        env = self.subnet_env()
        if "FLANNEL_MTU" not in env:
            raise LabError(f"{self.name} has no subnet yet: pods come after flanneld is ready")
        mtu = env["FLANNEL_MTU"]
        gateways = [ip_interface(env[name]) for name in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if name in env]
        first = len(self.pods) + 1
        pods = [Pod(f"{self.name}p{number}", f"{self.netns}p{number}") for number in range(first, first + count)]
        batch("", [f"netns add {pod.netns}" for pod in pods])
        lines = []
        if not self.pods:
            lines += [f"link add cni0 mtu {mtu} type bridge", "link set cni0 up"]
            lines += [f"addr add {gateway} dev cni0{_nodad(str(gateway))}" for gateway in gateways]
        for number, pod in enumerate(pods, first):
            sysctls(pod.netns, POD_SYSCTLS)
            lines += [
                f"link add veth{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod.netns}",
                f"link set veth{number} master cni0 up",
            ]
        batch(self.netns, lines)
        for number, pod in enumerate(pods, first):
            inner = ["link set lo up", "link set eth0 up"]
            for gateway in gateways:
                address = gateway.ip + number
                pod.addresses.append(str(address))
                inner += [
                    f"addr add {address}/{gateway.network.prefixlen} dev eth0{_nodad(str(address))}",
                    f"route add default via {gateway.ip}",
                ]
            batch(pod.netns, inner)
            self.pods.append(pod)


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


__all__ = ["HEALTHZ_PORT", "NODE_SYSCTLS", "Node", "Pod", "wait_for"]
