"""flannel's annotations: their prefix (its own table of cases), what is written when."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from pyflannel.model.errors import ConfigError
from pyflannel.model.lease import LeaseAttrs
from pyflannel.store.kubernetes.annotations import Annotations, pod_cidrs

DATA = '{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}'
V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/prefix", "flannel.alpha.coreos.com/prefix-backend-type"),
        ("flannel.alpha.coreos.com/prefix-", "flannel.alpha.coreos.com/prefix-backend-type"),
        ("org.com/9", "org.com/9-backend-type"),
    ],
)
def test_prefix(prefix: str, name: str) -> None:
    assert Annotations(prefix).key("backend-type") == name


@pytest.mark.parametrize(
    "prefix", ["org", "org/", "org/prefix", "org.COM", "org.com/PREFIX", "a.b/c/d", "", "/", "a.b/\n"]
)
def test_prefix_that_is_none(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--kube-annotation-prefix"):
        Annotations(prefix)


@pytest.mark.parametrize(
    ("attrs", "written"),
    [
        (LeaseAttrs(V4, None, "", None), {"backend-type": "", "backend-data": "null", "public-ip": "192.0.2.1"}),
        (LeaseAttrs(V4, V6, "vxlan", DATA, None), {"backend-type": "vxlan", "backend-data": DATA, "public-ip": "192.0.2.1"}),
        (LeaseAttrs(None, V6, "vxlan", None, DATA), {"backend-type": "vxlan", "backend-v6-data": DATA, "public-ipv6": "2001:db8::1"}),
        (
            LeaseAttrs(None, V6, "host-gw"),
            {"backend-type": "host-gw", "backend-data": "null", "public-ip": "0.0.0.0", "backend-v6-data": "null", "public-ipv6": "2001:db8::1"},
        ),
        (LeaseAttrs(V4, V6, "ipip"), {"backend-type": "ipip", "backend-data": "null", "public-ip": "192.0.2.1"}),
        (LeaseAttrs(V4, None, "wireguard", '{"PublicKey":"x"}', '{"PublicKey":"x"}'),
         {"backend-type": "wireguard", "backend-data": '{"PublicKey":"x"}', "public-ip": "192.0.2.1"}),
    ],
)  # fmt: skip
def test_what_is_written(attrs: LeaseAttrs, written: dict[str, str]) -> None:
    names = Annotations("a.b")
    expected = {names.key(key): value for key, value in {**written, "kube-subnet-manager": "true"}.items()}
    node = {"metadata": {"name": "n"}}
    assert names.missing(node, attrs) == expected
    assert names.missing({"metadata": {"annotations": expected}}, attrs) == {}


def test_overwrite_of_either_family() -> None:
    names = Annotations("a.b")
    node = {
        "metadata": {
            "annotations": {"a.b/public-ip-overwrite": "203.0.113.1", "a.b/public-ipv6-overwrite": "2001:db8::9"}
        }
    }
    missing = names.missing(node, LeaseAttrs(V4, V6, "vxlan", DATA, DATA))
    assert (missing["a.b/public-ip"], missing["a.b/public-ipv6"]) == ("203.0.113.1", "2001:db8::9")


def test_pod_cidrs() -> None:
    assert pod_cidrs({}) is None
    assert str(pod_cidrs({"spec": {"podCIDR": "10.1.2.3/24"}})) == "10.1.2.0/24"
    assert str(pod_cidrs({"spec": {"podCIDRs": ["fd00::/64", "10.1.2.0/24"]}})) == "10.1.2.0/24 and fd00::/64"
    for cidrs in (["a"], ["10.1.0.0/24", "10.2.0.0/24", "fd00::/64"]):
        with pytest.raises(ConfigError, match=r"node n: spec\.podCIDRs"):
            pod_cidrs({"metadata": {"name": "n"}, "spec": {"podCIDRs": cidrs}})
