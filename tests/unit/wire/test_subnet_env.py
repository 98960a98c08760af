"""subnet.env, byte for byte; and read back as leniently as flannel's dot-env parser."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from pyflannel.model.lease import Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.wire.files import write_atomically
from pyflannel.wire.subnet_env import decode, encode, previous

DUAL = NetworkConfig.parse('{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56"}')
OWN = Subnets(IPv4Network("10.42.0.0/24"), IPv6Network("2001:cafe:42::/64"))
TEXT = """\
FLANNEL_NETWORK=10.42.0.0/16
FLANNEL_SUBNET=10.42.0.1/24
FLANNEL_IPV6_NETWORK=2001:cafe:42::/56
FLANNEL_IPV6_SUBNET=2001:cafe:42::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


def test_the_file() -> None:
    assert encode(DUAL, OWN, 1450, masquerade=True) == TEXT
    four = NetworkConfig.parse('{"Network":"10.42.0.0/16"}')
    assert encode(four, OWN, 1500, masquerade=False) == (
        "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
    )
    with pytest.raises(ValueError, match="no subnet of that family"):
        encode(DUAL, Subnets(IPv4Network("10.42.0.0/24")), 1450, masquerade=True)


def test_it_is_read_back() -> None:
    assert previous(TEXT) == (OWN, (IPv4Network("10.42.0.0/16"), IPv6Network("2001:cafe:42::/56")))
    assert previous("") == (None, ())


PREVIOUS = {
    "FLANNEL_SUBNET=10.5.72.1/24": "10.5.72.0/24",
    "export FLANNEL_SUBNET='10.5.72.1/24' # mine": "10.5.72.0/24",
    'FLANNEL_SUBNET: "10.5.72.1/24"': "10.5.72.0/24",
    "FLANNEL_SUBNET=junk,10.5.72.1/24,": "10.5.72.0/24",
    "FLANNEL_SUBNET=10.5.71.1/24,10.5.72.1/24": "None",
    "FLANNEL_SUBNET=junk": "None",
    "FLANNEL_SUBNET=fd00::1/64": "None",
    "# FLANNEL_SUBNET=10.5.72.1/24": "None",
}


@pytest.mark.parametrize("text", PREVIOUS)
def test_it_is_read_leniently(text: str) -> None:
    assert str(previous(text)[0]) == PREVIOUS[text]


def test_decode() -> None:
    assert decode("A=1\nB = 'x y'\nexport C=\"#\"\nno line\n") == {"A": "1", "B": "x y", "C": "#"}


def test_it_is_written_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "run/flannel/subnet.env"
    write_atomically(path, "one\n", 0o644)
    assert path.stat().st_mode & 0o777 == 0o644
    path.parent.chmod(0o755)
    write_atomically(path, "two\n", 0o644)
    assert path.read_text() == "two\n"
    assert [file.name for file in path.parent.iterdir()] == ["subnet.env"]
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "run", "x", 0o644)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run"]
