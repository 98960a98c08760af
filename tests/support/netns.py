"""Network namespaces for tests: made, entered and removed by them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyflannel.table.netns import inside

_count = itertools.count()


class Netns:
    """A namespace, and commands run in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, command: str, check: bool = True) -> str:
        """Run *command* (words split at blanks) in here; its output."""
        words = ["ip", "netns", "exec", self.name, *command.split()]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, command: str) -> list[dict[str, Any]]:
        """What `ip -j …` or `bridge -j …` prints."""
        found = json.loads(self(command) or "[]")
        return [item for item in found if item]


@contextmanager
def namespace(label: str = "t") -> Iterator[Netns]:
    """A fresh namespace with lo up."""
    name = f"pf{label}-{os.getpid()}-{next(_count)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        netns = Netns(name)
        netns("ip link set lo up")
        yield netns
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@contextmanager
def host(label: str = "h", address: str = "192.168.7.1/24") -> Iterator[Netns]:
    """A namespace with an underlay `e0` (a veth whose far end is up) that has *address*, and fd00:7::1/64."""
    with namespace(label) as netns:
        netns("ip link add e0 type veth peer name far0")
        netns("ip link set far0 up")
        netns("ip link set e0 up")
        netns(f"ip addr add {address} dev e0")
        netns("ip addr add fd00:7::1/64 dev e0 nodad")
        yield netns


__all__ = ["Netns", "host", "inside", "namespace"]
