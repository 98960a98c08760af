"""The embedded store, with nothing to install."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from pyflannel.store.keyed import KeyedStore
from pyflannel.store.local.sqlite import Sqlite

DEFAULT_PREFIX = "/coreos.com/network"  # flannel's, in etcd


def local_store(
    path: Path,
    prefix: str = DEFAULT_PREFIX,
    *,
    clock: Callable[[], float] = time.time,
    rng: random.Random | None = None,
) -> KeyedStore:
    """The store in the SQLite file at *path*; clusters with different prefixes may share it."""
    return KeyedStore(Sqlite(path, clock), prefix, clock=clock, rng=rng)
