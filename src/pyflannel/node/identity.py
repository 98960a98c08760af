"""What tells this node from a clone with the same name or address: a random word, kept over reboots."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from pyflannel.wire.files import write_atomically

log = logging.getLogger(__name__)


def identity(folder: Path) -> str:
    """The word in *folder*/node-id, made if there is none. Where it can't be kept it lasts for this run."""
    path = folder / "node-id"
    try:
        found = path.read_text().strip()
        if found:
            return found
    except OSError:
        pass
    made = uuid.uuid4().hex
    try:
        write_atomically(path, made + "\n", 0o600)
    except OSError as error:
        log.warning("%s can't be written (%s): after a restart this node looks like another", path, error.strerror)
    return made
