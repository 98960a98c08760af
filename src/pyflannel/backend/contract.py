"""What a backend is: what this node publishes, and the rows that must be true here. No module here does I/O.

A backend is built from values by a factory registered under the entry point group `pyflannel.backends`; when one
of them changes (an address, the underlay's routes, the config), a new one is built and the reconciler is given its
rows: there is no update path of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past
from pyflannel.model.rows import Row


class Backend(Protocol):
    """One way of carrying packets between nodes."""

    @property
    def type(self) -> str:
        """The config's Backend.Type."""
        ...

    @property
    def mtu(self) -> int:
        """For pods, in bytes: what goes into subnet.env."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices that this backend makes and owns."""
        ...

    def attrs(self) -> LeaseAttrs:
        """What this node publishes, byte for byte as flannel does."""
        ...

    def base(self, own: Subnets) -> tuple[Row, ...]:
        """Rows this node needs whoever its peers are: device, address, sysctls. Raises ConfigError if the lease
        lacks a subnet of an enabled family."""
        ...

    def reach(self, peer: Lease) -> tuple[Row, ...]:
        """Rows that make *peer*'s subnets reachable from here. Raises Unreachable with the reason and the way out.
        Peers of another type are served where that needs nothing of theirs that we lack."""
        ...


Factory = Callable[[NetworkConfig, Node, Past, random.Random], Backend]
"""Builds a backend; raises ConfigError for a config or node that can't carry it."""
