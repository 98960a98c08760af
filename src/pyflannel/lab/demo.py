"""The demo's second half: break a node by hand, in a few ways, and see how long it takes to mend itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import until_back
from pyflannel.lab.node import Node
from pyflannel.model.rows import PROTOCOL


def disturbances(cluster: Cluster) -> Iterator[tuple[str, float]]:
    """What was done to the first node, and after how many milliseconds all was as before. Raises LabError."""
    node = cluster.nodes[0]
    yield _disturb(node, "the routes deleted", f"ip route flush proto {PROTOCOL}", "ip route")
    device = next((link["ifname"] for link in node.ip_json("link") if link["ifname"].startswith("flannel")), None)
    if device is not None:
        show = f"bridge fdb show dev {device}"
        yield _disturb(node, "the FDB flushed", f"bridge fdb flush dev {device}", show)
        yield _disturb(node, f"the device {device} deleted", f"ip link del {device}", "ip route")
    if shutil.which("nft"):
        yield _disturb(node, "the firewall flushed", "nft flush ruleset", "nft list ruleset")


def _disturb(node: Node, what: str, command: str, show: str) -> tuple[str, float]:
    def shown() -> list[str]:
        return sorted(line.strip() for line in node.exec(*show.split()).stdout.splitlines() if _lasting(line))

    before = shown()
    node.exec(*command.split(), check=True)
    return what, until_back(lambda: shown() == before)


def _lasting(line: str) -> bool:
    """Not the kernel's own entries: they come back in their own time."""
    return "permanent" in line or "flannel" in line or "saddr" in line or f"proto {PROTOCOL}" in line
