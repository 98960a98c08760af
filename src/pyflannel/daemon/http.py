"""/healthz, /readyz and /status over plain HTTP: flannel's paths and bodies (control-plane reference, 1.7)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pyflannel.model.errors import ConfigError

GRACE_S = 3  # flannel's


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the daemon's


async def serve(ip: str, port: int, problems: Callable[[], list[str]], status: Callable[[], dict[str, Any]]) -> None:
    """Answer until cancelled. Raises ConfigError if the port can't be had."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("flanneld is running")

    async def readyz(_: Request) -> Response:
        found = problems()
        if not found:
            return PlainTextResponse("flanneld is ready")
        return PlainTextResponse("\n".join(["flanneld is not ready yet", *found]), 503)

    async def show(_: Request) -> Response:
        return JSONResponse(status())

    app = Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/status", show)])
    family = socket.AF_INET6 if ip_address(ip).version == 6 else socket.AF_INET
    try:
        listener = socket.create_server((ip, port), family=family)
    except OSError as error:
        raise ConfigError(
            "options", "--healthz-port", f"{ip}:{port}", f"an address to listen on ({error.strerror})"
        ) from None
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE_S)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(task)
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
