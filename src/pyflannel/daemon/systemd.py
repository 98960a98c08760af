"""Messages to the service manager (sd_notify(3), sd_watchdog_enabled(3)). Without one, nothing happens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping


def notify(*assignments: str) -> None:
    """Send *assignments* (READY=1, STATUS=…, STOPPING=1, WATCHDOG=1) to $NOTIFY_SOCKET. Failures don't matter."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    message = "\n".join(line.replace("\n", "; ") for line in assignments)  # a line feed begins another assignment
    address = "\0" + path[1:] if path.startswith("@") else path  # an abstract socket
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a manager that doesn't read must not stop us
            sock.sendto(message.encode(), address)
    except OSError:
        return


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """The time within which the manager wants a sign of life from process *pid*, in seconds; None if it wants none."""
    text, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(pid))
    if not text.isascii() or not text.isdecimal() or int(text) == 0 or whose != str(pid):
        return None
    return int(text) / 1e6


async def signs_of_life() -> None:
    """Send WATCHDOG=1 twice as often as the manager asks; returns at once if it doesn't. An event loop that hangs
    sends none: that is the point."""
    interval_s = watchdog_s(os.environ, os.getpid())
    if interval_s is None:
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s / 2)
