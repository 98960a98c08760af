"""The lab's lasting processes: started by one command, found again by later ones.

A number that was written down may belong to somebody else's process by now. Rule: a process that isn't our child is
the lab's only if it is in the lab's network namespace; nothing else is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pyflannel.lab.shell import NAMESPACES

_children: dict[int, subprocess.Popen[bytes]] = {}


def adopt(process: subprocess.Popen[bytes]) -> int:
    """Look after a child from now on; its number."""
    _children[process.pid] = process
    return process.pid


def alive(pid: int, netns: str) -> bool:
    """True while the process runs, as our child or in *netns*. A child that has ended is not alive."""
    if pid <= 0:
        return False
    child = _children.get(pid)
    if child is not None:
        return child.poll() is None
    inode = _inode(NAMESPACES / netns)
    return inode is not None and _inode(Path(f"/proc/{pid}/ns/net")) == inode


def end(pid: int, netns: str, number: signal.Signals, within_s: float = 10.0) -> int | None:
    """Send *number* and wait for the end; after *within_s* SIGKILL. Its exit code (-N: by signal N) if it's our
    child, else None."""
    for each, patience_s in ((number, within_s), (signal.SIGKILL, 5.0)):
        if not alive(pid, netns):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, each)
        wait_for(lambda: not alive(pid, netns), patience_s)
    child = _children.pop(pid, None)
    return child.wait() if child is not None else None


def clear(names: Iterable[str], within_s: float = 5.0) -> None:
    """Kill every process in the network namespaces *names*, but for ourselves."""
    inodes = {_inode(NAMESPACES / name) for name in names} - {None}

    def empty() -> bool:
        left = [pid for pid in _pids() if _inode(Path(f"/proc/{pid}/ns/net")) in inodes]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    if inodes:
        wait_for(empty, within_s)


def wait_for(holds: Callable[[], bool], within_s: float, pause_s: float = 0.01) -> bool:
    """Poll until *holds*; False if it doesn't in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True


def _pids() -> list[int]:
    names = (path.name for path in Path("/proc").iterdir())
    return [int(name) for name in names if name.isdigit() and int(name) != os.getpid()]


def _inode(path: Path) -> int | None:
    """A namespace's number; None where there is none (any more): a zombie has none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None
