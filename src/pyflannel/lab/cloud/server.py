"""The HTTP server of an emulated cloud: its API, its metadata service, and a door for tests, on one or more addresses.

Who asks the metadata service is told by the address it comes from, as in a real cloud.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pyflannel.lab.cloud.state import Machine, Vpc

DOOR = "/_lab/"


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; `client` is the address it came from, `local` the one it reached."""

    method: str
    target: str  # as sent: path and query
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    client: str
    local: str


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Response:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @classmethod
    def text(cls, value: str, status: int = 200) -> Response:
        return cls(status, value.encode(), {"Content-Type": "text/plain"})


class FrontEnd:
    """A cloud's API over a Vpc. A front end overrides `api` and `metadata`."""

    def __init__(self, vpc: Vpc) -> None:
        self.vpc = vpc

    def api(self, request: Request) -> Response:
        """An API call: its signature is verified, then it's done."""
        raise NotImplementedError

    def metadata(self, request: Request, machine: Machine) -> Response:
        """What the metadata service tells *machine*."""
        raise NotImplementedError

    def environment(self, url: str) -> dict[str, str]:
        """What lets a real SDK (and our fabric) find API, metadata service and credentials at *url*."""
        raise NotImplementedError

    def close(self) -> None:
        """The emulator ends."""

    def is_metadata(self, request: Request) -> bool:
        """Is *request* for the metadata service?"""
        return request.path.startswith(("/latest/", "/computeMetadata/"))


class Emulator:
    """Serves a front end on each of *addresses* (host, port; 0 takes a free one) until `close`.

    `guest` is the machine that a request from an unknown address comes from (tests on the loopback).
    """

    def __init__(self, front: FrontEnd, addresses: list[tuple[str, int]], guest: str | None = None) -> None:
        self.front, self.guest = front, guest
        emulator = self

        class Handler(_Handler):
            serve = staticmethod(lambda request: emulator.answer(request))

        self._servers = [_Server(address, Handler) for address in addresses]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        host, port = self._servers[0].server_address[:2]
        self.url = f"http://{host!s}:{port}"

    def answer(self, request: Request) -> Response:
        if request.path.startswith(DOOR):
            return self.door(request)
        if not self.front.is_metadata(request):
            return self.front.api(request)
        machine = self.front.vpc.machine_at(request.client) or self.front.vpc.machines.get(self.guest or "")
        return Response.text("no such machine", 404) if machine is None else self.front.metadata(request, machine)

    def door(self, request: Request) -> Response:
        """For tests and the lab's commands: GET /_lab/state; POST /_lab/faults, add, remove, stop, start, quota."""
        vpc = self.front.vpc
        data = json.loads(request.body or b"{}")
        what = request.path.removeprefix(DOOR)
        if what == "faults":
            for name, value in data.items():
                setattr(vpc.faults, name, value)
        elif what == "quota":
            vpc.quota = data["quota"]
        elif what in ("stop", "start"):
            vpc.set_running(data["machine"], what == "start")
        elif what == "add":
            vpc.add(data["table"], data["destination"], data["target"])
        elif what == "remove":
            for entry in [
                entry for entry in vpc.tables[data["table"]] if str(entry.destination) == data["destination"]
            ]:
                vpc.remove(entry)
        return Response.json(self.describe())

    def describe(self) -> dict[str, Any]:
        """The whole state, for people and tests."""
        vpc = self.front.vpc
        with vpc.lock:
            return {
                "tables": {
                    name: [
                        {"destination": str(e.destination), "target": e.target, "state": vpc.state_of(e), **e.details}
                        for e in entries
                    ]
                    for name, entries in vpc.tables.items()
                },
                "machines": {machine.name: asdict(machine) for machine in vpc.machines.values()},
                "faults": asdict(vpc.faults),
                "calls": len(vpc.calls),
            }

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self.front.close()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes; the second would wait 40 ms for the first to be confirmed
    serve: Callable[[Request], Response]

    def _do(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            self.command,
            self.path,
            parts.path,
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            body,
            str(self.client_address[0]),
            str(self.connection.getsockname()[0]),
        )
        try:
            response = type(self).serve(request)
        except Exception as error:  # a fault of the emulator's: visible to who asked
            response = Response.text(f"the emulator failed: {error!r}", 599)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _do

    def log_message(self, format: str, *args: Any) -> None:
        pass
