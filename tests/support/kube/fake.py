"""A small API server in memory: nodes with list, watch, patch; Events; what a real one does when it says no.

`tests/kube/test_store.py` runs the same cases on this and on the real kube-apiserver, so the two can't drift apart.
"""

from __future__ import annotations

import asyncio
import copy
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Obj = dict[str, Any]


class FakeApi:
    """What is in it can be changed at any time; `changed` wakes the watches."""

    def __init__(self) -> None:
        self.nodes: dict[str, Obj] = {}
        self.events: list[Obj] = []
        self.pods: dict[str, Obj] = {}
        self.log: list[tuple[int, str, Obj]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.token = ""  # asked for if set
        self.forbidden: set[str] = set()  # verbs
        self.broken, self.refusal = 0, 503  # so many requests are answered with that
        self.hasty = False  # each watch ends as soon as it has begun
        self._revision, self._oldest = 100, 100
        self._changed = asyncio.Condition()
        self._generation = 0
        self._bookmarks = 0
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # What tests do to it

    async def start(self) -> None:
        routes = [
            Route("/api/v1/nodes", self._nodes, methods=["GET", "POST"]),
            Route("/api/v1/nodes/{name}", self._node, methods=["GET", "PATCH", "DELETE"]),
            Route("/api/v1/nodes/{name}/status", self._node, methods=["PATCH"]),
            Route("/api/v1/namespaces/{namespace}/events", self._events, methods=["GET", "POST"]),
            Route("/api/v1/namespaces/{namespace}/pods/{name}", self._pod, methods=["GET"]),
        ]
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), log_level="error", timeout_graceful_shutdown=0, lifespan="off")
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]))
        while not self._server.started:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """As a server that is killed: its watches break off, and nobody listens."""
        assert self._server is not None
        assert self._task is not None
        await self.cut()
        self._server.should_exit = self._server.force_exit = True
        await self._task

    async def cut(self) -> None:
        """End every watch."""
        self._generation += 1
        await self._wake()

    async def bookmark(self) -> None:
        """Let time pass in some other resource, and tell the watches by a bookmark."""
        self._revision += 100
        self._bookmarks += 1
        await self._wake()

    async def expire(self, *, ever: bool) -> None:
        """Answer every watch with 410 from now on, or no longer (not *ever*)."""
        self._oldest = 1 << 40 if ever else self._revision
        await self.cut()

    async def compact(self) -> None:
        """Forget the changes up to now, as etcd does every five minutes."""
        self._revision += 1
        self._oldest = self._revision
        self.log.clear()
        await self.cut()

    async def change(self, kind: str, node: Obj) -> Obj:
        self._revision += 1
        node["metadata"]["resourceVersion"] = str(self._revision)
        name = node["metadata"]["name"]
        if kind == "DELETED":
            del self.nodes[name]
        else:
            self.nodes[name] = node
        self.log.append((self._revision, kind, copy.deepcopy(node)))
        await self._wake()
        return node

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # What it answers

    def _refused(self, request: Request, verb: str) -> Response | None:
        self.requests.append((verb, request.url.path, dict(request.query_params)))
        if self.broken:
            self.broken -= 1
            return _status(self.refusal, "apiserver is starting")
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if verb in self.forbidden:
            return _status(403, f'User "flannel" cannot {verb} resource "nodes"')
        return None

    async def _nodes(self, request: Request) -> Response:
        query = request.query_params
        verb = "create" if request.method == "POST" else "watch" if query.get("watch") else "list"
        if (refused := self._refused(request, verb)) is not None:
            return refused
        if verb == "create":
            node = await request.json()
            node["metadata"].setdefault("uid", node["metadata"]["name"])
            return JSONResponse(await self.change("ADDED", node), 201)
        selector = query.get("fieldSelector", "")
        only = selector.partition("=")[2] if selector else None
        if verb == "watch":
            since = int(query.get("resourceVersion") or 0)
            if since < self._oldest:
                gone = _status_object(410, f"too old resource version: {since} ({self._oldest})")
                return StreamingResponse(iter([json.dumps({"type": "ERROR", "object": gone}) + "\n"]))
            return StreamingResponse(self._watch(since, only, bool(query.get("allowWatchBookmarks"))))
        names = sorted(name for name in self.nodes if only in (None, name))
        limit, begin = int(query.get("limit", 0)) or len(names), int(query.get("continue", 0))
        meta: Obj = {"resourceVersion": str(self._revision)}
        if begin + limit < len(names):
            meta["continue"] = str(begin + limit)
        items = [self.nodes[name] for name in names[begin : begin + limit]]
        return JSONResponse({"kind": "NodeList", "metadata": meta, "items": items})

    async def _watch(self, since: int, only: str | None, marks: bool) -> AsyncIterator[bytes]:
        generation, marked = self._generation, self._bookmarks
        while generation == self._generation and not self.hasty:
            for revision, kind, node in list(self.log):
                if revision > since:
                    since = revision
                    if only in (None, node["metadata"]["name"]):
                        yield json.dumps({"type": kind, "object": node}).encode() + b"\n"
            if marks and marked != self._bookmarks:
                marked, since = self._bookmarks, self._revision
                mark = {"kind": "Node", "metadata": {"resourceVersion": str(since)}}
                yield json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n"
            async with self._changed:
                if not any(revision > since for revision, _, _ in self.log) and marked == self._bookmarks:
                    await self._changed.wait()

    async def _node(self, request: Request) -> Response:
        name = request.path_params["name"]
        verb = request.method.lower()
        if (refused := self._refused(request, verb)) is not None:
            return refused
        node = self.nodes.get(name)
        if node is None:
            return _status(404, f'nodes "{name}" not found')
        if verb == "get":
            return JSONResponse(node)
        if verb == "delete":
            return JSONResponse(await self.change("DELETED", node))
        if request.headers.get("content-type") != "application/strategic-merge-patch+json":
            return _status(415, "unsupported patch")
        after = _merge(copy.deepcopy(node), await request.json())
        if {**after, "metadata": {**after["metadata"], "resourceVersion": ""}} == {
            **node,
            "metadata": {**node["metadata"], "resourceVersion": ""},
        }:
            return JSONResponse(node)  # a patch that changes nothing is no event
        return JSONResponse(await self.change("MODIFIED", after))

    async def _events(self, request: Request) -> Response:
        if (refused := self._refused(request, "events")) is not None:
            return refused
        if request.method == "POST":
            self.events.append(await request.json())
            return JSONResponse(self.events[-1], 201)
        return JSONResponse({"items": self.events})

    async def _pod(self, request: Request) -> Response:
        pod = self.pods.get(f"{request.path_params['namespace']}/{request.path_params['name']}")
        return JSONResponse(pod) if pod else _status(404, "pods not found")


def _merge(target: Obj, patch: Obj) -> Obj:
    """A strategic merge as far as nodes need it: conditions are merged by their type."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif key == "conditions":
            by_type = {each["type"]: each for each in target.get(key) or []}
            for each in value:
                by_type[each["type"]] = {**by_type.get(each["type"], {}), **each}
            target[key] = list(by_type.values())
        elif isinstance(value, dict):
            target[key] = _merge(dict(target.get(key) or {}), value)
        else:
            target[key] = value
    return target


def _status_object(code: int, message: str) -> Obj:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


def _status(code: int, message: str) -> Response:
    return JSONResponse(_status_object(code, message), code)


@asynccontextmanager
async def fake_api() -> AsyncIterator[FakeApi]:
    """A running one."""
    api = FakeApi()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
