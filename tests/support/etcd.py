"""Real etcd for tests: the operator's tool, stores that are closed again, users, and answers that get lost."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.store.etcd.client import Etcd
from pyflannel.store.etcd.transport import TlsFiles, Transport, Unavailable
from pyflannel.store.keyed import KeyedStore

PREFIX = "/coreos.com/network"


@asynccontextmanager
async def opened(
    endpoints: list[str], tls: TlsFiles | None = None, user: str = "", password: str = "", prefix: str = PREFIX
) -> AsyncIterator[KeyedStore]:
    """A store on *endpoints*, closed in the end."""
    store = KeyedStore(Etcd(endpoints, tls, user, password), prefix)
    try:
        yield store
    finally:
        await store.close()


def etcdctl(cluster: EtcdCluster, *words: str) -> str:
    """What etcdctl prints. Raises CalledProcessError."""
    command = ["etcdctl", "--endpoints", cluster.endpoints[0], *words]
    env = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def enable_auth(cluster: EtcdCluster) -> None:
    """From now on only root:secret and flannel:pass get in; flannel may do what flannel's documentation says."""
    for words in (
        "user add root:secret", "user grant-role root root", "role add flannel", "user add flannel:pass",
        "user grant-role flannel flannel", f"role grant-permission flannel read {PREFIX}/config",
        f"role grant-permission flannel readwrite {PREFIX}/subnets/ --prefix", "auth enable",
    ):  # fmt: skip
        etcdctl(cluster, *words.split())


def lose(patch: pytest.MonkeyPatch, *faults: tuple[str, str]) -> list[tuple[str, str]]:
    """Each fault ("answer" or "request", method) strikes one call of that method, in this order: the connection
    breaks after or before the server has carried it out. Returns those that haven't struck yet."""
    left, real = list(faults), Transport.unary

    async def unary(self: Transport, method: str, *rest: Any) -> Any:
        if left and method.endswith(left[0][1]):
            what, _ = left.pop(0)
            if what == "answer":
                await real(self, method, *rest)
            raise Unavailable("the connection was lost")
        return await real(self, method, *rest)

    patch.setattr(Transport, "unary", unary)
    return left
