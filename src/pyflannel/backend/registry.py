"""Backends by the name in the config: entry points `pyflannel.backends`, so that other packages can add one."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from pyflannel.backend.contract import Factory
from pyflannel.model.errors import ConfigError
from pyflannel.model.network import SOURCE, NetworkConfig

GROUP = "pyflannel.backends"


def factory(config: NetworkConfig) -> Factory:
    """The factory of the config's Backend.Type. Raises ConfigError that lists what there is."""
    found = _found()
    entry = found.get(config.backend_type)
    if entry is None:
        raise ConfigError(SOURCE, "Backend.Type", config.backend_type, f"one of {', '.join(sorted(found))}")
    made: Factory = entry.load()
    return made


@cache
def _found() -> dict[str, EntryPoint]:
    """By name. Every package installed is looked through for them: some hundredths of a second."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}
