"""Processor seconds: of processes, and of the whole machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds. `engine`: of the engine's processes, all threads, None without any. `machine`: all that wasn't idle,
    with the programs that measure."""

    engine: float | None
    machine: float

    def __sub__(self, before: Spent) -> Spent:
        engine = None if self.engine is None or before.engine is None else self.engine - before.engine
        return Spent(engine, self.machine - before.machine)


def spent(pids: Sequence[int]) -> Spent:
    """So far."""
    machine = machine_ticks(Path("/proc/stat").read_text()) / _TICKS
    if not pids:
        return Spent(None, machine)
    ticks = 0
    for pid in pids:
        with suppress(OSError):  # ended: the load that was running will say so
            ticks += process_ticks(Path(f"/proc/{pid}/stat").read_text())
    return Spent(ticks / _TICKS, machine)


def machine_ticks(stat: str) -> int:
    """Of /proc/stat: user, nice, system, irq, softirq. Neither idle nor iowait, nor what a hypervisor took."""
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in stat.split()[1:8])
    return user + nice + system + irq + softirq


def process_ticks(stat: str) -> int:
    """Of /proc/PID/stat: utime and stime of all threads, also of those that have ended."""
    words = stat.rpartition(")")[2].split()  # the name may have blanks
    return int(words[11]) + int(words[12])
