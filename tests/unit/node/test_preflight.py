"""What a host lacks is said in one line, with the way out."""

from __future__ import annotations

from pathlib import Path

from pyflannel.node.preflight import bridge_netfilter_warning, forwarding_warning


def test_forwarding(tmp_path: Path) -> None:
    for path, value in (("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "0")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(value + "\n")
    assert forwarding_warning(True, False, tmp_path) is None
    assert "`sysctl -w net.ipv6.conf.all.forwarding=1`" in str(forwarding_warning(True, True, tmp_path))
    assert "is not there" in str(forwarding_warning(True, False, tmp_path / "nowhere"))


def test_bridge_netfilter(tmp_path: Path) -> None:
    assert "modprobe br_netfilter" in str(bridge_netfilter_warning(True, False, tmp_path))
    assert bridge_netfilter_warning(False, False, tmp_path) is None
    (tmp_path / "net/bridge").mkdir(parents=True)
    (tmp_path / "net/bridge/bridge-nf-call-iptables").write_text("1")
    assert bridge_netfilter_warning(True, False, tmp_path) is None
    assert "ip6tables" in str(bridge_netfilter_warning(True, True, tmp_path))
