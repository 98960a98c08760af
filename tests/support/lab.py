"""Clusters for tests."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyflannel.lab.cluster import Cluster, Plan

Make = Callable[..., Cluster]
_count = itertools.count()


@contextmanager
def lab(wait: bool = True, **plan: Any) -> Iterator[Cluster]:
    """A cluster of two nodes (keywords as of Plan) under a name of its own; gone after the body.

    `with lab(backend="host-gw", store="etcd") as cluster:`
    """
    name = f"k{os.getpid() % 0xFFF:x}x{next(_count):x}"
    cluster = Cluster(Plan(**{"name": name, "nodes": 2, **plan}))
    try:
        yield cluster.up(wait)
    finally:
        cluster.down()


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> float:
    """Milliseconds until *holds*. Fails if it doesn't in time."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, f"not within {within_s:.0f} s"
        time.sleep(0.005)
    return (time.monotonic() - began) * 1e3
