"""alloc: a lease and nothing else; somebody else carries the packets (backends reference, 10)."""

from __future__ import annotations

import random

from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past
from pyflannel.model.rows import Row


class Alloc:
    """The alloc backend."""

    type = "alloc"
    devices: tuple[str, ...] = ()

    def __init__(self, node: Node) -> None:
        self._node = node
        self.mtu = node.mtu

    @classmethod
    def build(cls, config: NetworkConfig, node: Node, past: Past, rng: random.Random) -> Alloc:
        return cls(node)

    def attrs(self) -> LeaseAttrs:
        """No type, as flannel's."""
        return LeaseAttrs(self._node.public_ip, self._node.public_ipv6)

    def base(self, own: Subnets) -> tuple[Row, ...]:
        return ()

    def reach(self, peer: Lease) -> tuple[Row, ...]:
        return ()
