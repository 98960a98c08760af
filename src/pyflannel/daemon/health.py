"""Is this node's network as it should be? The truth behind /readyz, in both directions."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyflannel.store.contract import Contact

# Ours to tune: a store unheard for this long means that new peers are unknown to us; elections take 1 to 3 s.
STORE_PATIENCE_S = 30.0


class Health:
    """Collects what is wrong from those who know. Before `started`, the current step of the start is what is wrong."""

    def __init__(self, contact: Contact, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._contact, self._monotonic = contact, monotonic
        self._askers: list[Callable[[], list[str]]] = []
        self._standing: dict[str, str] = {}
        self.starting: str | None = "starting"

    def ask(self, asker: Callable[[], list[str]]) -> None:
        """Let *asker* be asked for problems from now on."""
        self._askers.append(asker)

    def set(self, topic: str, problem: str | None) -> bool:
        """A standing problem of *topic*, or its end. True if that is news."""
        if self._standing.get(topic) == problem:
            return False
        if problem is None:
            del self._standing[topic]
        else:
            self._standing[topic] = problem
        return True

    def problems(self) -> list[str]:
        """What keeps this node from being ready, one sentence each; empty if it is ready."""
        found = [self.starting] if self.starting else []
        found += self._standing.values()
        store = self.store_trouble(STORE_PATIENCE_S)
        found += [store] if store else []
        for asker in self._askers:
            found += asker()
        return found

    def store_trouble(self, patience_s: float = 0.0) -> str | None:
        """The store's trouble if it lasts longer than *patience_s*, with how long it does."""
        since, trouble = self._contact.since, self._contact.trouble
        if trouble is None or since is None or (lasting := self._monotonic() - since) < patience_s:
            return None
        return f"the store is unreachable for {_ago(lasting)} ({trouble}); running on the last leases known"


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
