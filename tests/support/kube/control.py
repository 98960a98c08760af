"""A real control plane: etcd, kube-apiserver and, on request, kube-controller-manager."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.store.kubernetes.access import Access, Pem, from_kubeconfig
from support.kube.build import programs
from support.kube.pki import Pki

MANIFEST = Path(__file__).parents[3] / "deploy" / "kubernetes" / "kube-flannel.yml"
RIGHTS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")
READY_S = 60.0
PODS, PODS6 = "10.244.0.0/16", "fd44::/48"
SERVICES, SERVICES6 = "10.96.0.0/16", "fd96::/112"
DUAL_STACK = "--feature-gates=IPv6DualStack=true"  # beta from 1.21 on


class ControlPlane:
    """One cluster's, reached at *host*; `start` it. Programs run behind *prefix* (to be in a namespace)."""

    def __init__(self, folder: Path, etcd: str, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        self._folder, self._etcd, self._prefix = folder, etcd, prefix
        self._port = free_port()
        self.url = f"https://{host}:{self._port}"
        self.pki = Pki(folder / "pki")
        self.pki.server("apiserver", [host, "127.0.0.1", "10.96.0.1"])
        self.pki.client("admin", "admin", "system:masters")
        self.admin_config = self.pki.kubeconfig("admin", self.url)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._host = host

    @property
    def admin_access(self) -> Access:
        return from_kubeconfig(self.admin_config)

    @property
    def flannel_access(self) -> Access:
        """As the manifest's service account, with the manifest's rights and no more."""
        return Access(self.url, Pem(self.pki.path("ca.crt")), token=Pem(self._folder / "token"))

    @property
    def flannel_config(self) -> Path:
        """A kubeconfig for the same."""
        text, _, _ = self.admin_config.read_text().partition("users:")
        path = self._folder / "flannel.kubeconfig"
        path.write_text(f'{text}users:\n- {{name: admin, user: {{tokenFile: "{self._folder}/token"}}}}\n')
        return path

    def start(self) -> None:
        """Up to the point where the API server is ready and flannel's service account exists."""
        self.start_api()
        wanted = [doc for doc in yaml.safe_load_all(MANIFEST.read_text()) if doc and doc["kind"] in RIGHTS]
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}))
        request = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"audiences": []}}
        answer = self.kubectl(
            "create", "--raw", "/api/v1/namespaces/kube-flannel/serviceaccounts/flannel/token", "-f", "-",
            stdin=json.dumps(request),
        )  # fmt: skip
        (self._folder / "token").write_text(json.loads(answer)["status"]["token"])

    def start_api(self) -> None:
        pki = self.pki.path
        self._spawn(
            "kube-apiserver", f"--etcd-servers={self._etcd}", f"--bind-address={self._host}",
            f"--secure-port={self._port}", f"--advertise-address={'10.77.0.1' if self._host[:4] == '127.' else self._host}",
            f"--tls-cert-file={pki('apiserver.crt')}", f"--tls-private-key-file={pki('apiserver.key')}",
            f"--client-ca-file={pki('ca.crt')}", f"--kubelet-client-certificate={pki('admin.crt')}",
            f"--kubelet-client-key={pki('admin.key')}", "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={pki('sa.pub')}", f"--service-account-signing-key-file={pki('sa.key')}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICES},{SERVICES6}", "--authorization-mode=Node,RBAC",
            "--allow-privileged=true", DUAL_STACK,
        )  # fmt: skip
        self.wait_for("the API server", lambda: self.kubectl("get", "--raw", "/readyz") == "ok")

    def stop_api(self) -> None:
        """As a crash does: at once."""
        self._stop("kube-apiserver", signal.SIGKILL)

    def start_controllers(self, *, dual: bool = False, node_cidrs: bool = True) -> None:
        """The controller manager, as `--allocate-node-cidrs` and `--cluster-cidr` make it give each node its podCIDR."""
        ranges = [f"--cluster-cidr={PODS},{PODS6}", DUAL_STACK] if dual else [f"--cluster-cidr={PODS}"]
        ranges += ["--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"] if dual else []
        self._spawn(
            "kube-controller-manager", f"--kubeconfig={self.admin_config}", "--controllers=*", "--leader-elect=false",
            f"--service-account-private-key-file={self.pki.path('sa.key')}", f"--root-ca-file={self.pki.path('ca.crt')}",
            "--port=0", f"--secure-port={free_port()}", "--bind-address=127.0.0.1",
            *(["--allocate-node-cidrs", *ranges] if node_cidrs else []),
        )  # fmt: skip

    def stop_controllers(self) -> None:
        self._stop("kube-controller-manager", signal.SIGTERM)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """What kubectl prints. Raises CalledProcessError with its words."""
        done = subprocess.run(
            [*self._prefix, programs() / "kubectl", "--kubeconfig", str(self.admin_config), *words],
            input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *words: str) -> Any:
        """`kubectl get … -o json`."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def memory_mb(self) -> dict[str, float]:
        """Resident memory by program."""
        return {name: _resident_mb(process.pid) for name, process in self._running.items()}

    def stop(self) -> None:
        for name in reversed(list(self._running)):
            self._stop(name, signal.SIGKILL)

    def wait_for(self, what: str, true: Callable[[], bool], within_s: float = READY_S) -> None:
        """Until *true*; what it raises counts as no."""
        ends, why = time.monotonic() + within_s, ""
        while time.monotonic() < ends:
            dead = [name for name, process in self._running.items() if process.poll() is not None]
            if dead:
                raise RuntimeError(f"{dead[0]} ended: {self._log(dead[0])}")
            try:
                if true():
                    return
            except RuntimeError as error:
                why = str(error)
            time.sleep(0.1)
        raise RuntimeError(f"{what} took more than {within_s:.0f} s {why}")

    def _spawn(self, program: str, *words: str) -> None:
        with (self._folder / f"{program}.log").open("ab") as log:
            self._running[program] = subprocess.Popen(
                [*self._prefix, str(programs() / program), *words],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._folder,
            )  # fmt: skip

    def _stop(self, program: str, how: signal.Signals) -> None:
        process = self._running.pop(program, None)
        if process is not None:
            os.killpg(process.pid, how)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _log(self, program: str) -> str:
        return (self._folder / f"{program}.log").read_text(errors="replace")[-2000:]


@contextmanager
def control_plane(folder: Path, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[ControlPlane]:
    """A running one with an etcd of its own, on loopback."""
    with EtcdCluster(folder / "etcd") as etcd:
        plane = ControlPlane(folder, etcd.endpoints[0], host, prefix)
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
