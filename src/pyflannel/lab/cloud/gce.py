"""Google's Compute Engine API over a Vpc, and its metadata service.

Access tokens are verified: that they were issued here, when, and for which scopes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from pyflannel.lab.cloud.gce_oauth import Tokens
from pyflannel.lab.cloud.server import FrontEnd, Request, Response
from pyflannel.lab.cloud.state import Entry, Machine, Refused, Vpc

PROJECT, NUMBER, NETWORK = "lab-project", "424242424242", "lab-net"
SERVER = "https://www.googleapis.com/compute/v1"
# What each method needs, all of it.
NEEDS = {
    "routes.list": ("compute.routes.list",),
    "routes.get": ("compute.routes.get",),
    "routes.insert": ("compute.routes.create", "compute.networks.updatePolicy", "compute.instances.use"),
    "routes.delete": ("compute.routes.delete", "compute.networks.updatePolicy"),
    "instances.get": ("compute.instances.get",),
    "instances.aggregatedList": ("compute.instances.list",),
    "globalOperations.get": ("compute.globalOperations.get",),
    "projects.get": ("compute.projects.get",),
}
_PATHS = [
    ("GET", r"projects/(?P<project>[^/]+)/global/routes", "routes.list"),
    ("POST", r"projects/(?P<project>[^/]+)/global/routes", "routes.insert"),
    ("GET", r"projects/(?P<project>[^/]+)/global/routes/(?P<name>[^/]+)", "routes.get"),
    ("DELETE", r"projects/(?P<project>[^/]+)/global/routes/(?P<name>[^/]+)", "routes.delete"),
    ("GET", r"projects/(?P<project>[^/]+)/global/operations/(?P<name>[^/]+)", "globalOperations.get"),
    ("GET", r"projects/(?P<project>[^/]+)/zones/(?P<zone>[^/]+)/instances/(?P<name>[^/]+)", "instances.get"),
    ("GET", r"projects/(?P<project>[^/]+)/aggregated/instances", "instances.aggregatedList"),
    ("GET", r"projects/(?P<project>[^/]+)", "projects.get"),
]
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_FILTER = re.compile(r'network eq "([^"]+)"')


@dataclass
class Operation:
    """A change under way: how many looks it's still pending for, and what became of it."""

    name: str
    polls: int
    error: tuple[str, str] | None = None  # code and message


class _Error(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.response = _error(status, reason, message)


class Gce(FrontEnd):
    """The methods that a route backend needs.

    `owner` is the network's project (a shared VPC's host project, if it's another). `polls`: how many looks an
    operation is pending for; `late_errors`: a quota is told by the operation, not at once; `failing`: code and message
    of the error that the next operation ends in; `throttle`: status and reason of a refusal of too many calls.
    """

    def __init__(self, vpc: Vpc) -> None:
        super().__init__(vpc)
        self.owner = PROJECT
        self.polls, self.late_errors = 1, False
        self.failing: tuple[str, str] | None = None
        self.throttle = (403, "rateLimitExceeded")
        self.tokens = Tokens()
        self.used: set[str] = set()  # permissions
        self._operations: dict[str, Operation] = {}
        self._requests: dict[str, Operation] = {}  # by requestId

    def environment(self, url: str, metadata: str | None = None) -> dict[str, str]:
        host = (metadata or "http://169.254.169.254").removeprefix("http://")
        return {"GCE_COMPUTE_ENDPOINT": url, "GCE_METADATA_HOST": host, "GCE_METADATA_IP": host}

    # The metadata service

    def is_metadata(self, request: Request) -> bool:
        return request.path == "/" or super().is_metadata(request)

    def metadata(self, request: Request, machine: Machine) -> Response:
        flavor = {"Metadata-Flavor": "Google"}
        if request.path != "/" and request.headers.get("metadata-flavor") != "Google":
            return Response(403, b"Missing Metadata-Flavor:Google header.", flavor)
        response = self._told(request.path.removeprefix("/computeMetadata/v1/"), machine)
        return Response(response.status, response.body, {**response.headers, **flavor})

    def _told(self, path: str, machine: Machine) -> Response:
        if account := re.fullmatch(r"instance/service-accounts/([^/]+)/(token|scopes|)", path):
            if not self.tokens.account or account[1] not in ("default", self.tokens.account):
                return Response.text("not found", 404)
            if account[2] == "token":
                return Response.json(self.tokens.issue(self.tokens.scopes))
            if account[2] == "scopes":
                return Response.text("".join(f"{scope}\n" for scope in self.tokens.scopes))
            email, scopes = self.tokens.account, self.tokens.scopes
            return Response.json({"aliases": ["default"], "email": email, "scopes": scopes})
        values = {
            "/": "computeMetadata/\n",
            "project/project-id": PROJECT,
            "project/numeric-project-id": NUMBER,
            "instance/name": machine.name,
            "instance/zone": f"projects/{NUMBER}/zones/{machine.zone}",
        }
        return Response.text(values[path]) if path in values else Response.text("not found", 404)

    # The API

    def api(self, request: Request) -> Response:
        if request.path == "/token" and request.method == "POST":
            return self.tokens.grant(request)
        path = request.path.removeprefix("/compute/v1/")
        for verb, pattern, method in _PATHS:
            if verb == request.method and (match := re.fullmatch(pattern, path)):
                return self._called(method, match.groupdict(), request)
        return _error(404, "notFound", f"no method {request.method} {path}")

    def _called(self, method: str, names: dict[str, str], request: Request) -> Response:
        vpc = self.vpc
        scopes = self.tokens.scopes_of(request.headers.get("authorization", ""))
        if scopes is None:
            return _error(401, "authError", "Request had invalid authentication credentials")
        needed = {"compute", "cloud-platform"} | ({"compute.readonly"} if request.method == "GET" else set())
        if not needed & {scope.rpartition("/")[2] for scope in scopes}:
            return _error(403, "insufficientPermissions", "Request had insufficient authentication scopes.")
        trouble = vpc.asked(method)
        lacking = [permission for permission in NEEDS[method] if permission in vpc.faults.denied]
        if lacking:
            return _error(403, "forbidden", f"Required '{lacking[0]}' permission for '{request.path}'")
        if trouble == "throttle":
            return _error(*self.throttle, "Quota exceeded for quota metric 'Read requests'")
        if trouble == "broken" and not vpc.faults.after:
            return Response.text("backend error", 503)
        self.used.update(NEEDS[method])
        done: dict[str, Callable[[], dict[str, Any]]] = {
            "routes.list": lambda: self._page(request, self._matching(request.query.get("filter", ""))),
            "routes.get": lambda: self._route(self._named(names["name"])),
            "routes.insert": lambda: self._write(request, lambda: self._insert(request)),
            "routes.delete": lambda: self._write(request, lambda: vpc.remove(self._named(names["name"]))),
            "globalOperations.get": lambda: self._looked_at(self._operations[names["name"]]),
            "instances.get": lambda: self._instance(self._machine(names["name"])),
            "instances.aggregatedList": lambda: self._all_instances(request),
            "projects.get": self._project,
        }
        try:
            if names["project"] not in (PROJECT, self.owner):
                raise _Error(404, "notFound", f"The resource 'projects/{names['project']}' was not found")
            answer = done[method]()
        except _Error as error:
            return error.response
        return Response.text("backend error", 503) if trouble == "broken" else Response.json(answer)

    def _write(self, request: Request, change: Callable[[], object]) -> dict[str, Any]:
        """Do *change*, unless it was done by a request of this id; what becomes of it is told later."""
        ident = request.query.get("requestId", "")
        with self.vpc.lock:
            if ident in self._requests:
                return self._told_of(self._requests[ident])
            operation = Operation(f"operation-{len(self._operations) + 1}", self.polls, self.failing)
            if self.failing is None:
                try:
                    change()
                except Refused as refused:
                    if refused.why != "quota":
                        raise
                    words = f"Quota 'ROUTES' exceeded.  Limit: {self.vpc.quota}.0 globally."
                    if not self.late_errors:
                        raise _Error(403, "quotaExceeded", words) from None
                    operation.error = ("QUOTA_EXCEEDED", words)
            self.failing = None
            self._operations[operation.name] = operation
            if ident:
                self._requests[ident] = operation
        return self._told_of(operation)

    def _looked_at(self, operation: Operation) -> dict[str, Any]:
        operation.polls -= 1
        return self._told_of(operation)

    def _told_of(self, operation: Operation) -> dict[str, Any]:
        told: dict[str, Any] = {"kind": "compute#operation", "name": operation.name, "status": "RUNNING"}
        if operation.polls <= 0:
            told["status"] = "DONE"
            if operation.error is not None:
                code, message = operation.error
                told |= {"error": {"errors": [{"code": code, "message": message}]}, "httpErrorStatusCode": 400}
        return told

    def _insert(self, request: Request) -> None:
        vpc, body = self.vpc, json.loads(request.body)
        name, hop, address = body["name"], body.get("nextHopInstance"), body.get("nextHopIp")
        if not _NAME.fullmatch(name):
            raise _Error(400, "invalid", f"Invalid value for field 'resource.name': '{name}'")
        if not body["network"].endswith(f"projects/{self.owner}/global/networks/{NETWORK}"):
            raise _Error(404, "notFound", f"The resource '{body['network']}' was not found")
        if any(self._name_of(entry) == name for entry in vpc.tables[NETWORK]):
            path = f"projects/{self.owner}/global/routes/{name}"
            raise _Error(409, "alreadyExists", f"The resource '{path}' already exists")
        if hop and f"projects/{self.owner}/" not in hop:
            raise _Error(400, "invalid", "The next hop instance must be in the same project as the route")
        machine = vpc.machines.get(hop.rpartition("/")[2]) if hop else vpc.machine_at(address)
        if machine is None or bool(hop) == bool(address):
            raise _Error(400, "invalid", f"Invalid value for field 'resource.nextHop': '{hop or address}'")
        details = {
            "name": name, "description": body.get("description", ""), "priority": str(body.get("priority", 1000)),
            "tags": ",".join(body.get("tags", ())), "hop": "instance" if hop else f"ip {address}",
        }  # fmt: skip
        vpc.add(NETWORK, str(ip_network(body["destRange"])), machine.name, alike=True, **details)

    def _named(self, name: str) -> Entry:
        for entry in self.vpc.tables[NETWORK]:
            if self._name_of(entry) == name:
                return entry
        raise _Error(404, "notFound", f"The resource 'projects/{self.owner}/global/routes/{name}' was not found")

    def _machine(self, name: str) -> Machine:
        if name not in self.vpc.machines:
            raise _Error(404, "notFound", f"The resource 'instances/{name}' was not found")
        return self.vpc.machines[name]

    # What things look like

    def _matching(self, wanted: str) -> list[dict[str, Any]]:
        match = _FILTER.fullmatch(wanted)
        if wanted and match is None:
            raise _Error(400, "invalid", f"Invalid value for field 'filter': '{wanted}'")
        routes = [self._route(entry) for entry in self.vpc.shown(NETWORK)]
        return [route for route in routes if match is None or re.fullmatch(match[1], route["network"])]

    def _page(self, request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
        start = int(request.query.get("pageToken") or 0)
        end = start + min(int(request.query.get("maxResults", 500)), self.vpc.page)
        page: dict[str, Any] = {"items": items[start:end]} if items else {}
        return {**page, "nextPageToken": str(end)} if end < len(items) else page

    def _all_instances(self, request: Request) -> dict[str, Any]:
        page = self._page(request, [self._instance(machine) for machine in self.vpc.machines.values()])
        zones: dict[str, Any] = {"zones/empty-a": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}
        for item in page.get("items", ()):
            zones.setdefault(f"zones/{item['zone']}", {"instances": []})["instances"].append(item)
        return {**page, "items": zones}

    def _name_of(self, entry: Entry) -> str:
        return entry.details.get("name") or f"theirs-{entry.id}"

    def _route(self, entry: Entry) -> dict[str, Any]:
        details = entry.details
        route: dict[str, Any] = {
            "kind": "compute#route", "id": entry.id, "name": self._name_of(entry),
            "description": details.get("description", ""), "destRange": str(entry.destination),
            "network": f"{SERVER}/projects/{self.owner}/global/networks/{details.get('network', NETWORK)}",
            "priority": int(details.get("priority", 1000)),
        }  # fmt: skip
        if tags := details.get("tags"):
            route["tags"] = tags.split(",")
        kind, _, address = details.get("hop", "instance" if entry.target else "gateway").partition(" ")
        if kind == "gateway":
            path = f"projects/{self.owner}/global/gateways/default-internet-gateway"
            return {**route, "nextHopGateway": f"{SERVER}/{path}"}
        machine = self.vpc.machines.get(entry.target)
        if kind == "ip":
            route["nextHopIp"] = address
        else:
            route["nextHopInstance"] = f"{SERVER}/{self._instance_path(entry.target, machine)}"
        if machine is None:
            route["warnings"] = [
                {"code": f"NEXT_HOP_{'ADDRESS_NOT_ASSIGNED' if kind == 'ip' else 'INSTANCE_NOT_FOUND'}"}
            ]
        elif not machine.running:
            route["warnings"] = [{"code": "NEXT_HOP_NOT_RUNNING"}]
        elif not machine.forwards:
            route["warnings"] = [{"code": "NEXT_HOP_CANNOT_IP_FORWARD"}]
        return route

    def _instance_path(self, name: str, machine: Machine | None) -> str:
        return f"projects/{PROJECT}/zones/{machine.zone if machine else 'lab-a'}/instances/{name}"

    def _instance(self, machine: Machine) -> dict[str, Any]:
        ipv4 = next(ip for ip in machine.addresses if ":" not in ip)
        interface: dict[str, Any] = {
            "name": "nic0", "networkIP": ipv4,
            "network": f"{SERVER}/projects/{self.owner}/global/networks/{NETWORK}",
            "ipv6Address": next((ip for ip in machine.addresses if ":" in ip), None),
        }  # fmt: skip
        if public := machine.fields.get("public"):
            interface["accessConfigs"] = [{"natIP": public}]
        other = {"name": "nic0", "networkIP": "192.0.2.9", "network": f"{SERVER}/projects/{PROJECT}/global/networks/b"}
        return {
            "name": machine.name, "id": machine.id, "zone": machine.zone, "canIpForward": machine.forwards,
            "selfLink": f"{SERVER}/{self._instance_path(machine.name, machine)}",
            "status": "RUNNING" if machine.running else "TERMINATED",
            "networkInterfaces": [other, interface] if machine.fields.get("second") else [interface],
        }  # fmt: skip

    def _project(self) -> dict[str, Any]:
        quotas = [{"metric": "NETWORKS", "limit": 5.0, "usage": 1.0}]
        used = len(self.vpc.tables[NETWORK])
        return {"name": self.owner, "quotas": [*quotas, {"metric": "ROUTES", "limit": self.vpc.quota, "usage": used}]}


def _error(status: int, reason: str, message: str) -> Response:
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return Response.json({"error": {"code": status, "message": message, "errors": errors}}, status)


def build_front(machines: list[tuple[str, str, str]]) -> Gce:
    """A network with *machines*."""
    vpc = Vpc("gce", NETWORK, "lab", [NETWORK], quota=200)
    for number, (name, ipv4, ipv6) in enumerate(machines, 1):
        vpc.add_machine(Machine(name, f"{7000 + number}", f"nic-{number}", [ipv4, ipv6], "lab-a"))
    return Gce(vpc)
