"""What deploy/ sends is taken by the real API server (server-side dry run), with no field that it doesn't know."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kube.control import ControlPlane

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
OBJECTS = {"serviceaccount/flannel", "clusterrole.rbac.authorization.k8s.io/flannel",
           "clusterrolebinding.rbac.authorization.k8s.io/flannel", "configmap/kube-flannel-cfg",
           "daemonset.apps/kube-flannel-ds"}  # fmt: skip
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "global": {"imagePullSecrets": [{"name": "s"}], "commonAnnotations": {"a": "b"}},
        "podCidrv6": "fd44::/48",
        "flannel": {
            "backend": "udp", "backendPort": 8286, "mtu": 1400, "enableNFTables": True,
            "env": [{"name": "FLANNELD_IFACE", "value": "eth1"}], "nodeSelector": {"a": "b"}, "podLabels": {"c": "d"},
            "podAnnotations": {"e": "f"}, "daemonSet": {"labels": {"g": "h"}, "annotations": {"i": "j"}},
            "tolerations": [{"operator": "Exists"}], "updateStrategy": {"type": "OnDelete"},
        },
        "netpol": {"enabled": True},
    },
    "little": {"flannel": {"healthz": {"port": 0}, "skipCNIConfigInstallation": True, "tolerations": [], "resources": {}}},
}  # fmt: skip

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # helm may have to be built first


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def taken(plane: ControlPlane, text: str) -> set[str]:
    """The objects that the API server would make of *text*. Fails on one that it refuses, or a field it doesn't know."""
    said = plane.kubectl(
        "apply", "--dry-run=server", "--validate=true", "--namespace=kube-flannel", "-f", "-", stdin=text
    )
    return {line.split()[0] for line in said.splitlines() if "server dry run" in line}


def test_the_manifest(control_plane: ControlPlane) -> None:
    text = (DEPLOY / "kubernetes/kube-flannel.yml").read_text()
    assert taken(control_plane, text) == OBJECTS | {"namespace/kube-flannel"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_overlays(control_plane: ControlPlane, overlay: str) -> None:
    text = run("kubectl", "kustomize", DEPLOY / "overlays" / overlay)
    assert taken(control_plane, text) == OBJECTS | {"namespace/kube-flannel"}


@pytest.mark.parametrize("values", VALUES)
def test_the_chart(control_plane: ControlPlane, tmp_path: Path, values: str) -> None:
    (tmp_path / "values.json").write_text(json.dumps(VALUES[values]))
    helm = run(DEPLOY.parent / "tools/helm-build").strip()
    text = run(
        helm, "template", "flannel", DEPLOY / "helm/flannel", "--namespace=kube-flannel", "-f", tmp_path / "values.json"
    )
    assert taken(control_plane, text) == OBJECTS


def test_a_dry_run_would_say_something(control_plane: ControlPlane) -> None:
    text = (DEPLOY / "kubernetes/kube-flannel.yml").read_text()
    for right, wrong, said in (
        ("readOnlyRootFilesystem", "readOnlyRoot", "unknown field"),
        ("periodSeconds: 30", "periodSeconds: -30", "must be greater than or equal to 0"),
        ("mountPath: /run/flannel", "mountPath: ''", "mountPath: Required value"),
    ):
        with pytest.raises(RuntimeError, match=said):
            taken(control_plane, text.replace(right, wrong))


def test_over_what_is_there(control_plane: ControlPlane) -> None:
    """The chart's objects over the manifest's, and back: nothing immutable differs (the selector, the role's name)."""
    manifest = (DEPLOY / "kubernetes/kube-flannel.yml").read_text()
    daemon_set = [item for item in yaml.safe_load_all(manifest) if item["kind"] in ("DaemonSet", "ConfigMap")]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": daemon_set})
    helm = run(DEPLOY.parent / "tools/helm-build").strip()
    charts = run(helm, "template", "flannel", DEPLOY / "helm/flannel", "--namespace=kube-flannel")
    control_plane.kubectl("apply", "-f", "-", stdin=listed)
    try:
        assert taken(control_plane, charts) == OBJECTS
        for overlay in OVERLAYS:
            assert taken(control_plane, run("kubectl", "kustomize", DEPLOY / "overlays" / overlay))
    finally:
        control_plane.kubectl("delete", "-f", "-", stdin=listed)
