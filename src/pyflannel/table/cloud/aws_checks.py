"""What `flannelctl cloud check` looks at on AWS. Permissions to write are tried by DryRun, which writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pyflannel.model.node import CloudPlace
from pyflannel.table.cloud.aws_api import POLICY, Api, DryRun
from pyflannel.table.cloud.aws_metadata import Identity
from pyflannel.table.cloud.contract import Check, CloudDenied, CloudError

QUOTA, OLD_QUOTA = 500, 50  # routes per table, by default since June 2025, and before
QUOTA_CODE = "L-93826ACB"
PROBE = "192.0.2.0/24"  # RFC 5737: nobody's
_RAISE = f"raise 'Routes per route table' ({QUOTA_CODE}) in Service Quotas, or let some nodes use a Fallback"


def checks(
    api: Api, me: Identity, place: CloudPlace, tables: Collection[dict[str, Any]], forwards: Callable[[], bool]
) -> list[Check]:
    """All of them. *tables*: as DescribeRouteTables gives them."""
    found = [
        _identity(api),
        Check("metadata", True, f"IMDSv{me.version}", ""),
        Check("ec2:DescribeRouteTables", True, "allowed"),
        _forwards(place, forwards),
    ]
    route = {"RouteTableId": place.tables[0], "DestinationCidrBlock": PROBE}
    hop = {"NetworkInterfaceId": place.next_hop}
    found += [
        _dry(api, "CreateRoute", **route, **hop),
        _dry(api, "ReplaceRoute", **route, **hop),
        _dry(api, "DeleteRoute", **route),
        _dry(api, "ModifyNetworkInterfaceAttribute", **hop, SourceDestCheck={"Value": False}),
    ]
    quota = _quota(api)
    return found + [_room(table, quota) for table in tables]


def _identity(api: Api) -> Check:
    try:
        return Check("identity", True, str(api.ask("GetCallerIdentity", "sts")["Arn"]))
    except CloudDenied as error:
        return Check("identity", False, str(error), f"give this instance a role with the policy {POLICY}")
    except CloudError as error:
        return Check("identity", None, str(error), "is STS reachable from here? flanneld itself does without it")


def _forwards(place: CloudPlace, forwards: Callable[[], bool]) -> Check:
    name = "source/destination check"
    try:
        off = forwards()
    except CloudError as error:
        return Check(name, False, str(error), f"grant {POLICY}")
    cure = f"flanneld switches it off; or: aws ec2 modify-network-interface-attribute --network-interface-id {place.next_hop} --no-source-dest-check"  # noqa: E501
    return Check(name, True if off else None, f"{'off' if off else 'on'} at {place.next_hop}", cure)


def _dry(api: Api, operation: str, **parameters: Any) -> Check:
    name = f"ec2:{operation}"
    try:
        api.ask(operation, **parameters, DryRun=True)
    except DryRun:
        return Check(name, True, "allowed")
    except CloudDenied as error:
        return Check(name, False, str(error), f"grant {POLICY}")
    except CloudError as error:
        return Check(name, None, str(error))
    return Check(name, None, "the dry run was answered as if it were none")


def _quota(api: Api) -> int | None:
    """Routes that a table may hold; None if we may not know."""
    try:
        found = api.ask("GetServiceQuota", "service-quotas", ServiceCode="vpc", QuotaCode=QUOTA_CODE)
        return int(found["Quota"]["Value"])
    except (CloudError, KeyError):
        return None


def _room(table: dict[str, Any], quota: int | None) -> Check:
    written = [route for route in table.get("Routes", ()) if route.get("Origin") == "CreateRoute"]
    used = max(sum(name in route for route in written) for name in ("DestinationCidrBlock", "DestinationIpv6CidrBlock"))
    lists = sum("DestinationPrefixListId" in route for route in written)
    more = f" and {lists} prefix lists, each of which counts as its maximum of entries," if lists else ""
    name = f"quota of {table['RouteTableId']}"
    if quota is not None:
        return Check(name, True if used <= quota * 0.9 else None, f"{used} routes{more} of {quota}", _RAISE)
    seen = f"{used} routes{more} of {QUOTA} by default, {OLD_QUOTA} before June 2025"
    return Check(
        name, True if used <= OLD_QUOTA * 0.9 else None, seen, f"servicequotas:GetServiceQuota would tell; {_RAISE}"
    )
