"""What the engines are to reach, beside what they did. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.dataplane.report import Rounds, ratios, table

PEERS = ("wggo", "tinc", "nebula", "fastd")  # other people's user-space tunnels


@dataclass(frozen=True, slots=True)
class Aim:
    """*name*'s figure of a load, as a multiple of *base*'s, is to be at least (or, if *low*, at most) *wanted*."""

    name: str
    base: str
    load: str
    figure: str
    wanted: float
    low: bool = False

    def met(self, values: Sequence[float]) -> bool:
        """Does the median of *values* reach it?"""
        return median(values) <= self.wanted if self.low else median(values) >= self.wanted


def aims(rounds: Mapping[str, Rounds], controls: Sequence[str]) -> Iterator[Aim]:
    """Those that this run can tell about. A peer is "the best" by the median of this very load."""
    tcp = [f"tcp{streams} {control}" for control in controls for streams in (1, 4)]
    for load in tcp:
        yield Aim("kernel", "vxlan", load, "gbps", 1)
        yield Aim("kernel", "vxlan", load, "machine_s_per_gb", 1, low=True)
    yield Aim("kernel", "vxlan", "udp64 flood", "kpps", 1)
    yield Aim("kernel", "vxlan", "idle", "rtt_p50_us", 1, low=True)
    for load in tcp:
        yield Aim("user", "naive", load, "gbps", 12)
        yield Aim("user", "naive", load, "engine_s_per_gb", 0.1, low=True)
        if best := best_peer(rounds, load, "gbps"):
            yield Aim("user", best, load, "gbps", 6)
        if thriftiest := best_peer(rounds, load, "engine_s_per_gb", low=True):
            yield Aim("user", thriftiest, load, "engine_s_per_gb", 0.1, low=True)
    yield Aim("user", "fastd", "idle", "rtt_p50_us", 1, low=True)
    yield Aim("user", "naive", "udp64 flood", "kpps", 3)


def best_peer(rounds: Mapping[str, Rounds], load: str, figure: str, *, low: bool = False) -> str | None:
    """Whose median is the highest (or, if *low*, the lowest), of PEERS that have one."""
    found = {}
    for name in PEERS:
        values = [sample[figure] for sample in rounds.get(name, {}).get(load, ()) if figure in sample]
        if values:
            found[name] = median(values)
    if not found:
        return None
    return (min if low else max)(found, key=lambda name: found[name])


def render_aims(rounds: Mapping[str, Rounds], controls: Sequence[str]) -> str:
    """A table in Markdown; empty if the run can tell about none."""
    rows = []
    for aim in aims(rounds, controls):
        values = ratios(rounds, aim.name, aim.base, aim.load, aim.figure)
        if values:
            wanted = f"{'≤' if aim.low else '≥'} {aim.wanted:g}"
            got = f"{median(values):.3g} ({min(values):.3g}–{max(values):.3g})"
            what = f"{aim.figure} of {aim.load}"
            rows.append([aim.name, what, f"× {aim.base}", wanted, got, "yes" if aim.met(values) else "no"])
    return table("Aims", ["engine", "figure", "of", "wanted", "got", "met"], rows) if rows else ""
