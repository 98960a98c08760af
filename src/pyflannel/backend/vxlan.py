"""vxlan: each node a VTEP; flannel's layout, byte for byte on the wire and in the lease (backends reference, 3)."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass

from pyflannel.backend.direct import Direct
from pyflannel.model.errors import ConfigError, Unreachable
from pyflannel.model.fields import Fields
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import IPAddress, IPNetwork, Node, Past
from pyflannel.model.rows import Address, FdbEntry, Neighbour, Route, Row, Sysctl, VxlanLink

# Interop: a peer breaks if these differ.
PORT = 8472  # Linux's pre-IANA port, flannel's default
OVERHEAD, OVERHEAD6 = 50, 70  # outer IP 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348)
TYPES = frozenset({"vxlan", "host-gw"})  # peers whose subnets a plain route can reach too

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME_MAX = 15  # IFNAMSIZ - 1
_MTU_MIN, _MTU_MIN6 = 68 + OVERHEAD, 1280 + OVERHEAD6


@dataclass(frozen=True, slots=True)
class Settings:
    """The config's `Backend` object. `mtu` is the underlay's to plan for; None: the interface's own."""

    vni: int = 1
    port: int = PORT
    mtu: int | None = None
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False

    @classmethod
    def read(cls, fields: Fields, ipv6: bool) -> Settings:
        low = _MTU_MIN6 if ipv6 else _MTU_MIN
        mtu = fields.integer("MTU", 0, 0, 65535)
        if fields.has("MTU") and 0 < mtu < low:
            raise fields.error("MTU", mtu, f"at least {low}, the underlay's MTU; leave it out to take the interface's")
        return cls(
            vni=fields.integer("VNI", 1, 0, 2**24 - 1),
            port=fields.integer("Port", 0, 0, 65535) or PORT,
            mtu=mtu or None,
            gbp=fields.boolean("GBP", False),
            learning=fields.boolean("Learning", False),
            direct_routing=fields.boolean("DirectRouting", False),
        )


@dataclass(frozen=True, slots=True)
class _Vtep:
    """Our device of one family."""

    name: str
    local: IPAddress
    mac: str
    mtu: int


class Vxlan:
    """The vxlan backend of this node."""

    type = "vxlan"

    def __init__(self, settings: Settings, vteps: dict[int, _Vtep], underlay: str, direct: Direct) -> None:
        self._settings, self._vteps, self._underlay, self._direct = settings, vteps, underlay, direct
        self.devices = tuple(vtep.name for vtep in vteps.values())
        # flannel publishes the IPv4 figure for both; but IPv6 pods' full packets then don't fit their own device.
        self.mtu = min(vtep.mtu for vtep in vteps.values())

    @classmethod
    def build(cls, config: NetworkConfig, node: Node, past: Past, rng: random.Random) -> Vxlan:
        """A MAC is kept: the device's own, else what the last lease says; a new node gets a random one."""
        settings = Settings.read(config.backend, config.ipv6_network is not None)
        mtu = settings.mtu or node.mtu
        known = (past.lease.attrs.backend_data, past.lease.attrs.backend_v6_data) if past.lease else (None, None)
        vteps: dict[int, _Vtep] = {}
        families = ((4, config.network, node.public_ip), (6, config.ipv6_network, node.public_ipv6))
        for (family, network, local), data in zip(families, known, strict=True):
            if network is None:
                continue
            if local is None:
                raise ConfigError(
                    "node", f"public IPv{family} address", None, f"one on {node.interface}: vxlan needs it"
                )
            name = device_name(settings.vni, family)
            mac = past.macs.get(name) or _published(data)[0] or random_mac(rng)
            vteps[family] = _Vtep(name, local, mac, mtu - (OVERHEAD if family == 4 else OVERHEAD6))
        return cls(settings, vteps, node.interface, Direct(node.routes))

    def attrs(self) -> LeaseAttrs:
        data = {
            family: f'{{"VNI":{self._settings.vni},"VtepMAC":"{vtep.mac}"}}' for family, vtep in self._vteps.items()
        }
        v4, v6 = self._vteps.get(4), self._vteps.get(6)
        return LeaseAttrs(
            v4.local if v4 else None,  # type: ignore[arg-type]  # the IPv4 device's local address is one
            v6.local if v6 else None,  # type: ignore[arg-type]  # likewise
            self.type,
            data.get(4),
            data.get(6),
        )

    def base(self, own: Subnets) -> tuple[Row, ...]:
        rows: list[Row] = []
        for family, vtep in self._vteps.items():
            subnet = own.ipv4 if family == 4 else own.ipv6
            if subnet is None:
                raise ConfigError("lease", f"IPv{family} subnet", None, f"one: the config enables IPv{family}")
            settings = self._settings
            rows += [
                VxlanLink(
                    vtep.name, settings.vni, settings.port, self._underlay, vtep.local, vtep.mac, vtep.mtu,
                    settings.learning, settings.gbp,
                ),
                Sysctl(f"net/ipv6/conf/{vtep.name}/accept_ra", "0"),
                # The base address and no prefix: no connected route, no broadcast; the source of host → pod.
                Address(vtep.name, subnet.network_address, subnet.max_prefixlen),
            ]  # fmt: skip
        return tuple(rows)

    def reach(self, peer: Lease) -> tuple[Row, ...]:
        """Route, neighbour and FDB entry per family; one plain route where the peer is on our link and may be
        routed to directly. A family that can't be reached doesn't keep the other from being reached."""
        rows: list[Row] = []
        problems: list[str] = []
        attrs, nets = peer.attrs, peer.subnets
        for family, subnet, remote, data in (
            (4, nets.ipv4, attrs.public_ip, attrs.backend_data),
            (6, nets.ipv6, attrs.public_ipv6, attrs.backend_v6_data),
        ):
            if family in self._vteps and subnet is not None:
                try:
                    rows += self._family(self._vteps[family], peer, subnet, remote, data)
                except Unreachable as error:
                    problems.append(str(error))
        if problems and not rows:
            raise Unreachable("; ".join(problems))
        return tuple(rows)

    def _family(
        self, vtep: _Vtep, peer: Lease, subnet: IPNetwork, remote: IPAddress | None, data: str | None
    ) -> tuple[Row, ...]:
        kind = peer.attrs.backend_type
        if kind not in TYPES:
            theirs = kind or "udp, alloc or a cloud's"
            raise Unreachable(f"its backend is {theirs}, ours vxlan: give it this config")
        if remote is None:
            raise Unreachable(f"it publishes no IPv{subnet.version} address: restart its flanneld")
        direct = self._direct.device(remote)
        if direct is not None and (self._settings.direct_routing or kind == "host-gw"):
            return (Route(subnet, direct, gateway=remote),)
        if kind == "host-gw":
            raise Unreachable(f"its backend is host-gw, and {remote} is not on a link of ours: give it this config")
        mac, vni = _published(data)
        if mac is None:
            raise Unreachable("it publishes no VTEP MAC: restart its flanneld")
        if vni != self._settings.vni:
            raise Unreachable(f"its VNI is {vni}, ours {self._settings.vni}: restart the daemon with the older config")
        if mac == vtep.mac:
            raise Unreachable(f"its VTEP has our MAC {mac} (a cloned machine?): `ip link del {vtep.name}` on one of us")
        base = subnet.network_address  # the peer's VTEP holds this very address
        return (
            Route(subnet, vtep.name, gateway=base, onlink=True),
            Neighbour(vtep.name, base, mac),
            FdbEntry(vtep.name, mac, remote),
        )


def device_name(vni: int, family: int) -> str:
    """flannel's `flannel.<VNI>` and `flannel-v6.<VNI>`; shorter where that is over 15 characters (there flannel
    fails)."""
    name = f"flannel.{vni}" if family == 4 else f"flannel-v6.{vni}"
    if len(name) <= _NAME_MAX:
        return name
    return f"fl.{vni}" if family == 4 else f"fl-v6.{vni}"


def random_mac(rng: random.Random) -> str:
    """A locally administered unicast MAC."""
    octets = bytearray(rng.randbytes(6))
    octets[0] = octets[0] & 0xFE | 0x02
    return octets.hex(":")


def _published(data: str | None) -> tuple[str | None, int]:
    """VTEP MAC (None if there is no sound one) and VNI from a lease's backend data."""
    if data is None:
        return None, 0
    try:
        fields = Fields.parse(data, "backend data")
        mac, vni = fields.text("VtepMAC", "").lower(), fields.integer("VNI", 0)
    except (ConfigError, json.JSONDecodeError):
        return None, 0
    sound = _MAC.fullmatch(mac) is not None and int(mac[:2], 16) & 1 == 0 and mac != "00:00:00:00:00:00"
    return (mac if sound else None), vni
