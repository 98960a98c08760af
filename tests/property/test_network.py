"""Any network and length: the range is what flannel computes, or the error names the field."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflannel.model.errors import ConfigError
from pyflannel.model.network import NetworkConfig

networks4 = st.builds(
    lambda base, length: IPv4Network((base, length), strict=False), st.integers(1, 2**32 - 1), st.integers(1, 32)
)
networks6 = st.builds(
    lambda base, length: IPv6Network((base, length), strict=False), st.integers(1, 2**128 - 1), st.integers(1, 128)
)


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        NetworkConfig.parse(text)
    return caught.value


@given(networks4, st.integers(0, 40))
def test_ipv4_defaults(network: IPv4Network, length: int) -> None:
    text = json.dumps({"Network": str(network), "SubnetLen": length})
    size = network.prefixlen
    if length == 0:
        expected = None if size > 28 else 24 if size <= 22 else size + 2
    else:
        expected = length if size + 2 <= length <= 30 else None
    if expected is None:
        assert refused(text).field in ("Network", "SubnetLen")
        return
    config = NetworkConfig.parse(text)
    assert config.subnet_len == expected
    step = 2 ** (32 - config.subnet_len)
    assert config.subnet_min == network.network_address + step
    assert config.subnet_max == network.broadcast_address - step + 1


@given(networks6, st.integers(0, 130))
def test_ipv6_defaults(network: IPv6Network, length: int) -> None:
    text = json.dumps({"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": str(network), "IPv6SubnetLen": length})
    size = network.prefixlen
    if length == 0:
        expected = None if size > 124 else 64 if size <= 62 else size + 2
    else:
        expected = length if size + 2 <= length <= 126 else None
    if expected is None:
        assert refused(text).field in ("IPv6Network", "IPv6SubnetLen")
        return
    config = NetworkConfig.parse(text)
    assert config.ipv6_subnet_len == expected
    step = 2 ** (128 - config.ipv6_subnet_len)
    assert config.ipv6_subnet_min == network.network_address + step
    assert config.ipv6_subnet_max == network.broadcast_address - step + 1


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, 128, 256]))
def test_a_range_given_by_hand(first: int, last: int, odd: int) -> None:
    """Ends by number of the /24 within 10.5.0.0/16, perhaps off its boundary or outside."""
    low, high = 0x0A050000 + first * 256 + odd % 256, 0x0A050000 + last * 256
    low_text, high_text = (".".join(str(part) for part in address.to_bytes(4, "big")) for address in (low, high))
    text = json.dumps({"Network": "10.5.0.0/16", "SubnetMin": low_text, "SubnetMax": high_text})
    good = odd % 256 == 0 and first <= 255 and last <= 255 and first <= last
    if not good:
        error = refused(text)
        assert (error.field, error.value) in (("SubnetMin", low_text), ("SubnetMax", high_text))
        return
    config = NetworkConfig.parse(text)
    assert (str(config.subnet_min), str(config.subnet_max)) == (low_text, high_text)
