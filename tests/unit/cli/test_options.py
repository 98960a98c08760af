"""flanneld's options: Go's syntax, flannel's variables, errors with exit code 2."""

from __future__ import annotations

import pytest

from pyflannel.cli.options import HelpAsked, Options, UsageError, parse, usage


def options(line: str = "", **variables: str) -> Options:
    return parse(line.split(), variables)


def test_defaults_are_flannels() -> None:
    found = options()
    assert found.etcd_endpoints == "http://127.0.0.1:4001,http://127.0.0.1:2379"
    assert (found.etcd_prefix, found.subnet_file) == ("/coreos.com/network", "/run/flannel/subnet.env")
    assert (found.ip_masq, found.iptables_forward_rules, found.iptables_resync) == (False, True, 5)
    assert (found.healthz_ip, found.healthz_port, found.subnet_lease_renew_margin) == ("0.0.0.0", 0, 60)


def test_every_way_to_write_a_flag() -> None:
    for line in ("--public-ip=1.2.3.4", "-public-ip=1.2.3.4", "--public-ip 1.2.3.4", "-public-ip 1.2.3.4"):
        assert options(line).public_ip == "1.2.3.4"
    assert options("--ip-masq").ip_masq
    assert not options("--ip-masq=false").ip_masq
    assert options("-iface eth0 --iface=eth1").iface == ("eth0", "eth1")
    assert options("-v 0x10").v == 16
    assert options("--iptables-forward-rules=F").iptables_forward_rules is False
    assert options("--ip-masq stop --public-ip=1.2.3.4").public_ip == ""


def test_variables() -> None:
    found = options(
        "--public-ip=1.1.1.1",
        FLANNELD_PUBLIC_IP="2.2.2.2",
        FLANNELD_IP_MASQ="true",
        FLANNELD_IFACE="a,b",
        FLANNELD_V="",
    )
    assert (found.public_ip, found.ip_masq, found.iface, found.v) == ("1.1.1.1", True, ("a,b",), 0)
    assert options(NODE_NAME="n7").node_name == "n7"
    assert not options(FLANNELD_VERSION="true").version


WRONG = {
    "--nope": "nope",
    "--public-ip": "public-ip",
    "--ip-masq=yes": "ip-masq",
    "--healthz-port=x": "healthz-port",
    "--healthz-port=70000": "healthz-port",
    "--subnet-lease-renew-margin=0": "subnet-lease-renew-margin",
    "--subnet-lease-renew-margin=1440": "1439",
    "--iptables-resync=-1": "iptables-resync",
    "--store=redis": "store",
    "--log-format=xml": "log-format",
    "--resync=0": "resync",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_named(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(line)
    assert WRONG[line] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(UsageError, match="FLANNELD_IP_MASQ"):
        options(FLANNELD_IP_MASQ="maybe")


def test_which_store() -> None:
    assert options().store_kind == "local"
    assert options("--etcd-prefix=/x").store_kind == "etcd"
    assert options(FLANNELD_ETCD_ENDPOINTS="http://a:1").store_kind == "etcd"
    assert options("--store=etcd").store_kind == "etcd"
    assert options("--kube-subnet-mgr").store_kind == "kubernetes"


def test_no_secret_is_shown() -> None:
    shown = options("--etcd-username=u --etcd-password=hunter2 --ip-masq").redacted()
    assert "hunter2" not in shown
    assert "etcd-password" in shown


def test_help() -> None:
    for line in ("-h", "--help"):
        with pytest.raises(HelpAsked):
            options(line)
    assert "--iface-can-reach" in usage()
