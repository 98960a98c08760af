"""A whole cluster on one machine: nodes as namespaces on a bridge that lives in a namespace of its own.

Nothing is added to the machine's own network, so no traffic leaves the lab. Library code with a command in front
(`flannelctl lab`), and the fixture of the integration tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.lab.node import HEALTHZ_PORT, Node, Pod, alive
from pyflannel.lab.shell import LabError, batch, need, run
from pyflannel.model.network import NetworkConfig
from pyflannel.store.contract import Store

BASE = Path("/run/pyflannel-lab")
PREFIX = "/coreos.com/network"
_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.forwarding=1",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cluster is to look like. `routed` puts the nodes on two links joined by a router."""

    name: str = "lab"
    nodes: int = 3
    pods: int = 1
    backend: str = "vxlan"
    options: dict[str, Any] = field(default_factory=dict)
    ipv4: bool = True
    ipv6: bool = False
    store: str = "local"
    members: int = 1
    mtu: int = 1500
    routed: bool = False
    nftables: bool | None = None
    flags: tuple[str, ...] = ("--ip-masq",)

    def config(self) -> str:
        """The network config, as JSON."""
        found: dict[str, Any] = {}
        if self.ipv4:
            found["Network"] = "10.244.0.0/16"
        else:
            found["EnableIPv4"] = False
        if self.ipv6:
            found |= {"EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}
        if self.nftables is not None:
            found["EnableNFTables"] = self.nftables
        found["Backend"] = {"Type": self.backend, **self.options}
        return json.dumps(found)


class Cluster:
    """A cluster that runs, or is to run. `up()` makes it; `load()` finds one again; `down()` leaves nothing."""

    def __init__(self, plan: Plan, say: Callable[[str], None] = lambda text: None) -> None:
        if not 1 <= plan.nodes <= 200:
            raise LabError(f"--nodes is {plan.nodes}, expected 1 to 200")
        if plan.store not in ("local", "etcd"):
            raise LabError(f"--store is {plan.store}, expected local or etcd")
        if not 1 <= len(plan.name) <= 8 or not plan.name.isalnum():
            raise LabError(f"--name is {plan.name}, expected 1 to 8 letters and digits")
        self.plan, self._say = plan, say
        self.folder = BASE / plan.name
        self.underlay = f"{plan.name}-net"
        self.nodes: list[Node] = []
        self.etcd: EtcdCluster | None = None
        self._etcd_pids: list[int] = []

    # Up

    def up(self, wait: bool = True) -> Cluster:
        """Make it; with *wait* until each node is ready and its pods are there. Raises LabError."""
        if os.geteuid() != 0:
            raise LabError("the lab makes network namespaces and needs root: sudo flannelctl lab …")
        need("ip", "ping", "nsenter", "nft", "curl")
        NetworkConfig.parse(self.plan.config())
        if self.folder.exists():
            raise LabError(f"a lab called {self.plan.name} is up: `flannelctl lab down --name {self.plan.name}` first")
        self.folder.mkdir(parents=True)
        try:
            self._say("the underlay")
            self._wire()
            self._say(f"the {self.plan.store} store")
            self._open_store()
            self._say("flanneld on each node")
            self.save()
            for node in self.nodes:
                node.start_flanneld()
            if wait:
                for node in self.nodes:
                    node.wait_ready()
                self._say("pods")
                for node in self.nodes:
                    node.add_pods(self.plan.pods)
            self.save()
        except BaseException:
            if not os.environ.get("PYFLANNEL_LAB_KEEP"):
                self.down()
            raise
        return self

    def _wire(self) -> None:
        plan = self.plan
        run("ip", "netns", "add", self.underlay)
        run("ip", "netns", "exec", self.underlay, "sysctl", "-qw", *_SYSCTLS)
        links = 2 if plan.routed else 1
        lines = ["link set lo up"]
        for link in range(links):
            lines += [
                f"link add br{link} mtu {plan.mtu} type bridge",
                f"link set br{link} up",
                f"addr add 192.168.{77 + link}.1/24 dev br{link}",
                f"addr add fd00:{77 + link}::1/64 dev br{link} nodad",
            ]
        for number in range(1, plan.nodes + 1):
            node = self._node(number, (number - 1) % links)
            run("ip", "netns", "add", node.netns)
            # Before its interfaces come: no wait for duplicate address detection.
            run("ip", "netns", "exec", node.netns, "sysctl", "-qw", *_SYSCTLS)
            lines += [
                f"link add {node.port} mtu {plan.mtu} type veth peer name e0 mtu {plan.mtu} netns {node.netns}",
                f"link set {node.port} master br{(number - 1) % links} up",
            ]
            self.nodes.append(node)
        batch(self.underlay, lines)
        for node in self.nodes:
            six = ip_address(node.address6)
            batch(
                node.netns,
                [
                    "link set lo up",
                    "link set e0 up",
                    f"addr add {node.address}/24 dev e0",
                    f"addr add {six}/64 dev e0 nodad",
                    f"route add default via {node.gateway}",
                    f"route add default via fd00:{node.gateway.split('.')[2]}::1 dev e0",
                ],
            )
            node.hold()

    def _node(self, number: int, link: int) -> Node:
        plan = self.plan
        return Node(
            f"n{number}",
            f"{plan.name}-n{number}",
            str(self.folder / f"n{number}"),
            f"192.168.{77 + link}.{10 + number}",
            f"fd00:{77 + link}::{10 + number:x}",
            f"192.168.{77 + link}.1",
            f"n{number}",
            [f"--node-name=n{number}", f"--healthz-port={HEALTHZ_PORT}", *self._store_flags(), *plan.flags],
        )

    def _store_flags(self) -> list[str]:
        if self.plan.store == "local":
            return ["--store=local", f"--local-store={self.folder}/store.db"]
        return ["--store=etcd", f"--etcd-endpoints={','.join(self._endpoints())}"]

    def _endpoints(self) -> list[str]:
        return [f"http://192.168.77.1:{2379 + 2 * member}" for member in range(self.plan.members)]

    def _open_store(self) -> None:
        if self.plan.store == "etcd":
            need("etcd")
            prefix = ("ip", "netns", "exec", self.underlay)
            self.etcd = EtcdCluster(self.folder / "etcd", self.plan.members, "192.168.77.1", 2379, prefix=prefix)
            self.etcd.start()
        self.write_config(self.plan.config())

    def write_config(self, text: str) -> None:
        """Put *text* into the store as the network config."""
        self.with_store(lambda store: store.write_config(text))

    def with_store(self, work: Callable[[Store], Any]) -> Any:
        """What *work* (a coroutine function of the store) gives. The store is reached from where the nodes are."""
        from pyflannel.table.netns import inside

        async def go() -> Any:
            store = self._store()
            try:
                return await work(store)
            finally:
                await store.close()

        with inside(self.underlay):
            return asyncio.run(go())

    def _store(self) -> Store:
        if self.plan.store == "local":
            from pyflannel.store.local.store import local_store

            return local_store(self.folder / "store.db", PREFIX)
        from pyflannel.store.etcd.store import etcd_store

        return etcd_store(self._endpoints(), PREFIX)

    # Found again, and down

    def save(self) -> None:
        """Write down what there is, for later commands."""
        pids = [m.process.pid for m in self.etcd.members if m.process] if self.etcd else self._etcd_pids
        plan = asdict(self.plan)
        state = {"plan": plan, "nodes": [node.dump() for node in self.nodes], "etcd": pids}
        (self.folder / "state.json").write_text(json.dumps(state, indent=1))

    @classmethod
    def load(cls, name: str) -> Cluster:
        """The cluster called *name*. Raises LabError if there is none."""
        try:
            state = json.loads((BASE / name / "state.json").read_text())
        except (OSError, ValueError):
            raise LabError(f"no lab called {name} is up: `flannelctl lab up --name {name}`") from None
        found = cls(Plan(**{**state["plan"], "flags": tuple(state["plan"]["flags"])}))
        found.nodes = [Node.load(node) for node in state["nodes"]]
        found._etcd_pids = state["etcd"]
        return found

    @property
    def pods(self) -> list[Pod]:
        return [pod for node in self.nodes for pod in node.pods]

    def node(self, name: str) -> Node:
        """By its name, n1, n2, …"""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"no node {name} in this lab: {', '.join(node.name for node in self.nodes)}")

    def down(self) -> None:
        """End every process and namespace of this name, also what a crash left."""
        for node in self.nodes:
            node.stop_flanneld(signal.SIGKILL)
        if self.etcd is not None:
            self.etcd.stop()
        for pid in (*self._etcd_pids, *(node.holder for node in self.nodes)):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        mine = f"{self.plan.name}-"
        names = [name for name in _namespaces() if name.startswith(mine)]
        for name in names:
            for left in run("ip", "netns", "pids", name, check=False).stdout.split():
                if int(left) != os.getpid():
                    os.kill(int(left), signal.SIGKILL)
        ends = [subprocess.Popen(["ip", "netns", "del", name]) for name in names]
        for end in ends:
            end.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self.up()

    def __exit__(self, *_: object) -> None:
        self.down()


def _namespaces() -> list[str]:
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
