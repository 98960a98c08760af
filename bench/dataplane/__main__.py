"""The benchmark of the data planes. Everything that runs is taken down at the end, also after Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.dataplane.aims import render_aims
from bench.dataplane.candidates import CANDIDATES
from bench.dataplane.loads import PACED_PPS, Load, Udp, controls_here, loads
from bench.dataplane.programs import Programs, compiled
from bench.dataplane.report import BASES, Result, dump, in_turn, render, tables
from bench.dataplane.world import MTU, UNDERLAYS, Candidate, World, make

from pyflannel.lab.shell import LabError, need, need_root
from pyflannel.model.errors import FlannelError

BUSY = 0.5  # load average above which others disturb


def main() -> int:
    words = arguments()
    interruptible(True)
    try:
        need_root()
        need("ip", "iperf3", "ping", "ethtool", "nsenter")
        return bench(words)
    except KeyboardInterrupt:
        say("interrupted: all is taken down")
        return 130
    except FlannelError as error:
        say(str(error))
        return 1


def arguments() -> argparse.Namespace:
    names = [candidate.name for candidate in CANDIDATES]
    parser = argparse.ArgumentParser(
        prog="python -m bench.dataplane", description="The data planes side by side, each in a world of its own."
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each candidate has its turn (%(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="that each load lasts (%(default)s)")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}; again for more"
    )
    parser.add_argument("--underlay", action="append", choices=list(UNDERLAYS), help="one of the two; default: both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there as well")
    words = parser.parse_args()
    if words.rounds < 1 or words.seconds < 1:
        parser.error("--rounds and --seconds are 1 or more")
    return words


def bench(words: argparse.Namespace) -> int:
    controls = controls_here()
    candidates = [each for each in CANDIDATES if not words.only or each.name in words.only]
    labels = {each.name: each.label for each in candidates}
    about = circumstances(controls, words)
    say(", ".join(f"{name} {value}" for name, value in about.items()))
    if os.getloadavg()[0] > BUSY:
        say("The machine is busy: take the ratios, not the figures.")
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="dataplane-") as folder:
        programs = compiled(Path(folder))
        for underlay in words.underlay or UNDERLAYS:
            result = measure(candidates, underlay, loads(controls), programs, words)
            results[underlay] = result
            show(underlay, result, controls, labels)
            if words.json:  # what is done is safe if the rest is interrupted
                words.json.write_text(json.dumps(dump(about, labels, results), indent=1) + "\n")
    return 1 if any(result.failures for result in results.values()) else 0


def circumstances(controls: Sequence[str], words: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "rounds": words.rounds,
        "seconds": words.seconds,
        "TCP by": " and ".join(control.upper() for control in controls),
        "underlay's MTU": MTU,
        "load average before": round(os.getloadavg()[0], 2),
    }


def measure(
    candidates: Sequence[Candidate],
    underlay: str,
    all_loads: Sequence[Load],
    programs: Programs,
    words: argparse.Namespace,
) -> Result:
    """All worlds up, then in each round every candidate has its turn, then all down."""
    result = Result()
    with ExitStack() as stack:
        stack.callback(interruptible, True)
        try:
            worlds = [world for each in candidates if (world := try_make(each, underlay, programs, stack, result))]
            for turn in range(words.rounds):
                for world in in_turn(worlds, turn):
                    began = time.monotonic()
                    have_turn(world, all_loads, programs, words.seconds, result)
                    took = time.monotonic() - began
                    progress(f"{underlay}, round {turn + 1} of {words.rounds}: {world.candidate.label}, {took:.0f} s")
        finally:
            interruptible(False)  # a second Ctrl-C would leave half of them
    return result


def interruptible(can_be: bool) -> None:
    """Whether Ctrl-C and SIGTERM end us."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if can_be else signal.SIG_IGN)


def try_make(candidate: Candidate, underlay: str, programs: Programs, stack: ExitStack, result: Result) -> World | None:
    """*candidate*'s world, which *stack* takes down; None, and why in *result*, if it can't be."""
    why = candidate.missing()
    if why is None:
        try:
            world = make(candidate, underlay, programs)
            stack.callback(world.cluster.down)
            if world.way.note:
                result.notes[candidate.name] = world.way.note
            progress(f"{underlay}: {candidate.label} is up")
            return world
        except FlannelError as error:
            why = str(error)
            result.failures.append(f"{candidate.label}: {why}")
    result.left_out[candidate.name] = why
    return None


def have_turn(world: World, all_loads: Sequence[Load], programs: Programs, seconds: int, result: Result) -> None:
    """One sample of each load; an empty one, and why in *result*, if the load didn't come to its end."""
    rounds = result.rounds.setdefault(world.candidate.name, {load.name: [] for load in all_loads})
    turn = len(rounds[all_loads[0].name])
    try:
        with world.awake():
            for load in all_loads:
                try:
                    rounds[load.name].append(load.run(world.way, programs, seconds))
                except LabError as error:
                    rounds[load.name].append({})
                    result.failures.append(f"{world.candidate.label}, {load.name}: {error}")
    except LabError as error:
        result.failures.append(f"{world.candidate.label}, round {turn + 1}: {error}")
        for samples in rounds.values():
            samples.extend([{}] * (turn + 1 - len(samples)))


def show(underlay: str, result: Result, controls: Sequence[str], labels: dict[str, str]) -> None:
    """Tables, and who isn't in them."""
    say(f"\n## Underlay {underlay}: {UNDERLAYS[underlay]}\n")
    say("Median (smallest–largest); " + ", ".join(f"{base[0]}× is the ratio to {base}'s" for base in BASES) + ".\n")
    for title, columns in tables(controls, Udp(64, PACED_PPS).name).items():
        say(render(title, columns, labels, result.rounds) + "\n")
    if text := render_aims(result.rounds, controls):
        say(f"{text}\n")
    for name, note in result.notes.items():
        say(f"{labels[name]}: {note}")
    for name, why in result.left_out.items():
        say(f"left out: {labels[name]}: {why}")
    for failure in result.failures:
        say(f"failed: {failure}")


def say(text: str) -> None:
    print(text, flush=True)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
