"""The few calls of the Kubernetes API that a node needs: get, list, watch, patch, create.

Source: Kubernetes' "API concepts" (list chunks, watch, bookmarks, 410 Gone, media types of patches).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from pyflannel.model.errors import StoreError, StoreUnreachable
from pyflannel.store.kubernetes.access import Access
from pyflannel.store.kubernetes.http import Answer, Unavailable, request

DEADLINE_S = 10.0  # of a call, but a watch
PAGE = 100  # nodes; ours to tune: one page is what a list costs in memory (500, client-go's: 20 MB more)
WATCH_S = (300, 600)  # client-go's: how long a watch may last, at random; the server ends it
_GRACE_S = 30.0  # a watch that the server doesn't end by itself is ended this much later
_LINE_MAX = 16 << 20  # etcd keeps no object of more than 1.5 MB

Object = Mapping[str, Any]


class NotFound(StoreError):
    """There is no such object."""


class Expired(Exception):
    """The server no longer keeps the changes since the revision asked for (410 Gone)."""


@dataclass(frozen=True, slots=True)
class Change:
    """An object as it is now (or was, if *gone*); None for a bookmark. *revision* is where to go on from."""

    object: Object | None
    gone: bool
    revision: str


class Api:
    """One API server. Every method but watch ends within DEADLINE_S. Raises NotFound, StoreUnreachable, StoreError."""

    def __init__(self, access: Access, rng: random.Random | None = None) -> None:
        self._access, self._rng = access, rng or random.Random()

    @property
    def url(self) -> str:
        return self._access.url

    async def get(self, path: str) -> Object:
        return await self._call("GET", path)

    async def create(self, path: str, body: Object) -> Object:
        return await self._call("POST", path, body, "application/json")

    async def patch(self, path: str, body: Object) -> Object:
        """A strategic merge: maps are merged, conditions by their type, null removes."""
        return await self._call("PATCH", path, body, "application/strategic-merge-patch+json")

    async def list(
        self, path: str, field_selector: str = "", keep: Callable[[Object], Object] = lambda found: found
    ) -> tuple[list[Object], str]:
        """Every object and the revision they are of, read in chunks. Of each only what *keep* gives is held. Raises
        Expired if that took too long."""
        items: list[Object] = []
        query = {"limit": str(PAGE), "fieldSelector": field_selector}
        while True:
            page = await self._call("GET", path, query=query)
            items += map(keep, page.get("items") or [])
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            query["continue"] = str(meta["continue"])

    async def watch(self, path: str, revision: str, field_selector: str = "") -> AsyncGenerator[Change, None]:
        """First a bookmark: the server has taken the request. Then each change since *revision*, until the server ends
        it (after minutes). Raises Expired besides."""
        last_s = self._rng.randint(*WATCH_S)
        query = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": revision,
            "timeoutSeconds": str(last_s), "fieldSelector": field_selector,
        }  # fmt: skip
        try:
            async with self._ask("GET", path, query=query) as answer:
                if answer.status != 200:
                    raise _refusal("GET", path, answer.status, await answer.whole())
                ends_at = asyncio.get_running_loop().time() + last_s + _GRACE_S
                yield Change(None, False, revision)
                async with aclosing(_lines(answer.body)) as lines:
                    while True:
                        try:
                            async with asyncio.timeout_at(ends_at):
                                line = await anext(lines, None)
                        except TimeoutError:
                            return
                        if line is None:
                            return
                        yield _change(_json(line, path), path)
        except Unavailable as error:
            raise StoreUnreachable(str(error)) from None

    async def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        try:
            async with asyncio.timeout(DEADLINE_S), self._ask(method, path, body, content, query) as answer:
                text = await answer.whole()
        except TimeoutError:
            raise StoreUnreachable(f"{self.url} doesn't answer within {DEADLINE_S:.0f} s") from None
        except Unavailable as error:
            raise StoreUnreachable(str(error)) from None
        if not 200 <= answer.status < 300:
            raise _refusal(method, path, answer.status, text)
        return _json(text, path)

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content: str = "",
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        access = self._access
        words = urlencode({name: value for name, value in (query or {}).items() if value}, quote_via=quote)
        url = f"{access.url}{path}" + (f"?{words}" if words else "")
        headers = access.headers() | ({"Content-Type": content} if content else {})
        text = json.dumps(body).encode() if body is not None else b""
        asking = request(
            method, url, headers, text, tls=access.tls(), server_name=access.server_name, deadline_s=DEADLINE_S
        )
        async with asking as answer:
            yield answer


def _refusal(method: str, path: str, status: int, text: bytes) -> Exception:
    """What an answer that isn't 2xx comes to: a Status object tells why, a proxy's page doesn't."""
    try:
        why = json.loads(text).get("message") or ""
    except (ValueError, AttributeError):
        why = ""
    words = f"the API server says {status} to {method} {path}" + (f": {why}" if why else "")
    if status == 410 or "Too large resource version" in why:  # the latter after etcd was restored from a backup
        return Expired(words)
    if status == 404:
        return NotFound(words)
    if status == 401:
        return StoreUnreachable(f"{words} (the token or client certificate isn't valid, or has expired)")
    if status == 403:
        return StoreUnreachable(f"{words} (docs/guide/kubernetes.md lists the rights flannel needs)")
    if status in (408, 409, 429) or status >= 500:  # 409: the kubelet wrote at that moment, five times over
        return StoreUnreachable(words)
    return StoreError(words)


def _change(event: Object, path: str) -> Change:
    kind, found = event.get("type"), event.get("object") or {}
    if kind == "ERROR":
        refusal = _refusal("GET", path, int(found.get("code") or 500), json.dumps(found).encode())
        raise refusal
    revision = str((found.get("metadata") or {}).get("resourceVersion", ""))
    return Change(None if kind == "BOOKMARK" else found, kind == "DELETED", revision)


def _json(text: bytes, path: str) -> Object:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StoreUnreachable(f"the answer to {path} is no JSON object: is that the API server, or a proxy?")
    return found


async def _lines(body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for part in body:
        *whole, rest = (rest + part).split(b"\n")
        if len(rest) > _LINE_MAX:
            raise Unavailable(f"the watch sent a line of more than {_LINE_MAX >> 20} MB")
        for line in whole:
            if line.strip():
                yield line
