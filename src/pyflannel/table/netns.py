"""Entering a network namespace: for sockets that are to live in another one than the process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Let this thread be in the namespace that `ip netns` calls *name*. A socket keeps the one it was opened in.

    Don't await inside: other tasks would find themselves there too. Raises OSError.
    """
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(Path("/run/netns", name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(back)
    finally:
        os.close(back)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:  # os.setns is there from Python 3.12 on
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
