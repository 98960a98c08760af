"""aws-vpc, gce, ali-vpc, tencent-vpc: the cloud's own network routes; no encapsulation (backends reference, 11).

Each node has one route to itself in each of its route tables; what a peer needs is there then, too. If the config has a
`Fallback`, pairs that the network doesn't join speak vxlan: nodes outside of it, and those for whose route there was no
room (they overflow).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace

from pyflannel.backend.vxlan import Vxlan
from pyflannel.model.errors import ConfigError, Unreachable
from pyflannel.model.fields import Fields, compact
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import SOURCE, NetworkConfig
from pyflannel.model.node import CloudPlace, IPAddress, IPNetwork, Node, Past
from pyflannel.model.rows import CloudForwarding, CloudRoute, Row

# In the backend data beside VNI and VtepMAC: the network's id, and whether it has no room for the node's route. Other
# vxlan nodes skip what they don't know.
FIELD, OVERFLOW = "Cloud", "Overflow"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the clouds' `Backend` objects have in common. Times in seconds.

    `sync_s`: between two looks at the route tables; `grace_s`: how long a departed node's route stays.
    """

    sync_s: int = 30
    grace_s: int = 600
    fallback: Fields | None = None

    @classmethod
    def read(cls, fields: Fields) -> Settings:
        """Raises ConfigError."""
        fallback = fields.child("Fallback")
        if fallback is not None and (kind := fallback.text("Type", "")) != "vxlan":
            raise fallback.error("Type", kind or None, '"vxlan", the one that nodes outside of the cloud can speak')
        return cls(
            fields.integer("SyncSeconds", 30, 1, 3600), fields.integer("GraceSeconds", 600, 0, 86_400 * 30), fallback
        )


class Cloud:
    """The cloud backend of this node. `place` is None on a node outside of the cloud: it has the fallback alone."""

    def __init__(self, kind: str, node: Node, networks: tuple[IPNetwork, ...], fallback: Vxlan | None) -> None:
        self.type, self._node, self._networks, self._fallback = kind, node, networks, fallback
        self.devices = fallback.devices if fallback else ()
        self.mtu = fallback.mtu if fallback else node.mtu

    @classmethod
    def build(cls, config: NetworkConfig, node: Node, past: Past, rng: random.Random) -> Cloud:
        kind = config.backend_type
        settings = Settings.read(config.backend)
        if node.cloud is None and settings.fallback is None:
            raise ConfigError(
                "node", f"place in {kind}", None, 'a machine there, or Backend.Fallback {"Type": "vxlan"}'
            )
        networks = tuple(net for net in (config.network, config.ipv6_network) if net is not None)
        for net in networks if node.cloud is not None else ():
            if net.version not in node.cloud.families and settings.fallback is None:  # type: ignore[union-attr]
                raise ConfigError(SOURCE, f"EnableIPv{net.version}", True, f"false: {kind} has no routes for it")
        fallback = None
        if settings.fallback is not None:
            fallback = Vxlan.build(replace(config, backend=settings.fallback), node, past, rng)
        return cls(kind, node, networks, fallback)

    def attrs(self) -> LeaseAttrs:
        """No type, as flannel's. With a fallback: a vxlan node's, that also tells which network it's in."""
        place = self._node.cloud
        if self._fallback is None:
            return LeaseAttrs(self._node.public_ip, self._node.public_ipv6)
        attrs = self._fallback.attrs()
        if place is None:
            return attrs
        return replace(
            attrs,
            backend_data=_with_network(attrs.backend_data, place),
            backend_v6_data=_with_network(attrs.backend_v6_data, place),
        )

    def base(self, own: Subnets) -> tuple[Row, ...]:
        rows: list[Row] = list(self._fallback.base(own)) if self._fallback else []
        place, node = self._node.cloud, self._node
        if place is not None:
            rows.append(CloudForwarding(place.next_hop))
            rows += self._routes(place, own, node.address, node.address6, own=True)
        return tuple(rows)

    def reach(self, peer: Lease) -> tuple[Row, ...]:
        """The routes that the peer writes, to be looked at; or the fallback's rows."""
        place, attrs = self._node.cloud, peer.attrs
        if self._fallback is None:
            assert place is not None
            if attrs.backend_type:
                raise Unreachable(f"its backend is {attrs.backend_type}, ours {self.type}: give it this config")
            return self._routes(place, peer.subnets, attrs.public_ip, attrs.public_ipv6)
        network, overflow = _network(attrs)
        if place is None or network != place.network:
            return self._fallback.reach(peer)
        routes = self._routes(place, peer.subnets, attrs.public_ip, attrs.public_ipv6)
        if not (place.full or overflow):
            return routes
        try:
            rows = self._fallback.reach(peer)
        except Unreachable:
            return routes  # better one way than none; and nobody's route is taken for a departed node's
        return (*rows, *(replace(route, spare=True) for route in routes))

    def _routes(
        self,
        place: CloudPlace,
        subnets: Subnets,
        gateway: IPAddress | None,
        gateway6: IPAddress | None,
        own: bool = False,
    ) -> tuple[CloudRoute, ...]:
        pairs = ((subnets.ipv4, gateway), (subnets.ipv6, gateway6))
        return tuple(
            CloudRoute(table, net, ip, own)
            for net, ip in pairs
            if net is not None and ip is not None and net.version in place.families
            for table in place.tables
        )


def _with_network(data: str | None, place: CloudPlace) -> str | None:
    if data is None:
        return None
    overflow = {OVERFLOW: True} if place.full else {}
    return compact({**json.loads(data), FIELD: place.network, **overflow})


def overflows(attrs: LeaseAttrs) -> bool:
    """Did the node that published *attrs* find no room for its route?"""
    return _network(attrs)[1]


def _network(attrs: LeaseAttrs) -> tuple[str | None, bool]:
    """The cloud network that a peer is in, by its word, and whether there's no room for its route."""
    try:
        fields = Fields.parse(attrs.backend_data or attrs.backend_v6_data or "", "backend data")
        return fields.text(FIELD, "") or None, fields.boolean(OVERFLOW, False)
    except ConfigError:
        return None, False
