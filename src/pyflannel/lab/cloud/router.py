"""The emulated network's router: a kernel that forwards by the cloud's route table."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pyflannel.lab.cloud.state import Network
from pyflannel.lab.shell import batch

PROTOCOL = 243  # marks its routes, beside the links' own


class Router:
    """Keeps the routes of the network namespace *netns* equal to what it's given."""

    def __init__(self, netns: str = "") -> None:
        self._netns = netns
        self._now: dict[Network, str | None] = {}
        self._lock = threading.Lock()

    def sync(self, wanted: Mapping[Network, str | None]) -> None:
        """By destination the next hop's address; None drops, as a cloud does with a black hole."""
        with self._lock:
            lines = [f"route del {net} proto {PROTOCOL}" for net in self._now.keys() - wanted.keys()]
            for net, address in wanted.items():
                if net not in self._now or self._now[net] != address:
                    where = f"{net} via {address}" if address else f"blackhole {net}"
                    lines.append(f"route replace {where} proto {PROTOCOL}")
            if lines:
                batch(self._netns, lines)
            self._now = dict(wanted)
