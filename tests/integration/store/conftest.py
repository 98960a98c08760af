from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pyflannel.lab.etcd_server import EtcdCluster
from support.stores import Cluster, cluster


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(params=["local", "etcd"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A fresh cluster over each kind of store."""
    server = request.getfixturevalue("etcd") if request.param == "etcd" else None
    async with cluster(request.param, tmp_path, server) as made:
        yield made
