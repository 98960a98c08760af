"""Leases and configs for people (tables) and for programs (JSON).

Their texts come from other nodes: whatever they hold, it's shown as it is, and never acts on the terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyflannel.model.lease import Lease, Subnets
from pyflannel.model.network import NetworkConfig

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
_PIPE_WIDTH = 1000  # a pipe has no width: nothing is folded for the program that reads it


def plain(text: str) -> str:
    """*text* with its control characters shown."""
    return text.translate(_CONTROLS)


def subnets_dict(subnets: Subnets) -> dict[str, Any]:
    """A lease's subnets as JSON, null for a family it lacks."""
    return {"ipv4": _text(subnets.ipv4), "ipv6": _text(subnets.ipv6)}


def lease_dict(lease: Lease, dated: bool) -> dict[str, Any]:
    """A lease as JSON: addresses as text, expiry as Unix seconds (null: it's reserved, or not *dated*)."""
    attrs = lease.attrs
    return {
        **subnets_dict(lease.subnets),
        "public_ip": _text(attrs.public_ip),
        "public_ipv6": _text(attrs.public_ipv6),
        "backend": attrs.backend_type,
        "data": json.loads(attrs.backend_data) if attrs.backend_data else None,
        "data6": json.loads(attrs.backend_v6_data) if attrs.backend_v6_data else None,
        "reserved": lease.expires is None,
        "expires": lease.expires if dated else None,
    }


def leases(found: Sequence[Lease], now: float, dated: bool) -> None:
    """Print a table of leases. Without *dated* (the store doesn't tell) it says which are reserved, and no more."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not found:
        print("no leases")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ["SUBNET", "NODE", "BACKEND", "DATA", "EXPIRES"]
    for name in columns:
        table.add_column(name, overflow="fold")
    for lease in found:
        attrs = lease.attrs
        nodes = " ".join(str(ip) for ip in (attrs.public_ip, attrs.public_ipv6) if ip)
        data = " ".join(text for text in (attrs.backend_data, attrs.backend_v6_data) if text)
        cells = (str(lease.subnets), nodes or "-", attrs.backend_type or "-", data or "-", _when(lease, now, dated))
        table.add_row(*(Text(plain(cell)) for cell in cells))
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(highlight=False, emoji=False, width=width)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def event(word: str, lease: Lease, now: float) -> str:
    """One line of `leases watch`."""
    attrs = lease.attrs
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    data = " ".join(text for text in (attrs.backend_type, attrs.backend_data, attrs.backend_v6_data) if text)
    return plain(f"{clock}  {word:8}{lease.subnets}  {attrs.address()}  {data}".rstrip())


def config_dict(config: NetworkConfig) -> dict[str, Any]:
    """What a config amounts to, defaults filled in, with flannel's names; null: that family is off, or unset."""
    return {
        "Network": _text(config.network),
        "SubnetLen": config.subnet_len or None,
        "SubnetMin": _text(config.subnet_min),
        "SubnetMax": _text(config.subnet_max),
        "IPv6Network": _text(config.ipv6_network),
        "IPv6SubnetLen": config.ipv6_subnet_len or None,
        "IPv6SubnetMin": _text(config.ipv6_subnet_min),
        "IPv6SubnetMax": _text(config.ipv6_subnet_max),
        "EnableNFTables": config.nftables,
        "NoMasquerade": [str(net) for net in config.no_masquerade],
        "BackendType": config.backend_type,
        "Subnets": config_room(config),
    }


def config_words(config: NetworkConfig) -> dict[str, str]:
    """What a config amounts to, for people."""
    found: dict[str, str] = {}
    for name, net, length, low, high in (
        ("IPv4", config.network, config.subnet_len, config.subnet_min, config.subnet_max),
        ("IPv6", config.ipv6_network, config.ipv6_subnet_len, config.ipv6_subnet_min, config.ipv6_subnet_max),
    ):
        if net is not None:
            found[name] = f"{net}, a /{length} a node from {low} to {high}"
    found["backend"] = config.backend_type
    room = config_room(config)
    found["room"] = f"{room} nodes" if room < 1 << 32 else "more nodes than there can be"
    if config.nftables is not None:
        found["firewall"] = "nftables" if config.nftables else "iptables"
    if config.no_masquerade:
        found["not masqueraded"] = ", ".join(str(net) for net in config.no_masquerade)
    return found


def config_room(config: NetworkConfig) -> int:
    """How many nodes can have a subnet: the smaller of both families."""
    rooms: list[int] = []
    for net, length, low, high in (
        (config.network, config.subnet_len, config.subnet_min, config.subnet_max),
        (config.ipv6_network, config.ipv6_subnet_len, config.ipv6_subnet_min, config.ipv6_subnet_max),
    ):
        if isinstance(net, IPv4Network | IPv6Network) and low is not None and high is not None:
            rooms.append(((int(high) - int(low)) >> (net.max_prefixlen - length)) + 1)
    return min(rooms)


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _when(lease: Lease, now: float, dated: bool) -> str:
    if lease.expires is None:
        return "never (reserved)"
    if not dated:
        return "within 24 h"
    left_s = lease.expires - now
    if left_s <= 0:
        return "expired"
    return f"in {left_s / 3600:.0f} h" if left_s >= 5400 else f"in {max(1, round(left_s / 60))} min"
