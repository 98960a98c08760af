"""Keys and values byte for byte as flannel's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from pyflannel.model.errors import ConfigError
from pyflannel.model.lease import LeaseAttrs, Subnets
from pyflannel.store.keys import decode_key, decode_value, encode_key, encode_value

KEYS = {
    "10.5.52.0-24": Subnets(IPv4Network("10.5.52.0/24")),
    "10.12.13.0-24&fd00:12:13::-56": Subnets(IPv4Network("10.12.13.0/24"), IPv6Network("fd00:12:13::/56")),
    "0.0.0.0-0&fd00:12:13::-64": Subnets(None, IPv6Network("fd00:12:13::/64")),
}
LENIENT = {"x1.2.3.4-5": "0.0.0.0/5", "/a/b/10.5.52.0-024": "10.5.52.0/24"}
NO_SUBNETS = [
    "10.12.13.0-24hi", "10.12.13.0", "10", "10.12.13-24", "10.12.13.300-24", "&2001::-56", "10.12.13.0-24&:12:13:-56",
    "10.12.13.0-24&20011::-56", "10.12.13.0-24&2001-56", "10.12.13.0-24&2001::", "10.12.13.0-24&2001::-56hi",
    "10.5.1.0-32", "10.5.1.0-24&2001::-128", "10.5.1.0-24&FD00::-64", "10.5.1.0-24/", "", "0.0.0.0-0",
]  # fmt: skip
V4, V6 = IPv4Address("192.0.2.4"), IPv6Address("2001:db8::4")
DATA, DATA6 = '{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}', '{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}'
VALUES = {
    '{"PublicIP":"192.0.2.4","PublicIPv6":null}': LeaseAttrs(V4),
    '{"PublicIP":"192.0.2.4","PublicIPv6":null,"BackendType":"host-gw"}': LeaseAttrs(V4, None, "host-gw"),
    f'{{"PublicIP":"192.0.2.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{DATA}}}': LeaseAttrs(
        V4, None, "vxlan", DATA
    ),
    f'{{"PublicIP":"192.0.2.4","PublicIPv6":"2001:db8::4","BackendType":"vxlan","BackendData":{DATA},'
    f'"BackendV6Data":{DATA6}}}': LeaseAttrs(V4, V6, "vxlan", DATA, DATA6),
    '{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::4","BackendType":"wireguard"}': LeaseAttrs(None, V6, "wireguard"),
    '{"PublicIP":"192.0.2.4","PublicIPv6":null,"BackendType":"extension","BackendData":"a\\u003cb"}': LeaseAttrs(
        V4, None, "extension", '"a\\u003cb"'
    ),
}


@pytest.mark.parametrize("key", KEYS)
def test_keys(key: str) -> None:
    assert encode_key(KEYS[key]) == key
    assert decode_key(f"/coreos.com/network/subnets/{key}") == KEYS[key]


@pytest.mark.parametrize("key", LENIENT)
def test_what_flannel_takes_too(key: str) -> None:
    found = decode_key(key)
    assert found is not None
    assert str(found.ipv4) == LENIENT[key]


@pytest.mark.parametrize("key", NO_SUBNETS)
def test_what_is_no_subnet(key: str) -> None:
    assert decode_key(key) is None


@pytest.mark.parametrize("text", VALUES)
def test_values(text: str) -> None:
    assert encode_value(VALUES[text]) == text
    assert decode_value(text, "key") == VALUES[text]


def test_values_are_read_leniently() -> None:
    assert decode_value(
        '{"publicip":"1.2.3.4","BACKENDTYPE":"vxlan","backendData":{"VNI": 1},"Extra":[1]}', "k"
    ) == LeaseAttrs(IPv4Address("1.2.3.4"), None, "vxlan", '{"VNI":1}')
    assert decode_value("{}", "k") == LeaseAttrs()


@pytest.mark.parametrize(
    "text", ['{"PublicIP":""}', '{"PublicIP":null}', '{"PublicIP":7}', '{"PublicIP":"fd00::1"}', "x", "[]"]
)
def test_values_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"subnets/10\.5\.1\.0-24"):
        decode_value(text, "subnets/10.5.1.0-24")
