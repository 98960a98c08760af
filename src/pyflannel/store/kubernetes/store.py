"""Kubernetes as the store, shared with Go flannel's nodes. What it promises: store/contract.py.

A node's lease is its node object: the subnets are its podCIDRs, given by the controller manager; what it publishes
are annotations, written through the status subresource (so no write right on nodes is needed), as flannel does.
A lease here never expires, and is told by the node's name instead of by its address.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from pyflannel.model.errors import ConfigError, ConfigMissing, LeasePending, LeaseTaken, StoreError
from pyflannel.model.lease import Added, Lease, LeaseAttrs, LeaseEvent, Removed, Snapshot, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.store.contract import Contact
from pyflannel.store.keyed import BACKOFF_FIRST_S, BACKOFF_LAST_S
from pyflannel.store.kubernetes.annotations import Annotations, Families, node_name, own_subnets
from pyflannel.store.kubernetes.client import Api, Expired, NotFound, Object
from pyflannel.store.kubernetes.notices import Notices

log = logging.getLogger(__name__)

NODES = "/api/v1/nodes"
# Ours to tune.
HASTY_S = 1.0  # client-go's: a watch that ends sooner, and without news, is a fault (a proxy's?) to back off from

FLAGS = "the controller manager gives one if it runs with --allocate-node-cidrs=true and --cluster-cidr"


class KubernetesStore:
    """The leases of the cluster behind *api*, seen from *node* (None: asked for by name of the *pod*, namespace and
    name). The network config is the file *config*. Clocks, chance and sleep are given."""

    def __init__(
        self,
        api: Api,
        config: Path,
        annotations: Annotations,
        node: str | None,
        pod: tuple[str, str] | None = None,
        *,
        set_condition: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._api, self._config, self._annotations = api, config, annotations
        self._node, self._pod, self._set_condition = node, pod, set_condition
        self._monotonic, self._sleep, self._rng = monotonic, sleep, rng or random.Random()
        self._published: LeaseAttrs | None = None
        self._notices = Notices(api, monotonic)
        self.contact = Contact()

    @property
    def name(self) -> str:
        return f"Kubernetes at {self._api.url}"

    # The config

    async def network_config(self) -> NetworkConfig:
        text = await self.config_text()
        if text is None:
            raise ConfigMissing(
                f"there is no network config at {self._config}: mount the ConfigMap kube-flannel-cfg there, or name "
                "the file by --net-config-path"
            )
        return NetworkConfig.parse(text, str(self._config), allocates=False)

    async def config_text(self) -> str | None:
        try:
            return self._config.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self._config} can't be read: {error}") from None

    async def write_config(self, text: str) -> None:
        raise StoreError(
            f"with Kubernetes the network config is a file, {self._config}: change the ConfigMap kube-flannel-cfg "
            "(`kubectl -n kube-flannel edit configmap kube-flannel-cfg`), then restart the DaemonSet"
        )

    # Leases

    async def leases(self) -> tuple[Lease, ...]:
        families = await self._families()
        nodes, _ = await self._list(NODES)
        found = (self._lease(node, families) for node in nodes)
        return tuple(lease for lease in found if lease is not None)

    async def recall(self, attrs: LeaseAttrs, previous: Subnets | None) -> Lease | None:
        """What this node published; whatever its address was then: a node is told by its name."""
        try:
            node = await self._own()
            subnets = own_subnets(node, await self.network_config())
        except (LeasePending, ConfigError):
            return None
        return None if subnets is None else Lease(subnets, self._annotations.attrs(node))

    async def acquire(self, attrs: LeaseAttrs, previous: Subnets | None) -> Lease:
        """Publish *attrs* on our node. Raises LeasePending while it has no pod CIDR; ConfigError if that one isn't
        inside the network (before anything is published: flannel publishes first)."""
        node = await self._own()
        try:
            subnets = own_subnets(node, await self.network_config())
        except ConfigError as error:
            await self._notices.tell(node_name(node), "FlannelPodCIDRUnusable", str(error))
            raise
        if subnets is None:
            why = f"node {node_name(node)} has no spec.podCIDR yet: {FLAGS}"
            await self._notices.tell(node_name(node), "FlannelNoPodCIDR", f"flannel waits: {why}")
            raise LeasePending(why)
        self._published = attrs
        await self._publish(node)
        return Lease(subnets, attrs)

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        attrs = attrs or lease.attrs
        node = await self._own()
        subnets = own_subnets(node, await self.network_config())
        if subnets != lease.subnets:
            raise LeaseTaken(f"node {node_name(node)} has {subnets or 'no pod CIDR'} now instead of {lease.subnets}")
        self._published = attrs
        await self._publish(node)
        return Lease(lease.subnets, attrs)

    async def announce(self, attrs: LeaseAttrs, name: str, ident: str) -> None:
        """Nothing to do: the API server has each node once, and the kubelet says that it lives."""

    async def release(self, subnets: Subnets) -> bool:
        self._not_ours()

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> Lease:
        self._not_ours()

    def _not_ours(self) -> NoReturn:
        raise StoreError(
            "with Kubernetes a subnet is a node's spec.podCIDR, which the controller manager gives and `kubectl delete "
            "node` gives back"
        )

    # This node

    async def chosen_addresses(self) -> tuple[str, str]:
        try:
            return self._annotations.chosen_addresses(await self._own())
        except LeasePending:
            return "", ""

    async def network_is_up(self) -> None:
        """Patch our node's NetworkUnavailable condition, as flannel does: nothing is scheduled before."""
        if not self._set_condition:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "FlannelIsUp",
            "message": "Flannel is running on this node",
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        }
        await self._api.patch(f"{NODES}/{await self._own_name()}/status", {"status": {"conditions": [condition]}})

    async def _own_name(self) -> str:
        if self._node is None:
            assert self._pod is not None
            namespace, name = self._pod
            pod = await self._api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
            found = (pod.get("spec") or {}).get("nodeName")
            if not found:
                raise LeasePending(f"pod {namespace}/{name} is on no node yet")
            self._node = str(found)
        return self._node

    async def _own(self) -> Object:
        name = await self._own_name()
        try:
            return await self._api.get(f"{NODES}/{quote(name, safe='')}")
        except NotFound:
            raise LeasePending(
                f"the API server knows no node {name}: has its kubelet registered, and under that name (NODE_NAME)?"
            ) from None

    async def _publish(self, node: Object) -> bool:
        """Write on our *node* what is missing there. True if anything was."""
        assert self._published is not None
        missing = self._annotations.missing(node, self._published)
        if missing:
            await self._api.patch(f"{NODES}/{node_name(node)}/status", {"metadata": {"annotations": missing}})
        return bool(missing)

    # The watch

    async def watch(self) -> AsyncGenerator[LeaseEvent, None]:
        revision = ""
        known: dict[str, Lease] = {}
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                families, selector = await self._families(), await self._selector()
                if not revision:
                    nodes, listed = await self._list(NODES, selector)
                    self._heard()
                    known = {}
                    for node in nodes:
                        if (lease := await self._told_lease(node, families)) is not None:
                            known[node_name(node)] = lease
                    revision = listed
                    yield Snapshot(_by_subnets(known.values()))
                began, news = self._monotonic(), False
                async with aclosing(self._api.watch(NODES, revision, selector)) as changes:
                    async for change in changes:
                        self._heard()
                        if change.object is not None:
                            news = True
                            lease = None if change.gone else await self._told_lease(change.object, families)
                            for event in _events(known, node_name(change.object), lease):
                                yield event
                        revision = change.revision or revision
                if news or self._monotonic() - began >= HASTY_S:
                    pause_s = BACKOFF_FIRST_S
                    continue
                log.debug("the watch ended at once")
            except Expired:
                log.info("the API server no longer keeps the changes since revision %s: listing all nodes", revision)
                revision = ""
            except StoreError as error:
                if self.contact.failed(self._monotonic(), str(error)):
                    log.warning("store: %s; traffic goes on, retrying", error)
            await self._sleep(pause_s * self._rng.uniform(0.5, 1.5))  # nodes that lost one server don't come as one
            pause_s = min(pause_s * 2, BACKOFF_LAST_S)

    async def _list(self, path: str, selector: str = "") -> tuple[list[Object], str]:
        for _ in range(3):
            try:
                return await self._api.list(path, selector, _essence)
            except Expired:
                continue  # the revision of its first chunk went out of date while the others were read
        raise StoreError(f"{self.name}: its nodes change faster than they can be listed; try again")

    async def _selector(self) -> str:
        """alloc has no use for peers: it watches its own node alone, so that big clusters aren't asked for all."""
        config = await self.network_config()
        return f"metadata.name={await self._own_name()}" if config.backend_type == "alloc" else ""

    async def _families(self) -> Families:
        try:
            return Families.of(await self.network_config())
        except (ConfigMissing, ConfigError):
            return Families()  # an operator's tool, far from the node's files

    async def _told_lease(self, node: Object, families: Families) -> Lease | None:
        """*node*'s lease as the daemon wants it told. On our own node what others changed is put right at once, and
        the lease is what we published: an overwritten public address is the peers' business."""
        if self._published is None or node_name(node) != self._node:
            return self._lease(node, families)
        try:
            if await self._publish(node):
                log.warning("this node's annotations weren't as published: written again")
        except StoreError as error:  # no reason to be deaf to the peers; the node's next change (5 min) tries again
            log.warning("this node's annotations aren't as published, and can't be written: %s", error)
        try:
            subnets = own_subnets(node, await self.network_config())
        except (ConfigError, ConfigMissing):
            subnets = None
        return None if subnets is None else Lease(subnets, self._published)

    def _lease(self, node: Object, families: Families) -> Lease | None:
        try:
            return self._annotations.lease(node, families)
        except ConfigError as error:
            log.warning("a node is left out: %s", error)
            return None

    def _heard(self) -> None:
        if self.contact.ok(self._monotonic()):
            log.info("store: %s answers again", self._api.url)

    async def close(self) -> None:
        """Nothing is held open."""


def _essence(node: Object) -> Object:
    """What a lease is read from: a node's status (images, conditions) is a hundred times that."""
    meta, spec = node.get("metadata") or {}, node.get("spec") or {}
    return {
        "metadata": {name: meta[name] for name in ("name", "annotations") if name in meta},
        "spec": {name: spec[name] for name in ("podCIDR", "podCIDRs") if name in spec},
    }


def _events(known: dict[str, Lease], name: str, lease: Lease | None) -> list[LeaseEvent]:
    """What node *name* having *lease* now means; *known*, the leases by node, is brought up to date."""
    before = known.pop(name, None)
    if lease is not None:
        known[name] = lease
    if lease == before:
        return []
    events: list[LeaseEvent] = []
    if before is not None and (lease is None or lease.subnets != before.subnets):
        heir = next((other for other in known.values() if other.subnets == before.subnets), None)
        events.append(Added(heir) if heir else Removed(before.subnets))
    return [*events, Added(lease)] if lease is not None else events


def _by_subnets(leases: Iterable[Lease]) -> tuple[Lease, ...]:
    """One lease a subnet: two nodes with one CIDR are a broken cluster, but no reason to plan one row twice."""
    return tuple({lease.subnets: lease for lease in leases}.values())
