"""AWS's VPC routes. A route to a machine names its network interface (ENI)."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from pyflannel.model.fields import Fields
from pyflannel.model.node import CloudPlace, IPAddress, IPNetwork
from pyflannel.table.cloud.aws_api import Api, Gone
from pyflannel.table.cloud.aws_checks import checks
from pyflannel.table.cloud.aws_metadata import Identity, identity
from pyflannel.table.cloud.contract import Check, CloudError, FabricRoute
from pyflannel.table.cloud.options import route_tables
from pyflannel.table.cloud.registry import missing
from pyflannel.table.cloud.survey import within

REMEMBERED_S = 600.0  # Ours to tune: an interface's addresses hardly change
FILTER_VALUES = 200  # the most that one filter takes
# Where a route may lead, by the API's names; the first that is there is shown.
TARGETS = (
    "NetworkInterfaceId", "GatewayId", "NatGatewayId", "TransitGatewayId", "VpcPeeringConnectionId",
    "EgressOnlyInternetGatewayId", "LocalGatewayId", "CarrierGatewayId", "CoreNetworkArn", "InstanceId",
)  # fmt: skip
PROPAGATED = (
    "EnableVgwRoutePropagation"  # a virtual gateway's own: nobody can delete it, and a written route outranks it
)


def open_aws(fields: Fields) -> Aws:
    """Raises ConfigError: RouteTableID is wrong, or the SDK isn't there."""
    tables = route_tables(fields)
    try:
        import botocore  # noqa: F401
    except ImportError:
        raise missing("aws-vpc", "aws", "botocore") from None
    return Aws(tables)


class Aws:
    """AWS from one of its instances."""

    name = "aws-vpc"

    def __init__(self, tables: tuple[str, ...]) -> None:
        self._wanted = tables
        self._api: Api | None = None
        self._identity: Identity | None = None
        self._known: dict[str, tuple[frozenset[IPAddress], float]] = {}  # ENI → addresses, until (monotonic seconds)

    def locate(self, addresses: Sequence[IPAddress]) -> CloudPlace:
        self._identity = me = identity()
        if self._api is None:
            self._api = Api(me.region)
        wanted = set(addresses)
        for interface in me.interfaces:
            if wanted & set(interface.addresses):
                tables = self._tables(interface.vpc, interface.subnet)
                return CloudPlace(interface.vpc, me.instance, interface.id, tables, interface.families, me.zone)
        borne = ", ".join(str(ip) for interface in me.interfaces for ip in interface.addresses)
        mine = " or ".join(map(str, sorted(addresses, key=str)))
        raise CloudError(
            f"no interface of {me.instance} bears {mine} (they bear {borne}): give the VPC's own by --iface"
        )

    def _tables(self, vpc: str, subnet: str) -> tuple[str, ...]:
        if self._wanted:
            there = {each["RouteTableId"] for each in self._described(**{"vpc-id": [vpc]})}
            if strangers := sorted(set(self._wanted) - there):
                has = ", ".join(sorted(there))
                raise CloudError(f"RouteTableID is {', '.join(strangers)}, which {vpc} lacks; it has {has}")
            return self._wanted
        found = self._described(**{"association.subnet-id": [subnet]}) or self._described(
            **{"association.main": ["true"], "vpc-id": [vpc]}
        )
        if not found:
            raise CloudError(f"{vpc} has no route table for {subnet}: name one by RouteTableID")
        return (str(found[0]["RouteTableId"]),)

    def _described(self, **filters: list[str]) -> list[dict[str, Any]]:
        return self._asks.all(
            "DescribeRouteTables",
            "RouteTables",
            Filters=[{"Name": name, "Values": values} for name, values in filters.items()],
        )

    @property
    def _asks(self) -> Api:
        assert self._api is not None, "locate goes first"
        return self._api

    def forwards(self, place: CloudPlace) -> bool:
        """Is the interface's source/destination check off?"""
        (found,) = self._interfaces([place.next_hop]) or [{}]
        if not found:
            raise CloudError(f"DescribeNetworkInterfaces doesn't know {place.next_hop}, this machine's own interface")
        return not found.get("SourceDestCheck", True)

    def let_forward(self, place: CloudPlace) -> None:
        self._asks.ask(
            "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=place.next_hop, SourceDestCheck={"Value": False}
        )

    def routes(self, place: CloudPlace, networks: Sequence[IPNetwork]) -> list[FabricRoute]:
        """Routes by prefix list or propagated by a gateway are left out: a written one outranks them."""
        found = {each["RouteTableId"]: each for each in self._described(**{"route-table-id": list(place.tables)})}
        if gone := [name for name in place.tables if name not in found]:
            raise CloudError(f"route table {', '.join(gone)} is gone from {place.network}")
        entries = [
            (name, destination, route)
            for name in place.tables
            for route in found[name].get("Routes", ())
            if (destination := _destination(route)) is not None
            and within(destination, networks)
            and route.get("Origin") != PROPAGATED
        ]
        addresses = self._addresses({str(hop) for _, _, route in entries if (hop := route.get("NetworkInterfaceId"))})
        return [
            FabricRoute(name, destination, hop := _target(route), addresses.get(hop, frozenset()), _state(route))
            for name, destination, route in entries
        ]

    def create(self, place: CloudPlace, table: str, destination: IPNetwork) -> None:
        self._asks.ask("CreateRoute", RouteTableId=table, NetworkInterfaceId=place.next_hop, **_named(destination))

    def replace(self, place: CloudPlace, route: FabricRoute) -> None:
        """In place: ReplaceRoute."""
        self._asks.ask(
            "ReplaceRoute", RouteTableId=route.table, NetworkInterfaceId=place.next_hop, **_named(route.destination)
        )

    def delete(self, place: CloudPlace, route: FabricRoute) -> None:
        try:
            self._asks.ask("DeleteRoute", RouteTableId=route.table, **_named(route.destination))
        except Gone:
            return

    def checks(self, place: CloudPlace) -> list[Check]:
        assert self._identity is not None, "locate goes first"
        tables = self._described(**{"route-table-id": list(place.tables)})
        return checks(self._asks, self._identity, place, tables, lambda: self.forwards(place))

    # Interfaces

    def _interfaces(self, names: Collection[str]) -> list[dict[str, Any]]:
        """Those of *names* that there are."""
        ordered = sorted(names)
        return [
            found
            for start in range(0, len(ordered), FILTER_VALUES)
            for found in self._asks.all(
                "DescribeNetworkInterfaces",
                "NetworkInterfaces",
                Filters=[{"Name": "network-interface-id", "Values": ordered[start : start + FILTER_VALUES]}],
            )
        ]

    def _addresses(self, names: Iterable[str]) -> dict[str, frozenset[IPAddress]]:
        """The addresses of each interface, asked for if they aren't known."""
        now = time.monotonic()
        wanted = set(names)
        self._known = {name: known for name, known in self._known.items() if known[1] > now and name in wanted}
        for found in self._interfaces(wanted - self._known.keys()):
            self._known[str(found["NetworkInterfaceId"])] = _borne(found), now + REMEMBERED_S
        return {name: addresses for name, (addresses, _) in self._known.items()}


def _named(destination: IPNetwork) -> dict[str, str]:
    name = "DestinationCidrBlock" if destination.version == 4 else "DestinationIpv6CidrBlock"
    return {name: str(destination)}


def _destination(route: dict[str, Any]) -> IPNetwork | None:
    """None for a prefix list."""
    text = route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock")
    return None if text is None else ip_network(text, strict=False)


def _target(route: dict[str, Any]) -> str:
    return next((str(route[name]) for name in TARGETS if route.get(name)), "")


def _state(route: dict[str, Any]) -> Literal["active", "blackhole"]:
    return "blackhole" if route.get("State") == "blackhole" else "active"


def _borne(interface: dict[str, Any]) -> frozenset[IPAddress]:
    """Private, public, and IPv6 addresses."""
    texts = [each.get("Ipv6Address") for each in interface.get("Ipv6Addresses", ())]
    for each in (*interface.get("PrivateIpAddresses", ()), interface):
        texts += [each.get("PrivateIpAddress"), (each.get("Association") or {}).get("PublicIp")]
    return frozenset(ip_address(text) for text in texts if text)
