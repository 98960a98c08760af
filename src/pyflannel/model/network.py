"""The cluster's network config (net-conf.json), checked field by field.

Rules and defaults are flannel v0.28's (control-plane reference, section 2), with its lenient reading of JSON;
what flannel leaves unchecked and then fails on later (a reversed range, both families off) is an error here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, TypeVar

from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields

SOURCE = "net-conf.json"
N = TypeVar("N", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The whole cluster's agreement. `network` is None exactly if IPv4 is disabled, `ipv6_network` likewise.

    `nftables` is None where the config doesn't say: then nftables is used where `nft` works. `backend` holds the
    backend's own fields; `no_masquerade` (ours) lists networks to which pods' packets keep their source address.
    """

    network: IPv4Network | None
    ipv6_network: IPv6Network | None
    subnet_len: int = 0
    subnet_min: IPv4Address | None = None
    subnet_max: IPv4Address | None = None
    ipv6_subnet_len: int = 0
    ipv6_subnet_min: IPv6Address | None = None
    ipv6_subnet_max: IPv6Address | None = None
    nftables: bool | None = None
    no_masquerade: tuple[IPv4Network | IPv6Network, ...] = ()
    backend_type: str = "udp"
    backend: Fields = field(default_factory=lambda: Fields([], SOURCE, "Backend."), compare=False)

    @classmethod
    def parse(cls, text: str, source: str = SOURCE, *, allocates: bool = True) -> NetworkConfig:
        """Read and check *text*. Raises ConfigError naming the first field that is wrong.

        Without *allocates* (Kubernetes gives the subnets) the Subnet* fields have no say, as in flannel.
        """
        fields = Fields.parse(text, source)
        want4, want6 = fields.boolean("EnableIPv4", True), fields.boolean("EnableIPv6", False)
        if not (want4 or want6):
            raise ConfigError(source, "EnableIPv4", False, "true unless EnableIPv6 is true: one family is needed")
        network = fields.network4("Network")
        ipv6_network = fields.network6("IPv6Network")
        values: dict[str, Any] = {}
        if want4:
            if network is None:
                raise ConfigError(source, "Network", None, "an IPv4 network such as 10.5.0.0/16")
            if allocates:
                length, low, high = _range(
                    fields, network, fields.integer("SubnetLen", 0), fields.ipv4("SubnetMin"),
                    fields.ipv4("SubnetMax"), "", 24, 30,
                )  # fmt: skip
                values.update(subnet_len=length, subnet_min=IPv4Address(low), subnet_max=IPv4Address(high))
        if want6:
            if ipv6_network is None:
                raise ConfigError(source, "IPv6Network", None, "an IPv6 network such as fd00:5::/48")
            if allocates:
                length, low, high = _range(
                    fields, ipv6_network, fields.integer("IPv6SubnetLen", 0), fields.ipv6("IPv6SubnetMin"),
                    fields.ipv6("IPv6SubnetMax"), "IPv6", 64, 126,
                )  # fmt: skip
                values.update(
                    ipv6_subnet_len=length, ipv6_subnet_min=IPv6Address(low), ipv6_subnet_max=IPv6Address(high)
                )
        backend = fields.child("Backend")
        return cls(
            network=network if want4 else None,
            ipv6_network=ipv6_network if want6 else None,
            nftables=fields.boolean("EnableNFTables", False) if fields.says("EnableNFTables") else None,
            no_masquerade=_networks(fields, "NoMasquerade"),
            backend_type=(backend.text("Type", "") if backend else "udp").lower(),
            backend=backend or Fields([], source, "Backend."),
            **values,
        )


def _range(
    fields: Fields, network: N, length: int, first: Any, last: Any, prefix: str, usual: int, longest: int
) -> tuple[int, int, int]:
    """SubnetLen, SubnetMin and SubnetMax of one family: given or by default; checked in flannel's order.

    *usual* is the default length in a network at least two bits shorter, *longest* the longest length allowed.
    """
    size, name = network.prefixlen, f"{prefix}SubnetLen"
    if length == 0:
        if size > longest - 2:
            where = "IPv6Network" if prefix else "Network"
            raise fields.error(where, str(network), f"a prefix of at most {longest - 2}: four subnets must fit")
        length = usual if size <= usual - 2 else size + 2
    elif not size + 2 <= length <= longest:
        allowed = f"from {size + 2} (the Network's prefix {size} + 2) to {longest}"
        raise fields.error(name, length, f"a length {allowed}")
    step = 1 << (network.max_prefixlen - length)
    low = int(first) if first is not None else int(network.network_address) + step
    high = int(last) if last is not None else int(network.broadcast_address) + 1 - step
    for field_name, given, value in ((f"{prefix}SubnetMin", first, low), (f"{prefix}SubnetMax", last, high)):
        if given is None:
            continue
        if given not in network:
            raise fields.error(field_name, str(given), f"an address inside {network}")
        if value % step:
            raise fields.error(field_name, str(given), f"an address on a /{length} boundary")
    if low > high:
        address = type(network.network_address)
        if first is None:  # without a SubnetMin the first subnet is left out
            raise fields.error(f"{prefix}SubnetMax", str(last), f"at least {address(low)}, the second subnet")
        raise fields.error(f"{prefix}SubnetMin", str(first), f"at most {prefix}SubnetMax, {address(high)}")
    return length, low, high


def _networks(fields: Fields, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    found: list[IPv4Network | IPv6Network] = []
    for text in fields.texts(name):
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            raise fields.error(name, text, "networks such as 192.168.0.0/16") from None
    return tuple(found)
