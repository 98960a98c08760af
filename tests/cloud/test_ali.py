"""ali-vpc: the real SDK's requests against an emulator that verifies them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_credentials.provider import EcsRamRoleCredentialsProvider
from alibabacloud_credentials.utils import auth_util
from alibabacloud_tea_openapi.utils import Utils

from pyflannel.lab.cloud import ali as emulated
from pyflannel.lab.cloud.server import Emulator, Request, Response
from pyflannel.lab.cloud.state import Entry, Machine, Vpc
from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields
from pyflannel.model.node import CloudPlace
from pyflannel.table.cloud import ali, ali_api, ali_metadata
from pyflannel.table.cloud.ali import Ali, open_ali
from pyflannel.table.cloud.contract import CloudDenied, CloudError, CloudFull, FabricRoute, NotInCloud, RouteTaken
from pyflannel.table.cloud.direct import DIRECT
from support import clouds
from support.clouds import MACHINES, NETWORK, STRANGERS, Daemon, address, strangers, table_of

ROOT = Path(__file__).parents[2]
NET1 = ip_network("10.5.1.0/24")
TABLE = "vtb-lab00001"


@dataclass
class Cloud:
    """The emulator, and who asks it."""

    front: emulated.Ali
    server: Emulator

    @property
    def vpc(self) -> Vpc:
        return self.front.vpc

    def open(self, number: int = 1, config: str = "{}") -> Ali:
        """What the daemon of node *number* opens."""
        self.server.guest = f"n{number}"
        return open_ali(Fields.parse(config, "net-conf.json"))

    def placed(self, number: int = 1) -> tuple[Ali, CloudPlace]:
        fabric = self.open(number)
        return fabric, fabric.locate([address(number)])


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Iterator[Cloud]:
    front = emulated.build_front(MACHINES)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile of this machine's
    monkeypatch.setattr(ali_api, "PAUSES_S", (0.05, 0.1, 0.2, 0.4))
    monkeypatch.setattr(ali, "SETTLED_PAUSE_S", 0.05)
    monkeypatch.setattr(ali_metadata, "PAUSE_S", 0.01)
    for name in (
        "ACCESS_KEY_ID",
        "ACCESS_KEY_SECRET",
        "ALIBABA_CLOUD_ACCESS_KEY_ID",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    ):
        monkeypatch.delenv(name, raising=False)
    with Emulator(front, [("127.0.0.1", 0)], guest="n1") as server:
        for name, value in front.environment(server.url, server.url).items():
            monkeypatch.setenv(name, value)
        for destination in STRANGERS:
            front.vpc.add(TABLE, destination, "", gateway="vpn-1", description="the office")
        before = strangers(front.vpc)
        yield Cloud(front, server)
        assert strangers(front.vpc) == before, "somebody else's route was touched"
        for secret, token in emulated.KEYS.values():
            assert secret not in caplog.text
            assert not token or token not in caplog.text


def route_to(fabric: Ali, place: CloudPlace) -> FabricRoute:
    (route,) = [route for route in fabric.routes(place, [NETWORK]) if route.destination == NET1]
    return route


# Where this machine stands


@pytest.mark.parametrize("hardened", [True, False])
def test_the_system_table_if_the_vswitch_has_none(cloud: Cloud, hardened: bool) -> None:
    cloud.front.hardened = hardened
    _, place = cloud.placed()
    assert (place.network, place.instance, place.next_hop) == ("vpc-lab00001", "i-lab00001", "i-lab00001")
    assert (place.tables, place.zone) == ((TABLE,), "cn-lab-a")


def test_every_table_that_serves_a_vswitch_gets_the_route_and_every_page_is_read(cloud: Cloud) -> None:
    for number in range(7):
        cloud.vpc.tables[f"vtb-{number}"] = []
    cloud.vpc.page = 3
    cloud.front.vswitches_of |= {"vtb-2": ["vsw-databases"], "vtb-6": ["vsw-other", "vsw-lab00001"]}
    fabric, place = cloud.placed()
    assert place.tables == (TABLE, "vtb-2", "vtb-6")
    for table in place.tables:
        fabric.create(place, table, NET1)
    assert {route.table for route in fabric.routes(place, [NET1])} == set(place.tables)


def test_tables_by_name(cloud: Cloud) -> None:
    cloud.vpc.tables["vtb-2"] = []
    both = cloud.open(config=json.dumps({"RouteTableID": ["vtb-2", TABLE]}))
    place = both.locate([address(1)])
    assert place.tables == ("vtb-2", TABLE)
    for table in place.tables:
        both.create(place, table, NET1)
    assert {route.table for route in both.routes(place, [NET1])} == {"vtb-2", TABLE}
    with pytest.raises(CloudError, match="RouteTableID is vtb-9, which vpc-lab00001 lacks; it has vtb-2, vtb-lab00001"):
        cloud.open(config='{"RouteTableID": "vtb-9"}').locate([address(1)])


def test_an_address_that_is_not_the_primary_interfaces(cloud: Cloud) -> None:
    with pytest.raises(
        CloudError, match=r"i-lab00001's primary interface bears 127\.0\.0\.11, not 127\.0\.0\.12.*--iface"
    ):
        cloud.open().locate([address(2)])


def test_no_instance_of_alibabas(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(NotInCloud, match="is this an ECS instance"):
        cloud.placed()


def test_the_metadata_is_asked_directly_and_again(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    real, silent = DIRECT.open, [True, True, False, True, False]

    def opened(*arguments: Any, **more: Any) -> Any:
        if silent and silent.pop(0):
            raise OSError("timed out")
        return real(*arguments, **more)

    monkeypatch.setattr(DIRECT, "open", opened)
    assert ali_metadata.identity().instance == "i-lab00001"
    assert not silent


# Credentials


def test_keys_of_the_config_and_the_variables(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.front.role = False
    with pytest.raises(CloudDenied, match="no credentials: give this machine a RAM role"):
        cloud.placed()
    fabric = cloud.open(config='{"AccessKeyID": "LTAIlab", "AccessKeySecret": "lab-secret"}')
    assert fabric.locate([address(1)])
    assert "lab-secret" not in repr(fabric)
    with monkeypatch.context() as patch:
        patch.setenv("ACCESS_KEY_ID", "LTAIlab")
        patch.setenv("ACCESS_KEY_SECRET", "lab-secret")
        assert cloud.placed()
    with monkeypatch.context() as patch:  # the SDK reads its own variables once, when it's imported
        patch.setattr(auth_util, "environment_access_key_id", "LTAIlab")
        patch.setattr(auth_util, "environment_access_key_secret", "lab-secret")
        assert cloud.placed()
    with pytest.raises(ConfigError, match="AccessKeySecret is missing, expected both"):
        cloud.open(config='{"AccessKeyID": "LTAIlab"}')


@pytest.mark.parametrize(
    ("ident", "secret", "words"),
    [("LTAIlab", "other-secret", "SignatureDoesNotMatch"), ("LTAInobody", "lab-secret", "InvalidAccessKeyId")],
)
def test_keys_that_are_wrong(cloud: Cloud, ident: str, secret: str, words: str) -> None:
    config = json.dumps({"AccessKeyID": ident, "AccessKeySecret": secret})
    with pytest.raises(CloudDenied, match=words) as caught:
        cloud.open(config=config).locate([address(1)])
    assert secret not in str(caught.value)


def test_an_error_that_repeats_the_request_tells_no_token(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, place = cloud.placed()
    said: list[bytes] = []
    real = cloud.front.api

    def heard(request: Request) -> Response:
        answer = real(request)
        said.append(answer.body)
        return answer

    monkeypatch.setattr(cloud.front, "api", heard)
    monkeypatch.setitem(emulated.KEYS, "STSrole", ("a-secret-since", "role-token"))
    with pytest.raises(CloudDenied, match="SignatureDoesNotMatch") as caught:
        fabric.routes(place, [NETWORK])
    assert b"role-token" in said[-1]
    assert "role-token" not in str(caught.value)


def test_a_nonce_that_was_used_is_another_the_next_time(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, place = cloud.placed()
    nonces = iter(["one", "one", "two"])
    monkeypatch.setattr(Utils, "get_nonce", lambda: next(nonces))
    fabric.routes(place, [])
    fabric.routes(place, [])
    monkeypatch.setattr(Utils, "get_nonce", lambda: "one")
    with pytest.raises(CloudError, match="SignatureNonceUsed") as caught:
        fabric.routes(place, [])
    assert "NTP" not in str(caught.value)


def test_variables_will_do_where_the_metadata_gives_no_role(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_util, "environment_ecs_metadata_disabled", "true")
    with pytest.raises(CloudDenied, match="no credentials"):
        cloud.placed()
    monkeypatch.setattr(auth_util, "environment_access_key_id", "LTAIlab")
    monkeypatch.setattr(auth_util, "environment_access_key_secret", "lab-secret")
    assert cloud.placed()


def test_a_role_that_is_taken_away_and_given_back(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, place = cloud.placed()
    with monkeypatch.context() as patch:

        def gone(self: object) -> None:
            raise CredentialException("the metadata service has none")

        patch.setattr(EcsRamRoleCredentialsProvider, "get_credentials", gone)
        with pytest.raises(CloudDenied, match="No credentials from the RAM role of this machine any more"):
            fabric.routes(place, [NETWORK])
        with pytest.raises(CloudDenied, match="no credentials: give this machine a RAM role"):
            fabric.routes(place, [NETWORK])
    assert fabric.routes(place, [NETWORK])


def test_a_clock_that_is_off(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "SKEW_S", -1)
    with pytest.raises(CloudDenied, match="The clock of this machine differs from the cloud's: run NTP"):
        cloud.placed()


def operations(fabric: Ali, place: CloudPlace, route: FabricRoute) -> dict[str, Callable[[], object]]:
    """Each of the API's operations that a daemon uses, and how it comes to it."""
    return {
        "vpc:DescribeRouteTableList": lambda: fabric.locate([address(1)]),
        "vpc:DescribeRouteEntryList": lambda: fabric.routes(place, [NETWORK]),
        "ecs:DescribeInstances": lambda: Ali.routes(_forgetful(fabric), place, [NETWORK]),
        "vpc:CreateRouteEntry": lambda: fabric.create(place, TABLE, ip_network("10.5.9.0/24")),
        "vpc:ModifyRouteEntry": lambda: fabric.replace(place, route),
        "vpc:DeleteRouteEntry": lambda: fabric.delete(place, route),
    }


def _forgetful(fabric: Ali) -> Ali:
    fabric._known.clear()
    return fabric


@pytest.mark.parametrize("action", operations(None, None, None))  # type: ignore[arg-type]
def test_each_permission_is_named_if_it_is_missing(cloud: Cloud, action: str) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, TABLE, NET1)
    call = operations(fabric, place, route_to(fabric, place))[action]
    cloud.vpc.faults.denied = [action.partition(":")[2]]
    with pytest.raises(CloudDenied, match=f"The permission {action} is missing: grant deploy/cloud/ali-vpc.json"):
        call()


def test_the_policy_is_what_is_used(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, TABLE, NET1)
    calls = operations(fabric, place, route_to(fabric, place))
    for call in calls.values():
        call()
    fabric.checks(place)
    policy = json.loads((ROOT / "deploy/cloud/ali-vpc.json").read_text())
    assert set(policy["Statement"][0]["Action"]) == calls.keys()
    assert {action.partition(":")[2] for action in calls} == set(cloud.vpc.calls)


# Routes


def test_create_replace_delete(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    cloud.front.pending_s = 0.2
    fabric.create(place, TABLE, NET1)
    with pytest.raises(RouteTaken):
        fabric.create(place, TABLE, NET1)
    route = route_to(fabric, place)
    assert (route.next_hop, route.state, route.marked) == ("i-lab00001", "active", True)
    assert route.addresses == {address(1)}
    other, there = cloud.placed(2)
    other.replace(there, route)
    assert table_of(cloud.vpc)[str(NET1)] == "n2"
    with pytest.raises(CloudError, match=r"InvalidNextHop\.NotFound"):  # it leads elsewhere since `route` was read
        other.delete(there, route)
    route = route_to(other, there)
    other.delete(there, route)
    other.delete(there, route)
    assert str(NET1) not in table_of(cloud.vpc)
    assert {str(route.destination) for route in fabric.routes(place, [NETWORK])} == {"10.5.250.0/24"}


def test_every_page_of_entries_is_read(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    cloud.vpc.page = 4
    for number in range(1, 12):
        fabric.create(place, TABLE, ip_network(f"10.5.{number}.0/24"))
    assert len(fabric.routes(place, [NETWORK])) == 12


def test_a_change_that_never_settles_is_told(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, place = cloud.placed()
    monkeypatch.setattr(ali, "SETTLED_S", 0.2)
    cloud.front.pending_s = 60
    with pytest.raises(CloudError, match=r"10\.5\.1\.0/24 in vtb-lab00001 is Pending after"):
        fabric.create(place, TABLE, NET1)
    assert route_to(fabric, place).state == "pending"


def test_a_route_to_a_machine_that_is_stopped_or_gone_is_a_black_hole(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, TABLE, NET1)
    cloud.vpc.set_running("n1", False)
    assert route_to(fabric, place).state == "blackhole"
    cloud.vpc.set_running("n1", True)
    assert route_to(_forgetful(fabric), place).state == "active"


def test_a_hop_that_is_several_is_nobodys(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, TABLE, NET1)
    real = emulated.Ali._entry

    def twice(self: emulated.Ali, entry: object) -> dict[str, object]:
        found = real(self, entry)  # type: ignore[arg-type]
        hops = found["NextHops"]["NextHop"]
        return {**found, "NextHops": {"NextHop": [*hops, {"NextHopType": "Instance", "NextHopId": "i-2"}]}}

    monkeypatch.setattr(emulated.Ali, "_entry", twice)
    route = route_to(fabric, place)
    assert (route.next_hop, route.addresses) == ("Instance i-lab00001, Instance i-2", frozenset())


def test_a_prefix_list_is_no_destination_of_ours(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, place = cloud.placed()
    real = emulated.Ali._entry

    def listed(self: emulated.Ali, entry: Entry) -> dict[str, Any]:
        text = str(entry.destination)
        return {**real(self, entry), "DestinationCidrBlock": "pl-office" if text == STRANGERS[1] else text}

    monkeypatch.setattr(emulated.Ali, "_entry", listed)
    assert [str(route.destination) for route in fabric.routes(place, [NETWORK])] == [STRANGERS[0]]


def test_more_instances_than_one_answer_holds(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    for number in range(1, 151):
        name = f"m{number}"
        cloud.vpc.add_machine(Machine(name, f"i-{name}", "", [f"10.0.1.{number}"], "cn-lab-a"))
        cloud.vpc.add(TABLE, f"10.5.{number}.0/24", name)
    found = [route for route in fabric.routes(place, [NETWORK]) if route.addresses]
    assert len(found) == 150
    assert {route.state for route in found} == {"active"}
    assert cloud.vpc.calls.count("DescribeInstances") == 2


def test_another_change_under_way_is_waited_for(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, place = cloud.placed()
    cloud.vpc.add(TABLE, "10.5.7.0/24", "n3", ready=str(time.time() + 0.3))
    fabric.create(place, TABLE, NET1)
    assert cloud.vpc.calls.count("CreateRouteEntry") > 1
    cloud.vpc.add(TABLE, "10.5.8.0/24", "n3", ready=str(time.time() + 60))
    monkeypatch.setattr(ali_api, "PAUSES_S", (0.01, 0.01))
    with pytest.raises(CloudError, match="IncorrectRouteEntryStatus"):
        fabric.delete(place, route_to(fabric, place))
    assert table_of(cloud.vpc)[str(NET1)] == "n1"


def test_a_replacement_whose_answer_is_lost_is_done(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    cloud.front.pending_s = 0.0
    cloud.vpc.add(TABLE, str(NET1), "n2")
    cloud.vpc.faults.after = True
    route = route_to(fabric, place)
    cloud.vpc.faults.broken = 1
    fabric.replace(place, route)
    assert cloud.vpc.calls.count("ModifyRouteEntry") == 2
    assert table_of(cloud.vpc)[str(NET1)] == "n1"


def test_an_answer_that_is_none(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's page, once and always; and no answer at all, also where the daemon begins."""
    fabric, place = cloud.placed()
    real, pages = cloud.front.api, [Response.text("<html>Bad Gateway" + "." * 9000, 502)]
    monkeypatch.setattr(cloud.front, "api", lambda request: pages.pop() if pages else real(request))
    assert fabric.routes(place, [NETWORK])
    monkeypatch.setattr(cloud.front, "api", lambda request: Response.text("<html>Bad Gateway" + "." * 9000, 502))
    with pytest.raises(CloudError, match="<html>Bad Gateway") as caught:
        fabric.routes(place, [NETWORK])
    assert len(str(caught.value)) < 500
    monkeypatch.setenv("ALIBABA_CLOUD_VPC_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CloudError, match=r"DescribeRouteTableList: .*Is 127\.0\.0\.1:1 within reach"):
        cloud.placed()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("NoPermission", CloudDenied, "The permission vpc:CreateRouteEntry is missing"),
        ("Forbidden.CheckEntryRuleQuota", CloudError, "CreateRouteEntry: Forbidden.CheckEntryRuleQuota: said"),
        ("InvalidSecurityToken.Expired", CloudDenied, "The credentials aren't valid"),
        ("RouterEntryConflict.Duplicated", RouteTaken, "said"),
        ("InvalidCidrBlock", CloudError, "let the config's Network lie elsewhere"),
        ("Throttling.Api", CloudError, "A larger SyncSeconds calls less"),
    ],
)
def test_each_code_in_an_operators_words(code: str, kind: type[CloudError], words: str) -> None:
    error = ali_api.explained("vpc", "CreateRouteEntry", code, "said")
    assert type(error) is kind
    assert words in str(error)


def test_quota(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    cloud.vpc.quota = 2
    with pytest.raises(CloudFull, match=r"The route table is full \(200 custom entries by default\): raise"):
        fabric.create(place, TABLE, NET1)


def test_checks(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    checks = {check.name: check for check in fabric.checks(place)}
    assert "RAM role of this machine" in checks["identity"].seen
    assert checks[f"quota of {TABLE}"].seen.startswith("2 custom entries")
    assert all(check.holds for check in checks.values())
    assert checks.keys() >= operations(fabric, place, None).keys()  # type: ignore[arg-type]


@pytest.mark.parametrize("action", ["DescribeRouteTableList", "DescribeRouteEntryList", "DescribeInstances"])
def test_checks_name_what_may_not_be_read(cloud: Cloud, action: str) -> None:
    fabric, place = cloud.placed()
    cloud.vpc.faults.denied = [action]
    (check,) = [check for check in fabric.checks(place) if check.name.endswith(f":{action}")]
    assert check.holds is False
    assert "The permission" in check.seen


@pytest.mark.parametrize(
    ("action", "holds"), [("CreateRouteEntry", False), ("ModifyRouteEntry", None), ("DeleteRouteEntry", None)]
)
def test_checks_rehearse_what_may_be_written(cloud: Cloud, action: str, holds: bool | None) -> None:
    fabric, place = cloud.placed()
    before = table_of(cloud.vpc)
    cloud.vpc.faults.denied = [action]
    (check,) = [check for check in fabric.checks(place) if check.name == f"vpc:{action}"]
    assert check.holds is holds
    assert f"The permission vpc:{action} is missing" in check.seen
    cloud.vpc.faults.denied, cloud.front.rehearses = [], False  # an API that does not know DryRun
    (check,) = [check for check in fabric.checks(place) if check.name == f"vpc:{action}"]
    assert check.holds is None
    assert "can't be told without writing" in check.seen
    assert table_of(cloud.vpc) == before


# Under the reconciler


async def test_healing_departure_and_two_daemons_at_once(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.life_of_two(cloud, tmp_path)


@pytest.mark.parametrize("faults", [{"throttle": 2}, {"broken": 1}, {"broken": 1, "after": True}])
async def test_through_trouble(cloud: Cloud, tmp_path: Path, faults: dict[str, int]) -> None:
    await clouds.trouble_that_passes(cloud, tmp_path, faults)


async def test_a_cloud_that_shows_late(cloud: Cloud, tmp_path: Path) -> None:
    """A change is waited for: the table takes no other before it shows."""
    cloud.vpc.faults.lag_s, cloud.front.pending_s = 0.2, 0.4
    one = Daemon(cloud.open(1), 1, tmp_path)
    one.peers()
    await one.look()
    assert cloud.vpc.calls.count("DescribeRouteEntryList") > 4
    await one.look(10)
    assert cloud.vpc.calls.count("CreateRouteEntry") == 1
    assert one.reconciler.problems() == []
    assert one.reconciler.in_sync()


async def test_a_stranger_on_our_subnet(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.stranger_on_our_subnet(cloud, tmp_path, "VpnGateway vpn-1", gateway="vpn-1")


async def test_another_route_to_this_machine_stays(cloud: Cloud, tmp_path: Path) -> None:
    """flannel's ali-vpc deleted all that led to the instance."""
    entry = cloud.vpc.add(TABLE, "172.30.0.0/16", "n1", description="a VPN of the operator's")
    one = Daemon(cloud.open(1), 1, tmp_path)
    one.peers()
    await one.look()
    await one.look(1000)
    assert entry in cloud.vpc.tables[TABLE]
    assert "DeleteRouteEntry" not in cloud.vpc.calls
