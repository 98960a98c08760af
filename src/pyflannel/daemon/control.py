"""The daemon's status for `flannelctl`, on a Unix socket beside subnet.env: whoever connects is told all of it, as one
JSON object, and hung up on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


async def serve(path: Path, status: Callable[[], dict[str, Any]]) -> None:
    """Answer at *path* until cancelled. A socket that can't be made is said, and no reason to stop."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(status()).encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        server = await asyncio.start_unix_server(answer, path)  # takes the place of a dead daemon's socket
        path.chmod(0o600)  # noqa: ASYNC240  # no disk: /run
    except OSError as error:
        log.warning("`flannelctl status` won't work: no socket at %s: %s", path, error.strerror or error)
        return
    async with server:
        try:
            await server.serve_forever()
        finally:
            path.unlink(missing_ok=True)  # noqa: ASYNC240  # likewise
