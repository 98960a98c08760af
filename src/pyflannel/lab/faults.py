"""Breaking things on purpose, and putting them back."""

from __future__ import annotations

import os
import signal

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.node import Node
from pyflannel.lab.process import wait_for
from pyflannel.lab.shell import LabError, batch, run

LOSS = "lab-loss"  # the nft table that drops; of the netdev family, which flanneld has no business with
# Address resolution gets through: what is tested is a lossy path, not a neighbour that can't be found.
_RESOLUTION = (
    "ether type arp accept",
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept",
)


def cut(cluster: Cluster, node: Node) -> None:
    """Pull the node's cable: its port on the underlay's bridge goes down."""
    batch(cluster.underlay, [f"link set {node.port} down"])


def heal(cluster: Cluster, node: Node) -> None:
    """Put the cable back, and wait until packets pass (the kernel takes up to a second)."""
    batch(cluster.underlay, [f"link set {node.port} up"])
    wait_for(lambda: node.exec("ping", "-c1", "-W0.3", node.gateway).returncode == 0, 5)


def lose(cluster: Cluster, node: Node, percent: int = 100, *, way: str = "in", match: str = "") -> None:
    """Lose *percent* of what comes to *node* over the underlay (*way* "in") or of what it sends ("out"): one way only.

    *match* narrows it to packets, in nft's words: `udp dport 8472`, `ip saddr 192.168.77.12`. Another call for the
    same way replaces the first. Raises LabError.
    """
    if not 0 < percent <= 100:
        raise LabError(f"the loss is {percent} %, expected 1 to 100")
    drop = "drop" if percent == 100 else f"numgen random mod 100 < {percent} drop"
    # On the receiver's ingress: on egress the sender gets an error instead of a loss, and sends again.
    netns, device = _receiver(cluster, node, way)
    table = f"netdev {LOSS}-{node.name}"
    rules = [*_RESOLUTION, f"{match} {drop}"]
    ruleset = [
        f"table {table}",
        f"delete table {table}",
        f"table {table} {{",
        f'chain incoming {{ type filter hook ingress device "{device}" priority -150; policy accept;',
        *rules,
        "}",
        "}",
    ]
    run("ip", "netns", "exec", netns, "nft", "-f", "-", text="\n".join(ruleset) + "\n")


def stop_losing(cluster: Cluster, node: Node) -> None:
    """Undo `lose`, both ways."""
    for way in ("in", "out"):
        netns, _ = _receiver(cluster, node, way)
        run("ip", "netns", "exec", netns, "nft", "delete", "table", "netdev", f"{LOSS}-{node.name}", check=False)


def _receiver(cluster: Cluster, node: Node, way: str) -> tuple[str, str]:
    """The namespace and device at which what goes this *way* comes in."""
    if way not in ("in", "out"):
        raise LabError(f"the way is {way}, expected in or out")
    return (node.netns, "e0") if way == "in" else (cluster.underlay, node.port)


def freeze(node: Node) -> None:
    """Stop flanneld without ending it: alive for the system, silent for everybody."""
    _signal(node, signal.SIGSTOP)


def thaw(node: Node) -> None:
    """Let a frozen flanneld go on."""
    _signal(node, signal.SIGCONT)


def kill(node: Node) -> None:
    """End flanneld as if the plug were pulled."""
    node.kill_flanneld()


def _signal(node: Node, number: signal.Signals) -> None:
    if not node.running():
        raise LabError(f"no flanneld runs on {node.name}")
    os.kill(node.pid, number)
