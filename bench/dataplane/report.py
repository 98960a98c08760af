"""From samples to tables and JSON: medians, spreads, ratios. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Any, TypeVar

Rounds = Mapping[str, Sequence[Mapping[str, float]]]  # by load's name; a round that failed is empty
T = TypeVar("T")
BASES = ("naive", "vxlan")  # what the others are compared with


@dataclass(slots=True)
class Result:
    """What one underlay gave. `rounds`, by candidate's name; `notes`: how it runs; `left_out`: why it isn't there;
    `failures`: loads that didn't come to their end."""

    rounds: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: *figures* of one load, and with *ratio* the first one's ratio to BASES."""

    title: str
    load: str
    figures: tuple[str, ...]
    digits: int = 1
    ratio: bool = False


def tables(controls: Sequence[str], paced: str) -> dict[str, list[Column]]:
    """The tables by title; *paced* is the name of the load at a fixed rate."""
    tcp = [f"tcp{streams} {control}" for control in controls for streams in (1, 4)]
    quick = ("rtt_p50_us", "rtt_p99_us")
    return {
        "TCP, Gb/s": [Column(_tcp(load), load, ("gbps",), 2, True) for load in tcp],
        "UDP, packets that arrive": [
            Column("64 B flood, kpps", "udp64 flood", ("kpps",), 0, True),
            Column("lost, %", "udp64 flood", ("loss_percent",), 0),
            Column("1400 B flood, kpps", "udp1400 flood", ("kpps",), 0, True),
            Column("Gb/s", "udp1400 flood", ("gbps",), 2),
            Column("lost, %", "udp1400 flood", ("loss_percent",), 0),
            Column(f"{paced.replace('udp64 ', '64 B at ')}: lost, %", paced, ("loss_percent",), 2),
        ],
        "RTT, µs, p50 / p99": [
            Column("idle", "idle", quick, 0, True),
            *(Column(_tcp(load), load, quick, 0) for load in tcp),
            Column("64 B flood", "udp64 flood", quick, 0),
            Column("of these lost, %", "udp64 flood", ("rtt_lost_percent",), 0),
        ],
        "CPU seconds per GB of TCP: the engine's processes": [
            Column(_tcp(load), load, ("engine_s_per_gb",), 2, True) for load in tcp
        ],
        "CPU seconds per GB of TCP: the whole machine, iperf3 and pings included": [
            Column(_tcp(load), load, ("machine_s_per_gb",), 2, True) for load in tcp
        ],
        f"CPU µs per packet, {paced.replace('udp64 ', '64 B at ')} pps": [
            Column("engine's processes", paced, ("engine_us_per_packet",), 2, True),
            Column("whole machine", paced, ("machine_us_per_packet",), 2, True),
        ],
    }


def _tcp(load: str) -> str:
    streams, control = load.removeprefix("tcp").split()
    return f"{streams} stream{'s' if streams != '1' else ''}, {control.upper()}"


def render(title: str, columns: Sequence[Column], labels: Mapping[str, str], rounds: Mapping[str, Rounds]) -> str:
    """A table in Markdown that is aligned for the eye too; *labels* by candidate's name, in order."""
    names = [name for name in labels if name in rounds]
    rows = [[labels[name], *(cell(column, name, rounds) for column in columns)] for name in names]
    return table(title, ["", *(column.title for column in columns)], rows)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, in columns of one width."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    ruler = ["-" * width for width in widths]
    return "\n".join([f"**{title}**", "", *(_line(row, widths) for row in (head, ruler, *rows))])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) + " |"


def cell(column: Column, name: str, rounds: Mapping[str, Rounds]) -> str:
    """Median and, of several rounds, the smallest and largest; ratios to each of BASES that was measured."""
    texts = []
    for figure in column.figures:
        values = _values(rounds[name], column.load, figure)
        if not values:
            texts.append("–")
            continue
        text = f"{median(values):.{column.digits}f}"
        if len(values) > 1:
            text += f" ({min(values):.{column.digits}f}–{max(values):.{column.digits}f})"
        texts.append(text)
    shown = " / ".join(texts)
    if column.ratio:
        for base in BASES:
            found = ratios(rounds, name, base, column.load, column.figures[0])
            if found and base != name:
                shown += f" {base[0]}×{median(found):.3g}"
    return shown


def ratios(rounds: Mapping[str, Rounds], name: str, base: str, load: str, figure: str) -> list[float]:
    """Of *name*'s figure to *base*'s, round by round: what the machine does besides hits both."""
    pairs = zip(rounds.get(name, {}).get(load, ()), rounds.get(base, {}).get(load, ()), strict=False)
    return [one[figure] / two[figure] for one, two in pairs if figure in one and two.get(figure)]


def _values(rounds: Rounds, load: str, figure: str) -> list[float]:
    return [sample[figure] for sample in rounds.get(load, ()) if figure in sample]


def percentile(values: Sequence[float], share: int) -> float:
    """The nearest-rank percentile: the smallest value that *share* % of them don't exceed."""
    return sorted(values)[max(0, ceil(len(values) * share / 100) - 1)]


def in_turn(items: Sequence[T], turn: int) -> list[T]:
    """*items* from another one on each turn, so that none is always the first."""
    at = turn % len(items) if items else 0
    return [*items[at:], *items[:at]]


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    """By load and figure."""
    found: dict[str, dict[str, float]] = {}
    for load, samples in rounds.items():
        figures = dict.fromkeys(figure for sample in samples for figure in sample)
        found[load] = {figure: median(_values(rounds, load, figure)) for figure in figures}
    return found


def dump(about: Mapping[str, Any], labels: Mapping[str, str], results: Mapping[str, Result]) -> dict[str, Any]:
    """All of it, as JSON can hold it."""
    return {
        "about": dict(about),
        "underlays": {
            underlay: {
                "candidates": {
                    name: {"label": labels[name], "medians": medians(rounds), "rounds": rounds}
                    for name, rounds in result.rounds.items()
                },
                "notes": result.notes,
                "left_out": result.left_out,
                "failures": result.failures,
            }
            for underlay, result in results.items()
        },
    }
