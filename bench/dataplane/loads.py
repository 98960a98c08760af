"""What each candidate is put through, one load at a time. Every load also says what it cost, and how long the round
trips took meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.dataplane.cpu import Spent, spent
from bench.dataplane.programs import Programs
from bench.dataplane.report import percentile
from bench.dataplane.world import Way

from pyflannel.lab.shell import LabError

HEADERS = 28  # bytes: IPv4 and UDP of a packet whose size is given
PORT = 5301
IDLE_MS = 2.0  # between pings; slow enough that each finds the path at rest
LOADED_MS = 10.0  # between pings beside a load: 1 % of naive's packets, at most
PACED_PPS = 50_000  # about half of what a naive loop carries on two cores
_PATIENCE_S = 20

Sample = dict[str, float]  # by figure's name; a figure that can't be had is not there


class Load(Protocol):
    """One load. `name` is for the tables."""

    @property
    def name(self) -> str: ...

    def run(self, way: Way, programs: Programs, seconds: float) -> Sample:
        """Put *way* through it. Raises LabError."""


def loads(controls: Sequence[str]) -> list[Load]:
    """All of them, TCP under each of the congestion controls *controls*."""
    return [
        Idle(),
        *(Tcp(control, streams) for control in controls for streams in (1, 4)),
        Udp(64),
        Udp(1400),
        Udp(64, PACED_PPS),
    ]


@dataclass(frozen=True, slots=True)
class Idle:
    """Round trips with nothing else on the way."""

    name: str = "idle"

    def run(self, way: Way, programs: Programs, seconds: float) -> Sample:
        return Pings(way, programs, IDLE_MS, seconds).result()


@dataclass(frozen=True, slots=True)
class Tcp:
    """iperf3 under one congestion control."""

    control: str
    streams: int

    @property
    def name(self) -> str:
        return f"tcp{self.streams} {self.control}"

    def run(self, way: Way, programs: Programs, seconds: float) -> Sample:
        server = _open(way.target, "iperf3", "-s", "-1", "--forceflush", "-B", way.address, "-p", str(PORT))
        try:
            _await_line(server, "listening")
            before = spent(way.pids)
            pings = Pings(way, programs, LOADED_MS, seconds * 0.9)
            said = _finish(
                _open(
                    way.source, "iperf3", "-c", way.address, "-p", str(PORT), "-t", f"{seconds:g}", "-J",
                    "-P", str(self.streams), "-C", self.control,
                ),
                seconds,
            )  # fmt: skip
            cost = spent(way.pids) - before
            return tcp_figures(said, cost) | pings.result()
        finally:
            server.kill()
            server.communicate()


@dataclass(frozen=True, slots=True)
class Udp:
    """Packets of *size* bytes, IP header and all: as many as the sender can make, or *rate* a second."""

    size: int
    rate: int = 0

    @property
    def name(self) -> str:
        return f"udp{self.size} {f'{self.rate // 1000}k' if self.rate else 'flood'}"

    def run(self, way: Way, programs: Programs, seconds: float) -> Sample:
        words = (way.address, str(PORT), str(self.size - HEADERS))
        counter = _open(way.target, programs.flood, "count", *words)
        try:
            _await_line(counter, "ready")
            before = spent(way.pids)
            pings = Pings(way, programs, LOADED_MS, seconds * 0.9)
            said = _finish(_open(way.source, programs.flood, "send", *words, f"{seconds}", str(self.rate)), seconds)
            cost = spent(way.pids) - before
            time.sleep(0.1)  # what is on its way
            counter.send_signal(signal.SIGTERM)
            sent, took = said.split()
            counts = (int(sent), int(_finish(counter, 0)), float(took))
            return udp_figures(self.size, *counts, cost) | pings.result()
        finally:
            counter.kill()
            counter.communicate()


def tcp_figures(said: str, cost: Spent) -> Sample:
    """Of what `iperf3 -J` printed."""
    end = json.loads(said)["end"]
    got = end["sum_received"]
    if not got["bytes"]:
        raise LabError("not a byte arrived")
    found = {"gbps": got["bits_per_second"] / 1e9, "retransmits": float(end["sum_sent"].get("retransmits", 0))}
    return found | _costs(cost, got["bytes"] / 1e9, "s_per_gb")


def udp_figures(size: int, sent: int, came: int, took_s: float, cost: Spent) -> Sample:
    """Rates of what arrived, losses of what was sent."""
    if not sent:
        raise LabError("not a packet was sent")
    found = {
        "kpps": came / took_s / 1e3,
        "offered_kpps": sent / took_s / 1e3,
        "loss_percent": max(0.0, 100 * (1 - came / sent)),
        "gbps": came * size * 8 / took_s / 1e9,
    }
    return found | (_costs(cost, came / 1e6, "us_per_packet") if came else {})


def _costs(cost: Spent, amount: float, unit: str) -> Sample:
    found = {f"machine_{unit}": cost.machine / amount}
    return found if cost.engine is None else found | {f"engine_{unit}": cost.engine / amount}


class Pings:
    """Round trips in the background, from now on."""

    def __init__(self, way: Way, programs: Programs, interval_ms: float, seconds: float) -> None:
        self._seconds = seconds
        self._process = _open(way.source, programs.rtt, way.address, f"{interval_ms}", f"{seconds}")

    def result(self) -> Sample:
        """Their times in microseconds, once they are over; without times if none was answered."""
        return rtt_figures(_finish(self._process, self._seconds))


def rtt_figures(said: str) -> Sample:
    """Of what `rtt` printed: requests sent, then nanoseconds of each answer."""
    asked, *times = (int(word) for word in said.split())
    found = {"rtt_lost_percent": 100 * (1 - len(times) / asked) if asked else 0.0}
    if times:
        found |= {f"rtt_p{share}_us": percentile(times, share) / 1e3 for share in (50, 99)}
    return found


# Programs in namespaces


def _open(netns: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", netns, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _await_line(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    while word not in (line := process.stdout.readline()):
        if not line:
            raise LabError(f"{process.args!r} ended: {process.communicate()[1].strip()}")


def _finish(process: subprocess.Popen[str], seconds: float) -> str:
    """What it prints to its end. Raises LabError if that doesn't come, or isn't a good one."""
    try:
        said, errors = process.communicate(timeout=seconds + _PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"{process.args!r} doesn't end") from None
    finally:
        process.kill()
    if process.returncode != 0:
        raise LabError(f"{process.args!r}: {(errors or said).strip()[-500:]}")
    return said


def controls_here() -> list[str]:
    """The congestion controls of this kernel that are measured, BBR and CUBIC if it has them."""
    words = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    return [word for word in ("bbr", "cubic") if word in words] or words[:1]
