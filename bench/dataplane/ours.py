"""The candidates that need nothing but this machine: the bare cable, flanneld's backends, and the naive loop."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from importlib.metadata import entry_points
from typing import Any

from bench.dataplane.programs import Programs
from bench.dataplane.world import MTU, Way, between_pods, start, tunnel

from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.node import Node

UDP_OVERHEAD = 28  # bytes: outer IPv4 and UDP
UDP_PORT = 8285


def two_nodes(name: str, backend: str, **more: Any) -> Plan:
    """Two nodes, a pod each. No masquerading: it would bring connection tracking into every path."""
    return Plan(**{"name": name, "nodes": 2, "backend": backend, "mtu": MTU, "flags": (), **more})


@dataclass(frozen=True, slots=True)
class Cable:
    """The underlay itself, host to host: what nothing can beat."""

    name: str = "raw"
    label: str = "raw veth, host to host"

    def plan(self, name: str) -> Plan:
        return two_nodes(name, "alloc")

    def missing(self) -> str | None:
        return None

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        one, two = cluster.nodes
        for node in cluster.nodes:
            node.kill_flanneld()
        return Way(one.netns, two.netns, two.address)


@dataclass(frozen=True, slots=True)
class Flanneld:
    """A backend of ours, through the real daemon. `more` are fields of the lab's Plan; `counted`: the engine's work is
    done by the daemon's threads (at least in part)."""

    name: str
    label: str
    backend: str
    more: dict[str, Any] = field(default_factory=dict)
    counted: bool = False

    def plan(self, name: str) -> Plan:
        return two_nodes(name, self.backend, **self.more)

    def missing(self) -> str | None:
        if self.backend not in {entry.name for entry in entry_points(group="pyflannel.backends")}:
            return f"this flanneld has no backend {self.backend}; after an update: pip install -e ."
        if strangers := set(self.more) - {each.name for each in fields(Plan)}:
            return f"the lab has no option {', '.join(sorted(strangers))} yet"
        return None

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        pids = tuple(node.pid for node in cluster.nodes) if self.counted else ()
        said = re.findall(r": engine: (.+)", cluster.nodes[0].log())
        return between_pods(cluster, pids, said[-1] if said else "")


@dataclass(frozen=True, slots=True)
class Naive:
    """One packet per system call on one thread, as flannel's C proxy is built."""

    name: str = "naive"
    label: str = "naive loop"

    def plan(self, name: str) -> Plan:
        return two_nodes(name, "alloc")

    def missing(self) -> str | None:
        return None

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        def begin(node: Node, peer: Node) -> int:
            node("ip tuntap add dev flannel0 mode tun")
            return start(node, programs.naive, "flannel0", node.address, str(UDP_PORT), peer.address)

        return tunnel(cluster, "flannel0", MTU - UDP_OVERHEAD, begin, addressed=True)
