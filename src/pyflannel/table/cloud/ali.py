"""Alibaba Cloud's VPC routes (API Vpc, 2016-04-28). A route to a machine names the instance, as flannel's do."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Literal
from urllib.parse import urlsplit

from pyflannel.model.fields import Fields
from pyflannel.model.node import CloudPlace, IPAddress, IPNetwork
from pyflannel.table.cloud.ali_api import POLICY, QUOTA, Api, Gone, Rehearsed, Same
from pyflannel.table.cloud.ali_metadata import Identity, base, identity
from pyflannel.table.cloud.contract import Check, CloudDenied, CloudError, FabricRoute
from pyflannel.table.cloud.options import access_keys, route_tables
from pyflannel.table.cloud.registry import missing
from pyflannel.table.cloud.survey import within

MARK = "pyflannel"
TABLE_PAGE, ENTRY_PAGE, INSTANCE_PAGE = 50, 100, 100  # the most that one answer holds
REMEMBERED_S = 60.0  # Ours to tune: an instance's addresses hardly change, its state does
# A change is done when it shows as such: looked for after each pause, this long. In seconds, flannel's budget.
SETTLED_PAUSE_S, SETTLED_S = 0.5, 60.0
# What a rehearsal names: a network for documents (RFC 5737), and an entry and an instance that nobody has. So nothing
# would be written even by an API that doesn't know DryRun.
NOWHERE, NO_ENTRY, NO_INSTANCE = "192.0.2.0/24", "rte-pyflannelcheck", "i-pyflannelcheck"

Instance = tuple[frozenset[IPAddress], bool]  # its addresses, and whether it runs


def open_ali(fields: Fields) -> Ali:
    """Raises ConfigError: a field is wrong, or the SDK isn't there."""
    tables, keys = route_tables(fields), access_keys(fields, os.environ)
    try:
        import alibabacloud_credentials
        import alibabacloud_tea_openapi
    except ImportError:
        raise missing("ali-vpc", "ali", "alibabacloud-tea-openapi or alibabacloud-credentials") from None
    _ = alibabacloud_credentials, alibabacloud_tea_openapi
    return Ali(tables, keys)


class Ali:
    """Alibaba Cloud from one of its instances."""

    name = "ali-vpc"

    def __init__(self, tables: tuple[str, ...], keys: tuple[str, str] | None) -> None:
        self._wanted, self._keys = tables, keys
        self._api: Api | None = None
        self._known: dict[str, tuple[Instance | None, float]] = {}  # id → what it is, until (monotonic seconds)

    def __repr__(self) -> str:
        return f"<Ali {self._wanted}>"

    def locate(self, addresses: Sequence[IPAddress]) -> CloudPlace:
        me = identity()
        if ip_address(me.address) not in addresses:
            mine = " or ".join(map(str, sorted(addresses, key=str)))
            raise CloudError(
                f"{me.instance}'s primary interface bears {me.address}, not {mine}: a route to an instance leads to "
                "that interface; name it by --iface"
            )
        if self._api is None:
            self._api = Api(me.region, self._keys, urlsplit(base()).netloc)
        return CloudPlace(me.vpc, me.instance, me.instance, self._tables(me), (4,), me.zone)

    @property
    def _asks(self) -> Api:
        assert self._api is not None, "locate goes first"
        return self._api

    def _tables(self, me: Identity) -> tuple[str, ...]:
        """Those named in the config; else the VPC's system table, and each other that serves a vSwitch: nodes in any
        of them then reach each other."""
        found = self._listed(me.vpc)
        if self._wanted:
            if strangers := sorted(set(self._wanted) - {table["RouteTableId"] for table in found}):
                has = ", ".join(sorted(table["RouteTableId"] for table in found))
                raise CloudError(f"RouteTableID is {', '.join(strangers)}, which {me.vpc} lacks; it has {has}")
            return self._wanted
        serving = [
            str(table["RouteTableId"])
            for table in found
            if table.get("RouteTableType") == "System" or (table.get("VSwitchIds") or {}).get("VSwitchId")
        ]
        if not serving:
            raise CloudError(f"{me.vpc} has no route table that serves a vSwitch: name one by RouteTableID")
        return tuple(serving)

    def _listed(self, vpc: str) -> list[dict[str, Any]]:
        """The VPC's route tables: every page."""
        found: list[dict[str, Any]] = []
        for number in range(1, 1000):
            page = self._asks.ask("vpc", "DescribeRouteTableList", VpcId=vpc, PageNumber=number, PageSize=TABLE_PAGE)
            more = (page.get("RouterTableList") or {}).get("RouterTableListType") or []
            found += more
            if not more or len(found) >= int(page.get("TotalCount", 0)):
                break
        return found

    def forwards(self, place: CloudPlace) -> bool:
        """Alibaba's machines always may."""
        return True

    def let_forward(self, place: CloudPlace) -> None:
        pass

    def routes(self, place: CloudPlace, networks: Sequence[IPNetwork]) -> list[FabricRoute]:
        entries = [
            (entry, destination)
            for table in place.tables
            for entry in self._entries(table)
            if (destination := _destination(entry)) is not None and within(destination, networks)
        ]
        instances = self._instances({hop["NextHopId"] for entry, _ in entries if (hop := _instance_hop(entry))})
        return [_route(entry, destination, instances) for entry, destination in entries]

    def _entries(self, table: str, **more: str) -> list[dict[str, Any]]:
        """The custom entries of *table*, of both families, for the quota counts both: every page."""
        found: list[dict[str, Any]] = []
        token: dict[str, str] = {}
        while True:
            page = self._asks.ask(
                "vpc", "DescribeRouteEntryList", RouteTableId=table, RouteEntryType="Custom", MaxResult=ENTRY_PAGE,
                **more, **token,
            )  # fmt: skip
            found += (page.get("RouteEntrys") or {}).get("RouteEntry") or []
            if not page.get("NextToken"):
                return found
            token = {"NextToken": str(page["NextToken"])}

    def create(self, place: CloudPlace, table: str, destination: IPNetwork) -> None:
        self._asks.ask(
            "vpc", "CreateRouteEntry", RouteTableId=table, DestinationCidrBlock=str(destination),
            NextHopType="Instance", NextHopId=place.next_hop, RouteEntryName=MARK, Description=MARK,
            ClientToken=str(uuid.uuid4()),
        )  # fmt: skip
        self._settled(place, table, destination)

    def replace(self, place: CloudPlace, route: FabricRoute) -> None:
        """In place: ModifyRouteEntry."""
        with contextlib.suppress(Same):
            self._asks.ask(
                "vpc", "ModifyRouteEntry", RouteEntryId=route.handle, NewNextHopType="Instance",
                NewNextHopId=place.next_hop, RouteEntryName=MARK, Description=MARK,
            )  # fmt: skip
        self._settled(place, route.table, route.destination)

    def delete(self, place: CloudPlace, route: FabricRoute) -> None:
        """Refused if it leads elsewhere by now."""
        hop = route.next_hop.rpartition(" ")[2]  # without the kind
        with contextlib.suppress(Gone):
            self._asks.ask("vpc", "DeleteRouteEntry", RouteEntryId=route.handle, NextHopId=hop)

    def _settled(self, place: CloudPlace, table: str, destination: IPNetwork) -> None:
        """Returns once the entry to this machine is Available: until then the table takes no other change, and no
        packet goes by it."""
        until = time.monotonic() + SETTLED_S
        while True:
            found = self._entries(table, DestinationCidrBlock=str(destination))
            ours = [entry for entry in found if (_instance_hop(entry) or {}).get("NextHopId") == place.next_hop]
            if any(entry.get("Status") == "Available" for entry in ours):
                return
            if time.monotonic() > until:
                state = ours[0].get("Status") if ours else "not shown"
                raise CloudError(f"{destination} in {table} is {state} after {SETTLED_S:.0f} s; looking again later")
            time.sleep(SETTLED_PAUSE_S)

    def checks(self, place: CloudPlace) -> list[Check]:
        used: dict[str, int] = {}
        self._known.clear()
        reads: dict[str, Callable[[], object]] = {
            "vpc:DescribeRouteTableList": lambda: self._listed(place.network),
            "vpc:DescribeRouteEntryList": lambda: used.update({t: len(self._entries(t)) for t in place.tables}),
            "ecs:DescribeInstances": lambda: self._instances({place.instance}),
        }
        found = [_allowed(name, call) for name, call in reads.items()]
        hop = {"NewNextHopType": "Instance", "NewNextHopId": NO_INSTANCE}
        found += [
            self._rehearsed(
                "CreateRouteEntry", RouteTableId=place.tables[0], DestinationCidrBlock=NOWHERE,
                NextHopType="Instance", NextHopId=NO_INSTANCE,
            ),
            self._rehearsed("ModifyRouteEntry", RouteEntryId=NO_ENTRY, **hop),
            self._rehearsed("DeleteRouteEntry", RouteEntryId=NO_ENTRY, NextHopId=NO_INSTANCE),
            Check("forwarding", True, "the cloud forwards unless an interface's SourceDestCheck was switched on"),
        ]  # fmt: skip
        found.insert(0, Check("identity", True, self._asks.who))
        cure = "raise vpc_quota_route_entrys_num in Quota Center, or let some nodes use a Fallback"
        return found + [
            Check(
                f"quota of {table}", None if count > QUOTA * 0.9 else True,
                f"{count} custom entries; {QUOTA} by default", cure,
            )
            for table, count in used.items()
        ]  # fmt: skip

    def _rehearsed(self, action: str, **parameters: str) -> Check:
        """A dry run: may we? Where it names no table, a policy for certain tables can't let it pass."""
        cure = f"grant {POLICY}"
        try:
            self._asks.ask("vpc", action, DryRun="true", **parameters)
        except Rehearsed:
            pass
        except CloudDenied as error:
            return Check(f"vpc:{action}", False if "RouteTableId" in parameters else None, str(error), cure)
        except CloudError as error:
            return Check(f"vpc:{action}", None, f"can't be told without writing: {error}", cure)
        return Check(f"vpc:{action}", True, "allowed")

    def _instances(self, names: Collection[str]) -> dict[str, Instance]:
        """Those of *names* that there are; asked for if that isn't known."""
        now = time.monotonic()
        self._known = {name: known for name, known in self._known.items() if known[1] > now and name in names}
        ordered = sorted(set(names) - self._known.keys())
        for start in range(0, len(ordered), INSTANCE_PAGE):
            some = ordered[start : start + INSTANCE_PAGE]
            page = self._asks.ask("ecs", "DescribeInstances", InstanceIds=json.dumps(some), PageSize=INSTANCE_PAGE)
            there = {each["InstanceId"]: each for each in (page.get("Instances") or {}).get("Instance") or ()}
            for name in some:
                self._known[name] = (_instance(there[name]) if name in there else None), now + REMEMBERED_S
        return {name: instance for name, (instance, _) in self._known.items() if instance is not None}


def _allowed(name: str, call: Callable[[], object]) -> Check:
    try:
        call()
    except CloudError as error:
        return Check(name, False, str(error), f"grant {POLICY}")
    return Check(name, True, "allowed")


def _destination(entry: dict[str, Any]) -> IPNetwork | None:
    """None for a prefix list."""
    try:
        return ip_network(entry["DestinationCidrBlock"], strict=False)
    except ValueError:
        return None


def _hops(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return list((entry.get("NextHops") or {}).get("NextHop") or ())


def _instance_hop(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The instance that *entry* leads to; None if it's another kind of hop, or several."""
    hops = _hops(entry)
    return dict(hops[0]) if len(hops) == 1 and hops[0].get("NextHopType") == "Instance" else None


def _route(entry: dict[str, Any], destination: IPNetwork, instances: dict[str, Instance]) -> FabricRoute:
    hop = _instance_hop(entry)
    state: Literal["active", "pending", "blackhole"] = "active" if entry.get("Status") == "Available" else "pending"
    addresses: frozenset[IPAddress] = frozenset()
    if hop is not None:
        name = str(hop["NextHopId"])
        addresses, runs = instances.get(name, (addresses, False))
        state = state if runs else "blackhole"
    else:
        name = ", ".join(f"{each.get('NextHopType')} {each.get('NextHopId')}" for each in _hops(entry))
    marked = any(str(entry.get(field) or "").startswith(MARK) for field in ("Description", "RouteEntryName"))
    return FabricRoute(
        str(entry["RouteTableId"]), destination, name, addresses, state, marked, str(entry["RouteEntryId"])
    )


def _instance(found: dict[str, Any]) -> Instance:
    texts = list(((found.get("VpcAttributes") or {}).get("PrivateIpAddress") or {}).get("IpAddress") or ())
    texts += (found.get("PublicIpAddress") or {}).get("IpAddress") or ()
    texts.append((found.get("EipAddress") or {}).get("IpAddress"))
    return frozenset(map(ip_address, filter(None, texts))), found.get("Status") != "Stopped"
