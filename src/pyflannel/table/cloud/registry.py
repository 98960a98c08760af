"""Fabrics by the name in the config: entry points `pyflannel.clouds`, so that other packages can add one."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from pyflannel.model.errors import ConfigError
from pyflannel.model.network import SOURCE, NetworkConfig
from pyflannel.table.cloud.contract import Fabric, Opener

GROUP = "pyflannel.clouds"


def is_cloud(backend_type: str) -> bool:
    """Does a cloud's network carry the packets of this Backend.Type?"""
    return backend_type in _found()


def open_fabric(config: NetworkConfig) -> Fabric | None:
    """The fabric of the config's Backend.Type; None if that is no cloud's. Raises ConfigError."""
    entry = _found().get(config.backend_type)
    if entry is None:
        return None
    opener: Opener = entry.load()
    return opener(config.backend)


@cache
def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def missing(backend: str, extra: str, module: str) -> ConfigError:
    """What to raise where an SDK's *module* can't be imported."""
    return ConfigError(
        SOURCE, "Backend.Type", backend, f"its SDK beside it ({module} isn't there): pip install 'pyflannel[{extra}]'"
    )
