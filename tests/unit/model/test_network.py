"""net-conf.json: flannel's table of what is taken and what isn't, and errors that say what is allowed."""

from __future__ import annotations

import pytest

from pyflannel.model.errors import ConfigError
from pyflannel.model.network import NetworkConfig

# The reference's verified table: text, then length, first and last subnet.
RANGES = {
    '{"Network":"10.3.0.0/16"}': "/24 10.3.1.0 10.3.255.0",
    '{"Network":"10.0.0.0/8"}': "/24 10.0.1.0 10.255.255.0",
    '{"Network":"10.3.0.0/22"}': "/24 10.3.1.0 10.3.3.0",
    '{"Network":"10.3.0.0/23"}': "/25 10.3.0.128 10.3.1.128",
    '{"Network":"10.3.0.0/28"}': "/30 10.3.0.4 10.3.0.12",
    '{"Network":"10.3.0.0/16","SubnetLen":18}': "/18 10.3.64.0 10.3.192.0",
    '{"network":"10.3.0.0/16","SUBNETLEN":28,"subnetMin":"10.3.5.0","SubnetMax":"10.3.8.0"}': "/28 10.3.5.0 10.3.8.0",
    '{"Network":"10.3.5.7/16"}': "/24 10.3.1.0 10.3.255.0",
    '{"Network":"10.9.0.0/16","network":"10.3.0.0/16"}': "/24 10.3.1.0 10.3.255.0",
    '{"Network":"10.3.0.0/16","SubnetLen":null,"EnableIPv6":null,"SubnetMin":"0.0.0.0"}': "/24 10.3.1.0 10.3.255.0",
}
RANGES6 = {
    "fc00::/48": "/64 fc00:0:0:1:: fc00:0:0:ffff::",
    "fc00::/63": "/65 fc00::8000:0:0:0 fc00:0:0:1:8000::",
    "fc00::/124": "/126 fc00::4 fc00::c",
}
WRONG = {
    "": "the text is",
    "[]": 'the text is "[]", expected a JSON object',
    '"x"': "expected a JSON object",
    "{}": "Network is missing, expected an IPv4 network such as 10.5.0.0/16",
    "null": "Network is missing",
    '{"Network":null}': "Network is missing",
    '{"Network":"10.3.0.0"}': 'Network is "10.3.0.0", expected an IPv4 network',
    '{"Network":"10.3.0.0/255.255.0.0"}': "expected an IPv4 network",
    '{"Network":"fc00::/48"}': "expected an IPv4 network",
    '{"Network":"0.0.0.0/0"}': "Network is missing",
    '{"Network":5}': "Network is 5, expected",
    '{"Network":"10.3.0.0/29"}': 'Network is "10.3.0.0/29", expected a prefix of at most 28',
    '{"Network":"10.3.0.0/16","SubnetLen":17}': "SubnetLen is 17, expected a length from 18",
    '{"Network":"10.3.0.0/16","SubnetLen":31}': "to 30",
    '{"Network":"10.3.0.0/16","SubnetLen":"24"}': 'SubnetLen is "24", expected an integer',
    '{"Network":"10.3.0.0/16","SubnetLen":24.0}': "SubnetLen is 24.0",
    '{"Network":"10.3.0.0/16","SubnetLen":-1}': "SubnetLen is -1",
    '{"Network":"10.3.0.0/16","SubnetLen":true}': "SubnetLen is true",
    '{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.1"}': "an address on a /24 boundary",
    '{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}': "an address inside 10.3.0.0/16",
    '{"Network":"10.3.0.0/16","SubnetMin":null}': "SubnetMin is missing, expected an IPv4 address",
    '{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.5.0"}': "at most SubnetMax",
    '{"Network":"10.3.0.0/16","EnableIPv6":"true"}': 'EnableIPv6 is "true", expected true or false',
    '{"Network":"10.3.0.0/16","EnableIPv6":true}': "IPv6Network is missing",
    '{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"10.4.0.0/16"}': "an IPv6 network such as",
    '{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":127}': "IPv6SubnetLen is 127",
    '{"Network":"10.3.0.0/16","Backend":"vxlan"}': 'Backend is "vxlan", expected an object',
    '{"Network":"10.3.0.0/16","Backend":{"Type":5}}': "Backend.Type is 5, expected a string",
    '{"Network":"10.3.0.0/16","NoMasquerade":["x"]}': 'NoMasquerade is "x", expected networks',
    '{"EnableIPv4":false}': "one family is needed",
    '{"Network":NaN}': "JSON",
}
TYPES = {
    '"Backend":{"Type":"VXLAN"}': "vxlan",
    '"backend":{"tYPE":"Host-GW"}': "host-gw",
    '"Backend":{}': "",
    '"Backend":null': "",
    '"x":1': "udp",
}


@pytest.mark.parametrize("text", RANGES)
def test_ipv4_ranges(text: str) -> None:
    config = NetworkConfig.parse(text)
    assert f"/{config.subnet_len} {config.subnet_min} {config.subnet_max}" == RANGES[text]
    assert config.ipv6_network is None


@pytest.mark.parametrize("network", RANGES6)
def test_ipv6_ranges(network: str) -> None:
    config = NetworkConfig.parse(f'{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{network}"}}')
    assert f"/{config.ipv6_subnet_len} {config.ipv6_subnet_min} {config.ipv6_subnet_max}" == RANGES6[network]
    assert config.network is None


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkConfig.parse(text)
    assert WRONG[text] in str(caught.value)
    assert str(caught.value).startswith("net-conf.json: ")


@pytest.mark.parametrize("part", TYPES)
def test_backend_types(part: str) -> None:
    assert NetworkConfig.parse(f'{{"Network":"10.3.0.0/16",{part}}}').backend_type == TYPES[part]


def test_which_firewall() -> None:
    said = [
        NetworkConfig.parse(f'{{"Network":"10.3.0.0/16"{part}}}').nftables
        for part in ("", ',"EnableNFTables":true', ',"enablenftables":false')
    ]
    assert said == [None, True, False]


def test_networks_that_keep_their_source() -> None:
    config = NetworkConfig.parse('{"Network":"10.3.0.0/16","NoMasquerade":["192.168.7.9/16","fd00::/8"]}')
    assert [str(net) for net in config.no_masquerade] == ["192.168.0.0/16", "fd00::/8"]
