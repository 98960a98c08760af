from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cni import Host
from support.netns import Netns, namespace


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with namespace("cni") as netns:
        made = Host(netns, tmp_path)
        made.lease()
        yield made


@pytest.fixture
def pod() -> Iterator[Netns]:
    with namespace("pod") as netns:
        yield netns
