"""The real daemon on the real API server: two nodes of a lab over vxlan, their leases in node objects."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyflannel.lab import faults
from pyflannel.lab.cluster import STORE_HOST, Cluster
from pyflannel.lab.measure import flood
from pyflannel.lab.node import Node
from support import goflannel
from support.cni import Host
from support.kube.control import PODS, ControlPlane
from support.lab import eventually, lab
from support.netns import Netns, namespace

pytestmark = pytest.mark.root

PREFIX = "flannel.alpha.coreos.com/"


@dataclass
class Kube:
    """The lab's nodes, known to an API server on their underlay."""

    network: Cluster
    plane: ControlPlane

    @property
    def nodes(self) -> list[Node]:
        return self.network.nodes

    def join(self, node: Node, subnet: str | None) -> None:
        """Make *node*'s object, as its kubelet does."""
        spec = {"podCIDR": subnet, "podCIDRs": [subnet]} if subnet else {}
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name}, "spec": spec}
        self.plane.kubectl("create", "-f", "-", stdin=json.dumps(made))

    def annotations(self, node: Node) -> dict[str, str]:
        found = self.plane.get("node", node.name)["metadata"].get("annotations", {})
        return {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    """The first node has 10.244.1.0/24; nothing runs yet but the API server."""
    (tmp_path / "net-conf.json").write_text(json.dumps({"Network": PODS, "Backend": {"Type": "vxlan"}}))
    with lab(wait=False, store="etcd", command=("true",)) as network, ExitStack() as stack:  # of the lab's: etcd alone
        enter = ("nsenter", f"--net=/run/netns/{network.underlay}")
        plane = ControlPlane(tmp_path / "plane", f"http://{STORE_HOST}:2379", STORE_HOST, enter)
        stack.callback(plane.stop)
        plane.start()
        for node in network.nodes:
            node.stop_flanneld()
            node.command = []
            node.arguments = [
                f"--node-name={node.name}", "--healthz-port=8081", "--ip-masq", "--kube-subnet-mgr",
                f"--kubeconfig-file={plane.flannel_config}", f"--net-config-path={tmp_path}/net-conf.json",
            ]  # fmt: skip
        yield Kube(network, plane)


def routes(node: Node) -> set[str]:
    return {route["dst"] for route in node.ip_json("route show proto 241")}


def test_from_waiting_to_deleted(kube: Kube) -> None:
    first, second = kube.nodes
    kube.join(first, "10.244.1.0/24")
    kube.join(second, None)
    for node in kube.nodes:
        node.start_flanneld()
    first.wait_ready()

    # The second waits for what the controller manager would give, and says so to whoever asks.
    eventually(lambda: "--allocate-node-cidrs" in second.http("readyz")[1])
    assert "FlannelNoPodCIDR" in kube.plane.kubectl("describe", "node", second.name)
    with namespace("pod") as pod:
        refused = add(second, pod)
        assert "node n2 has no spec.podCIDR yet" in refused
        faults.freeze(second)
        assert "flanneld doesn't answer within 200 ms" in add(second, pod)
        faults.thaw(second)
    kube.plane.kubectl("patch", "node", second.name, "-p", '{"spec": {"podCIDR": "10.244.2.0/24"}}')
    for node in kube.nodes:
        node.wait_ready()
        node.add_pods(1)
    assert kube.annotations(second)["public-ip"] == second.address
    assert kube.annotations(second)["backend-type"] == "vxlan"
    told = {each["type"]: each for each in kube.plane.get("node", second.name)["status"]["conditions"]}
    assert (told["NetworkUnavailable"]["status"], told["NetworkUnavailable"]["reason"]) == ("False", "FlannelIsUp")

    # The API server dies and comes back: no packet is lost, and what changed meanwhile is made good.
    here, there = first.pods[0], second.pods[0]
    with flood(here, there.address) as ping:
        kube.plane.stop_api()
        eventually(lambda: first.status()["store"]["trouble"] is not None)
        kube.plane.start_api()
        eventually(lambda: first.status()["store"]["trouble"] is None)
        # As does a daemon that is killed while there is nobody to ask.
        kube.plane.stop_api()
        second.kill_flanneld()
        second.start_flanneld()
        second.wait_ready()
        assert "starting from the leases known" in second.log()
        kube.plane.start_api()
        eventually(lambda: second.status()["store"]["trouble"] is None)
    assert ping.sent > 100
    assert ping.lost == 0

    # A node that is deleted leaves nothing behind on the others, and ends its own daemon, as that holds no lease now.
    assert "10.244.2.0/24" in routes(first)
    kube.plane.kubectl("delete", "node", second.name)
    eventually(lambda: "10.244.2.0/24" not in routes(first))
    assert second.address not in first("bridge fdb show dev flannel.1")
    assert "10.244.2.0" not in first("ip neigh show nud permanent dev flannel.1")
    first.wait_ready()
    eventually(lambda: not second.running())
    assert second.stop_flanneld() == 0

    # It comes back under another pod CIDR.
    kube.join(second, "10.244.3.0/24")
    second.start_flanneld()
    second.wait_ready()
    assert second.subnet_env()["FLANNEL_SUBNET"] == "10.244.3.1/24"
    eventually(lambda: "10.244.3.0/24" in routes(first))
    with namespace("pod") as pod:
        assert "cni0 has the address 10.244.2.1/24, but this node's subnet is 10.244.3.0/24" in add(second, pod)


def add(node: Node, pod: Netns) -> str:
    """What the CNI plugin says to an ADD on *node*."""
    folder = node.path / "run"  # the node's /run/flannel
    answer = Host(Netns(node.netns), folder)("ADD", netns=pod.name)
    assert answer.code == 1
    return str(answer.json["msg"])


def test_a_node_is_taken_over_from_go_flannel_and_given_back(kube: Kube) -> None:
    """`adopt --check` says it's safe, and it is: no packet is lost, there and back."""
    for number, node in enumerate(kube.nodes, 1):
        kube.join(node, f"10.244.{number}.0/24")
        node.start_flanneld()
    for node in kube.nodes:
        node.wait_ready()
        node.add_pods(1)
    for node in kube.nodes:
        goflannel.become(node)
    first, second = kube.nodes
    before = kube.annotations(first)
    with flood(second.pods[0], first.pods[0].address) as ping:
        done = first.exec(sys.executable, "-m", "pyflannel.cli.flannelctl", "adopt", "--check", *first.arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "lease       keep 1" in done.stdout
        assert "safe: nothing that carries packets goes before its successor stands" in done.stdout
        first.start_flanneld()
        first.wait_ready()
        assert "10.244.2.0/24" in routes(first)
        first.stop_flanneld()
        goflannel.start(first)
        assert not routes(first)
    assert ping.sent > 100
    assert ping.lost == 0, ping.output
    assert kube.annotations(first) == before
