"""The last good state on disk: what a node starts from when the store doesn't answer at boot."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyflannel.model.errors import FlannelError
from pyflannel.model.lease import Lease
from pyflannel.store.keys import decode_key, decode_value, encode_key, encode_value
from pyflannel.wire.files import write_atomically

log = logging.getLogger(__name__)
VERSION = 1
# What reading a file can end in that a crash, a full disk or a hand has spoilt.
BROKEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, FlannelError)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The config's text, our lease, our peers' leases, and when that was known (Unix seconds)."""

    config: str
    own: Lease
    peers: tuple[Lease, ...]
    at: float

    def to_text(self) -> str:
        leases = {encode_key(lease.subnets): [encode_value(lease.attrs), lease.expires] for lease in self.peers}
        own = [encode_key(self.own.subnets), encode_value(self.own.attrs), self.own.expires]
        return json.dumps({"version": VERSION, "at": self.at, "config": self.config, "own": own, "peers": leases})

    @classmethod
    def from_text(cls, text: str, source: str) -> Checkpoint:
        """Raises one of BROKEN if *text* is none."""
        data = json.loads(text)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}")
        key, value, expires = data["own"]
        own = _lease(key, value, expires, source)
        peers = tuple(_lease(key, value, expires, source) for key, (value, expires) in data["peers"].items())
        return cls(str(data["config"]), own, peers, _time(data["at"]))


def _lease(key: str, value: str, expires: Any, source: str) -> Lease:
    subnets = decode_key(key)
    if subnets is None:
        raise ValueError(f"{key} names no subnet")
    return Lease(subnets, decode_value(value, source), None if expires is None else _time(expires))


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no time")
    return float(value)


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at *path*; None if there is none, or (said in the log) it can't be read."""
    try:
        return Checkpoint.from_text(path.read_text(), str(path))
    except FileNotFoundError:
        return None
    except (OSError, *BROKEN) as error:
        log.warning("the checkpoint %s can't be used: %s", path, error)
        return None


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write it so that a crash leaves the old or the new one. Raises OSError."""
    write_atomically(path, checkpoint.to_text(), 0o600)
