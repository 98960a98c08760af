"""Backends by the name in the config: entry points `pyflannel.backends`, so that other packages can add one."""

from __future__ import annotations

from importlib.metadata import entry_points

from pyflannel.backend.contract import Factory
from pyflannel.model.errors import ConfigError
from pyflannel.model.network import SOURCE, NetworkConfig

GROUP = "pyflannel.backends"


def factory(config: NetworkConfig) -> Factory:
    """The factory of the config's Backend.Type. Raises ConfigError that lists what there is."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    entry = found.get(config.backend_type)
    if entry is None:
        raise ConfigError(SOURCE, "Backend.Type", config.backend_type, f"one of {', '.join(sorted(found))}")
    made: Factory = entry.load()
    return made
