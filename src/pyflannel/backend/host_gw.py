"""host-gw: a plain route to each peer on our link; no encapsulation (backends reference, 4)."""

from __future__ import annotations

import random

from pyflannel.backend.direct import Direct
from pyflannel.backend.vxlan import TYPES
from pyflannel.model.errors import ConfigError, Unreachable
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past
from pyflannel.model.rows import Route, Row


class HostGw:
    """The host-gw backend of this node."""

    type = "host-gw"
    devices: tuple[str, ...] = ()

    def __init__(self, node: Node, ipv4: bool, ipv6: bool) -> None:
        self._node, self._ipv4, self._ipv6 = node, ipv4, ipv6
        self._direct = Direct(node.routes)
        self.mtu = node.mtu

    @classmethod
    def build(cls, config: NetworkConfig, node: Node, past: Past, rng: random.Random) -> HostGw:
        """Peers route to the published address, so it must be the interface's own."""
        if config.network is not None and node.public_ip != node.address:
            raise ConfigError(
                "options", "--public-ip", str(node.public_ip),
                f"{node.address}, the address on {node.interface}: host-gw can't pass a NAT (vxlan can)",
            )  # fmt: skip
        return cls(node, config.network is not None, config.ipv6_network is not None)

    def attrs(self) -> LeaseAttrs:
        return LeaseAttrs(
            self._node.public_ip if self._ipv4 else None, self._node.public_ipv6 if self._ipv6 else None, self.type
        )

    def base(self, own: Subnets) -> tuple[Row, ...]:
        return ()

    def reach(self, peer: Lease) -> tuple[Row, ...]:
        """One route per family; a peer of vxlan on our link is a router like any other."""
        kind, attrs = peer.attrs.backend_type, peer.attrs
        if kind not in TYPES:
            theirs = kind or "udp, alloc or a cloud's"
            raise Unreachable(f"its backend is {theirs}, ours host-gw: give it this config")
        rows: list[Row] = []
        problems: list[str] = []
        for wanted, subnet, remote in (
            (self._ipv4, peer.subnets.ipv4, attrs.public_ip),
            (self._ipv6, peer.subnets.ipv6, attrs.public_ipv6),
        ):
            if not wanted or subnet is None:
                continue
            device = self._direct.device(remote) if remote is not None else None
            if remote is None:
                problems.append(f"it publishes no IPv{subnet.version} address: restart its flanneld")
            elif device is None:
                where = f"is not on a link of ours ({self._node.interface})"
                problems.append(f"{remote} {where}: host-gw needs one; use vxlan, with DirectRouting for the others")
            else:
                rows.append(Route(subnet, device, gateway=remote))
        if problems and not rows:
            raise Unreachable("; ".join(problems))
        return tuple(rows)
