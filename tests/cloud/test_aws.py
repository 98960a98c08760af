"""aws-vpc: the real SDK against a real moto server, behind what moto lacks (lab/cloud/aws.py)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from pyflannel.lab.cloud import aws as emulated
from pyflannel.lab.cloud import aws_sign
from pyflannel.lab.cloud.aws_moto import Moto, MotoVpc
from pyflannel.lab.cloud.server import Emulator
from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields
from pyflannel.model.node import CloudPlace
from pyflannel.table.cloud import aws_api, aws_metadata
from pyflannel.table.cloud.aws import Aws, open_aws
from pyflannel.table.cloud.contract import CloudDenied, CloudError, CloudFull, FabricRoute, NotInCloud, RouteTaken
from support import clouds
from support.clouds import MACHINES, NETWORK, STRANGERS, Daemon, address, strangers, table_of

ROOT = Path(__file__).parents[2]
NET1, NET6 = ip_network("10.5.1.0/24"), ip_network("fd00:5:1::/64")
MACHINES6 = [(name, ipv4, f"fd00:77::{number}") for number, (name, ipv4, _) in enumerate(MACHINES, 1)]


@dataclass
class Cloud:
    """The emulator, and who asks it."""

    front: emulated.Aws
    server: Emulator

    @property
    def vpc(self) -> MotoVpc:
        return self.front.vpc

    @property
    def main(self) -> str:
        return next(iter(self.vpc.tables))

    def open(self, number: int = 1, config: str = "{}") -> Aws:
        """What the daemon of node *number* opens."""
        self.server.guest = f"n{number}"
        return open_aws(Fields.parse(config, "net-conf.json"))

    def placed(self, number: int = 1) -> tuple[Aws, CloudPlace]:
        fabric = self.open(number)
        return fabric, fabric.locate([address(number)])

    def in_moto(self) -> dict[str, str]:
        """The main table as moto has it, whatever our copy says: destination → interface or gateway."""
        (table,) = self.vpc.moto.client.describe_route_tables(RouteTableIds=[self.main])["RouteTables"]
        return {
            next(str(value) for name, value in route.items() if name.startswith("Destination")): str(
                route.get("NetworkInterfaceId") or route["GatewayId"]
            )
            for route in table["Routes"]
        }


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    server = Moto()
    yield server
    server.close()


@pytest.fixture
def cloud(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> Iterator[Cloud]:
    moto.reset()
    front = emulated.build_front(MACHINES6, moto)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile of this machine's
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with Emulator(front, [("127.0.0.1", 0)], guest="n1") as server:
        for name, value in front.environment(server.url, server.url).items():
            monkeypatch.setenv(name, value)
        cloud = Cloud(front, server)
        for destination in STRANGERS:
            front.vpc.add(cloud.main, destination, "")
        before, theirs = strangers(front.vpc), {net: cloud.in_moto()[net] for net in STRANGERS}
        yield cloud
        assert strangers(front.vpc) == before, "somebody else's route was touched"
        assert theirs.items() <= cloud.in_moto().items(), "somebody else's route was touched"
        for secret, token in emulated.KEYS.values():
            assert secret not in caplog.text
            assert not token or token not in caplog.text


def route_to(fabric: Aws, place: CloudPlace, net: object = NET1) -> FabricRoute:
    (route,) = [route for route in fabric.routes(place, [NETWORK, NET6]) if route.destination == net]
    return route


# Where this machine stands


def test_the_main_table_if_the_subnet_has_none(cloud: Cloud) -> None:
    _, place = cloud.placed()
    machine = cloud.vpc.machines["n1"]
    assert (place.network, place.instance, place.next_hop) == (cloud.vpc.network, machine.id, machine.nic)
    assert (place.tables, place.families, place.zone) == ((cloud.main,), (4, 6), "eu-west-1a")


def test_the_subnets_own_table_goes_first(cloud: Cloud) -> None:
    own = cloud.vpc.new_table(cloud.vpc.subnet)
    assert cloud.placed()[1].tables == (own,)


def test_tables_by_name_and_every_page_of_them(cloud: Cloud) -> None:
    others = [cloud.vpc.new_table() for _ in range(5)]
    cloud.vpc.page = 2
    one = cloud.open(config=json.dumps({"RouteTableID": others[-1]}))
    assert one.locate([address(1)]).tables == (others[-1],)
    both = cloud.open(config=json.dumps({"RouteTableID": [others[3], cloud.main, others[3]]}))
    place = both.locate([address(1)])
    assert place.tables == (others[3], cloud.main)
    both.create(place, others[3], NET1)
    both.create(place, cloud.main, NET1)
    assert {route.table for route in both.routes(place, [NET1])} == {others[3], cloud.main}
    with pytest.raises(
        CloudError, match=f"RouteTableID is rtb-9, which {cloud.vpc.network} lacks; it has .*{others[0]}"
    ):
        cloud.open(config='{"RouteTableID": "rtb-9"}').locate([address(1)])


@pytest.mark.parametrize("value", [7, ["rtb-1", 7], {"a": 1}, ["rtb-1", ""]])
def test_a_route_table_that_is_none(cloud: Cloud, value: object) -> None:
    with pytest.raises(ConfigError, match=r"RouteTableID is .*, expected"):
        cloud.open(config=json.dumps({"RouteTableID": value}))


def test_an_address_that_no_interface_bears(cloud: Cloud) -> None:
    with pytest.raises(
        CloudError, match=r"no interface of i-\w+ bears 127\.0\.0\.12 \(they bear 127\.0\.0\.11.*--iface"
    ):
        cloud.open().locate([address(2)])


@pytest.mark.parametrize("imds", ["1", "2", "both"])
def test_both_versions_of_the_metadata_service(cloud: Cloud, imds: str) -> None:
    cloud.front.imds = imds
    fabric, place = cloud.placed()
    (version,) = [check.seen for check in fabric.checks(place) if check.name == "metadata"]
    assert version == ("IMDSv1" if imds == "1" else "IMDSv2")


def test_a_metadata_service_that_is_off(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.front.imds = "off"
    with pytest.raises(CloudError, match="switched off for this instance: set its HttpEndpoint"):
        cloud.placed()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(NotInCloud, match="is this an EC2 instance"):
        cloud.placed()


def test_a_proxy_is_not_asked(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert aws_metadata.identity().instance == cloud.vpc.machines["n1"].id


def test_a_token_that_does_not_reach_us(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyflannel.table.cloud.aws_metadata._token", lambda base: None)
    with pytest.raises(CloudError, match="HttpPutResponseHopLimit to 2"):
        cloud.placed()


# Credentials


def test_the_sdks_own_chain(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.front.role = False
    with pytest.raises(CloudDenied, match="no credentials: give this instance a role with the policy deploy/cloud"):
        cloud.placed()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIALAB")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab-secret")
    assert cloud.placed()


@pytest.mark.parametrize(
    ("ident", "secret", "words"),
    [
        ("AKIALAB", "other-secret", "is the secret key wrong"),
        ("AKIANOBODY", "lab-secret", "The credentials aren't valid"),
    ],
)
def test_keys_that_are_wrong(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, ident: str, secret: str, words: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ident)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(CloudDenied, match=words) as caught:
        cloud.placed()
    assert secret not in str(caught.value)


def test_a_clock_that_is_off(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_sign, "SKEW_S", -1)
    with pytest.raises(CloudDenied, match="Does the clock of this machine differ from the cloud's"):
        cloud.placed()


def writes(fabric: Aws, place: CloudPlace, route: FabricRoute) -> dict[str, Callable[[], object]]:
    """Each of the API's operations that a daemon uses, and how it comes to it."""
    return {
        "DescribeRouteTables": lambda: fabric.routes(place, [NETWORK]),
        "DescribeNetworkInterfaces": lambda: fabric.forwards(place),
        "CreateRoute": lambda: fabric.create(place, place.tables[0], ip_network("10.5.9.0/24")),
        "ReplaceRoute": lambda: fabric.replace(place, route),
        "DeleteRoute": lambda: fabric.delete(place, route),
        "ModifyNetworkInterfaceAttribute": lambda: fabric.let_forward(place),
    }


@pytest.mark.parametrize("action", writes(None, None, None))  # type: ignore[arg-type]
def test_each_permission_is_named_if_it_is_missing(cloud: Cloud, action: str) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, cloud.main, NET1)
    call = writes(fabric, place, route_to(fabric, place))[action]
    cloud.vpc.faults.denied = [action]
    words = f"The permission ec2:{action} is missing: grant deploy/cloud/aws-vpc.json"
    with pytest.raises(CloudDenied, match=words) as caught:
        call()
    assert "Encoded" not in str(caught.value)
    if action != "DescribeRouteTables":
        bad = [check for check in fabric.checks(place) if check.holds is False]
        assert any(words in check.seen for check in bad)


def test_the_policy_is_what_is_used(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, cloud.main, NET1)
    for call in writes(fabric, place, route_to(fabric, place)).values():
        call()
    fabric.checks(place)
    policy = json.loads((ROOT / "deploy/cloud/aws-vpc.json").read_text())
    granted = [statement["Action"] for statement in policy["Statement"]]
    flat = {action for each in granted for action in ([each] if isinstance(each, str) else each)}
    services = {"GetServiceQuota": "servicequotas"}
    used = set(cloud.vpc.calls) - {"GetCallerIdentity"}  # needs no permission
    assert {f"{services.get(action, 'ec2')}:{action}" for action in used} == flat


# Routes


@pytest.mark.parametrize("net", [NET1, NET6])
def test_create_replace_delete(cloud: Cloud, net: object) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, cloud.main, net)  # type: ignore[arg-type]
    with pytest.raises(RouteTaken):
        fabric.create(place, cloud.main, net)  # type: ignore[arg-type]
    route = route_to(fabric, place, net)
    assert (route.next_hop, route.state) == (cloud.vpc.machines["n1"].nic, "active")
    assert route.addresses == {address(1), ip_address("fd00:77::1")}
    other, there = cloud.placed(2)
    other.replace(there, route)
    assert cloud.in_moto()[str(net)] == table_nic(cloud, "n2")
    assert table_of(cloud.vpc)[str(net)] == "n2"
    other.delete(there, route)
    other.delete(there, route)
    assert str(net) not in cloud.in_moto()
    assert {str(each.destination) for each in fabric.routes(place, [NETWORK])} == {"10.5.250.0/24"}


def table_nic(cloud: Cloud, name: str) -> str:
    return cloud.vpc.machines[name].nic


def test_a_stopped_machines_route_is_a_black_hole(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, cloud.main, NET1)
    cloud.vpc.set_running("n1", False)
    assert route_to(fabric, place).state == "blackhole"


def test_prefix_lists_and_propagated_routes_are_left_out(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    client = cloud.vpc.moto.client
    found = client.create_managed_prefix_list(
        PrefixListName="office", MaxEntries=5, AddressFamily="IPv4", Entries=[{"Cidr": "10.5.7.0/24"}]
    )
    name = found["PrefixList"]["PrefixListId"]
    client.create_route(RouteTableId=cloud.main, DestinationPrefixListId=name, GatewayId=cloud.vpc.gateway)
    assert [str(route.destination) for route in fabric.routes(place, [NETWORK])] == ["10.5.250.0/24"]
    (quota,) = [check for check in fabric.checks(place) if check.name.startswith("quota")]
    assert "and 1 prefix lists, each of which counts as its maximum of entries, of 50" in quota.seen


def test_addresses_are_asked_for_once(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    fabric.create(place, cloud.main, NET1)
    cloud.vpc.calls.clear()
    for _ in range(3):
        fabric.routes(place, [NETWORK])
    assert cloud.vpc.calls.count("DescribeNetworkInterfaces") == 1


def test_quota(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    cloud.vpc.quota = 2
    with pytest.raises(CloudFull, match=r"The route table is full \(500 routes by default, 50 before June 2025\)"):
        fabric.create(place, cloud.main, NET1)
    assert str(NET1) not in cloud.in_moto()


def test_checks_change_nothing(cloud: Cloud) -> None:
    fabric, place = cloud.placed()
    before = cloud.in_moto()
    checks = {check.name: check for check in fabric.checks(place)}
    assert cloud.in_moto() == before
    assert "arn:aws:" in checks["identity"].seen
    assert checks["source/destination check"].holds is None
    assert "--no-source-dest-check" in checks["source/destination check"].cure
    assert checks[f"quota of {cloud.main}"].seen == "2 routes of 50"
    assert all(check.holds is not False for check in checks.values())
    cloud.vpc.faults.denied = ["GetServiceQuota"]
    checks = {check.name: check for check in fabric.checks(place)}
    assert "2 routes of 500 by default" in checks[f"quota of {cloud.main}"].seen


# Under the reconciler


async def test_healing_departure_and_two_daemons_at_once(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.life_of_two(cloud, tmp_path)
    assert cloud.in_moto()["10.5.1.0/24"] == table_nic(cloud, "n1")
    assert "10.5.2.0/24" not in cloud.in_moto()


@pytest.mark.parametrize("faults", [{"throttle": 2}, {"broken": 1}, {"broken": 1, "after": True}])
async def test_through_trouble(cloud: Cloud, tmp_path: Path, faults: dict[str, int]) -> None:
    await clouds.trouble_that_passes(cloud, tmp_path, faults)


async def test_throttling_that_lasts_is_told(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_api, "ATTEMPTS", 1)  # or the SDK's patience is the test's
    one = Daemon(cloud.open(1), 1, tmp_path)
    one.peers()
    cloud.vpc.faults.throttle = 1000
    await one.look()
    assert any("AWS throttles this account's calls" in problem for problem in one.reconciler.problems())
    cloud.vpc.faults.throttle = 0
    for _ in range(3):
        await one.look()
    assert one.reconciler.problems() == []


async def test_a_cloud_that_shows_late(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.shows_late(cloud, tmp_path, "CreateRoute")


async def test_a_stranger_on_our_subnet(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.stranger_on_our_subnet(cloud, tmp_path, cloud.vpc.gateway)
    assert cloud.in_moto()["10.5.1.0/24"] == cloud.vpc.gateway


async def test_a_black_hole_on_our_subnet_is_replaced(cloud: Cloud, tmp_path: Path) -> None:
    """A machine that was here before, and is gone, left its route."""
    cloud.vpc.add(cloud.main, "10.5.1.0/24", "n3")
    cloud.vpc.set_running("n3", False)
    one = Daemon(cloud.open(1), 1, tmp_path)
    one.peers()
    await one.look()
    assert cloud.in_moto()["10.5.1.0/24"] == table_nic(cloud, "n1")
    assert "ReplaceRoute" in cloud.vpc.calls
    assert "DeleteRoute" not in cloud.vpc.calls
