"""Clusters for tests."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyflannel.lab.cluster import Cluster

Make = Callable[..., Cluster]


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> float:
    """Milliseconds until *holds*. Fails if it doesn't in time."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, f"not within {within_s:.0f} s"
        time.sleep(0.005)
    return (time.monotonic() - began) * 1e3
