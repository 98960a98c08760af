"""Kubernetes Events on this node: what flannel waits for is told where operators look, by `kubectl describe node`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from pyflannel.model.errors import StoreError
from pyflannel.store.kubernetes.client import Api

log = logging.getLogger(__name__)

# Ours to tune.
AGAIN_S = 1800.0  # an API server forgets Events after an hour
AGAIN_IF_FAILED_S = 60.0
_PATH = "/api/v1/namespaces/default/events"


class Notices:
    """Tells each message once, and again as long as it is told to and the API server may have forgotten it."""

    def __init__(self, api: Api, monotonic: Callable[[], float]) -> None:
        self._api, self._monotonic = api, monotonic
        self._told, self._again_at = "", 0.0

    async def tell(self, node: str, reason: str, message: str) -> None:
        """An Event on *node*. One that can't be written is logged, and no trouble."""
        if self._told == message and self._monotonic() < self._again_at:
            return
        self._told, self._again_at = message, self._monotonic() + AGAIN_S
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{node}.flannel.", "namespace": "default"},
            # The kubelet's way: a node's events are found by its name as uid.
            "involvedObject": {"kind": "Node", "name": node, "uid": node, "apiVersion": "v1"},
            "type": "Warning",
            "reason": reason,
            "message": message[:1024],  # the API's limit
            "source": {"component": "flanneld", "host": node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.create(_PATH, event)
        except StoreError as error:
            self._again_at = self._monotonic() + AGAIN_IF_FAILED_S
            log.info("no Event could be written: %s", error)
