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

from google.protobuf.message import DecodeError, Message
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from pyflannel.model.errors import ConfigError

M = TypeVar("M", bound=Message)
# What a server says when a (new) token would help: it has none of ours, it expired, or users and roles have changed.
WANTS_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")
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
        channel = self._open()
        call: UnaryUnaryMethod[Message, M] = UnaryUnaryMethod(channel, method, type(request), answer)
        try:
            async with asyncio.timeout(deadline_s), _errors():
                return await call(request, metadata=_metadata(token))
        except TimeoutError:
            self._drop(channel)  # perhaps half open: the next call makes a new connection
            raise Unavailable(f"no answer within {deadline_s:.0f} s") from None
        except Unavailable:
            self._drop(channel)
            raise

    @asynccontextmanager
    async def stream(
        self, method: str, request: type[Message], answer: type[Message], deadline_s: float, token: str | None
    ) -> AsyncIterator[Stream]:
        """A bidirectional call, ended when the context is left; *deadline_s* is for connecting. Raises Unavailable or
        Refused. With `hasleader` a member that is cut off from the others ends it."""
        channel = self._open()
        call: StreamStreamMethod[Any, Any] = StreamStreamMethod(channel, method, request, answer)
        try:
            async with _errors(), call.open(metadata={**_metadata(token), "hasleader": "true"}) as stream:
                try:
                    async with asyncio.timeout(deadline_s):
                        await stream.send_request()
                except TimeoutError:  # the library's own limit for TLS alone is a minute
                    raise Unavailable(f"no connection within {deadline_s:.0f} s") from None
                yield _Stream(stream)
                await stream.cancel()
        except (Unavailable, TimeoutError):
            self._drop(channel)
            raise

    def _open(self) -> Channel:
        if self._channel is None:
            if self._path is not None:
                # A path has no name that a certificate could be for.
                name = Configuration(ssl_target_name_override="localhost")
                self._channel = Channel(path=self._path, ssl=self._ssl, config=name)
            else:
                self._channel = Channel(self._host, self._port, ssl=self._ssl)
        return self._channel

    def _drop(self, channel: Channel) -> None:
        """Close the *channel* that failed; another call may have opened a new one by now."""
        channel.close()
        if self._channel is channel:
            self._channel = None

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
        if error.status is Status.UNAUTHENTICATED or any(sign in words for sign in WANTS_TOKEN):
            raise Refused(words, auth=True) from None
        if error.status in (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.CANCELLED) or "no leader" in words:
            raise Unavailable(words) from None
        raise Refused(words) from None
    except (StreamTerminatedError, ProtocolError) as error:
        raise Unavailable(str(error) or "the connection was lost") from None
    except DecodeError as error:
        raise Unavailable(f"the answer is not etcd's ({error})") from None
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(f"TLS: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise Unavailable(f"TLS: {error.reason or error}") from None
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:
            raise  # a deadline of our own
        raise Unavailable(error.strerror or str(error)) from None


def _metadata(token: str | None) -> dict[str, str]:
    return {"token": token} if token else {}


def _context(tls: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
        if tls.cert is not None:
            context.load_cert_chain(str(tls.cert), str(tls.key), password=lambda: b"")  # never ask on a terminal
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path)
        raise ConfigError(
            "options", "--etcd-cafile, --etcd-certfile, --etcd-keyfile", files, f"PEM files ({error})"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
