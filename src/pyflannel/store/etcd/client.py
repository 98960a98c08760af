"""etcd as a KeyValue database: several endpoints, tokens, leases, and a watch that notices a frozen server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from google.protobuf.message import Message

from pyflannel.model.errors import StoreError, StoreUnreachable
from pyflannel.store.etcd import rpc_pb2 as rpc
from pyflannel.store.etcd.transport import Refused, Stream, TlsFiles, Transport, Unavailable
from pyflannel.store.keyvalue import Compacted, Entry, Gone

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Message)

# Ours to tune.
DEADLINE_S = 3.0  # of a call to one endpoint; an election takes 1 to 2 s
PROGRESS_S, SILENCE_S = 2.0, 5.0  # ask for a sign of life so often; without any for so long, it's dead


class Etcd:
    """An etcd cluster at *endpoints*; one is used until it fails. Auth only if *user* and *password* are given."""

    def __init__(
        self, endpoints: Sequence[str], tls: TlsFiles | None = None, user: str = "", password: str = ""
    ) -> None:
        self._transports = [Transport(endpoint, tls or TlsFiles()) for endpoint in endpoints]
        self._at = 0
        self._credentials = (user, password) if user and password else None
        self._token: str | None = None  # "" while etcd asks for none
        self._said_unused = False

    @property
    def name(self) -> str:
        return "etcd at " + ",".join(transport.endpoint for transport in self._transports)

    async def get(self, key: str) -> Entry | None:
        answer = await self._call("KV/Range", rpc.RangeRequest(key=key.encode()), rpc.RangeResponse)
        return _entry(answer.kvs[0]) if answer.kvs else None

    async def entries(self, prefix: str) -> tuple[list[Entry], int]:
        request = rpc.RangeRequest(key=prefix.encode(), range_end=_after(prefix))
        answer = await self._call("KV/Range", request, rpc.RangeResponse)
        return [_entry(kv) for kv in answer.kvs], answer.header.revision

    async def commit(
        self,
        when: Mapping[str, int],
        put: Mapping[str, str] | None = None,
        delete: Sequence[str] = (),
        ttl_s: int | None = None,
        nothing_new: tuple[str, int] | None = None,
    ) -> bool:
        lease = 0
        if put and ttl_s is not None:
            granted = await self._call("Lease/LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl_s), rpc.LeaseGrantResponse)
            lease = granted.ID
        compare = [
            rpc.Compare(target=rpc.Compare.MOD, key=key.encode(), mod_revision=revision)
            for key, revision in when.items()
        ]
        if nothing_new is not None:
            prefix, since = nothing_new
            low, high = prefix.encode(), _after(prefix)
            compare.append(
                rpc.Compare(
                    target=rpc.Compare.CREATE,
                    result=rpc.Compare.LESS,
                    key=low,
                    range_end=high,
                    create_revision=since + 1,
                )
            )
        # Deletions first: a Go peer must see a subnet's old form go before its new one comes.
        ops = [rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key.encode())) for key in delete]
        ops += [
            rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=value.encode(), lease=lease))
            for key, value in (put or {}).items()
        ]
        # When an answer is lost, the transaction may have been done: a second try is then refused by the first one's
        # revision, and revoking the lease would delete the very key it put. So look before the lease is revoked, and
        # where nobody can be asked, leave it: it dies by itself.
        lost: list[str] = []
        try:
            answer = await self._call("KV/Txn", rpc.TxnRequest(compare=compare, success=ops), rpc.TxnResponse, lost)
            done = answer.succeeded
        except StoreError:
            if lost and await self._stands(put or {}, delete, lease):
                return True
            await self._revoke(lease)
            raise
        if not done and lost:
            done = await self._stands(put or {}, delete, lease)
        if not done:
            await self._revoke(lease)
        return done

    async def _stands(self, put: Mapping[str, str], delete: Sequence[str], lease: int) -> bool:
        """True if the store is as a transaction with this *lease* (its own, or 0) leaves it."""
        for key in (*put, *delete):
            answer = await self._call("KV/Range", rpc.RangeRequest(key=key.encode()), rpc.RangeResponse)
            found = [(kv.value, kv.lease) for kv in answer.kvs]
            if found != ([(put[key].encode(), lease)] if key in put else []):
                return False
        return True

    async def _revoke(self, lease: int) -> None:
        if lease:
            with suppress(StoreError):  # then it dies by itself
                await self._call("Lease/LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease), rpc.LeaseRevokeResponse)

    async def prolong(self, key: str, ttl_s: int) -> bool:
        answer = await self._call("KV/Range", rpc.RangeRequest(key=key.encode()), rpc.RangeResponse)
        if not answer.kvs or not answer.kvs[0].lease:
            return False
        request = rpc.LeaseKeepAliveRequest(ID=answer.kvs[0].lease)
        async with self._stream(
            "Lease/LeaseKeepAlive", type(request), rpc.LeaseKeepAliveResponse, DEADLINE_S
        ) as stream:
            async with asyncio.timeout(DEADLINE_S):
                await stream.send(request)
                alive: Any = await stream.receive()
            return alive is not None and alive.TTL > 0

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[list[Entry | Gone], None]:
        create = rpc.WatchCreateRequest(key=prefix.encode(), range_end=_after(prefix), start_revision=revision)
        async with self._stream("Watch/Watch", rpc.WatchRequest, rpc.WatchResponse, SILENCE_S) as stream:
            async with asyncio.timeout(SILENCE_S):
                await stream.send(rpc.WatchRequest(create_request=create))
            poke = asyncio.create_task(_poke(stream))
            try:
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        response: Any = await stream.receive()
                    if response is None:
                        raise Unavailable("the server ended the watch")
                    if response.canceled:
                        # The stream stays open after this.
                        if response.compact_revision:
                            raise Compacted
                        raise Refused(response.cancel_reason)
                    yield [_change(event) for event in response.events]
            finally:
                poke.cancel()

    @asynccontextmanager
    async def _stream(
        self, method: str, request: type[Message], answer: type[Message], silence_s: float
    ) -> AsyncIterator[Stream]:
        """A bidirectional call on the endpoint in use. After any failure of it, another one is used."""
        transport = self._transports[self._at]
        try:
            if self._credentials and self._token is None:
                await self._authenticate(transport)
            async with transport.stream(f"/etcdserverpb.{method}", request, answer, DEADLINE_S, self._token) as stream:
                yield stream
        except TimeoutError:
            self._failed(transport)
            raise StoreUnreachable(f"{transport.endpoint}: silent for {silence_s:.0f} s") from None
        except Unavailable as error:
            self._failed(transport)
            raise StoreUnreachable(f"{transport.endpoint}: {error}") from None
        except Refused as error:
            # An expired token may be called anything here, "permission denied" too: get a new one in any case.
            self._token = None
            self._failed(transport)
            raise StoreUnreachable(f"{transport.endpoint}: {error}{_cure(str(error))}") from None

    async def close(self) -> None:
        for transport in self._transports:
            transport.close()

    def _failed(self, transport: Transport) -> None:
        """Go on with the endpoint after *transport*, unless another call that failed on it already has."""
        if transport is self._transports[self._at]:
            self._at = (self._at + 1) % len(self._transports)

    async def _call(self, method: str, request: Message, answer: type[M], lost: list[str] | None = None) -> M:
        """One call on the endpoint in use; on the others in turn if that one fails. *lost* gets a line for each
        failure: after any of them, the request may have been carried out."""
        failures = [] if lost is None else lost
        at = self._at
        for transport in (*self._transports[at:], *self._transports[:at]):
            try:
                return await self._authorised(transport, f"/etcdserverpb.{method}", request, answer)
            except Unavailable as error:
                failures.append(f"{transport.endpoint}: {error}")
                self._failed(transport)
            except Refused as error:
                raise StoreError(f"{self.name} refused {method.split('/')[1]}: {error}{_cure(str(error))}") from None
        raise StoreUnreachable("; ".join(failures))

    async def _authorised(self, transport: Transport, method: str, request: Message, answer: type[M]) -> M:
        if self._credentials and self._token is None:
            await self._authenticate(transport)
        try:
            return await transport.unary(method, request, answer, DEADLINE_S, self._token)
        except Refused as error:
            if not (error.auth and self._credentials):
                raise
            await self._authenticate(transport)  # the token has expired, or passwords have become needed
            return await transport.unary(method, request, answer, DEADLINE_S, self._token)

    async def _authenticate(self, transport: Transport) -> None:
        assert self._credentials is not None
        user, password = self._credentials
        request = rpc.AuthenticateRequest(name=user, password=password)
        try:
            answer = await transport.unary(
                "/etcdserverpb.Auth/Authenticate", request, rpc.AuthenticateResponse, DEADLINE_S, None
            )
            self._token = answer.token
        except Refused as error:
            if "not enabled" not in str(error):
                raise Refused(str(error)) from None
            self._token = ""
            if not self._said_unused:
                self._said_unused = True
                log.info("etcd doesn't ask for passwords: --etcd-username is of no use")


async def _poke(stream: Stream) -> None:
    """Ask for signs of life until cancelled."""
    with suppress(Unavailable, Refused):
        while True:
            await asyncio.sleep(PROGRESS_S)
            await stream.send(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))


def _entry(kv: Any) -> Entry:
    return Entry(kv.key.decode(errors="replace"), kv.value.decode(errors="replace"), kv.mod_revision, kv.lease != 0)


def _change(event: Any) -> Entry | Gone:
    if event.type == rpc.Event.DELETE:
        return Gone(event.kv.key.decode(errors="replace"), event.kv.mod_revision)
    return _entry(event.kv)


def _after(prefix: str) -> bytes:
    """The end of the range of keys that begin with *prefix* (which ends in a slash)."""
    raw = prefix.encode()
    return raw[:-1] + bytes((raw[-1] + 1,))


def _cure(words: str) -> str:
    if "permission denied" in words:
        return ". The user needs to read <prefix>/config, to read and write below <prefix>/subnets/ and <prefix>/nodes/"
    if "authentication failed" in words:
        return ". Check --etcd-username and --etcd-password"
    if "user name is empty" in words:
        return ". etcd asks for a user: --etcd-username and --etcd-password"
    return ""
