"""Where the API server is, and who we are to it: kubeconfigs, service accounts, bare URLs."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pyflannel.model.errors import ConfigError
from pyflannel.store.kubernetes.access import Access, Pem, at_url, from_kubeconfig, in_cluster


def kubeconfig(path: Path, user: str, server: str = "https://10.0.0.1:6443", current: str = "c") -> Path:
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: "{current}"
contexts: [{{name: c, context: {{cluster: k, user: u}}}}]
clusters: [{{name: k, cluster: {{server: "{server}", certificate-authority: ca.crt}}}}]
users: [{{name: u, user: {user}}}]
"""
    )
    return path


def test_kubeconfig(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "{token: abc}")
    assert from_kubeconfig(path) == Access("https://10.0.0.1:6443", Pem(tmp_path / "ca.crt"), token=Pem(text="abc"))
    assert from_kubeconfig(path, "https://10.0.0.2:6443/").url == "https://10.0.0.2:6443"
    data = base64.b64encode(b"PEM").decode()
    found = from_kubeconfig(
        kubeconfig(path, f"{{client-certificate-data: {data}, client-key: k.pem, tokenFile: sub/token}}")
    )
    assert (found.cert, found.key, found.token) == (
        Pem(text="PEM"), Pem(tmp_path / "k.pem"), Pem(tmp_path / "sub/token"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"user": "{exec: {command: aws}}"}, "user u's exec is .*kubectl create token"),
        ({"user": "{token: a}", "current": "d"}, 'current-context is "d", expected one of: c'),
        ({"user": "{token: a}", "current": ""}, "current-context is missing"),
        ({"user": "{token: a}", "server": "10.0.0.1"}, 'server is "10.0.0.1", expected https://host:port'),
        ({"user": "{token: a}", "server": "https://a:b@h:1"}, "expected https://host:port"),
        ({"user": "{client-certificate-data: '%%'}"}, "client-certificate-data"),
        ({"user": "{{"}, "expected a kubeconfig"),
    ],
)
def test_a_kubeconfig_that_is_wrong(tmp_path: Path, changes: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as error:
        from_kubeconfig(kubeconfig(tmp_path / "config", **changes))
    assert "%%" not in str(error.value), "a key's text is a secret"


def test_a_kubeconfig_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--kubeconfig-file"):
        from_kubeconfig(tmp_path / "nothing")
    (tmp_path / "list").write_text("- a\n")
    with pytest.raises(ConfigError, match="clusters, users and contexts"):
        from_kubeconfig(tmp_path / "list")
    with pytest.raises(ConfigError, match="--kube-api-url"):
        at_url("kubernetes")


def test_in_cluster(tmp_path: Path) -> None:
    where = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ConfigError, match="--kubeconfig-file or --kube-api-url"):
        in_cluster(where, tmp_path)
    (tmp_path / "token").write_text("abc\n")
    found = in_cluster(where, tmp_path)
    assert found.url == "https://[fd00::1]:443"
    assert found.headers() == {"Authorization": "Bearer abc"}
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST is missing"):
        in_cluster({}, tmp_path)
