"""The manifest and its overlays: what operators of flannel rely on, and what the daemon itself reads from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyflannel.cli.install import names_flannel
from pyflannel.cli.options import parse
from pyflannel.model.network import NetworkConfig

from .conftest import DEPLOY, Chart, Helm, Rendered

OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
# Values as users of flannel's chart have them, and what they must come to in net-conf.json.
VALUES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}),
    "dual-stack": (
        {"podCidrv6": "fd44::/48"},
        {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd44::/48", "Backend": {"Type": "vxlan"}},
    ),
    "v6-only": (
        {"podCidr": "", "podCidrv6": "fd44::/48"},
        {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd44::/48", "Backend": {"Type": "vxlan"}},
    ),
    "vxlan": (
        {"flannel": {"backendPort": 4789, "vni": 4096, "GBP": True, "directRouting": True, "mtu": 1400}},
        {
            "Network": "10.244.0.0/16",
            "Backend": {
                "Type": "vxlan", "Port": 4789, "VNI": 4096, "GBP": True, "DirectRouting": True, "MTU": 1400,
            },
        },
    ),
    "false is not unset": (
        {"flannel": {"vni": 0, "directRouting": False, "enableNFTables": False}},
        {
            "Network": "10.244.0.0/16", "EnableNFTables": False,
            "Backend": {"Type": "vxlan", "VNI": 0, "DirectRouting": False},
        },
    ),
    "large VNI": (
        {"flannel": {"vni": 16777215}},
        {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 16777215}},
    ),
    "host-gw takes no vxlan fields": (
        {"flannel": {"backend": "host-gw", "vni": 7}},
        {"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}},
    ),
    "udp": (
        {"flannel": {"backend": "udp", "backendPort": 8286}},
        {"Network": "10.244.0.0/16", "Backend": {"Type": "udp", "Port": 8286}},
    ),
    "anything": (
        {"flannel": {"netConf": {"SubnetLen": 26}, "backendConfig": {"Learning": True}}},
        {"Network": "10.244.0.0/16", "SubnetLen": 26, "Backend": {"Type": "vxlan", "Learning": True}},
    ),
}  # fmt: skip


@pytest.fixture(params=["kube-flannel.yml", "kubernetes", *(f"overlays/{name}" for name in OVERLAYS), "chart"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Every way to install."""
    if request.param == "kube-flannel.yml":
        return Rendered.parse((DEPLOY / "kubernetes/kube-flannel.yml").read_text())
    if request.param == "chart":
        return Rendered(request.getfixturevalue("chart")().objects)
    kustomized: Callable[[str], Rendered] = request.getfixturevalue("kustomized")
    return kustomized(request.param)


pytestmark = pytest.mark.timeout(900)  # helm may have to be built first


def test_it_takes_flannels_place(rendered: Rendered) -> None:
    """Same names, selector and volumes: it can be applied over a running flannel (reference: flannel's manifest)."""
    names = {(item["kind"], item["metadata"]["name"]) for item in rendered.objects}
    assert names - {("Namespace", "kube-flannel")} == {
        ("ServiceAccount", "flannel"), ("ClusterRole", "flannel"), ("ClusterRoleBinding", "flannel"),
        ("ConfigMap", "kube-flannel-cfg"), ("DaemonSet", "kube-flannel-ds"),
    }  # fmt: skip
    spec = rendered.one("DaemonSet")["spec"]
    assert spec["selector"] == {"matchLabels": {"app": "flannel"}}  # immutable: another one is refused over flannel's
    assert spec["template"]["metadata"]["labels"].items() >= {"app": "flannel", "tier": "node"}.items()
    paths = {item["name"]: item["hostPath"]["path"] for item in rendered.pod["volumes"] if "hostPath" in item}
    assert paths.items() >= {
        "run": "/run/flannel", "cni-plugin": "/opt/cni/bin", "cni": "/etc/cni/net.d", "xtables-lock": "/run/xtables.lock",
    }.items()  # fmt: skip
    assert [item["name"] for item in rendered.pod["initContainers"]] == ["install-cni-plugin", "install-cni"]
    assert rendered.pod["hostNetwork"] is True
    assert rendered.pod["priorityClassName"] == "system-node-critical"


def test_the_daemon_understands_what_it_is_given(rendered: Rendered) -> None:
    options = parse(rendered.words, {})
    assert (options.kube_subnet_mgr, options.ip_masq, options.healthz_port) == (True, True, 8081)
    assert options.rest == ()
    mounts = {item["mountPath"].rstrip("/") for item in rendered.daemon["volumeMounts"]}
    for path in (options.subnet_file, options.net_config_path, f"{options.state_dir}/checkpoint.json"):
        assert str(Path(path).parent) in mounts, "the root is read-only"
    NetworkConfig.parse(json.dumps(rendered.net_conf), "net-conf.json")
    assert names_flannel(rendered.one("ConfigMap")["data"]["cni-conf.json"].encode())


def test_probes_ask_paths_that_the_health_server_has(rendered: Rendered) -> None:
    (port,) = rendered.daemon["ports"]
    assert port["containerPort"] == 8081
    probes = {name: rendered.daemon[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    assert {name: (probe["path"], probe["port"]) for name, probe in probes.items()} == {
        "liveness": ("/healthz", port["name"]),
        "readiness": ("/readyz", port["name"]),
    }


def test_rights_are_the_least(rendered: Rendered) -> None:
    rights = {
        (resource, verb)
        for rule in rendered.one("ClusterRole")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights == {
        ("nodes", "get"), ("nodes", "list"), ("nodes", "watch"), ("nodes/status", "patch"), ("events", "create"),
    }  # fmt: skip
    udp = rendered.net_conf["Backend"]["Type"] == "udp"  # which needs /dev/net/tun
    for container in (*rendered.pod["initContainers"], *rendered.pod["containers"]):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        if udp and container["name"] == "kube-flannel":
            assert security["privileged"] is True
            continue
        assert (security["privileged"], security["allowPrivilegeEscalation"]) == (False, False)
        assert security["capabilities"]["drop"] == ["ALL"]
        wanted = ["NET_ADMIN", "NET_RAW"] if container["name"] == "kube-flannel" else None
        assert security["capabilities"].get("add") == wanted


def test_install_cni_is_called_as_it_is_written(rendered: Rendered) -> None:
    from typer.testing import CliRunner

    from pyflannel.cli import flannelctl, install

    flannelctl.app.command("install-cni")(install.install_cni)
    for container in rendered.pod["initContainers"]:
        words = container["command"]
        assert words[:2] == ["/opt/bin/flannelctl", "install-cni"]
        result = CliRunner().invoke(flannelctl.app, [*words[1:], "--plugin=/nowhere", "--conf=/nowhere"])
        assert "/nowhere can't be read" in str(result.exception), result.output


@pytest.mark.parametrize("name", VALUES)
def test_the_charts_values_become_the_network_config(chart: Chart, name: str) -> None:
    values, wanted = VALUES[name]
    rendered = chart(**values)
    assert rendered.net_conf == wanted
    NetworkConfig.parse(json.dumps(rendered.net_conf), "net-conf.json")


def test_a_psk_with_quotes_stays_itself(chart: Chart) -> None:
    rendered = chart(flannel={"backend": "wireguard", "psk": 'a"b\\c: {d}', "tunnelMode": "separate"})
    assert rendered.net_conf["Backend"] == {"Type": "wireguard", "PSK": 'a"b\\c: {d}', "Mode": "separate"}


def test_the_chart_and_the_manifest_agree(chart: Chart) -> None:
    plain, charted = Rendered.parse((DEPLOY / "kubernetes/kube-flannel.yml").read_text()), chart()
    assert charted.words == plain.words
    assert charted.net_conf == plain.net_conf
    assert charted.daemon["env"] == plain.daemon["env"]
    assert charted.daemon["volumeMounts"] == plain.daemon["volumeMounts"]
    assert charted.daemon["securityContext"] == plain.daemon["securityContext"]
    assert charted.pod["volumes"] == plain.pod["volumes"]
    for ours, theirs in zip(charted.pod["initContainers"], plain.pod["initContainers"], strict=True):
        assert ours == {**theirs, "imagePullPolicy": "IfNotPresent"}
    assert charted.one("ConfigMap")["data"]["cni-conf.json"] == plain.one("ConfigMap")["data"]["cni-conf.json"]
    assert charted.one("ClusterRole")["rules"] == plain.one("ClusterRole")["rules"]


def test_the_charts_switches(chart: Chart) -> None:
    images = chart(flannel={"image": {"repository": "r/f", "tag": "1"}})
    assert {item["image"] for item in (*images.pod["initContainers"], images.daemon)} == {"r/f:1"}
    cni = chart(flannel={"flannel_cni": {"image": {"repository": "r/c", "tag": "2"}}})
    assert [item["image"] for item in cni.pod["initContainers"]] == ["r/c:2", "pyflannel:0.1.0"]
    silent = chart(flannel={"healthz": {"port": 0}})
    assert not [word for word in silent.words if "healthz" in word]
    assert not {"ports", "livenessProbe", "readinessProbe"} & set(silent.daemon)
    bare = chart(flannel={"skipCNIConfigInstallation": True})
    assert [item["name"] for item in bare.pod["initContainers"]] == ["install-cni-plugin"]
    assert "cni" not in [item["name"] for item in bare.pod["volumes"]]
    placed = chart(
        **{"global": {"imagePullSecrets": [{"name": "s"}]}}, flannel={"nodeSelector": {"a": "b"}, "tolerations": []}
    )
    assert placed.pod["imagePullSecrets"] == [{"name": "s"}]
    assert placed.pod["nodeSelector"] == {"a": "b"}
    assert "tolerations" not in placed.pod
    policies = chart(netpol={"enabled": True})
    assert [item["name"] for item in policies.pod["containers"]] == ["kube-flannel", "kube-network-policies"]
    assert any("networkpolicies" in rule["resources"] for rule in policies.one("ClusterRole")["rules"])


def test_another_config_is_another_pod(chart: Chart) -> None:
    def stamp(rendered: Rendered) -> str:
        found: str = rendered.one("DaemonSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return found

    assert stamp(chart()) == stamp(chart()) != stamp(chart(podCidr="10.42.0.0/16"))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"podCidr": "10.244.0.0"}, "podCidr"),
        ({"podCidr": ""}, "podCidr and podCidrv6 are both empty"),
        ({"podCidrv6": "10.244.0.0/16"}, "podCidrv6"),
        ({"flannel": {"vni": 16777216}}, "vni"),
        ({"flannel": {"backendPort": "8472"}}, "backendPort"),
        ({"flannel": {"bakend": "udp"}}, "bakend"),
    ],
)
def test_wrong_values_are_refused_by_name(chart: Chart, values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        chart(**values)


def test_helm_finds_nothing_wrong(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(DEPLOY / "helm/flannel"))
