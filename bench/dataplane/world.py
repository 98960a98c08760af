"""A small world for each candidate: two hosts on one cable, a pod on each.

The lab's cluster with its bridge between the nodes taken out: a cable is what a switch's port looks like to a host, and
all that is between two hosts is then what is measured. Every candidate gets the same one, with the same firewall rules
(none for masquerading: no connection tracking), so that they differ in the data plane alone.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Protocol

from bench.dataplane.programs import Programs

from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.faults import freeze, thaw
from pyflannel.lab.node import Node
from pyflannel.lab.process import adopt, wait_for
from pyflannel.lab.shell import LabError, batch, run

MTU = 1500  # of the cable
UNDERLAYS = {
    "uncut": "all offloads on: segmentation trains cross the veth uncut",
    "cut": "no segmentation offload, GRO on: every train is cut before the cable, as by a plain NIC",
}
REACH_S = 20.0
SETTLE_S = 0.5  # a daemon that was frozen catches up
_LOG_LINES = 8


class CabledCluster(Cluster):
    """A lab of two nodes, e0 to e0. Its store has to be the local one: nothing else is on the cable."""

    def __init__(self, plan: Plan, underlay: str) -> None:
        super().__init__(plan)
        self._cut = underlay == "cut"

    def _wire(self) -> None:
        super()._wire()
        one, two = self.nodes
        batch(self.underlay, [f"link del {node.port}" for node in self.nodes])  # e0 goes with it
        mtu = self.plan.mtu
        batch(one.netns, [f"link add e0 mtu {mtu} type veth peer name e0 mtu {mtu} netns {two.netns}"])
        for node in self.nodes:
            if self._cut:
                cut_trains(node.netns, "e0")
            default = f"route add default via {node.gateway}"  # nobody is there; flanneld looks for its device
            batch(node.netns, ["link set e0 up", f"addr add {node.address}/24 dev e0", default])


def cut_trains(netns: str, device: str) -> None:
    """Switch off every segmentation offload of *device*, and GRO on. Raises LabError if one stays on."""
    ethtool = ("ip", "netns", "exec", netns, "ethtool")
    on = segmentation_on(run(*ethtool, "-k", device).stdout)
    run(*ethtool, "-K", device, *(word for name in on for word in (name, "off")), "gro", "on")
    if left := segmentation_on(run(*ethtool, "-k", device).stdout):
        raise LabError(f"{netns}: {device}: {', '.join(left)} can't be switched off")


def segmentation_on(features: str) -> list[str]:
    """Of `ethtool -k`'s output the segmentation offloads that are on."""
    return re.findall(r"^\s*(tx-(?:\S+-segmentation|gso-list|gso-partial)): on", features, re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Way:
    """From which namespace to which it is measured, to what address; whose processor time is the engine's; `note`:
    how it has decided to run."""

    source: str
    target: str
    address: str
    pids: tuple[int, ...] = ()
    note: str = ""


class Candidate(Protocol):
    """Something that carries packets. `name` is for --only, `label` for the tables."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...

    def plan(self, name: str) -> Plan:
        """The lab it begins with."""

    def missing(self) -> str | None:
        """Why it can't be measured here, with the way out; None if it can."""

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        """Make it carry between *cluster*'s pods. Raises LabError."""


@dataclass(frozen=True, slots=True)
class World:
    """A candidate, up."""

    candidate: Candidate
    cluster: Cluster
    way: Way

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Its turn. Raises LabError if packets don't get through (any more)."""
        running = [node for node in self.cluster.nodes if node.running()]
        for node in running:
            thaw(node)
        try:
            if not wait_for(lambda: answers(self.way), REACH_S, 0.1):
                raise LabError(f"no packet gets through{_said(self.cluster)}")
            time.sleep(SETTLE_S)
            yield
        finally:
            for node in running:
                if node.running():
                    freeze(node)


def make(candidate: Candidate, underlay: str, programs: Programs) -> World:
    """Set up *candidate*: packets have passed, and now its flannelds are frozen, since an idle one takes a percent or
    two of a core. Raises FlannelError, and leaves nothing then."""
    cluster = CabledCluster(candidate.plan(f"dp{candidate.name}"), underlay)
    cluster.up()
    try:
        way = candidate.build(cluster, programs)
        if not wait_for(lambda: answers(way), REACH_S, 0.1):
            raise LabError(f"no packet gets through within {REACH_S:g} s{_said(cluster)}")
        for node in cluster.nodes:
            if node.running():
                freeze(node)
    except BaseException:
        cluster.down()
        raise
    return World(candidate, cluster, way)


def answers(way: Way) -> bool:
    """Is a ping answered?"""
    done = run("ip", "netns", "exec", way.source, "ping", "-n", "-c1", "-W0.5", way.address, check=False)
    return done.returncode == 0


def between_pods(cluster: Cluster, pids: tuple[int, ...] = (), note: str = "") -> Way:
    """From the first node's pod to the second's."""
    one, two = cluster.pods
    return Way(one.netns, two.netns, two.address, pids, note)


# For candidates that aren't flanneld's


def each_way(cluster: Cluster) -> tuple[tuple[Node, Node], tuple[Node, Node]]:
    """A node and its peer, for both."""
    one, two = cluster.nodes
    return (one, two), (two, one)


def subnet(node: Node) -> str:
    """Its pods' network, in CIDR."""
    return str(ip_interface(node.subnet_env()["FLANNEL_SUBNET"]).network)


def start(node: Node, *command: str) -> int:
    """Start a daemon on *node*, its words in `engine.log`; its number."""
    with (node.path / "engine.log").open("ab") as log:
        return adopt(
            subprocess.Popen(
                [*node.enter(), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        )


def connect(node: Node, peer: Node, device: str, mtu: int, address: str = "") -> None:
    """Let *node*'s pods reach *peer*'s through the tunnel device *device*, once it is there. Raises LabError."""
    if not wait_for(lambda: node.exec("ip", "link", "show", device).returncode == 0, 10, 0.05):
        raise LabError(f"{device} has not appeared on {node.name}{_log(node)}")
    lines = [f"addr replace {address} dev {device}"] if address else []
    batch(
        node.netns,
        [
            f"link set {device} mtu {mtu} up",
            *lines,
            f"route replace {subnet(peer)} dev {device}",
            f"link set cni0 mtu {mtu}",
            f"link set veth1 mtu {mtu}",
        ],
    )
    for pod in node.pods:
        batch(pod.netns, [f"link set eth0 mtu {mtu}"])


def tunnel(cluster: Cluster, device: str, mtu: int, begin: Callable[[Node, Node], int], addressed: bool = False) -> Way:
    """*begin* a daemon on each node (told the node and its peer, gives its number), then connect the pods through
    *device*, which gets an address of its own if *addressed*. flanneld has done its part, and goes."""
    for node in cluster.nodes:
        node.kill_flanneld()  # its rules stay, as they are everywhere else
    pids = tuple([begin(node, peer) for node, peer in each_way(cluster)])
    for node, peer in each_way(cluster):
        connect(node, peer, device, mtu, subnet(node).replace("/24", "/32") if addressed else "")
    return between_pods(cluster, pids)


def _said(cluster: Cluster) -> str:
    return "".join(_log(node) for node in cluster.nodes)


def _log(node: Node) -> str:
    lines: list[str] = []
    with suppress(OSError):
        lines = (node.path / "engine.log").read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "".join(f"\n  {node.name}: {line}" for line in lines)
