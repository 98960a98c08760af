"""A whole cluster on one machine: nodes as namespaces on a bridge that lives in a namespace of its own.

Nothing is added to the machine's own network, so no traffic leaves the lab. Library code with a command in front
(`flannelctl lab`), and the fixture of the integration tests.

Rule: only what has a name that a lab of this plan gives is ever touched (Plan.own), and `up` refuses to begin where
such a name is taken, so that what `down` removes is always the lab's.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyflannel.lab.cloud.process import CloudProcess
from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.lab.node import HEALTHZ_PORT, NODE_SYSCTLS, Node, Pod
from pyflannel.lab.plan import Plan
from pyflannel.lab.process import clear
from pyflannel.lab.shell import LabError, batch, namespaces, need, need_root, sysctls
from pyflannel.model.network import NetworkConfig
from pyflannel.store.contract import Store

BASE = Path("/run/pyflannel-lab")
PREFIX = "/coreos.com/network"
STORE_HOST = "192.168.77.1"  # the underlay's bridge: where the nodes reach etcd
ETCD_PORT = 2379  # and on from there, two a member


class Cluster:
    """A cluster that runs, or is to run. `up()` makes it; `load()` finds one again; `down()` leaves nothing."""

    def __init__(self, plan: Plan, say: Callable[[str], None] = lambda text: None) -> None:
        """Raises LabError if *plan* can't be. *say* is told each step."""
        plan.check()
        self.plan, self._say = plan, say
        self.folder = BASE / plan.name
        self.underlay = plan.underlay
        self.nodes: list[Node] = []
        self.etcd: EtcdCluster | None = None
        self.cloud: CloudProcess | None = None

    # Up

    def up(self, wait: bool = True) -> Cluster:
        """Make it; with *wait* until each node is ready and its pods are there. Raises FlannelError, and leaves
        nothing then; with PYFLANNEL_LAB_KEEP set it leaves everything, for a look."""
        need_root()
        need("ip", "ping", "nsenter", "unshare", "mount", *(["etcd"] if self.plan.store == "etcd" else []))
        NetworkConfig.parse(self.plan.config())
        self._claim()
        try:
            self._say("the underlay")
            self._wire()
            self._say(f"the {self.plan.store} store")
            self._open_store()
            self._open_cloud()
            self._say("flanneld on each node")
            for node in self.nodes:
                node.start_flanneld()
            self.save()
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

    def _claim(self) -> None:
        """Take the name, or raise LabError and touch nothing."""
        name = self.plan.name
        down = f"`flannelctl lab down --name {name}` first"
        if not self.folder.exists() and (taken := self.plan.own(namespaces())):
            raise LabError(f"namespaces of a lab called {name} are there already ({', '.join(taken)}): {down}")
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            raise LabError(f"a lab called {name} is up: {down}") from None

    def _wire(self) -> None:
        plan = self.plan
        links = 2 if plan.routed else 1
        lines = ["link set lo up"]
        for link in range(links):
            lines += [
                f"link add br{link} mtu {plan.mtu} type bridge",
                f"link set br{link} up",
                f"addr add 192.168.{77 + link}.1/24 dev br{link}",
                f"addr add fd00:{77 + link}::1/64 dev br{link} nodad",
            ]
        self.nodes = [self._node(number, (number - 1) % links) for number in range(1, plan.nodes + 1)]
        names = [self.underlay, *(node.netns for node in self.nodes)]
        batch("", [f"netns add {name}" for name in names])
        for name in names:
            sysctls(name, NODE_SYSCTLS)
        for number, node in enumerate(self.nodes):
            lines += [
                f"link add {node.port} mtu {plan.mtu} type veth peer name e0 mtu {plan.mtu} netns {node.netns}",
                f"link set {node.port} master br{number % links} up",
            ]
        batch(self.underlay, lines)
        for node in self.nodes:
            link6 = node.address6.split("::")[0]
            batch(
                node.netns,
                [
                    "link set lo up",
                    "link set e0 up",
                    f"addr add {node.address}/24 dev e0",
                    f"addr add {node.address6}/64 dev e0 nodad",
                    f"route add default via {node.gateway}",
                    f"route add default via {link6}::1 dev e0",
                ],
            )
        for node, holder in [(node, node.hold()) for node in self.nodes]:  # all begin, then all are waited for
            node.held(holder)

    def _node(self, number: int, link: int) -> Node:
        plan, name = self.plan, f"n{number}"
        own = [f"--node-name={name}", f"--healthz-port={HEALTHZ_PORT}", *self._store_flags()]
        if plan.backend == "udp":
            engines = plan.engines()
            own.append(f"--udp-engine={engines[(number - 1) % len(engines)]}")
        return Node(
            name=name,
            netns=f"{plan.name}-{name}",
            folder=str(self.folder / name),
            address=f"192.168.{77 + link}.{10 + number}",
            address6=f"fd00:{77 + link}::{10 + number:x}",
            gateway=f"192.168.{77 + link}.1",
            port=name,
            arguments=[*own, *plan.flags, *plan.node_flags.get(name, ())],
            command=list(plan.command),
        )

    def _open_cloud(self) -> None:
        if not self.plan.cloud:
            return
        self._say(f"an emulated {self.plan.backend}")
        self.cloud = CloudProcess(self.plan.backend, self.underlay, STORE_HOST, str(self.folder))
        inside = [node for node in self.nodes if node.name not in self.plan.outside]
        self.cloud.start([(node.name, node.address, node.address6) for node in inside])
        for node in self.nodes:
            node.environment = self.cloud.environment

    # The store

    def _store_flags(self) -> list[str]:
        if self.plan.store == "local":
            return ["--store=local", f"--local-store={self.folder}/store.db"]
        return ["--store=etcd", f"--etcd-endpoints={','.join(self._endpoints())}"]

    def _endpoints(self) -> list[str]:
        return [f"http://{STORE_HOST}:{ETCD_PORT + 2 * member}" for member in range(self.plan.members)]

    def _open_store(self) -> None:
        if self.plan.store == "etcd":
            prefix = ("ip", "netns", "exec", self.underlay)
            self.etcd = EtcdCluster(self.folder / "etcd", self.plan.members, STORE_HOST, ETCD_PORT, prefix=prefix)
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
        state = {
            "plan": self.plan.dump(),
            "nodes": [node.dump() for node in self.nodes],
            "cloud": asdict(self.cloud) if self.cloud else None,
        }
        written = self.folder / "state.json.new"
        written.write_text(json.dumps(state, indent=1))
        written.replace(self.folder / "state.json")

    @classmethod
    def load(cls, name: str) -> Cluster:
        """The cluster called *name*. Raises LabError if there is none, or if we aren't root."""
        Plan(name).check()
        try:
            state = json.loads((BASE / name / "state.json").read_text())
            found = cls(Plan.load(state["plan"]))
            found.nodes = [Node.load(node) for node in state["nodes"]]
            found.cloud = CloudProcess(**state["cloud"]) if state["cloud"] else None
        except OSError:
            raise LabError(f"no lab called {name} is up: `flannelctl lab up --name {name}`") from None
        except (ValueError, KeyError, TypeError):
            raise LabError(
                f"the lab called {name} was made by another version: `flannelctl lab down --name {name}`"
            ) from None
        need_root()
        return found

    @property
    def pods(self) -> list[Pod]:
        """Every node's pods."""
        return [pod for node in self.nodes for pod in node.pods]

    def node(self, name: str) -> Node:
        """By its name, n1, n2, …"""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"no node {name} in this lab: {', '.join(node.name for node in self.nodes)}")

    def down(self) -> None:
        """End every process and namespace of this name, also what a crash left. Raises LabError if some stay."""
        need_root()
        for node in self.nodes:
            node.stop_flanneld(signal.SIGKILL)
            node.let_go()
        if self.cloud is not None:
            self.cloud.stop()
        if self.etcd is not None:
            self.etcd.stop()
        names = self.plan.own(namespaces())
        clear(names)
        batch("", [f"netns del {name}" for name in names], force=True)
        if left := self.plan.own(namespaces()):
            raise LabError(f"namespaces can't be removed: {', '.join(left)}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self.up()

    def __exit__(self, *_: object) -> None:
        self.down()


__all__ = ["BASE", "Cluster", "Plan"]
