"""Where the API server is and who we are to it: a pod's service account, a kubeconfig, or a bare URL.

Files are read anew for each request: tokens and certificates are replaced while we run (a pod's token each hour).
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyflannel.model.errors import ConfigError, StoreError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KUBECONFIG = "kubeconfig"


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate or key: in a file, or given as it is."""

    path: Path | None = None
    text: str = ""

    def read(self) -> str:
        """Raises StoreError."""
        if self.path is None:
            return self.text
        try:
            return self.path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.path} can't be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Access:
    """The API server's URL and our credentials. Without a CA the system's are trusted."""

    url: str
    ca: Pem | None = None
    cert: Pem | None = None
    key: Pem | None = None
    token: Pem | None = None
    verify: bool = True
    server_name: str = ""

    def headers(self) -> dict[str, str]:
        """Raises StoreError."""
        return {"Authorization": f"Bearer {self.token.read().strip()}"} if self.token else {}

    def tls(self) -> ssl.SSLContext | None:
        """None for http://. Raises StoreError naming what can't be used."""
        if not self.url.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca.read() if self.ca else None)
            if not self.verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if self.cert and self.key:
                # ssl reads only files; this one is in memory, as a pod's root is read-only and a key isn't for disks.
                with os.fdopen(os.memfd_create("client-certificate"), "w") as both:
                    both.write(f"{self.cert.read()}\n{self.key.read()}")
                    both.flush()
                    context.load_cert_chain(f"/proc/self/fd/{both.fileno()}")
        except (OSError, ValueError) as error:  # ssl.SSLError among them
            raise StoreError(f"the certificates for {self.url} can't be used: {error}") from None
        return context


def in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """As a pod's service account. Raises ConfigError outside a pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port or not (folder / "token").exists():
        raise ConfigError(
            "environment", "KUBERNETES_SERVICE_HOST", host or None,
            "that of a pod with a service account; outside of pods give --kubeconfig-file or --kube-api-url",
        )  # fmt: skip
    host = f"[{host}]" if ":" in host else host
    return Access(f"https://{host}:{port}", Pem(folder / "ca.crt"), token=Pem(folder / "token"))


def at_url(url: str) -> Access:
    """Without credentials. Raises ConfigError."""
    return Access(_checked(url, "options", "--kube-api-url"))


def from_kubeconfig(path: Path, url: str = "") -> Access:
    """The current context of the kubeconfig at *path*; *url* instead of its server if given. Raises ConfigError."""
    where = str(path)
    config = _load(path)
    context = _named(config, "contexts", "context", str(config.get("current-context") or ""), where)
    cluster = _named(config, "clusters", "cluster", str(context.get("cluster") or ""), where)
    user = _named(config, "users", "user", str(context.get("user") or ""), where) if context.get("user") else {}
    for unusable in ("exec", "auth-provider", "username"):
        if user.get(unusable):
            raise ConfigError(
                where, f"user {context['user']}'s {unusable}", "set",
                "a token, tokenFile or client-certificate: a daemon can't log in by a command or a password. "
                "`kubectl create token` makes a token for a service account",
            )  # fmt: skip
    server = url or str(cluster.get("server") or "")
    token_file, token = user.get("tokenFile"), user.get("token")
    return Access(
        _checked(server, "options" if url else where, "--kube-api-url" if url else "cluster's server"),
        _pem(cluster, "certificate-authority", path),
        _pem(user, "client-certificate", path),
        _pem(user, "client-key", path),
        Pem(path.parent / token_file) if token_file else Pem(text=str(token)) if token else None,
        verify=not cluster.get("insecure-skip-tls-verify"),
        server_name=str(cluster.get("tls-server-name") or ""),
    )


def _load(path: Path) -> Mapping[str, Any]:
    import yaml  # 15 ms that a pod doesn't need

    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("options", "--kubeconfig-file", str(path), f"a file that can be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), "the text", "no YAML", f"a kubeconfig ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise ConfigError(str(path), "the text", None, "a kubeconfig with clusters, users and contexts")
    return config


def _named(config: Mapping[str, Any], section: str, kind: str, name: str, where: str) -> Mapping[str, Any]:
    entries = config.get(section)
    found = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    for entry in found:
        if entry.get("name") == name:
            value = entry.get(kind)
            return value if isinstance(value, dict) else {}
    known = ", ".join(str(entry.get("name")) for entry in found) or f"an entry in {section}"
    field = "current-context" if kind == "context" else f"the context's {kind}"
    raise ConfigError(where, field, name or None, f"one of: {known}")


def _pem(section: Mapping[str, Any], name: str, path: Path) -> Pem | None:
    if data := section.get(f"{name}-data"):
        try:
            return Pem(text=base64.b64decode(data, validate=True).decode("ascii"))
        except (binascii.Error, ValueError, TypeError):
            raise ConfigError(str(path), f"{name}-data", "unreadable", "PEM text in base64") from None
    return Pem(path.parent / section[name]) if section.get(name) else None


def _checked(url: str, source: str, field: str) -> str:
    parts = urlsplit(url)
    try:
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or "@" in parts.netloc:
        raise ConfigError(source, field, url or None, "https://host:port")
    return url.rstrip("/")
