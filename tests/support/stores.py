"""Stores for tests: the same suite runs over each of them."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from pyflannel.lab.etcd_server import EtcdCluster
from pyflannel.model.lease import LeaseAttrs
from pyflannel.store.etcd.client import Etcd
from pyflannel.store.keyed import KeyedStore
from pyflannel.store.local.sqlite import Sqlite

_count = itertools.count()
CONFIG = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'


class Clock:
    """Unix time that stands still until it's moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Cluster:
    """A store's database, and any number of clients of it that share a prefix."""

    database: Callable[[Clock], Sqlite | Etcd]
    prefix: str
    clock: Clock = field(default_factory=Clock)
    made: list[KeyedStore] = field(default_factory=list)

    def store(self, seed: int = 0) -> KeyedStore:
        """One more client."""
        found = KeyedStore(self.database(self.clock), self.prefix, clock=self.clock, rng=random.Random(seed))
        self.made.append(found)
        return found

    def raw(self) -> Sqlite | Etcd:
        """The database itself, to put into it what no store of ours would."""
        return self.database(self.clock)


@asynccontextmanager
async def cluster(kind: str, folder: Path, etcd: EtcdCluster | None) -> AsyncIterator[Cluster]:
    """A fresh cluster of *kind* "local" or "etcd"."""
    prefix = f"/test/{os.getpid()}/{next(_count)}/network"
    if kind == "local":
        made = Cluster(lambda clock: Sqlite(folder / "store.db", clock), prefix)
    else:
        assert etcd is not None
        endpoints = etcd.endpoints
        made = Cluster(lambda clock: Etcd(endpoints), prefix)
    try:
        yield made
    finally:
        for store in made.made:
            await store.close()


def attrs(number: int, backend_data: str | None = None) -> LeaseAttrs:
    """What node *number* publishes."""
    return LeaseAttrs(IPv4Address(f"192.168.{number >> 8}.{number & 255}"), None, "vxlan", backend_data)


def attrs6(number: int) -> LeaseAttrs:
    return LeaseAttrs(None, IPv6Address(f"fd00:7::{number:x}"), "vxlan")


@contextmanager
def certificates(folder: Path) -> Iterator[Path]:
    """A CA, a server's certificate for 127.0.0.1 and a client's, as PEM files in *folder*."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)

    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=test-ca")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
        openssl(
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile san"
        )
    yield folder
