"""What a host must have that flanneld doesn't set: each lack as one line, with the way out."""

from __future__ import annotations

from pathlib import Path

PROC_SYS = Path("/proc/sys")


def forwarding_warning(ipv4: bool, ipv6: bool, base: Path = PROC_SYS) -> str | None:
    """What is wrong if this host doesn't forward packets: pods then reach nobody outside it."""
    for wanted, path in ((ipv4, "net/ipv4/ip_forward"), (ipv6, "net/ipv6/conf/all/forwarding")):
        name = path.replace("/", ".")
        try:
            if wanted and (base / path).read_text().strip() == "0":
                return (
                    f"{name} is 0, so pods reach nobody outside this node: `sysctl -w {name}=1`, and in /etc/sysctl.d"
                )
        except OSError:
            return f"{name} is not there: is that family off in this kernel?"
    return None


def bridge_netfilter_warning(ipv4: bool, ipv6: bool, base: Path = PROC_SYS) -> str | None:
    """What is wrong if bridged packets don't meet iptables; None if they do. Services then fail between pods of one
    node."""
    for wanted, name in ((ipv4, "bridge-nf-call-iptables"), (ipv6, "bridge-nf-call-ip6tables")):
        if wanted and not (base / "net/bridge" / name).exists():
            return f"net.bridge.{name} is not there: `modprobe br_netfilter`, or Services may fail within a node"
    return None
