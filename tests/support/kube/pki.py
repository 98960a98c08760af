"""A cluster's certificates and keys, made with openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Pki:
    """A CA in *folder*, and what it signs: `<name>.crt`, `<name>.key`, `<name>.kubeconfig`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._run("req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test-ca")
        self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")
        self._run("ec", "-in", "sa.key", "-pubout", "-out", "sa.pub")

    def path(self, name: str) -> Path:
        return self.folder / name

    def server(self, name: str, addresses: Sequence[str]) -> None:
        """A server's certificate for IP *addresses*."""
        self._sign(name, f"/CN={name}", "subjectAltName=" + ",".join(f"IP:{address}" for address in addresses))

    def client(self, name: str, user: str, group: str) -> None:
        """A client's certificate: Kubernetes takes CN for the user, O for the group."""
        self._sign(name, f"/O={group}/CN={user}", "extendedKeyUsage=clientAuth")

    def kubeconfig(self, name: str, url: str) -> Path:
        """A kubeconfig for the client *name*."""
        path = self.path(f"{name}.kubeconfig")
        path.write_text(
            f"""apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: "{name}"}}}}]
clusters: [{{name: test, cluster: {{server: "{url}", certificate-authority: "{self.path("ca.crt")}"}}}}]
users:
- name: "{name}"
  user: {{client-certificate: "{self.path(name)}.crt", client-key: "{self.path(name)}.key"}}
"""
        )
        return path

    def _sign(self, name: str, subject: str, extension: str) -> None:
        self.path(f"{name}.ext").write_text(extension)
        self._run("req", *KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        self._run(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.crt", "-days", "2", "-extfile", f"{name}.ext",
        )  # fmt: skip

    def _run(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)
