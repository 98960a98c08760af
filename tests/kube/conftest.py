from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.kube.control import ControlPlane
from support.kube.control import control_plane as run


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server, without controllers: nodes get the pod CIDRs that a test gives them."""
    with run(tmp_path_factory.mktemp("kube")) as plane:
        yield plane
