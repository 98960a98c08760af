"""Tencent Cloud's VPC routes (API vpc, 2017-03-12). A route to a machine names its private address (NORMAL_CVM)."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from pyflannel.model.fields import Fields
from pyflannel.model.node import CloudPlace, IPAddress, IPNetwork
from pyflannel.table.cloud.contract import (
    Check,
    CloudDenied,
    CloudError,
    CloudFull,
    FabricRoute,
    NotInCloud,
    RouteTaken,
)
from pyflannel.table.cloud.direct import DIRECT
from pyflannel.table.cloud.options import access_keys, route_tables
from pyflannel.table.cloud.registry import missing
from pyflannel.table.cloud.survey import within

METADATA = "http://metadata.tencentyun.com"  # 169.254.0.23; another by TENCENTCLOUD_METADATA
ENDPOINT_VARIABLE, METADATA_VARIABLE = "TENCENTCLOUD_VPC_ENDPOINT", "TENCENTCLOUD_METADATA"
POLICY = "deploy/cloud/tencent-vpc.json"
MARK = "pyflannel"
QUOTA = 50  # custom routes of a table, by default
PAGE = 100  # the most that DescribeRouteTables gives at once
# Times in seconds.
METADATA_S, REQUEST_S, ATTEMPTS = 3.0, 10, 4

Call = Callable[[str, dict[str, Any]], dict[str, Any]]


def open_tencent(fields: Fields) -> Tencent:
    """Raises ConfigError: a field is wrong, or the SDK isn't there."""
    tables = route_tables(fields)
    keys = access_keys(fields, os.environ)
    try:
        import tencentcloud.common.common_client  # noqa: F401
    except ImportError:
        raise missing("tencent-vpc", "tencent", "tencentcloud-sdk-python-common") from None
    return Tencent(tables, keys)


class Tencent:
    """Tencent Cloud from one of its machines."""

    name = "tencent-vpc"

    def __init__(self, tables: tuple[str, ...], keys: tuple[str, str] | None) -> None:
        self._wanted, self._keys = tables, keys
        self._metadata_url = os.environ.get(METADATA_VARIABLE, METADATA).rstrip("/")
        self._calls: Call | None = None
        self._region, self._vpc, self._who = "", "", ""

    def __repr__(self) -> str:
        return f"<Tencent {self._region} {self._vpc}>"

    def locate(self, addresses: Sequence[IPAddress]) -> CloudPlace:
        instance = self._metadata("instance-id")
        self._region = self._metadata("placement/region")
        wanted = {str(ip) for ip in addresses}
        borne: list[str] = []
        for mac in self._metadata("network/interfaces/macs/").split():
            base = f"network/interfaces/macs/{mac.strip('/')}"
            ips = [word.strip("/") for word in self._metadata(f"{base}/local-ipv4s/").split()]
            borne += ips
            mine = [ip for ip in ips if ip in wanted]
            if mine:
                self._vpc = self._metadata(f"{base}/vpc-id")
                tables = self._tables()
                return CloudPlace(self._vpc, instance, mine[0], tables, (4,), self._metadata("placement/zone"))
        raise CloudError(
            f"no interface of {instance} bears {' or '.join(sorted(wanted))} (they bear {', '.join(borne)}): "
            "give the VPC's own by --iface"
        )

    def _tables(self) -> tuple[str, ...]:
        """Those named in the config; else the default one, and each other that serves a subnet: nodes in any of them
        then reach each other."""
        found = self._all_tables()
        if self._wanted:
            strangers = sorted(set(self._wanted) - found.keys())
            if strangers:
                has = ", ".join(sorted(found))
                raise CloudError(f"RouteTableID is {', '.join(strangers)}, which {self._vpc} lacks; it has {has}")
            return self._wanted
        serving = [name for name, table in found.items() if table.get("Main") or table.get("AssociationSet")]
        if not serving:
            raise CloudError(f"{self._vpc} has no route table that serves a subnet: name one by RouteTableID")
        return tuple(serving)

    def forwards(self, place: CloudPlace) -> bool:
        """Tencent's machines always may."""
        return True

    def let_forward(self, place: CloudPlace) -> None:
        pass

    def routes(self, place: CloudPlace, networks: Sequence[IPNetwork]) -> list[FabricRoute]:
        found = self._all_tables()
        if gone := [name for name in place.tables if name not in found]:
            raise CloudError(f"route table {', '.join(gone)} is gone from {self._vpc}")
        made = [_route(name, entry) for name in place.tables for entry in found[name].get("RouteSet") or ()]
        return [route for route in made if route is not None and within(route.destination, networks)]

    def create(self, place: CloudPlace, table: str, destination: IPNetwork) -> None:
        self._ask("CreateRoutes", {"RouteTableId": table, "Routes": [_wanted(destination, place.next_hop)]})

    def replace(self, place: CloudPlace, route: FabricRoute) -> None:
        """In place: ReplaceRoutes."""
        entry = {"RouteId": int(route.handle), **_wanted(route.destination, place.next_hop)}
        self._ask("ReplaceRoutes", {"RouteTableId": route.table, "Routes": [entry]})

    def delete(self, place: CloudPlace, route: FabricRoute) -> None:
        try:
            self._ask("DeleteRoutes", {"RouteTableId": route.table, "Routes": [{"RouteId": int(route.handle)}]})
        except _Gone:
            return

    def checks(self, place: CloudPlace) -> list[Check]:
        found = self._all_tables()
        checks = [
            Check("identity", True, self._who),
            Check("vpc:DescribeRouteTables", True, "allowed"),
            Check(
                "vpc:CreateRoutes, ReplaceRoutes, DeleteRoutes", None, "can't be tested without writing",
                f"grant {POLICY}",
            ),
            Check("forwarding", True, "Tencent Cloud has no switch for it"),
        ]  # fmt: skip
        for name in place.tables:
            used = sum(entry.get("RouteType") == "USER" for entry in found[name].get("RouteSet") or ())
            holds = None if used > QUOTA * 0.9 else True
            cure = (
                f"the default quota is {QUOTA}: ask for more in the console (VPC, Quota Management), or use a Fallback"
            )
            checks.append(Check(f"quota of {name}", holds, f"{used} custom routes; {QUOTA} by default", cure))
        return checks

    # Metadata and API

    def _metadata(self, path: str) -> str:
        url = f"{self._metadata_url}/latest/meta-data/{path}"
        try:
            with DIRECT.open(url, timeout=METADATA_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise CloudError(f"the metadata service answers {error.code} for {path}: {url}") from None
        except (OSError, ValueError) as error:
            raise NotInCloud(
                f"no metadata service of Tencent Cloud answers at {self._metadata_url} ({error}): is this a CVM?"
            ) from None

    def _all_tables(self) -> dict[str, dict[str, Any]]:
        """The VPC's route tables by id: every page."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = self._ask(
                "DescribeRouteTables",
                {
                    "Filters": [{"Name": "vpc-id", "Values": [self._vpc]}],
                    "Offset": str(len(found)),
                    "Limit": str(PAGE),
                },
            )
            tables = page.get("RouteTableSet") or []
            found |= {table["RouteTableId"]: table for table in tables}
            if not tables or len(found) >= int(page.get("TotalCount", 0)):
                return found

    def _ask(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if self._calls is None:
            self._calls = self._client()
        return self._calls(action, parameters)

    def _client(self) -> Call:
        from tencentcloud.common.common_client import CommonClient
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
        from tencentcloud.common.profile.client_profile import ClientProfile
        from tencentcloud.common.profile.http_profile import HttpProfile
        from tencentcloud.common.retry import StandardRetryer

        url = urlsplit(os.environ.get(ENDPOINT_VARIABLE, ""))
        http = HttpProfile(protocol=url.scheme or "https", endpoint=url.netloc or None, reqTimeout=REQUEST_S)
        retryer = StandardRetryer(max_attempts=ATTEMPTS, backoff_fn=lambda attempt: 0.25 * 2**attempt)
        profile = ClientProfile(httpProfile=http, language="en-US", retryer=retryer)
        try:
            client = CommonClient("vpc", "2017-03-12", self._credential(), self._region, profile)
        except TencentCloudSDKException as error:
            raise _explained("credentials", error.code or "", error.message or "") from None

        def call(action: str, parameters: dict[str, Any]) -> dict[str, Any]:
            try:
                return dict(client.call_json(action, parameters)["Response"])
            except TencentCloudSDKException as error:
                raise _explained(action, error.code or "", error.message or "") from None
            except (ValueError, LookupError, TypeError) as error:  # a proxy's page, say
                raise CloudError(f"{action}: what answers isn't the API ({error}); looking again later") from None

        return call

    def _credential(self) -> Any:
        from tencentcloud.common import credential
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        if self._keys is not None:
            self._who = f"access key {self._keys[0][:8]}…"
            return credential.Credential(*self._keys)
        role = credential.CVMRoleCredential()
        role._role_endpoint = f"{self._metadata_url}/latest/meta-data/cam/security-credentials/"
        for kind, provider in (
            ("variables", credential.EnvironmentVariableCredential()),
            ("profile", credential.ProfileCredential()),
            ("role of this machine", role),
        ):
            try:
                found = provider.get_credential()
            except (TencentCloudSDKException, OSError, ValueError):
                found = None
            if found is not None and found.secret_id:
                self._who = f"credentials from the {kind}"
                return found
        raise CloudDenied(
            "no credentials: give this machine a CAM role with the policy "
            f"{POLICY}, or set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY"
        )


class _Gone(CloudError):
    """The route isn't there."""


def _wanted(destination: IPNetwork, gateway: str) -> dict[str, Any]:
    return {
        "DestinationCidrBlock": str(destination),
        "GatewayType": "NORMAL_CVM",
        "GatewayId": gateway,
        "RouteDescription": MARK,
        "Enabled": True,
    }


def _route(table: str, entry: dict[str, Any]) -> FabricRoute | None:
    """None for what has no IPv4 destination."""
    text = entry.get("DestinationCidrBlock")
    if not text:
        return None
    kind, gateway = entry.get("GatewayType"), str(entry.get("GatewayId") or "")
    addresses: frozenset[IPAddress] = frozenset()
    if kind == "NORMAL_CVM":
        ip = ip_address(gateway)
        assert isinstance(ip, IPv4Address)
        addresses = frozenset({ip})
    marked = str(entry.get("RouteDescription") or "").startswith(MARK)
    hop = gateway if kind == "NORMAL_CVM" else f"{kind} {gateway}"
    state = "active" if entry.get("Enabled", True) else "blackhole"
    return FabricRoute(
        table, ip_network(text, strict=False), hop, addresses,
        "active" if state == "active" else "blackhole", marked, str(entry["RouteId"]),
    )  # fmt: skip


def _explained(action: str, code: str, message: str) -> CloudError:
    """Tencent's error codes in an operator's words."""
    said = f"{action}: {code}: {message}"
    if code.startswith("AuthFailure.SignatureExpire"):
        return CloudDenied(f"{said}. The clock of this machine differs from the cloud's: run NTP")
    if "UnauthorizedOperation" in code:
        return CloudDenied(f"{said}. The permission vpc:{action} is missing: grant {POLICY}")
    if code.startswith(("AuthFailure", "InvalidCredential")):
        return CloudDenied(f"{said}. The credentials aren't valid: see `flannelctl cloud check`")
    if code.startswith("LimitExceeded"):
        return CloudFull(
            f"{said}. The route table is full ({QUOTA} custom routes by default): ask for more in the console (VPC, "
            "Quota Management), or let some nodes use a Fallback"
        )
    if "Duplicate" in code or "Conflict" in code or code.startswith("ResourceInUse"):
        return RouteTaken(said)
    if code.startswith("ResourceNotFound"):
        return _Gone(said)
    if code.startswith("RequestLimitExceeded"):
        return CloudError(f"{said}. The cloud throttles us; trying again")
    return CloudError(said)
