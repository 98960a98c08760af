from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pyflannel.lab.cluster import Cluster, Plan
from support.lab import Make

_count = itertools.count()


@pytest.fixture(params=["local", "etcd"])
def store(request: pytest.FixtureRequest) -> str:
    """Every test of a cluster runs over each store."""
    return str(request.param)


@pytest.fixture
def make(store: str) -> Iterator[Make]:
    """Makes clusters (keywords as of Plan), and takes them down."""
    with ExitStack() as stack:

        def up(wait: bool = True, **plan: Any) -> Cluster:
            name = f"t{os.getpid() % 0xFFF:x}x{next(_count):x}"
            cluster = Cluster(Plan(**{"name": name, "nodes": 2, "store": store, **plan}))
            stack.callback(cluster.down)
            return cluster.up(wait)

        yield up
