"""A cluster's API, real or fake, as its administrator and as flannel see it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyflannel.model.lease import LeaseEvent
from pyflannel.store.kubernetes.access import Access
from pyflannel.store.kubernetes.annotations import Annotations
from pyflannel.store.kubernetes.client import Api, Object
from pyflannel.store.kubernetes.store import NODES, KubernetesStore

CONFIG = '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'
DUAL = '{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48", "Backend": {"Type": "vxlan"}}'
PREFIX = "flannel.alpha.coreos.com/"

_count = itertools.count()


class Admin(Api):
    """With what an administrator does besides."""

    async def delete(self, path: str) -> None:
        await self._call("DELETE", path)


@dataclass
class KubeCluster:
    """One API server; nodes made here have names of their own, so that tests can share it."""

    access: Access
    flannel: Access
    folder: Path
    made: list[str] = field(default_factory=list)
    config: str = CONFIG

    @property
    def admin(self) -> Admin:
        return Admin(self.access)

    def store(self, node: str | None = None, pod: tuple[str, str] | None = None, **more: Any) -> KubernetesStore:
        """One more client, on *node*."""
        path = self.folder / "net-conf.json"
        path.write_text(self.config)
        annotations = Annotations(more.pop("prefix", PREFIX))
        return KubernetesStore(Api(self.flannel), path, annotations, node, pod, rng=random.Random(0), **more)

    async def add(self, *cidrs: str, annotations: dict[str, str] | None = None) -> str:
        """A new node with the pod *cidrs*; its name."""
        name = f"node-{next(_count)}-{random.randrange(1 << 32):08x}"
        node: Object = {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": name, **({"annotations": annotations} if annotations else {})},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
        }
        await self.admin.create(NODES, node)
        self.made.append(name)
        return name

    async def peer(self, number: int, **changes: str) -> str:
        """A node as Go flannel's vxlan backend leaves it: 10.244.<number>.0/24."""
        published = {
            "backend-data": f'{{"VNI":1,"VtepMAC":"0a:00:00:00:00:{number & 255:02x}"}}',
            "backend-type": "vxlan",
            "kube-subnet-manager": "true",
            "public-ip": f"192.168.7.{number & 255}",
        } | {key.replace("_", "-"): value for key, value in changes.items()}
        annotations = {PREFIX + key: value for key, value in published.items()}
        return await self.add(f"10.244.{number}.0/24", annotations=annotations)

    async def node(self, name: str) -> Object:
        return await self.admin.get(f"{NODES}/{name}")

    async def flannels(self, name: str) -> dict[str, str]:
        """flannel's annotations on the node *name*, without their prefix."""
        found = (await self.node(name))["metadata"].get("annotations") or {}
        return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}

    async def annotate(self, name: str, **annotations: str | None) -> None:
        """Set or (None) remove flannel's annotations."""
        changes = {PREFIX + key.replace("_", "-"): value for key, value in annotations.items()}
        await self.admin.patch(f"{NODES}/{name}", {"metadata": {"annotations": changes}})

    async def delete(self, name: str) -> None:
        await self.admin.delete(f"{NODES}/{name}")
        self.made.remove(name)

    async def clean(self) -> None:
        for name in list(self.made):
            await self.delete(name)


class Events:
    """A watch, read with patience."""

    def __init__(self, events: AsyncGenerator[LeaseEvent, None]) -> None:
        self._events = events

    async def next(self, patience_s: float = 10.0) -> LeaseEvent:
        async with asyncio.timeout(patience_s):
            return await anext(self._events)

    async def none(self, within_s: float = 0.3) -> bool:
        """True if nothing comes. The watch is of no more use afterwards."""
        try:
            async with asyncio.timeout(within_s):
                await anext(self._events)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def watching(store: KubernetesStore) -> AsyncGenerator[Events, None]:
    """*store*'s watch, closed at the end."""
    events = store.watch()
    try:
        yield Events(events)
    finally:
        await events.aclose()
