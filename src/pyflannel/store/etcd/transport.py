"""One endpoint of etcd over gRPC. The only module that knows the gRPC library."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from google.protobuf.message import Message
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from pyflannel.model.errors import ConfigError

M = TypeVar("M", bound=Message)
FLAG = "--etcd-endpoints"


class Unavailable(Exception):
    """This endpoint does not answer, or can't serve now: another may."""


class Refused(Exception):
    """The server answered: no. `auth` if it wants a (new) token."""

    def __init__(self, words: str, auth: bool = False) -> None:
        super().__init__(words)
        self.auth = auth


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. A CA alone verifies the server; key and certificate together prove who we are."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class Stream(Protocol):
    """A bidirectional call."""

    async def send(self, message: Message) -> None: ...

    async def receive(self) -> Message | None: ...


class Transport:
    """A connection to *endpoint*, made when first used and made again after a failure.

    `http://host:port`, `https://…`, `unix:///path`, `unixs://…`, or `host:port` (TLS if key and certificate are
    given): flannel's forms. Raises ConfigError for any other.
    """

    def __init__(self, endpoint: str, tls: TlsFiles) -> None:
        self.endpoint = endpoint
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        self._path = parts.netloc + parts.path if parts.scheme.startswith("unix") else None
        self._host, self._port = parts.hostname, port
        known = parts.scheme in ("", "http", "https", "unix", "unixs")
        if not known or (self._path is None and not (self._host and port)) or self._path == "":
            raise ConfigError("options", FLAG, endpoint, "http://host:port, https://host:port or unix:///path")
        secure = parts.scheme in ("https", "unixs") or (parts.scheme == "" and tls.cert is not None)
        self._ssl = _context(tls) if secure else None
        self._channel: Channel | None = None

    async def unary(self, method: str, request: Message, answer: type[M], deadline_s: float, token: str | None) -> M:
        """One call. Raises Unavailable or Refused."""
        call: UnaryUnaryMethod[Message, M] = UnaryUnaryMethod(self._open(), method, type(request), answer)
        try:
            async with asyncio.timeout(deadline_s), _errors():
                return await call(request, metadata=_metadata(token))
        except TimeoutError:
            self.close()  # perhaps half open: the next call makes a new connection
            raise Unavailable(f"no answer within {deadline_s:.0f} s") from None
        except Unavailable:
            self.close()
            raise

    @asynccontextmanager
    async def stream(
        self, method: str, request: type[Message], answer: type[Message], token: str | None
    ) -> AsyncIterator[Stream]:
        """A bidirectional call, ended when the context is left."""
        call: StreamStreamMethod[Any, Any] = StreamStreamMethod(self._open(), method, request, answer)
        try:
            async with _errors(), call.open(metadata={**_metadata(token), "hasleader": "true"}) as stream:
                try:
                    yield _Stream(stream)
                finally:
                    await stream.cancel()
        except Unavailable:
            self.close()
            raise

    def _open(self) -> Channel:
        if self._channel is None:
            if self._path is not None:
                self._channel = Channel(path=self._path, ssl=self._ssl)
            else:
                self._channel = Channel(self._host, self._port, ssl=self._ssl)
        return self._channel

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, message: Message) -> None:
        async with _errors():
            await self._stream.send_message(message)

    async def receive(self) -> Message | None:
        async with _errors():
            message: Message | None = await self._stream.recv_message()
            return message


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    """The library's errors as ours."""
    try:
        yield
    except GRPCError as error:
        words = (error.message or error.status.name).removeprefix("etcdserver: ")
        if error.status is Status.UNAUTHENTICATED or "invalid auth token" in words:
            raise Refused(words, auth=True) from None
        if error.status in (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.CANCELLED) or "no leader" in words:
            raise Unavailable(words) from None
        raise Refused(words) from None
    except (StreamTerminatedError, ProtocolError) as error:
        raise Unavailable(str(error) or "the connection was lost") from None
    except ssl.SSLError as error:
        raise Unavailable(f"TLS: {error.reason or error}") from None
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:
            raise  # a deadline of our own
        raise Unavailable(error.strerror or str(error)) from None


def _metadata(token: str | None) -> dict[str, str]:
    return {} if token is None else {"token": token}


def _context(tls: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
        if tls.cert is not None:
            context.load_cert_chain(str(tls.cert), str(tls.key))
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path)
        raise ConfigError(
            "options", "--etcd-cafile, --etcd-certfile, --etcd-keyfile", files, f"PEM files ({error})"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
