"""gce: our requests, with google-auth's credentials, against an emulator that verifies tokens and signatures."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from google.auth.compute_engine import _metadata as google_metadata

from pyflannel.lab.cloud import gce as emulated
from pyflannel.lab.cloud import gce_oauth
from pyflannel.lab.cloud.gce_oauth import ACCOUNT
from pyflannel.lab.cloud.server import Emulator, FrontEnd, Request, Response
from pyflannel.lab.cloud.state import Entry, Machine, Vpc
from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields
from pyflannel.table.cloud import gce_api
from pyflannel.table.cloud.contract import CloudDenied, CloudError, CloudFull, FabricRoute, NotInCloud, RouteTaken
from pyflannel.table.cloud.gce import Gce, open_gce, route_name
from support import clouds
from support.clouds import MACHINES, NETWORK, STRANGERS, Daemon, address, strangers, table_of

ROOT = Path(__file__).parents[2]
NET1, NET2, NET9 = (ip_network(f"10.5.{number}.0/24") for number in (1, 2, 9))
N1 = "projects/lab-project/zones/lab-a/instances/n1"


@dataclass
class Cloud:
    """The emulator, and who asks it."""

    front: emulated.Gce
    server: Emulator
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def vpc(self) -> Vpc:
        return self.front.vpc

    @property
    def routes(self) -> list[Entry]:
        return self.vpc.tables["lab-net"]

    def open(self, number: int = 1, config: str = "{}") -> Gce:
        """What the daemon of node *number* opens."""
        self.server.guest = f"n{number}"
        return open_gce(Fields.parse(config, "net-conf.json"))

    def add(self, destination: Any, target: str = "", **details: str) -> Entry:
        """Somebody's route."""
        return self.vpc.add("lab-net", str(destination), target, alike=True, **details)

    def use_key(self, **changes: str) -> None:
        """The credentials are a service account's key file."""
        file = self.folder / "key.json"
        file.write_text(json.dumps(self.front.tokens.key_file(self.server.url) | changes))
        self.monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Iterator[Cloud]:
    front = emulated.build_front(MACHINES)
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setattr(gce_api, "PAUSE_S", 0.01)
    monkeypatch.setattr(gce_api, "POLL_S", 0.01)
    with Emulator(front, [("127.0.0.1", 0)], guest="n1") as server:
        for name, value in front.environment(server.url, server.url).items():
            monkeypatch.setenv(name, value)
        host = server.url.removeprefix("http://")
        monkeypatch.setattr(google_metadata, "_GCE_METADATA_HOST", host)  # it reads the variable when it's imported
        for destination in STRANGERS:
            front.vpc.add("lab-net", destination, "", hop="gateway", description="the office")
        before = strangers(front.vpc)
        yield Cloud(front, server, tmp_path, monkeypatch)
        assert strangers(front.vpc) == before, "somebody else's route was touched"
        assert front.tokens.issued, "no access token was ever asked for"
        for secret in (*front.tokens.issued, *front.tokens.secrets):
            assert secret not in caplog.text


def at(fabric: Gce, net: Any, number: int = 1) -> list[FabricRoute]:
    return fabric.routes(fabric.locate([address(number)]), [net])


# Where this machine stands


def test_place(cloud: Cloud) -> None:
    place = cloud.open().locate([address(1)])
    assert (place.network, place.instance) == ("projects/lab-project/global/networks/lab-net", "n1")
    assert (place.next_hop, place.tables, place.zone, place.families) == (N1, ("lab-net",), "lab-a", (4,))


def test_the_interface_that_bears_our_address_is_the_one(cloud: Cloud) -> None:
    cloud.vpc.machines["n1"].fields["second"] = "yes"
    fabric = cloud.open()
    assert fabric.locate([address(1)]).tables == ("lab-net",)
    assert fabric.locate([ip_address("192.0.2.9")]).tables == ("b",)


def test_an_address_that_no_interface_bears(cloud: Cloud) -> None:
    with pytest.raises(
        CloudError, match=r"no interface of n1 bears 127\.0\.0\.12 \(they bear 127\.0\.0\.11\).*--iface"
    ):
        cloud.open().locate([address(2)])


def test_a_shared_vpc(cloud: Cloud) -> None:
    """The network is another project's, so is the route; the API takes no nextHopInstance of this one there."""
    cloud.front.owner = "host-project"
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    assert place.network == "projects/host-project/global/networks/lab-net"
    assert place.next_hop == "127.0.0.11"
    fabric.create(place, place.tables[0], NET1)
    (route,) = fabric.routes(place, [NET1])
    assert (route.next_hop, route.state, route.marked) == ("127.0.0.11", "active", True)
    assert address(1) in route.addresses
    cloud.vpc.machines["n1"].running = False
    (route,) = at(cloud.open(2), NET1, 2)
    assert route.addresses == {address(1)}
    assert route.state == "blackhole"


def test_the_routes_project_by_name(cloud: Cloud) -> None:
    with pytest.raises(CloudError, match=r"projects/elsewhere.*not found"):
        at(cloud.open(config='{"Project": "elsewhere"}'), NET1)
    assert at(cloud.open(config='{"Project": "lab-project"}'), NET1) == []
    with pytest.raises(ConfigError, match="Project is 7, expected a string"):
        cloud.open(config='{"Project": 7}')
    cloud.open().locate([address(1)])


@pytest.mark.parametrize("host", ["127.0.0.1:1", "another cloud"])
def test_no_gce(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    fabric = cloud.open()
    fabric.locate([address(1)])
    if host == "another cloud":  # AWS has its metadata service at the same address
        with Emulator(_Other(cloud.vpc), [("127.0.0.1", 0)], guest="n1") as other:
            monkeypatch.setenv("GCE_METADATA_HOST", other.url.removeprefix("http://"))
            with pytest.raises(NotInCloud, match=r"HTTP 404, and not as Google's.*is this a GCE machine"):
                cloud.open().locate([address(1)])
    else:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        with pytest.raises(NotInCloud, match=r"refused.*is this a GCE machine"):
            cloud.open().locate([address(1)])


class _Other(FrontEnd):
    def metadata(self, request: Request, machine: Machine) -> Response:
        return Response.text("not found", 404)


def test_without_google_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth.transport.requests", None)
    with pytest.raises(ConfigError, match=r"google\.auth.* isn't there\): pip install 'pyflannel\[gce\]'"):
        open_gce(Fields.parse("{}", "net-conf.json"))


# Credentials


def test_the_machines_own_account(cloud: Cloud) -> None:
    fabric = cloud.open()
    checks = {check.name: check for check in fabric.checks(fabric.locate([address(1)]))}
    assert checks["identity"].seen == f"{ACCOUNT} (of this machine), {N1}"
    assert checks["access scopes"].seen == "compute"


def test_a_machine_without_an_account(cloud: Cloud) -> None:
    cloud.open().locate([address(1)])
    cloud.front.tokens.account = ""
    with pytest.raises(CloudDenied, match=r"this machine has no service account: .*set-service-account"):
        cloud.open().locate([address(1)])


def test_a_scope_that_is_too_narrow(cloud: Cloud) -> None:
    cloud.front.tokens.scopes = ["https://www.googleapis.com/auth/compute.readonly"]
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    with pytest.raises(CloudDenied, match=r"access scopes of this machine are too narrow: .*--scopes compute-rw"):
        fabric.create(place, place.tables[0], NET1)
    failed = [check for check in fabric.checks(place) if check.holds is False]
    assert [(check.name, check.seen) for check in failed] == [("access scopes", "compute.readonly")]


def test_a_token_that_ended_is_renewed(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    (first,) = cloud.front.tokens.issued
    cloud.front.tokens.issued[first] = ([], 0.0)
    assert fabric.routes(place, [NET1]) == []
    assert len(cloud.front.tokens.issued) == 2


def test_tokens_that_are_not_taken(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gce_oauth, "LIFETIME_S", 0)
    with pytest.raises(CloudDenied, match=r"The access token isn't taken.*deleted or disabled.*clock right"):
        cloud.open().locate([address(1)])
    assert len(cloud.front.tokens.issued) == 2, "a second one was tried, and no third"


def test_a_key_that_signs(cloud: Cloud) -> None:
    cloud.use_key()
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    fabric.create(place, place.tables[0], NET1)
    assert table_of(cloud.vpc)[str(NET1)] == "n1"
    checks = {check.name: check for check in fabric.checks(place)}
    assert checks["identity"].seen.startswith(f"{ACCOUNT} (GOOGLE_APPLICATION_CREDENTIALS or gcloud)")
    assert "access scopes" not in checks, "they narrow the machine's own account only"


def test_a_key_that_is_another_accounts(cloud: Cloud) -> None:
    cloud.open().locate([address(1)])
    cloud.use_key(private_key=cloud.front.tokens.key_file(cloud.server.url)["private_key"])
    with pytest.raises(CloudDenied, match=r"Invalid JWT Signature\. The key of the service account was deleted"):
        cloud.open().locate([address(1)])


def test_a_clock_that_is_off(cloud: Cloud) -> None:
    cloud.open().locate([address(1)])
    cloud.use_key()
    cloud.front.tokens.now = lambda: time.time() + 7200
    with pytest.raises(CloudDenied, match=r"clock of this machine differs.*run NTP"):
        cloud.open().locate([address(1)])


def test_a_key_file_that_is_not_there(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.open().locate([address(1)])
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(cloud.folder / "none.json"))
    with pytest.raises(CloudDenied, match=r"no credentials: .*none.json was not found.*GOOGLE_APPLICATION_CREDENTIALS"):
        cloud.open().locate([address(1)])


# Permissions

PERMISSIONS = json.loads((ROOT / "deploy/cloud/gce.json").read_text())["includedPermissions"]


@pytest.mark.parametrize("permission", sorted(set(PERMISSIONS) - {"compute.projects.get"}))
def test_each_permission_is_named_if_it_is_missing(cloud: Cloud, permission: str) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    fabric.create(place, place.tables[0], NET1)
    (route,) = fabric.routes(place, [NET1])
    cloud.vpc.faults.denied = [permission]
    cloud.add(NET2, "n2")  # whose address isn't known yet
    words = f"The permission {permission} is missing: grant the role of deploy/cloud/gce.json"

    def everything() -> None:
        fabric.locate([address(1)])
        fabric.routes(place, [NETWORK])
        fabric.replace(place, route)

    with pytest.raises(CloudDenied, match=words):
        everything()


def test_the_role_is_what_is_used(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    fabric.checks(place)
    fabric.create(place, place.tables[0], NET1)
    (route,) = fabric.routes(place, [NET1])
    fabric.replace(place, route)
    fabric.delete(place, route)
    assert cloud.front.used == set(PERMISSIONS)


def test_an_api_that_is_not_switched_on(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    cloud.front.throttle, cloud.vpc.faults.throttle = (403, "accessNotConfigured"), 1
    with pytest.raises(CloudDenied, match="gcloud services enable compute"):
        fabric.routes(place, [NET1])


# Routes


def test_create_replace_delete(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    fabric.create(place, place.tables[0], NET1)
    entry = next(entry for entry in cloud.routes if entry.destination == NET1)
    assert entry.details["name"] == "flannel-10-5-1-0-24", "as flannel's"
    assert (entry.details["priority"], entry.details["tags"]) == ("1000", "")
    with pytest.raises(RouteTaken, match="routes/flannel-10-5-1-0-24' already exists"):
        fabric.create(place, place.tables[0], NET1)
    (route,) = fabric.routes(place, [NET1])
    assert (route.next_hop, route.state, route.marked) == (N1, "active", True)
    assert address(1) in route.addresses
    other = cloud.open(2)
    there = other.locate([address(2)])
    assert address(1) in other.routes(there, [NET1])[0].addresses
    other.replace(there, route)
    assert table_of(cloud.vpc)[str(NET1)] == "n2"
    assert [call for call in cloud.vpc.calls if call.startswith("routes.d")] == ["routes.delete"]
    (route,) = fabric.routes(place, [NET1])
    other.delete(there, route)
    other.delete(there, route)
    assert str(NET1) not in table_of(cloud.vpc)
    assert {str(route.destination) for route in fabric.routes(place, [NETWORK])} == {"10.5.250.0/24"}


def test_every_page_is_read(cloud: Cloud) -> None:
    cloud.vpc.page = 2
    for number in range(100, 107):
        cloud.add(f"10.5.{number}.0/24", "n3" if number == 106 else "n2")
    assert len(at(cloud.open(), NETWORK)) == 8
    (last,) = at(cloud.open(), ip_network("10.5.106.0/24"))
    assert address(3) in last.addresses, "n3 is on the second page of machines"


def test_a_stopped_or_deleted_machine_is_a_black_hole(cloud: Cloud) -> None:
    fabric = cloud.open(2)
    place = fabric.locate([address(2)])
    cloud.add(NET1, "n1")
    cloud.add(NET9, "gone")
    assert [(route.state, route.marked) for route in fabric.routes(place, [NET1])] == [("active", False)]
    cloud.vpc.set_running("n1", False)
    found = {route.destination: route for route in fabric.routes(place, [NETWORK])}
    assert found[NET1].state == found[NET9].state == "blackhole"
    assert (found[NET9].addresses, found[NET9].next_hop.rpartition("/")[2]) == (frozenset(), "gone")


def test_public_addresses_count(cloud: Cloud) -> None:
    """A peer may publish its public one."""
    cloud.vpc.machines["n2"].fields["public"] = "203.0.113.2"
    cloud.add(NET2, "n2")
    (route,) = at(cloud.open(), NET2)
    assert {address(2), ip_address("203.0.113.2")} <= route.addresses


def test_machines_are_asked_for_rarely(cloud: Cloud) -> None:
    clock = [1000.0]
    cloud.server.guest = "n1"
    fabric = Gce(monotonic=lambda: clock[0])
    place = fabric.locate([address(1)])

    def lists(passed_s: float) -> int:
        before = cloud.vpc.calls.count("instances.aggregatedList")
        clock[0] += passed_s
        fabric.routes(place, [NETWORK])
        return cloud.vpc.calls.count("instances.aggregatedList") - before

    fabric.create(place, place.tables[0], NET1)
    assert lists(0) == 0, "this machine knows its own"
    cloud.add(NET2, "n2")
    assert (lists(0), lists(30), lists(269), lists(1)) == (1, 0, 0, 1)
    cloud.add(NET9, "new")
    assert (lists(29), lists(1), lists(29)) == (0, 1, 0)
    cloud.vpc.add_machine(Machine("new", "9", "nic-9", ["127.0.0.99"], "lab-a"))
    assert lists(1) == 1
    (route,) = fabric.routes(place, [NET9])
    assert route.addresses == {ip_address("127.0.0.99")}


@pytest.mark.parametrize(
    ("details", "counts"),
    [
        ({"tags": "vpn,db"}, False),  # some machines' only
        ({"priority": "1001"}, False),  # yields to ours
        ({"network": "another"}, False),
        ({"priority": "1000"}, True),
        ({"priority": "10"}, True),
        ({"hop": "ip 192.0.2.7"}, True),
    ],
)
def test_which_strangers_routes_count(cloud: Cloud, details: dict[str, str], counts: bool) -> None:
    cloud.add(NET2, "n2", **details)
    assert len(at(cloud.open(), NET2)) == counts


def test_of_one_destination_the_strongest_living_one_counts(cloud: Cloud) -> None:
    cloud.add(NET2, "gone", priority="1")
    cloud.add(NET2, "n2", priority="1000", name=route_name(NET2))
    (weaker,) = at(cloud.open(), NET2)
    assert address(2) in weaker.addresses
    cloud.add(NET2, "n3", priority="500")
    (stronger,) = at(cloud.open(), NET2)
    assert address(3) in stronger.addresses
    cloud.add(NET2, "n2", priority="500", description="pyflannel")
    assert [route.marked for route in at(cloud.open(), NET2)] == [False, True]


def test_a_name_that_another_network_has(cloud: Cloud) -> None:
    cloud.add(NET1, "n1", network="another", name=route_name(NET1))
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    with pytest.raises(RouteTaken, match="it's another network's, has tags, or yields to ours"):
        fabric.create(place, place.tables[0], NET1)


@pytest.mark.parametrize("late", [False, True])
def test_quota(cloud: Cloud, late: bool) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    cloud.vpc.quota, cloud.front.late_errors = 2, late
    with pytest.raises(CloudFull, match=r"Quota 'ROUTES' exceeded\.  Limit: 2\.0 globally\. Ask for more of the quota"):
        fabric.create(place, place.tables[0], NET1)
    checks = {check.name: check for check in fabric.checks(place)}
    assert (checks["quota ROUTES"].holds, checks["quota ROUTES"].seen) == (None, "2 of 2 routes")


def test_an_operation_that_fails_later(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    cloud.front.failing = ("RESOURCE_ALREADY_EXISTS", "The resource 'routes/x' already exists")
    with pytest.raises(RouteTaken, match=r"routes\.insert: The resource 'routes/x' already exists"):
        fabric.create(place, place.tables[0], NET1)
    cloud.front.failing = ("INTERNAL_ERROR", "Internal error. Please try again")
    with pytest.raises(CloudError, match=r"routes\.insert: Internal error"):
        fabric.create(place, place.tables[0], NET1)
    fabric.create(place, place.tables[0], NET1)


def test_an_operation_that_takes_long(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    cloud.front.polls = 4
    fabric.create(place, place.tables[0], NET1)
    assert cloud.vpc.calls.count("globalOperations.get") == 4
    cloud.front.polls = 10**6
    monkeypatch.setattr(gce_api, "OPERATION_S", 0.1)
    with pytest.raises(CloudError, match=r"routes\.insert: operation-2 isn't done after 0 s"):
        fabric.create(place, place.tables[0], NET9)


def test_checks(cloud: Cloud) -> None:
    fabric = cloud.open()
    before = list(cloud.routes)
    checks = {check.name: check for check in fabric.checks(fabric.locate([address(1)]))}
    assert checks["compute.routes.list"].seen == "allowed; 2 routes in the network"
    assert checks["compute.instances.list"].seen == "allowed; 3 machines in the project"
    assert checks["quota ROUTES"].seen == "2 of 200 routes"
    assert all(check.holds is not False for check in checks.values())
    assert cloud.routes == before
    cloud.vpc.faults.denied = ["compute.routes.list", "compute.projects.get"]
    checks = {check.name: check for check in fabric.checks(fabric.locate([address(1)]))}
    assert checks["compute.routes.list"].holds is False
    assert "The permission compute.projects.get is missing" in checks["quota ROUTES"].seen


def test_a_machine_that_may_not_forward(cloud: Cloud) -> None:
    cloud.vpc.machines["n1"].forwards = False
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    assert not fabric.forwards(place)
    with pytest.raises(CloudError, match=r"made without --can-ip-forward.*update-from-file n1 --zone lab-a"):
        fabric.let_forward(place)
    failed = [check for check in fabric.checks(place) if check.holds is False]
    assert [(check.name, check.seen) for check in failed] == [("forwarding", "canIpForward is false")]
    assert "gcloud compute instances export n1 --zone lab-a" in failed[0].cure


async def test_its_route_is_kept_all_the_same(cloud: Cloud, tmp_path: Path) -> None:
    """The cloud warns of such a route; making it anew each time would help nobody."""
    cloud.vpc.machines["n1"].forwards = False
    one = Daemon(cloud.open(), 1, tmp_path)
    one.peers()
    for _ in range(3):
        await one.look()
    assert "made without --can-ip-forward" in one.reconciler.problems()[0]
    assert (cloud.vpc.calls.count("routes.insert"), cloud.vpc.calls.count("routes.delete")) == (1, 0)


# Under the reconciler


async def test_healing_departure_and_two_daemons_at_once(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.life_of_two(cloud, tmp_path)


@pytest.mark.parametrize(
    "faults",
    [
        {"throttle": 2},
        {"throttle": 3, "as": (429, "rateLimitExceeded")},
        {"throttle": 1, "as": (400, "resourceNotReady")},  # two changes of one network at once
        {"broken": 1},
        {"broken": 3},
        {"broken": 1, "after": True},
        {"broken": 3, "after": True},
    ],
)
async def test_through_trouble(cloud: Cloud, tmp_path: Path, faults: dict[str, Any]) -> None:
    cloud.front.throttle = faults.pop("as", cloud.front.throttle)
    await clouds.trouble_that_passes(cloud, tmp_path, faults, looks=1)


@pytest.mark.parametrize("after", [False, True])
def test_a_write_that_is_tried_again_is_done_once(cloud: Cloud, after: bool) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    cloud.vpc.faults.broken, cloud.vpc.faults.after = 3, after
    fabric.create(place, place.tables[0], NET1)  # no RouteTaken by its own first try: both bear one requestId
    assert cloud.vpc.calls.count("routes.insert") == 4
    assert len(cloud.routes) == 3


def test_trouble_that_stays_is_told(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    cloud.vpc.faults.throttle = 100
    with pytest.raises(CloudError, match="The cloud throttles us; trying again"):
        fabric.routes(place, [NET1])
    assert cloud.vpc.faults.throttle == 96
    cloud.vpc.faults.throttle, cloud.vpc.faults.broken = 0, 100
    with pytest.raises(CloudError, match=r"routes\.list: backend error"):
        fabric.routes(place, [NET1])
    cloud.monkeypatch.setenv("GCE_COMPUTE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CloudError, match=r"instances\.get: no answer from http://127\.0\.0\.1:1"):
        cloud.open().locate([address(1)])


async def test_a_cloud_that_shows_late(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.shows_late(cloud, tmp_path, "routes.insert")


async def test_a_stranger_on_our_subnet(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.stranger_on_our_subnet(cloud, tmp_path, "Gateway default-internet-gateway", hop="gateway")


async def test_a_strangers_stronger_route_is_told_and_stays(cloud: Cloud, tmp_path: Path) -> None:
    one = Daemon(cloud.open(1), 1, tmp_path)
    one.peers()
    await one.look()
    assert one.reconciler.problems() == []
    entry = cloud.add(NET1, "n3", priority="10")
    await one.look()
    assert "a route that isn't ours stands there" in one.reconciler.problems()[0]
    assert entry in cloud.routes
    cloud.vpc.remove(entry)
    await one.look()
    assert one.reconciler.problems() == []


async def test_a_route_beside_ours_is_told(cloud: Cloud, tmp_path: Path) -> None:
    """Two of the same priority share the packets."""
    one = Daemon(cloud.open(1), 1, tmp_path)
    one.peers()
    await one.look()
    entry = cloud.add(NET1, "n3", priority="1000")
    await one.look()
    (note,) = [note for note in one.table.notes if note.key[1] == NET1]
    assert note.kind == "elsewhere"
    assert "takes a share of what is for 127.0.0.11" in note.text
    assert entry in cloud.routes


async def test_a_former_owners_route_is_replaced(cloud: Cloud, tmp_path: Path) -> None:
    cloud.add(NET1, "n3", name=route_name(NET1))  # as Go flannel left it: by its name alone
    one = Daemon(cloud.open(1), 1, tmp_path)
    one.peers()
    await one.look()
    assert table_of(cloud.vpc)["10.5.1.0/24"] == "n1"
    assert one.reconciler.problems() == []
