"""Measuring the lab: who reaches whom, how fast, and what is lost meanwhile."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.node import Pod
from pyflannel.lab.shell import LabError, need, run

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
            times = _times(output)
            found.append(Ping(source.name, target.name, address, times[-1] if times else None))
    return found


def _ping(pod: Pod, address: str, patience_s: int) -> subprocess.Popen[str]:
    # Two: the first waits for the neighbours to be found.
    command = ["ip", "netns", "exec", pod.netns, "ping", "-n", "-c2", "-i0.05", f"-W{patience_s}", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def ping(
    source: Pod, target: Pod | str, count: int = 1, *, size: int = 56, dont_fragment: bool = False, within_s: int = 2
) -> list[float]:
    """RTTs in milliseconds of the pings that were answered. *size* is the ICMP payload in bytes."""
    address = target.address if isinstance(target, Pod) else target
    fragment = "do" if dont_fragment else "dont"
    done = source.exec(
        "ping", "-n", f"-c{count}", "-i0.01", f"-W{within_s}", f"-s{size}", f"-M{fragment}", address
    )  # fmt: skip
    return _times(done.stdout)


def _times(output: str) -> list[float]:
    return [float(each) for each in re.findall(r"time=([\d.]+) ms", output)]


# Loss


@dataclass
class Flood:
    """A ping every few milliseconds in the background; `sent` and `lost` are known after the context."""

    sent: int = 0
    lost: int = 0
    output: str = field(default="", repr=False)


def count_losses(output: str) -> tuple[int, int]:
    """Packets sent and lost, from what ping printed. Only the very last may be on its way when ping is stopped: it
    counts as neither; an answer that is missing before it is lost."""
    counts = re.search(r"(\d+) packets transmitted", output)
    sent = int(counts[1]) if counts else 0
    answered = {int(each) for each in re.findall(r"icmp_seq=(\d+) .*time=", output)}
    if sent and sent not in answered:
        sent -= 1
    return sent, sent - len({number for number in answered if number <= sent})


@contextmanager
def flood(source: Pod, address: str, interval_s: float = 0.005) -> Iterator[Flood]:
    """Count what is lost from *source* to *address* while the body runs."""
    result = Flood()
    command = ["ip", "netns", "exec", source.netns, "ping", "-n", f"-i{interval_s}", "-W1", address]
    with TemporaryFile("w+") as output:  # a pipe would fill up, and stop it
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        time.sleep(0.05)
        try:
            yield result
        finally:
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            process.wait(10)
            output.seek(0)
            result.output = output.read()
            result.sent, result.lost = count_losses(result.output)


def until_back(holds: Callable[[], bool], within_s: float = 10.0) -> float:
    """Milliseconds until *holds*; polls without a pause. Raises LabError if it doesn't in time."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise LabError(f"not back after {within_s:.0f} s")
    return (time.monotonic() - began) * 1e3


# Speed


def throughput(source: Pod | str, target: Pod | str, address: str, seconds: int = 2) -> float:
    """TCP from *source* to *target* (pods, or namespaces) in Gb/s, by iperf3. Raises LabError."""
    there = ["ip", "netns", "exec", _netns(target), "iperf3", "-s", "-1", "--forceflush", "-B", address]
    server = subprocess.Popen(there, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        while "listening" not in (line := server.stdout.readline()):
            if not line:
                raise LabError(f"iperf3 can't listen on {address}")
        done = run("ip", "netns", "exec", _netns(source), "iperf3", "-c", address, "-t", str(seconds), "-J")
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        server.kill()
        server.communicate()


@dataclass(frozen=True, slots=True)
class Speed:
    """TCP in Gb/s and RTT in milliseconds, medians."""

    gbps: float
    rtt_ms: float


def compare(cluster: Cluster, seconds: int = 3, rounds: int = 3) -> tuple[Speed, Speed]:
    """The bare underlay between the first two nodes, and their pods over it. Raises LabError.

    Taken in turns: what else the machine does hits both.
    """
    need("iperf3")
    if len(cluster.nodes) < 2 or not all(node.pods for node in cluster.nodes[:2]):
        raise LabError("lab bench needs two nodes with pods: flannelctl lab up --nodes 2")
    one, two = cluster.nodes[:2]
    underlay = two.address if cluster.plan.ipv4 else two.address6
    ways = ((one.netns, two.netns, underlay), (one.pods[0].netns, two.pods[0].netns, two.pods[0].address))
    rates: tuple[list[float], list[float]] = ([], [])
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for (source, target, address), rate, rtts in zip(ways, rates, times, strict=True):
            rate.append(throughput(source, target, address, seconds))
            rtts += ping(Pod("", source), address, 50)
    if not all(times):
        raise LabError(f"{one.name} and {two.name} don't reach each other: see `flannelctl lab ping`")
    bare, pods = (Speed(median(rate), median(rtts)) for rate, rtts in zip(rates, times, strict=True))
    return bare, pods


def _netns(end: Pod | str) -> str:
    return end.netns if isinstance(end, Pod) else end


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the upper."""
    return sorted(values)[len(values) // 2]
