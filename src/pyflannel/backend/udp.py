"""udp: each packet as the payload of one UDP datagram, between TUN devices; flannel's wire format (backends reference,
6), carried by the packet engine.

IPv6, inside and outside, is an extension of ours that Go flannel's nodes don't know: it has to be asked for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pyflannel.model.errors import ConfigError, Unreachable
from pyflannel.model.fields import Fields
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import IPAddress, IPNetwork, Node, Past
from pyflannel.model.rows import Address, Engine, EngineRoute, Route, Row, Sysctl, TunLink

# Interop: a peer breaks if these differ.
PORT = 8285
OVERHEAD, OVERHEAD6 = 28, 48  # outer IP 20 or 40, UDP 8

DEVICE = "flannel0"  # the name that Go flannel's `flannel%d` gives
_MTU_MIN, _MTU_MIN6 = 68 + OVERHEAD, 1280 + OVERHEAD6


@dataclass(frozen=True, slots=True)
class Settings:
    """The config's `Backend` object. `mtu` is the underlay's to plan for; None: the interface's own."""

    port: int = PORT
    mtu: int | None = None

    @classmethod
    def read(cls, fields: Fields, ipv6: bool) -> Settings:
        if ipv6 and not fields.boolean("IPv6", False):
            raise fields.error(
                "IPv6", False, "true with EnableIPv6 (Go flannel's udp is IPv4 only: not for clusters shared with it)"
            )
        low = _MTU_MIN6 if ipv6 else _MTU_MIN
        mtu = fields.integer("MTU", 0, 0, 65535)
        if 0 < mtu < low:
            raise fields.error("MTU", mtu, f"at least {low}, the underlay's MTU; leave it out to take the interface's")
        return cls(fields.integer("Port", 0, 0, 65535) or PORT, mtu or None)


class Udp:
    """The udp backend of this node."""

    type = "udp"
    devices: tuple[str, ...] = (DEVICE,)

    def __init__(self, settings: Settings, node: Node, networks: tuple[IPNetwork, ...]) -> None:
        self._settings, self._node, self._networks = settings, node, networks
        ipv6 = any(net.version == 6 for net in networks)
        self.mtu = (settings.mtu or node.mtu) - (OVERHEAD6 if ipv6 else OVERHEAD)

    @classmethod
    def build(cls, config: NetworkConfig, node: Node, past: Past, rng: random.Random) -> Udp:
        networks = tuple(net for net in (config.network, config.ipv6_network) if net is not None)
        for net in networks:
            if (node.address if net.version == 4 else node.address6) is None:
                raise ConfigError(
                    "node", f"IPv{net.version} address", None, f"one on {node.interface}: udp binds its socket to it"
                )
        return cls(Settings.read(config.backend, config.ipv6_network is not None), node, networks)

    def attrs(self) -> LeaseAttrs:
        """No type, as flannel's."""
        return LeaseAttrs(
            self._node.public_ip if self._has(4) else None, self._node.public_ipv6 if self._has(6) else None
        )

    def base(self, own: Subnets) -> tuple[Row, ...]:
        subnets: list[IPNetwork] = []
        local: list[IPAddress] = []
        for net in self._networks:
            subnet = own.ipv4 if net.version == 4 else own.ipv6
            address = self._node.address if net.version == 4 else self._node.address6
            if subnet is None:
                raise ConfigError("lease", f"IPv{net.version} subnet", None, "one: the config enables that family")
            assert address is not None  # looked at by build
            subnets.append(subnet)
            local.append(address)
        gateways = {route.device for route in self._node.routes if not route.on_link}
        underlays = tuple(sorted({self._node.interface, *gateways}))
        rows: list[Row] = [
            TunLink(DEVICE, self.mtu),
            Engine(DEVICE, tuple(local), self._settings.port, tuple(subnets), underlays, self.mtu),
        ]
        if self._has(6):
            rows.append(Sysctl(f"net/ipv6/conf/{DEVICE}/accept_ra", "0"))
        else:  # no router solicitations into the tunnel
            rows.append(Sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", "1"))
        for subnet, net in zip(subnets, self._networks, strict=True):
            # flannel's: the base address, and the whole network, unassigned subnets too: the engine answers for them.
            rows += [Address(DEVICE, subnet.network_address, subnet.max_prefixlen), Route(net, DEVICE)]
        return tuple(rows)

    def reach(self, peer: Lease) -> tuple[Row, ...]:
        """One row of the engine's table per family. A family that can't be reached doesn't keep the other from it."""
        attrs, rows, problems = peer.attrs, list[Row](), list[str]()
        if attrs.backend_type:
            raise Unreachable(f"its backend is {attrs.backend_type}, ours udp: give it this config")
        for subnet, remote in ((peer.subnets.ipv4, attrs.public_ip), (peer.subnets.ipv6, attrs.public_ipv6)):
            if subnet is None or not self._has(subnet.version):
                continue
            if remote is None:
                problems.append(f"it publishes no IPv{subnet.version} address: restart its flanneld")
            else:
                rows.append(EngineRoute(subnet, remote, self._settings.port))
        if problems and not rows:
            raise Unreachable("; ".join(problems))
        return tuple(rows)

    def _has(self, family: int) -> bool:
        return any(net.version == family for net in self._networks)
