"""subnet.env: what CNI plugins and Docker helpers read (control-plane reference, 5). Pure text."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_interface

from pyflannel.model.lease import Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import IPNetwork

_LINE = re.compile(r"""\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*[=:]\s*(?:"([^"]*)"|'([^']*)'|([^#\n]*))""")


def encode(config: NetworkConfig, own: Subnets, mtu: int, masquerade: bool) -> str:
    """The file, byte for byte as flannel writes it: the subnet's first address is the pods' gateway."""
    lines: list[str] = []
    for family, network, subnet in (("", config.network, own.ipv4), ("IPV6_", config.ipv6_network, own.ipv6)):
        if network is None:
            continue
        if subnet is None:
            raise ValueError(f"the config enables {network}, but the lease has no subnet of that family")
        lines.append(f"FLANNEL_{family}NETWORK={network}")
        lines.append(f"FLANNEL_{family}SUBNET={subnet.network_address + 1}/{subnet.prefixlen}")
    lines.append(f"FLANNEL_MTU={mtu}")
    lines.append(f"FLANNEL_IPMASQ={'true' if masquerade else 'false'}")
    return "".join(f"{line}\n" for line in lines)


def decode(text: str) -> dict[str, str]:
    """Names and values, as a dot-env parser reads them: comments, `export`, quotes, `:` for `=`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            name, double, single, bare = match.groups()
            found[name] = next(value for value in (double, single, (bare or "").strip()) if value is not None)
    return found


def previous(text: str) -> tuple[Subnets | None, tuple[IPNetwork, ...]]:
    """The subnets and the networks of the run that wrote *text*; what doesn't parse, or is ambiguous, is left out."""
    values = decode(text)
    v4, v6 = _single(values.get("FLANNEL_SUBNET")), _single(values.get("FLANNEL_IPV6_SUBNET"))
    v4 = v4 if isinstance(v4, IPv4Network) else None
    v6 = v6 if isinstance(v6, IPv6Network) else None
    networks = tuple(
        net for name in ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK") for net in _networks(values.get(name, ""))
    )
    return (Subnets(v4, v6) if v4 or v6 else None), networks


def _single(value: str | None) -> IPNetwork | None:
    found = _networks(value or "")
    return found[0] if len(found) == 1 else None


def _networks(value: str) -> list[IPNetwork]:
    found: list[IPNetwork] = []
    for word in value.split(","):
        try:
            if "/" in word:
                found.append(ip_interface(word.strip()).network)
        except ValueError:
            continue
    return found
