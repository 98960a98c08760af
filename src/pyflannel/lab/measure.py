"""Measuring the lab: who reaches whom, how fast, and what is lost meanwhile."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.node import Pod
from pyflannel.lab.shell import LabError, run

PARALLEL = 64


@dataclass(frozen=True, slots=True)
class Ping:
    """One pod's ping of another: RTT in milliseconds, None if there was no answer."""

    source: str
    target: str
    address: str
    rtt_ms: float | None


def matrix(cluster: Cluster, patience_s: int = 2) -> list[Ping]:
    """Every pod pings every other on each of its addresses, at once."""
    pairs = [
        (source, target, address)
        for source in cluster.pods
        for target in cluster.pods
        if source is not target
        for address in target.addresses
    ]
    found: list[Ping] = []
    for start in range(0, len(pairs), PARALLEL):
        runs = [(pair, _ping(pair[0], pair[2], patience_s)) for pair in pairs[start : start + PARALLEL]]
        for (source, target, address), process in runs:
            output, _ = process.communicate()
            times = re.findall(r"time=([\d.]+) ms", output)
            found.append(Ping(source.name, target.name, address, float(times[-1]) if times else None))
    return found


def _ping(pod: Pod, address: str, patience_s: int) -> subprocess.Popen[str]:
    # Two: the first waits for the neighbours to be found.
    command = ["ip", "netns", "exec", pod.netns, "ping", "-n", "-c2", "-i0.05", f"-W{patience_s}", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@dataclass
class Flood:
    """A ping every few milliseconds in the background; `sent` and `lost` are known after the context."""

    sent: int = 0
    lost: int = 0
    output: str = field(default="", repr=False)


@contextmanager
def flood(source: Pod, address: str, interval_s: float = 0.005) -> Iterator[Flood]:
    """Count what is lost from *source* to *address* while the body runs."""
    result = Flood()
    command = ["ip", "netns", "exec", source.netns, "ping", "-n", f"-i{interval_s}", "-W1", address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(0.05)
    try:
        yield result
    finally:
        time.sleep(0.05)
        process.send_signal(2)
        result.output, _ = process.communicate(timeout=10)
        if counts := re.search(r"(\d+) packets transmitted, (\d+) received", result.output):
            result.sent, received = int(counts[1]), int(counts[2])
            # The last may be on its way when ping is stopped.
            result.lost = max(0, result.sent - received - 1)


def until_back(holds: Callable[[], bool], within_s: float = 10.0) -> float:
    """Milliseconds until *holds*; polls without a pause. Raises LabError if it doesn't in time."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise LabError(f"not back after {within_s:.0f} s")
    return (time.monotonic() - began) * 1e3


def throughput(source: Pod | str, target: Pod | str, address: str, seconds: int = 2) -> float:
    """TCP from *source* to *target* (pods, or namespaces) in Gb/s, by iperf3."""
    ends = [end.netns if isinstance(end, Pod) else end for end in (source, target)]
    server = subprocess.Popen(
        ["ip", "netns", "exec", ends[1], "iperf3", "-s", "-1", "-B", address], stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(0.2)
        done = run("ip", "netns", "exec", ends[0], "iperf3", "-c", address, "-t", str(seconds), "-J")
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        server.terminate()
        server.wait()


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the upper."""
    return sorted(values)[len(values) // 2]
