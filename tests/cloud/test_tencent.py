"""tencent-vpc: the real SDK's requests against an emulator that verifies them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from pyflannel.lab.cloud import tencent as emulated
from pyflannel.lab.cloud.server import Emulator, Response
from pyflannel.lab.cloud.state import Vpc
from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields
from pyflannel.table.cloud.contract import CloudDenied, CloudError, CloudFull, NotInCloud, RouteTaken
from pyflannel.table.cloud.tencent import Tencent, open_tencent
from support import clouds
from support.clouds import MACHINES, NETWORK, STRANGERS, address, strangers, table_of

ROOT = Path(__file__).parents[2]
NET1 = ip_network("10.5.1.0/24")
ACTIONS = ("DescribeRouteTables", "CreateRoutes", "ReplaceRoutes", "DeleteRoutes")


@dataclass
class Cloud:
    """The emulator, and who asks it."""

    front: emulated.Tencent
    server: Emulator
    caplog: pytest.LogCaptureFixture

    @property
    def vpc(self) -> Vpc:
        return self.front.vpc

    def open(self, number: int = 1, config: str = "{}") -> Tencent:
        """What the daemon of node *number* opens."""
        self.server.guest = f"n{number}"
        return open_tencent(Fields.parse(config, "net-conf.json"))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Cloud]:
    front = emulated.build_front(MACHINES)
    caplog.set_level(logging.DEBUG)
    for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "ACCESS_KEY_ID", "ACCESS_KEY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with Emulator(front, [("127.0.0.1", 0)], guest="n1") as server:
        for name, value in front.environment(server.url, server.url).items():
            monkeypatch.setenv(name, value)
        main = next(iter(front.vpc.tables))
        for destination in STRANGERS:
            front.vpc.add(main, destination, "", gateway="vpngw-1", description="the office")
        before = strangers(front.vpc)
        yield Cloud(front, server, caplog)
        assert strangers(front.vpc) == before, "somebody else's route was touched"
        for secret, token in emulated.KEYS.values():
            assert secret not in caplog.text
            assert not token or token not in caplog.text


# Where this machine stands


def test_the_main_table_if_the_subnet_has_none(cloud: Cloud) -> None:
    place = cloud.open().locate([address(1)])
    assert (place.network, place.instance, place.next_hop) == ("vpc-lab00001", "ins-lab00001", "127.0.0.11")
    assert place.tables == ("rtb-lab00001",)


def test_every_table_that_serves_a_subnet_gets_the_route_and_every_page_is_read(cloud: Cloud) -> None:
    for number in range(7):
        cloud.vpc.tables[f"rtb-{number}"] = []
    cloud.vpc.page = 3
    cloud.front.subnet_of |= {"rtb-2": "subnet-databases", "rtb-6": "subnet-lab00001"}
    assert cloud.open().locate([address(1)]).tables == ("rtb-lab00001", "rtb-2", "rtb-6")


def test_tables_by_name(cloud: Cloud) -> None:
    cloud.vpc.tables["rtb-2"] = []
    one = cloud.open(config='{"RouteTableID": "rtb-2"}')
    assert one.locate([address(1)]).tables == ("rtb-2",)
    both = cloud.open(config='{"RouteTableID": ["rtb-2", "rtb-lab00001"]}')
    assert both.locate([address(1)]).tables == ("rtb-2", "rtb-lab00001")
    with pytest.raises(CloudError, match="RouteTableID is rtb-9, which vpc-lab00001 lacks; it has rtb-2, rtb-lab00001"):
        cloud.open(config='{"RouteTableID": "rtb-9"}').locate([address(1)])


def test_an_address_that_no_interface_bears(cloud: Cloud) -> None:
    with pytest.raises(CloudError, match=r"no interface of ins-lab00001 bears 127\.0\.0\.12 .*--iface"):
        cloud.open().locate([address(2)])


def test_no_cvm(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENCENTCLOUD_METADATA", "http://127.0.0.1:1")
    with pytest.raises(NotInCloud, match="is this a CVM"):
        cloud.open().locate([address(1)])


# Credentials


def test_keys_of_the_config_and_the_variables(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.front.role = False
    with pytest.raises(CloudDenied, match="no credentials: give this machine a CAM role"):
        cloud.open().locate([address(1)])
    config = '{"AccessKeyID": "AKIDlab", "AccessKeySecret": "lab-secret"}'
    fabric = cloud.open(config=config)
    assert fabric.locate([address(1)])
    assert "lab-secret" not in repr(fabric)
    for names in (("ACCESS_KEY_ID", "ACCESS_KEY_SECRET"), ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY")):
        with monkeypatch.context() as patch:
            patch.setenv(names[0], "AKIDlab")
            patch.setenv(names[1], "lab-secret")
            assert cloud.open().locate([address(1)])
    with pytest.raises(ConfigError, match="AccessKeySecret is missing, expected both"):
        cloud.open(config='{"AccessKeyID": "AKIDlab"}')


@pytest.mark.parametrize(
    ("ident", "secret", "words"),
    [("AKIDlab", "wrong", "SignatureFailure"), ("AKIDnobody", "lab-secret", "SecretIdNotFound")],
)
def test_keys_that_are_wrong(cloud: Cloud, ident: str, secret: str, words: str) -> None:
    config = json.dumps({"AccessKeyID": ident, "AccessKeySecret": secret})
    with pytest.raises(CloudDenied, match=words) as caught:
        cloud.open(config=config).locate([address(1)])
    assert secret not in str(caught.value)


def test_a_clock_that_is_off(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "SKEW_S", -1)
    with pytest.raises(CloudDenied, match="The clock of this machine differs from the cloud's: run NTP"):
        cloud.open().locate([address(1)])


@pytest.mark.parametrize("action", ACTIONS)
def test_each_permission_is_named_if_it_is_missing(cloud: Cloud, action: str) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    fabric.create(place, place.tables[0], NET1)
    (route,) = [route for route in fabric.routes(place, [NETWORK]) if route.destination == NET1]
    calls: dict[str, Callable[[], object]] = {
        "DescribeRouteTables": lambda: fabric.routes(place, [NETWORK]),
        "CreateRoutes": lambda: fabric.create(place, place.tables[0], ip_network("10.5.9.0/24")),
        "ReplaceRoutes": lambda: fabric.replace(place, route),
        "DeleteRoutes": lambda: fabric.delete(place, route),
    }
    cloud.vpc.faults.denied = [action]
    with pytest.raises(
        CloudDenied, match=f"The permission vpc:{action} is missing: grant deploy/cloud/tencent-vpc.json"
    ):
        calls[action]()


def test_the_policy_is_what_is_used(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    fabric.checks(place)
    fabric.create(place, place.tables[0], NET1)
    (route,) = [route for route in fabric.routes(place, [NETWORK]) if route.destination == NET1]
    fabric.replace(place, route)
    fabric.delete(place, route)
    policy = json.loads((ROOT / "deploy/cloud/tencent-vpc.json").read_text())
    assert {f"vpc:{action}" for action in cloud.vpc.calls} == set(policy["statement"][0]["action"])


# Routes


def test_create_replace_delete(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    table = place.tables[0]
    fabric.create(place, table, NET1)
    with pytest.raises(RouteTaken):
        fabric.create(place, table, NET1)
    (route,) = [route for route in fabric.routes(place, [NETWORK]) if route.destination == NET1]
    assert (route.next_hop, route.state, route.marked) == ("127.0.0.11", "active", True)
    assert route.addresses == {address(1)}
    other = cloud.open(2)
    there = other.locate([address(2)])
    other.replace(there, route)
    assert table_of(cloud.vpc)[str(NET1)] == "n2"
    other.delete(there, route)
    other.delete(there, route)
    assert str(NET1) not in table_of(cloud.vpc)
    assert {str(route.destination) for route in fabric.routes(place, [NETWORK])} == {"10.5.250.0/24"}


def test_a_disabled_route_is_a_black_hole(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    fabric.create(place, place.tables[0], NET1)
    entry = cloud.vpc.find(place.tables[0], NET1)
    assert entry is not None
    entry.details["enabled"] = "no"
    assert {route.state for route in fabric.routes(place, [NET1])} == {"blackhole"}


@pytest.mark.parametrize("body", ["<html>log in to the Internet", "{}", "[]"])
def test_an_answer_that_is_not_the_apis(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    monkeypatch.setattr(cloud.front, "api", lambda request: Response.text(body))
    with pytest.raises(CloudError, match="DescribeRouteTables: what answers isn't the API"):
        fabric.routes(place, [NETWORK])


def test_quota(cloud: Cloud) -> None:
    fabric = cloud.open()
    place = fabric.locate([address(1)])
    cloud.vpc.quota = 2
    with pytest.raises(CloudFull, match=r"The route table is full \(50 custom routes by default\): ask for more"):
        fabric.create(place, place.tables[0], NET1)


def test_checks(cloud: Cloud) -> None:
    fabric = cloud.open()
    checks = {check.name: check for check in fabric.checks(fabric.locate([address(1)]))}
    assert "role of this machine" in checks["identity"].seen
    assert checks["quota of rtb-lab00001"].seen.startswith("2 custom routes")
    assert all(check.holds is not False for check in checks.values())


# Under the reconciler


async def test_healing_departure_and_two_daemons_at_once(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.life_of_two(cloud, tmp_path)


@pytest.mark.parametrize("faults", [{"throttle": 2}, {"broken": 1}, {"broken": 1, "after": True}])
async def test_through_trouble(cloud: Cloud, tmp_path: Path, faults: dict[str, int]) -> None:
    await clouds.trouble_that_passes(cloud, tmp_path, faults)


async def test_a_cloud_that_shows_late(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.shows_late(cloud, tmp_path, "CreateRoutes")


async def test_a_stranger_on_our_subnet(cloud: Cloud, tmp_path: Path) -> None:
    await clouds.stranger_on_our_subnet(cloud, tmp_path, "VPN vpngw-1", gateway="vpngw-1")
