"""Two real nodes: kubelet, containerd and kube-proxy on our network, from the real API server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pyflannel.lab.node import Node, wait_for
from support.cni import DEBIANS, plugin
from support.kube.build import programs
from support.kube.control import PODS, ControlPlane
from support.lab import lab
from support.runtimes.machine import Machine, archive, need

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
HOST = "192.168.77.1"  # the lab's underlay, where etcd is, too
PAUSE = "registry.k8s.io/pause:3.6"
FOLDERS = ("/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni", "/run/containerd", "/run/netns", "/var/log")
KUBELET = """kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
cgroupDriver: cgroupfs
cgroupRoot: /{name}
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
evictionHard: {{memory.available: "1Mi", nodefs.available: "1%", imagefs.available: "1%"}}
authentication: {{anonymous: {{enabled: false}}, x509: {{clientCAFile: "{ca}"}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
"""
CONTAINERD = """version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/sock"
[ttrpc]
address = "{folder}/ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
"""


class Kubelet:
    """A node with what Kubernetes runs on it, but for the network."""

    def __init__(self, node: Node, plane: ControlPlane) -> None:
        self.machine = Machine(node, FOLDERS)
        self.node, folder = node, self.machine.folder
        for name in ("bridge", "host-local", "portmap", "loopback"):
            shutil.copy(Path(DEBIANS, name), self.machine.path("/opt/cni/bin"))
        (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder, pause=PAUSE))
        self.machine.daemon("containerd", "containerd", "--config", folder / "containerd.toml")
        assert wait_for((folder / "sock").exists, 20), self.machine.log("containerd")
        for tag in (PAUSE, "docker.io/library/bb:1"):
            self.machine.run("ctr", "-a", folder / "sock", "-n", "k8s.io", "images", "import", archive(folder, tag))
        plane.pki.client(node.name, f"system:node:{node.name}", "system:nodes")
        self.config = plane.pki.kubeconfig(node.name, plane.url)
        (folder / "kubelet.yaml").write_text(KUBELET.format(name=node.netns, ca=plane.pki.path("ca.crt")))
        self.machine.daemon(
            "kubelet", programs() / "kubelet", "--config", folder / "kubelet.yaml", "--kubeconfig", self.config,
            "--container-runtime", "remote", "--container-runtime-endpoint", f"unix://{folder}/sock",
            "--root-dir", folder / "kubelet", "--hostname-override", node.name, "--node-ip", node.address,
            "--cert-dir", folder / "pki", "--runtime-cgroups", "/",
        )  # fmt: skip
        self.machine.daemon(
            "kube-proxy", programs() / "kube-proxy", "--kubeconfig", plane.admin_config, "--hostname-override", node.name,
            "--cluster-cidr", PODS, "--conntrack-max-per-core", "0", "--proxy-mode", "iptables",
        )  # fmt: skip

    def install(self) -> None:
        """The plugin and its conflist, as a node gets them."""
        self.machine.run(
            ROOT / ".venv/bin/flannelctl", "install-cni", "--plugin", plugin(),
            "--conf", ROOT / "deploy/cni/10-flannel.conflist",
        )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, list[Kubelet]]]:
    need("containerd", "ctr", "runc", "busybox", "conntrack", "iptables")
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "net-conf.json").write_text(json.dumps({"Network": PODS, "Backend": {"Type": "vxlan"}}))
    with lab(wait=False, store="etcd", pods=0, nodes=2) as network, ExitStack() as stack:
        prefix = ("nsenter", f"--net=/run/netns/{network.underlay}")
        plane = ControlPlane(folder, f"http://{HOST}:2379", HOST, prefix)
        stack.callback(plane.stop)
        plane.start()
        plane.start_controllers()
        plane._spawn("kube-scheduler", f"--kubeconfig={plane.admin_config}", "--leader-elect=false", "--port=0")
        flannel = folder / "flannel.kubeconfig"  # the manifest's service account
        flannel.write_text(
            plane.admin_config.read_text().partition("users:")[0]
            + f"users:\n- name: admin\n  user: {{tokenFile: {folder}/token}}\n"
        )
        kubelets = []
        for node in network.nodes:
            node.stop_flanneld()  # it has the lab's store
            node.arguments = [
                f"--node-name={node.name}", "--healthz-port=8081", "--ip-masq", "--kube-subnet-mgr",
                f"--kubeconfig-file={flannel}", f"--net-config-path={folder}/net-conf.json",
            ]  # fmt: skip
            kubelet = Kubelet(node, plane)
            stack.callback(kubelet.machine.off)
            kubelets.append(kubelet)
        yield plane, kubelets


def condition(plane: ControlPlane, name: str, kind: str) -> dict[str, str]:
    found = plane.get("node", name)["status"].get("conditions", [])
    return next((each for each in found if each["type"] == kind), {"status": "", "message": ""})


def pod(node: str) -> dict[str, object]:
    """A web server on *node*, also on the node's own port 8088."""
    ports = [{"containerPort": 80, "hostPort": 8088}]
    command = ["/bin/httpd", "-f", "-p", "80", "-h", "/etc"]
    container = {
        "name": "web",
        "image": "docker.io/library/bb:1",
        "imagePullPolicy": "Never",
        "command": command,
        "ports": ports,
    }
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"web-{node}", "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0},
    }  # fmt: skip


def test_nodes_become_ready_by_our_conflist(cluster: tuple[ControlPlane, list[Kubelet]]) -> None:
    plane, kubelets = cluster
    for kubelet in kubelets:
        plane.wait_for(
            "the kubelet's wait for a network",
            lambda name=kubelet.node.name: "cni plugin not initialized" in condition(plane, name, "Ready")["message"],  # type: ignore[misc]
        )
        kubelet.node.start_flanneld()
    for kubelet in kubelets:
        kubelet.node.wait_ready(60)  # the controller manager gives pod CIDRs 10 s after its start
        name = kubelet.node.name
        network = condition(plane, name, "NetworkUnavailable")
        assert (network["status"], network["reason"]) == ("False", "FlannelIsUp")
        assert condition(plane, name, "Ready")["status"] == "False"
        kubelet.install()
    for kubelet in kubelets:
        plane.wait_for("Ready", lambda name=kubelet.node.name: condition(plane, name, "Ready")["status"] == "True")  # type: ignore[misc]


def test_pods_a_service_and_a_host_port_answer(cluster: tuple[ControlPlane, list[Kubelet]]) -> None:
    plane, kubelets = cluster
    plane.wait_for("the default service account", lambda: bool(plane.get("serviceaccount", "default")))
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8000, "targetPort": 80}]},
    }  # fmt: skip
    objects = [service, *(pod(kubelet.node.name) for kubelet in kubelets)]
    plane.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def pods() -> list[dict[str, Any]]:
        return [each for each in plane.get("pods")["items"] if each["status"]["phase"] == "Running"]

    plane.wait_for("pods", lambda: len(pods()) == len(kubelets))
    address = {each["spec"]["nodeName"]: each["status"]["podIP"] for each in pods()}
    (cluster_ip,) = (plane.get("service", "web")["spec"]["clusterIP"],)
    for one, other in (kubelets, kubelets[::-1]):
        assert address[one.node.name].rpartition(".")[0] == one.node.subnet_env()["FLANNEL_SUBNET"].rpartition(".")[0]
        for url in (f"{address[other.node.name]}", f"{cluster_ip}:8000", f"{other.node.address}:8088"):
            # From the pod's namespace, by this machine's busybox (whose wget crashes on -T).
            (netns,) = one.machine.path("/run/netns").glob("cni-*")
            words = (
                "nsenter",
                f"--net=/run/netns/{netns.name}",
                "timeout",
                "3",
                "busybox",
                "wget",
                "-qO-",
                f"http://{url}/answer",
            )

            def answers(machine: Machine = one.machine, words: tuple[str, ...] = words) -> bool:
                return machine.tried(*words) == "pyflannel\n"

            plane.wait_for(f"an answer of {url} to {one.node.name}'s pod", answers, 20)
        assert one.machine.run("busybox", "wget", "-qO-", f"http://{other.node.address}:8088/answer") == "pyflannel\n"
    plane.kubectl("delete", "pod", "--all", "--wait=true", "--timeout=40s")
    for kubelet in kubelets:
        networks = kubelet.machine.path("/var/lib/cni") / "networks/cbr0"
        assert wait_for(lambda networks=networks: not list(networks.glob("10.*")), 20)  # type: ignore[misc]
