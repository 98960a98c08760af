"""Google Cloud's VPC routes. A network has one table; a route names the machine that it leads to (nextHopInstance).

Of a network's routes those count that carry packets of every machine: no tags, a priority that doesn't yield to ours,
and of one destination's the strongest. Google's API has no replace: a route that leads elsewhere is deleted, then the
right one made, as flannel did; what it carried was lost anyway.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from http.client import HTTPException
from ipaddress import ip_address, ip_network
from typing import Any

from pyflannel.model.fields import Fields
from pyflannel.model.node import CloudPlace, IPAddress, IPNetwork
from pyflannel.table.cloud.contract import Check, CloudDenied, CloudError, FabricRoute, NotInCloud
from pyflannel.table.cloud.direct import DIRECT
from pyflannel.table.cloud.gce_api import Api
from pyflannel.table.cloud.gce_errors import POLICY, Gone
from pyflannel.table.cloud.registry import missing
from pyflannel.table.cloud.survey import within

METADATA, METADATA_VARIABLE = "169.254.169.254", "GCE_METADATA_HOST"  # the variable is google-auth's
FLAVOR = "Metadata-Flavor"
# Interop: flannel's routes bear these.
NAME, PRIORITY = "flannel-", 1000
MARK = "pyflannel"
SCOPES = {f"https://www.googleapis.com/auth/{name}" for name in ("compute", "cloud-platform")}
# The API's warnings of a next hop that takes no packets. NEXT_HOP_CANNOT_IP_FORWARD is left to that machine's flanneld.
DEAD = {
    "NEXT_HOP_INSTANCE_NOT_FOUND", "NEXT_HOP_NOT_RUNNING", "NEXT_HOP_INSTANCE_NOT_ON_NETWORK",
    "NEXT_HOP_ADDRESS_NOT_ASSIGNED",
}  # fmt: skip
# All machines' addresses in a few bytes each: a whole machine is 5 kB.
MACHINE_FIELDS = (
    "nextPageToken,items/*/instances(selfLink,networkInterfaces(networkIP,ipv6Address,accessConfigs/natIP,"
    "ipv6AccessConfigs/externalIpv6))"
)
# Ours to tune, in seconds: how long machines' addresses are believed, and how soon a new machine is looked for again.
METADATA_S, KNOWN_S, UNKNOWN_S = 3.0, 300.0, 30.0


def open_gce(fields: Fields) -> Gce:
    """Raises ConfigError: a field is wrong, or google-auth isn't there."""
    project = fields.text("Project", "")
    try:
        import google.auth
        import google.auth.transport.requests  # noqa: F401
    except ImportError as error:
        raise missing("gce", "gce", error.name or "google-auth") from None
    return Gce(project)


class Gce:
    """Google Cloud from one of its machines."""

    name = "gce"

    def __init__(self, project: str = "", *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """*project*: where the routes are made; "" for the network's own."""
        self._project, self._monotonic = project, monotonic
        self._metadata_url = f"http://{os.environ.get(METADATA_VARIABLE) or METADATA}/computeMetadata/v1/"
        self._api = Api()
        self._machine, self._network = "", ""
        self._forwards = False
        self._own: frozenset[IPAddress] = frozenset()
        self._machines: dict[str, frozenset[IPAddress]] = {}
        self._asked = -KNOWN_S

    def __repr__(self) -> str:
        return f"<Gce {self._machine} in {self._network}>"

    def locate(self, addresses: Sequence[IPAddress]) -> CloudPlace:
        project, name = self._metadata("project/project-id"), self._metadata("instance/name")
        zone = self._metadata("instance/zone").rpartition("/")[2]
        self._machine = f"projects/{project}/zones/{zone}/instances/{name}"
        machine = self._api.get("instances.get", self._machine)
        # Looked at once: it can't change while the machine runs.
        self._forwards, self._own = bool(machine.get("canIpForward")), _addresses(machine)
        wanted = {str(ip) for ip in addresses}
        interfaces = machine.get("networkInterfaces") or []
        for each in interfaces:
            if each.get("networkIP") in wanted:
                # The metadata service has the project's number only; here is its id, which another project may own.
                self._network = _path(each["network"])
                owner = self._network.split("/")[1]
                self._project = self._project or owner
                # "In the same project as the route", the API wants of a nextHopInstance.
                hop = self._machine if self._project == project else str(each["networkIP"])
                return CloudPlace(self._network, name, hop, (_last(self._network),), (4,), zone)
        borne = ", ".join(str(each.get("networkIP")) for each in interfaces)
        raise CloudError(
            f"no interface of {name} bears {' or '.join(sorted(wanted))} (they bear {borne}): "
            "give the VPC's own by --iface"
        )

    def forwards(self, place: CloudPlace) -> bool:
        """As the machine was started: canIpForward."""
        return self._forwards

    def let_forward(self, place: CloudPlace) -> None:
        """Can't be done from within: it needs a stop."""
        raise CloudError(_unforwarding(place))

    def routes(self, place: CloudPlace, networks: Sequence[IPNetwork]) -> list[FabricRoute]:
        found = [
            (item, ip_network(item["destRange"]))
            for item in self._listed()
            if _path(item["network"]) == place.network
            and not item.get("tags")
            and item.get("priority", PRIORITY) <= PRIORITY
        ]
        inside = [(item, net) for item, net in found if within(net, networks)]
        self._learn(_path(item["nextHopInstance"]) for item, _ in inside if item.get("nextHopInstance"))
        routes = [(int(item.get("priority", PRIORITY)), self._route(place, item, net)) for item, net in inside]
        return _effective(routes)

    def create(self, place: CloudPlace, table: str, destination: IPNetwork) -> None:
        by_name = "/" in place.next_hop
        body = {
            "name": route_name(destination),
            "description": MARK,
            "network": place.network,
            "destRange": str(destination),
            "priority": PRIORITY,
            "tags": [],
            "nextHopInstance" if by_name else "nextHopIp": place.next_hop,
        }
        self._api.write("routes.insert", "POST", self._project, "routes", body)

    def replace(self, place: CloudPlace, route: FabricRoute) -> None:
        """Delete, then insert: the API has nothing better."""
        self.delete(place, route)
        self.create(place, route.table, route.destination)

    def delete(self, place: CloudPlace, route: FabricRoute) -> None:
        try:
            self._api.write("routes.delete", "DELETE", self._project, f"routes/{route.handle}")
        except Gone:
            return

    def checks(self, place: CloudPlace) -> list[Check]:
        checks = [
            Check("identity", True, f"{self._api.who}, {self._machine}"),
            *self._scopes(),
            _asked("compute.routes.list", lambda: f"allowed; {sum(1 for _ in self._listed())} routes in the network"),
            _asked("compute.instances.list", lambda: f"allowed; {len(self._all_machines())} machines in the project"),
            Check(
                "compute.routes.create, routes.delete, networks.updatePolicy, instances.use, globalOperations.get",
                None, f"can't be tested without writing in project {self._project}", f"grant the role of {POLICY}",
            ),
            Check("forwarding", self._forwards, f"canIpForward is {str(self._forwards).lower()}", _unforwarding(place)),
        ]  # fmt: skip
        try:
            return [*checks, self._quota()]
        except CloudError as error:
            return [*checks, Check("quota ROUTES", None, str(error), f"grant the role of {POLICY}")]

    def _scopes(self) -> list[Check]:
        """Access scopes narrow the machine's own service account, and no other credentials."""
        if not self._api.of_machine:
            return []
        scopes = self._metadata("instance/service-accounts/default/scopes").split()
        cure = "stop it, and run `gcloud compute instances set-service-account NAME --scopes compute-rw`"
        seen = ", ".join(_last(scope) for scope in scopes) or "none"
        return [Check("access scopes", not SCOPES.isdisjoint(scopes), seen, f"{cure} (or cloud-platform)")]

    def _quota(self) -> Check:
        quotas = self._api.get("projects.get", f"projects/{self._project}").get("quotas") or []
        quota = next((each for each in quotas if each.get("metric") == "ROUTES"), None)
        if quota is None:
            return Check("quota ROUTES", None, f"project {self._project} tells none", "look in the console: Quotas")
        used, limit = int(quota["usage"]), int(quota["limit"])
        cure = "ask for more in the console (IAM & Admin, Quotas), or let some nodes use a Fallback"
        return Check("quota ROUTES", None if used > limit * 0.9 else True, f"{used} of {limit} routes", cure)

    # Metadata and API

    def _metadata(self, path: str) -> str:
        url = self._metadata_url + path
        request = urllib.request.Request(url, headers={FLAVOR: "Google"})
        try:
            with DIRECT.open(request, timeout=METADATA_S) as answer:
                if answer.headers.get(FLAVOR) == "Google":
                    return str(answer.read().decode())
                reason = "another cloud's answers"
        except urllib.error.HTTPError as error:
            with error:
                if error.headers.get(FLAVOR) == "Google":
                    raise CloudError(f"the metadata service answers {error.code} for {path}: {url}") from None
            reason = f"HTTP {error.code}, and not as Google's"
        except (OSError, ValueError, HTTPException) as error:
            reason = str(error)
        raise NotInCloud(f"no metadata service of Google Cloud answers at {url} ({reason}): is this a GCE machine?")

    def _listed(self) -> list[dict[str, Any]]:
        """The network's routes: every page."""
        wanted = f'network eq ".*/global/networks/{_last(self._network)}"'
        path = f"projects/{self._project}/global/routes"
        return [item for page in self._api.pages("routes.list", path, filter=wanted) for item in page.get("items", ())]

    def _learn(self, hops: Iterable[str]) -> None:
        """Know the addresses of the machines *hops*: one list of all, and rarely, is fewer calls than one each."""
        others = set(hops) - {self._machine}
        patience_s = KNOWN_S if others <= self._machines.keys() else UNKNOWN_S
        if others and self._monotonic() - self._asked >= patience_s:
            self._machines = self._all_machines()
            self._asked = self._monotonic()

    def _all_machines(self) -> dict[str, frozenset[IPAddress]]:
        path = f"projects/{self._project}/aggregated/instances"
        return {
            _path(machine["selfLink"]): _addresses(machine)
            for page in self._api.pages("instances.aggregatedList", path, fields=MACHINE_FIELDS)
            for scope in (page.get("items") or {}).values()
            for machine in scope.get("instances", ())
        }

    def _route(self, place: CloudPlace, item: dict[str, Any], destination: IPNetwork) -> FabricRoute:
        hop, addresses = _hop(item), frozenset[IPAddress]()
        if item.get("nextHopIp"):
            addresses = frozenset({ip_address(hop)})
        elif item.get("nextHopInstance"):
            addresses = self._machines.get(hop, addresses)
        own = hop in (place.next_hop, self._machine)
        dead = not own and any(each.get("code") in DEAD for each in item.get("warnings") or ())
        marked = item["name"] == route_name(destination) or str(item.get("description") or "").startswith(MARK)
        return FabricRoute(
            _last(place.network), destination, hop, self._own if own else addresses,
            "blackhole" if dead else "active", marked, str(item["name"]),
        )  # fmt: skip


def route_name(destination: IPNetwork) -> str:
    """flannel's name of a route: 10.40.5.0/24 → flannel-10-40-5-0-24."""
    return NAME + "".join("-" if sign in "./:" else sign for sign in str(destination))


def _effective(routes: Iterable[tuple[int, FabricRoute]]) -> list[FabricRoute]:
    """By destination those that carry its packets: of the living the strongest. Equals share; a marked one goes last,
    for who reads one alone."""
    best: dict[IPNetwork, tuple[bool, int]] = {}
    ranked = [((route.state == "blackhole", priority), route) for priority, route in routes]
    for rank, route in ranked:
        best[route.destination] = min(rank, best.get(route.destination, rank))
    kept = [route for rank, route in ranked if rank == best[route.destination]]
    return sorted(kept, key=lambda route: route.marked)


def _hop(item: dict[str, Any]) -> str:
    """The one next hop that a route has: a machine's path, an address, or what else with its kind."""
    if item.get("nextHopInstance"):
        return _path(item["nextHopInstance"])
    if item.get("nextHopIp"):
        return str(item["nextHopIp"])
    kinds = ("Gateway", "VpnTunnel", "Ilb", "Peering", "Hub", "Network")
    return next((f"{kind} {_last(item[f'nextHop{kind}'])}" for kind in kinds if item.get(f"nextHop{kind}")), "")


def _addresses(machine: dict[str, Any]) -> frozenset[IPAddress]:
    """All of *machine*'s: private and public, of both families."""
    found = []
    for each in machine.get("networkInterfaces") or ():
        found += [each.get("networkIP"), each.get("ipv6Address")]
        found += [config.get("natIP") for config in each.get("accessConfigs") or ()]
        found += [config.get("externalIpv6") for config in each.get("ipv6AccessConfigs") or ()]
    return frozenset(ip_address(text) for text in found if text)


def _path(url: str) -> str:
    """https://…/compute/v1/projects/p/… → projects/p/…: the same resource has several URLs."""
    head, found, tail = url.rpartition("projects/")
    return found + tail if found else head + tail


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _asked(name: str, call: Callable[[], str]) -> Check:
    try:
        return Check(name, True, call())
    except CloudDenied as error:
        return Check(name, False, str(error), f"grant the role of {POLICY}")


def _unforwarding(place: CloudPlace) -> str:
    where = f"{place.instance} --zone {place.zone}"
    return (
        f"the cloud drops pods' packets: {place.instance} was made without --can-ip-forward. Make it anew with it, or "
        f"set canIpForward to true in what `gcloud compute instances export {where}` gives, and `gcloud compute "
        f"instances update-from-file {where} --source FILE --most-disruptive-allowed-action RESTART`, which restarts it"
    )
