"""etcd as the store, shared with Go flannel's nodes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from pyflannel.store.etcd.client import Etcd
from pyflannel.store.etcd.transport import TlsFiles
from pyflannel.store.keyed import KeyedStore


def etcd_store(
    endpoints: Sequence[str],
    prefix: str,
    tls: TlsFiles | None = None,
    user: str = "",
    password: str = "",
    *,
    clock: Callable[[], float] = time.time,
    rng: random.Random | None = None,
) -> KeyedStore:
    """The store below *prefix* of the etcd cluster at *endpoints*. Connects when first used. Raises ConfigError."""
    return KeyedStore(Etcd(endpoints, tls, user, password), prefix, clock=clock, rng=rng)
