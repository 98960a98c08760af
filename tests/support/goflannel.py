"""A node as Go flannel leaves it, made by hand from the references (backends 3.6 and 4.1, control plane 6)."""

from __future__ import annotations

import re

from pyflannel.lab.node import Node

NETWORK = "10.244.0.0/16"


def become(node: Node) -> None:
    """Our flanneld has run on *node*; from now on it looks as if Go flannel had, in ours's place, and still did."""
    node.stop_flanneld()
    node("nft flush ruleset")
    node.exec("sh", "-c", "rm -rf /var/lib/flannel/checkpoint.json /run/flannel/*.sock /run/flannel/*.bpf")
    if "flannel.1" in node("ip -o link"):
        node.exec("ip", "link", "set", "flannel.1", "alias", "", check=True)
    start(node)


def start(node: Node) -> None:
    """What Go flannel does at each start, in iptables mode, beside taking its lease."""
    for name in ("ip flannel-ipv4", "ip6 flannel-ipv6"):
        node.exec("nft", "delete", "table", *name.split())
    subnet = node.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/")
    restore = [*masquerade(subnet), *forward()]
    for table, chain, parent in (("nat", "FLANNEL-POSTRTG", "POSTROUTING"), ("filter", "FLANNEL-FWD", "FORWARD")):
        comment = "flanneld masq" if table == "nat" else "flanneld forward"
        node.exec("iptables", "-w", "-t", table, "-N", chain)
        jump = (parent, "-m", "comment", "--comment", comment, "-j", chain)
        if node.exec("iptables", "-w", "-t", table, "-C", *jump).returncode != 0:
            node.exec("iptables", "-w", "-t", table, "-A", *jump, check=True)
        node.exec("iptables", "-w", "-t", table, "-F", chain, check=True)
        for rule in restore:
            if rule[0] == chain:
                node.exec("iptables", "-w", "-t", table, "-A", *rule, check=True)
    for line in node("ip route show root 10.244.0.0/16").splitlines():
        if "cni0" not in line and "proto 241" in line:  # Go flannel's are equal but for the mark
            node("ip route replace " + re.sub(r"proto \d+", "proto boot", line))


def masquerade(subnet: str) -> list[tuple[str, ...]]:
    """FLANNEL-POSTRTG's rules, in order."""
    comment = ("-m", "comment", "--comment", "flanneld masq", "-j")
    chain = "FLANNEL-POSTRTG"
    return [
        (chain, "-m", "mark", "--mark", "0x4000/0x4000", *comment, "RETURN"),
        (chain, "-s", subnet, "-d", NETWORK, *comment, "RETURN"),
        (chain, "-s", NETWORK, "-d", subnet, *comment, "RETURN"),
        (chain, "!", "-s", NETWORK, "-d", subnet, *comment, "RETURN"),
        (chain, "-s", NETWORK, "!", "-d", "224.0.0.0/4", *comment, "MASQUERADE", "--random-fully"),
        (chain, "!", "-s", NETWORK, "-d", NETWORK, *comment, "MASQUERADE", "--random-fully"),
    ]


def forward() -> list[tuple[str, ...]]:
    """FLANNEL-FWD's."""
    comment = ("-m", "comment", "--comment", "flanneld forward", "-j", "ACCEPT")
    return [("FLANNEL-FWD", "-s", NETWORK, *comment), ("FLANNEL-FWD", "-d", NETWORK, *comment)]


def picture(node: Node) -> str:
    """Everything that a take-over could change."""
    shown = [
        node(command)
        for command in (
            "ip -d link", "ip address", "ip route show table all", "ip neigh show nud permanent", "bridge fdb show",
            "nft list ruleset", "cat /run/flannel/subnet.env",
        )
    ]  # fmt: skip
    moving = r"counter packets \d+ bytes \d+|(valid|preferred)_lft \S+|\w+_timer +[\d.]+"
    return re.sub(moving, "", "\n".join(shown))
