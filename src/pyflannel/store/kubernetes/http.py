"""HTTP/1.1 over asyncio's streams, one request a connection. The only module that knows the HTTP library.

A daemon makes a handful of requests and one watch that lasts for minutes: a pool of connections would be more code
than use, and a fresh connection takes renewed certificates and tokens by itself.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from pyflannel import __version__

CHUNK = 65536
# Ours to tune: a server that vanished (its host lost power) is noticed within 30 s, though a watch is silent for long.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),  # ms
)


class Unavailable(Exception):
    """No (whole) answer came: refused, cut, timed out, or not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's status and body, the latter still to be read."""

    status: int
    body: AsyncIterator[bytes]

    async def whole(self) -> bytes:
        """The body to its end."""
        return b"".join([part async for part in self.body])


@asynccontextmanager
async def request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str = "",
    deadline_s: float = 10.0,
) -> AsyncIterator[Answer]:
    """Send one request; its answer once the head has come, within *deadline_s*. The body has no deadline: give it one
    outside. Raises Unavailable, also while the body is read."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname=(server_name or host) if tls else None
            )
            _watch_over(writer)
            connection = h11.Connection(h11.CLIENT)
            await _send(connection, writer, method, parts.netloc, parts.path, parts.query, headers, body)
            head = await _event(connection, reader)
            while isinstance(head, h11.InformationalResponse):
                head = await _event(connection, reader)
        if not isinstance(head, h11.Response):
            raise Unavailable(f"{host}:{port} closed the connection without an answer")
        yield Answer(head.status_code, _body(connection, reader))
    except TimeoutError:
        raise Unavailable(f"{host}:{port} doesn't answer within {deadline_s:.0f} s") from None
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(f"{host}:{port} has a certificate that isn't trusted: {error.verify_message}") from None
    except OSError as error:
        raise Unavailable(f"{host}:{port}: {error.strerror or error}") from None
    except h11.ProtocolError as error:
        raise Unavailable(f"{host}:{port} cut the answer, or speaks no HTTP: {error}") from None
    finally:
        if writer is not None:
            writer.transport.abort()  # a watch is ended in the middle: there is nothing to flush


async def _send(
    connection: h11.Connection,
    writer: asyncio.StreamWriter,
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
) -> None:
    fields = {
        "Host": host, "User-Agent": f"pyflannel/{__version__}", "Accept": "application/json", "Connection": "close",
        **headers,
    }  # fmt: skip
    if body:
        fields["Content-Length"] = str(len(body))
    target = f"{path or '/'}?{query}" if query else path or "/"
    for event in (
        h11.Request(method=method, target=target, headers=list(fields.items())),
        *([h11.Data(data=body)] if body else []),
        h11.EndOfMessage(),
    ):
        writer.write(connection.send(event) or b"")
    await writer.drain()


async def _event(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(CHUNK))
    return event  # type: ignore[return-value]  # NEED_DATA is the only other, excluded above


async def _body(connection: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while isinstance(event := await _event(connection, reader), h11.Data):
        yield bytes(event.data)


def _watch_over(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    for level, option, value in _KEEPALIVE:
        sock.setsockopt(level, option, value)
