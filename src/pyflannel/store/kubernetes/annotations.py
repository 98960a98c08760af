"""A node object and the lease it stands for: flannel's annotations, read and written. Pure.

Source: flannel v0.28's kube subnet manager (control-plane reference, 4.2, 4.4, 4.5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, TypeVar

from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig

A = TypeVar("A", IPv4Address, IPv6Address)

PREFIX = "flannel.alpha.coreos.com"
_PREFIX = re.compile(r"([a-z0-9_-]+\.)+[a-z0-9_-]+/([a-z0-9_-]+-)?")
# Only if written for one family: else the other family's stay as they are, or go.
_DATA = ("backend-data", "public-ip", "backend-v6-data", "public-ipv6")

Node = Mapping[str, Any]  # a v1.Node, as JSON


@dataclass(frozen=True, slots=True)
class Families:
    """The families that the network config enables."""

    ipv4: bool = True
    ipv6: bool = True

    @classmethod
    def of(cls, config: NetworkConfig) -> Families:
        return cls(config.network is not None, config.ipv6_network is not None)


class Annotations:
    """The annotations below one *prefix*. Raises ConfigError if that is none."""

    def __init__(self, prefix: str = PREFIX) -> None:
        whole = prefix if "/" in prefix else f"{prefix}/"
        whole = whole if whole.endswith(("/", "-")) else f"{whole}-"
        if not _PREFIX.fullmatch(whole):
            expected = "a domain in lower case such as flannel.alpha.coreos.com, or domain/word"
            raise ConfigError("options", "--kube-annotation-prefix", prefix, expected)
        self._prefix = whole

    def key(self, suffix: str) -> str:
        """The whole name of the annotation *suffix*."""
        return self._prefix + suffix

    def lease(self, node: Node, families: Families) -> Lease | None:
        """The lease that *node* holds for flannel: the families that are enabled here and have both a pod CIDR and a
        public address. None if its flannel isn't there (any more) or no family is left."""
        if self._read(node, "kube-subnet-manager") != "true":
            return None
        subnets = pod_cidrs(node)
        attrs = self.attrs(node)
        ipv4 = subnets.ipv4 if subnets and families.ipv4 and attrs.public_ip is not None else None
        ipv6 = subnets.ipv6 if subnets and families.ipv6 and attrs.public_ipv6 is not None else None
        return Lease(Subnets(ipv4, ipv6), attrs) if ipv4 or ipv6 else None

    def attrs(self, node: Node) -> LeaseAttrs:
        """What *node* publishes; what isn't there, or can't be read, is None."""
        return LeaseAttrs(
            _address(IPv4Address, self._read(node, "public-ip")),
            _address(IPv6Address, self._read(node, "public-ipv6")),
            self._read(node, "backend-type"),
            _data(self._read(node, "backend-data")),
            _data(self._read(node, "backend-v6-data")),
        )

    def chosen_addresses(self, node: Node) -> tuple[str, str]:
        """The addresses an administrator chose for *node* (IPv4, IPv6), for --public-ip and --public-ipv6; "": none."""
        return self._read(node, "node-public-ip"), self._read(node, "node-public-ipv6")

    def missing(self, node: Node, attrs: LeaseAttrs) -> dict[str, str | None]:
        """What to write on *node* so that it publishes *attrs*: values by whole name, None to remove one. Empty if
        all is right. An administrator's `public-ip-overwrite` is published instead of the address in *attrs*."""
        wanted: dict[str, str | None] = {
            "kube-subnet-manager": "true",
            "backend-type": attrs.backend_type,
            **dict.fromkeys(_DATA),
        }
        if attrs.backend_type != "vxlan" or attrs.backend_data is not None:
            wanted["backend-data"] = attrs.backend_data or "null"
            wanted["public-ip"] = self._read(node, "public-ip-overwrite") or str(attrs.public_ip or "0.0.0.0")
        if _publishes_v6(attrs):
            wanted["backend-v6-data"] = attrs.backend_v6_data or "null"
            wanted["public-ipv6"] = self._read(node, "public-ipv6-overwrite") or str(attrs.public_ipv6 or "::")
        have = _annotations(node)
        return {self.key(name): value for name, value in wanted.items() if have.get(self.key(name)) != value}

    def _read(self, node: Node, suffix: str) -> str:
        value = _annotations(node).get(self.key(suffix))
        return value if isinstance(value, str) else ""


def pod_cidrs(node: Node) -> Subnets | None:
    """The node's `spec.podCIDRs`, else its `spec.podCIDR`: the first of each family; None if it has none yet.

    Raises ConfigError if one can't be read, or if there are more than two.
    """
    spec = node.get("spec") or {}
    texts = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    if len(texts) > 2:
        raise ConfigError(f"node {node_name(node)}", "spec.podCIDRs", ", ".join(texts), "at most one of each family")
    ipv4: IPv4Network | None = None
    ipv6: IPv6Network | None = None
    for text in texts:
        try:
            net = ip_network(text, strict=False)
        except ValueError:
            raise ConfigError(f"node {node_name(node)}", "spec.podCIDRs", text, "a network") from None
        if isinstance(net, IPv4Network):
            ipv4 = ipv4 or net
        else:
            ipv6 = ipv6 or net
    return Subnets(ipv4, ipv6) if ipv4 or ipv6 else None


def own_subnets(node: Node, config: NetworkConfig) -> Subnets | None:
    """The pod CIDRs of this *node* in the families of *config*; None if it has no pod CIDR yet.

    Raises ConfigError, with the way out, if a family has none or it isn't inside the config's network.
    """
    found = pod_cidrs(node)
    if found is None:
        return None
    where = f"node {node_name(node)}"
    families = (("Network", config.network, found.ipv4), ("IPv6Network", config.ipv6_network, found.ipv6))
    for field, network, subnet in families:
        if network is None:
            continue
        if subnet is None:
            raise ConfigError(
                where, "spec.podCIDRs", str(found),
                f"one inside {field} {network}: give the controller manager --cluster-cidr with both families, or "
                "enable only the other family in net-conf.json",
            )  # fmt: skip
        if not subnet.subnet_of(network):  # type: ignore[arg-type]  # of one family, by the table above
            raise ConfigError(
                where, "spec.podCIDR", str(subnet),
                f"one inside {field} {network}: make {field} in net-conf.json and the controller manager's "
                "--cluster-cidr the same",
            )  # fmt: skip
    return Subnets(found.ipv4 if config.network else None, found.ipv6 if config.ipv6_network else None)


def node_name(node: Node) -> str:
    """`metadata.name`."""
    return str((node.get("metadata") or {}).get("name", ""))


def _publishes_v6(attrs: LeaseAttrs) -> bool:
    if attrs.backend_type == "vxlan":
        return attrs.backend_v6_data is not None
    if attrs.backend_type == "wireguard":
        return attrs.backend_v6_data is not None and attrs.public_ipv6 is not None
    return attrs.backend_type in ("host-gw", "extension") and attrs.public_ipv6 is not None


def _annotations(node: Node) -> Mapping[str, Any]:
    return (node.get("metadata") or {}).get("annotations") or {}


def _address(kind: type[A], text: str) -> A | None:
    try:
        found = kind(text)
    except ValueError:
        return None
    return None if found.is_unspecified else found


def _data(text: str) -> str | None:
    try:
        Fields.parse(text, "backend data")
    except ConfigError:
        return None  # a backend that needs it says what it misses
    return None if text.strip() == "null" else text
