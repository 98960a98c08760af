"""Keys and values of leases as text, as flannel writes and reads them (control-plane reference, 3.2 and 3.3). Pure."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network

from pyflannel.model.fields import Fields
from pyflannel.model.lease import LeaseAttrs, Subnets

# Searched, not anchored at the start; two of the dots are wildcards: both as in flannel.
_KEY = re.compile(r"(\d+\.\d+.\d+.\d+)-(\d+)(?:&([0-9a-f:]+)-(\d+))?\Z", re.ASCII)


def encode_key(subnets: Subnets) -> str:
    """`10.5.52.0-24`, `10.5.52.0-24&fd00:5:52::-64`, or `0.0.0.0-0&fd00:5:52::-64` without IPv4."""
    v4 = str(subnets.ipv4).replace("/", "-") if subnets.ipv4 else "0.0.0.0-0"
    return v4 if subnets.ipv6 is None else f"{v4}&{str(subnets.ipv6).replace('/', '-')}"


def decode_key(tail: str) -> Subnets | None:
    """The subnets that the last part of a key names; None if it is not a subnet's."""
    found = _KEY.search(tail)
    if found is None:
        return None
    address4, length4, address6, length6 = found.groups()
    try:
        v4 = IPv4Network(f"{address4}/{int(length4)}", strict=False)
        v6 = IPv6Network(f"{address6}/{int(length6)}", strict=False) if address6 else None
    except ValueError:
        return None
    if v4.prefixlen == 32 or (v6 is not None and v6.prefixlen == 128):
        return None
    if v4.prefixlen == 0:
        return None if v6 is None else Subnets(None, v6)
    return Subnets(v4, v6)


def encode_value(attrs: LeaseAttrs) -> str:
    """A lease's value: compact JSON, flannel's keys in flannel's order; backend data verbatim."""
    parts = [
        f'"PublicIP":"{attrs.public_ip or "0.0.0.0"}"',
        f'"PublicIPv6":"{attrs.public_ipv6}"' if attrs.public_ipv6 else '"PublicIPv6":null',
    ]
    parts += [f'"BackendType":"{attrs.backend_type}"'] if attrs.backend_type else []
    parts += [f'"BackendData":{attrs.backend_data}'] if attrs.backend_data else []
    parts += [f'"BackendV6Data":{attrs.backend_v6_data}'] if attrs.backend_v6_data else []
    return "{" + ",".join(parts) + "}"


def decode_value(text: str, source: str) -> LeaseAttrs:
    """What a node published. Raises ConfigError naming *source* and the field that can't be read."""
    fields = Fields.parse(text, source)
    return LeaseAttrs(
        fields.ipv4("PublicIP"),
        fields.ipv6("PublicIPv6"),
        fields.text("BackendType", ""),
        fields.raw("BackendData"),
        fields.raw("BackendV6Data"),
    )
