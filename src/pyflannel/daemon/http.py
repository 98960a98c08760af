"""/healthz, /readyz, /status and /metrics over plain HTTP: flannel's paths and bodies (control-plane reference, 1.7).

Imported only when a port is asked for: starlette and uvicorn cost the daemon memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pyflannel.daemon.metrics import CONTENT_TYPE, exposition
from pyflannel.model.errors import ConfigError

GRACE_S = 3  # flannel's: what open connections get at the end
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # flannel answers any; HEAD comes with GET


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the daemon's


async def serve(ip: str, port: int, problems: Callable[[], list[str]], status: Callable[[], dict[str, Any]]) -> None:
    """Answer on *ip* (empty: every address) until cancelled. Raises ConfigError if the port can't be had.

    *problems* says what keeps this node from being ready, a sentence each; *status* is what /status shows.
    """
    listener = _listen(ip, port)
    config = uvicorn.Config(
        _app(problems, status), log_config=None, log_level="warning", access_log=False, lifespan="off", ws="none",
        http="h11", server_header=False, timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(task)
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()


def _app(problems: Callable[[], list[str]], status: Callable[[], dict[str, Any]]) -> Starlette:
    async def healthz(_: Request) -> Response:
        return PlainTextResponse("flanneld is running")

    async def readyz(_: Request) -> Response:
        found = problems()
        if not found:
            return PlainTextResponse("flanneld is ready")
        return PlainTextResponse("\n".join(["flanneld is not ready yet", *found]), 503)

    async def show(_: Request) -> Response:
        return JSONResponse(status())

    async def metrics(_: Request) -> Response:
        return Response(exposition(status()), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[
            Route("/healthz", healthz, methods=_METHODS),
            Route("/readyz", readyz, methods=_METHODS),
            Route("/status", show),
            Route("/metrics", metrics),
        ]
    )


def _listen(ip: str, port: int) -> socket.socket:
    """A listening socket. An empty *ip* means every address, of both families where the kernel has both."""
    try:
        if not ip and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        found = socket.getaddrinfo(ip or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server((str(address[0]), port), family=family)
    except socket.gaierror as error:
        raise ConfigError("options", "--healthz-ip", ip, f"an address of this host ({error.strerror})") from None
    except OSError as error:
        where = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
        flag = "--healthz-ip" if error.errno == errno.EADDRNOTAVAIL else "--healthz-port"
        words = os.strerror(error.errno) if error.errno else str(error)  # create_server adds the address to strerror
        raise ConfigError("options", flag, where, f"an address and port to listen on ({words})") from None
