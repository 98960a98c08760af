"""Tencent Cloud's VPC API over a Vpc: signed by TC3-HMAC-SHA256, as its documents say; and a CVM's metadata service."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from typing import Any

from pyflannel.lab.cloud.server import FrontEnd, Request, Response
from pyflannel.lab.cloud.state import Entry, Machine, Refused, Vpc

KEYS = {"AKIDlab": ("lab-secret", ""), "AKIDrole": ("role-secret", "role-token")}  # id → secret, session token
SKEW_S = 300  # a request's timestamp may be this far off
ROLE = "pyflannel-node"
_AUTH = re.compile(
    r"TC3-HMAC-SHA256 Credential=([^/]+)/([^/]+)/([^/]+)/tc3_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)"
)


class Tencent(FrontEnd):
    """The actions that a route backend needs. `more` are further tables of the VPC, to fill pages."""

    def __init__(self, vpc: Vpc) -> None:
        super().__init__(vpc)
        self.subnet_of: dict[str, str] = {}  # table → subnet associated with it
        self.role = True

    def environment(self, url: str, metadata: str | None = None) -> dict[str, str]:
        return {
            "TENCENTCLOUD_VPC_ENDPOINT": url,
            "TENCENTCLOUD_METADATA": metadata or "http://169.254.0.23",
        }

    def metadata(self, request: Request, machine: Machine) -> Response:
        mac, vpc = machine.fields["mac"], self.vpc
        base = f"network/interfaces/macs/{mac}"
        values = {
            "instance-id": machine.id,
            "placement/region": vpc.region,
            "placement/zone": machine.zone,
            "network/interfaces/macs/": f"{mac}/",
            f"{base}/local-ipv4s/": "\n".join(f"{ip}/" for ip in machine.addresses if ":" not in ip),
            f"{base}/vpc-id": vpc.network,
        }
        if self.role:
            secret, token = KEYS["AKIDrole"]
            values["cam/security-credentials/"] = ROLE
            values[f"cam/security-credentials/{ROLE}"] = json.dumps(
                {"TmpSecretId": "AKIDrole", "TmpSecretKey": secret, "Token": token, "Code": "Success",
                 "ExpiredTime": int(time.time()) + 3600}
            )  # fmt: skip
        found = values.get(request.path.removeprefix("/latest/meta-data/"))
        return Response.text("not found", 404) if found is None else Response.text(found)

    def api(self, request: Request) -> Response:
        action = request.headers.get("x-tc-action", "")
        if (refusal := self._unsigned(request)) is not None:
            return _error(*refusal)
        trouble = self.vpc.asked(action)
        if trouble == "denied":
            return _error(
                "AuthFailure.UnauthorizedOperation", f"you are not authorized to perform operation ({action})"
            )
        if trouble == "throttle":
            return _error("RequestLimitExceeded", "too many requests")
        if trouble == "broken" and not self.vpc.faults.after:
            return Response.text("bad gateway", 502)
        try:
            answer = self._do(action, json.loads(request.body or b"{}"))
        except Refused as refused:
            code = {
                "quota": "LimitExceeded",
                "exists": "InvalidParameterValue.Duplicate",
                "missing": "ResourceNotFound",
            }.get(refused.why, "InvalidParameter")
            return _error(code, f"{action}: {refused.why}")
        if trouble == "broken":
            return Response.text("bad gateway", 502)
        return Response.json({"Response": {**answer, "RequestId": "r-1"}})

    def _unsigned(self, request: Request) -> tuple[str, str] | None:
        """Why the signature doesn't hold; None if it does."""
        match = _AUTH.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            return "AuthFailure.SignatureFailure", "no TC3 signature"
        ident, date, service, names, given = match.groups()
        if ident not in KEYS:
            return "AuthFailure.SecretIdNotFound", f"no SecretId {ident}"
        secret, token = KEYS[ident]
        stamp = request.headers.get("x-tc-timestamp", "0")
        if abs(int(stamp) - time.time()) > SKEW_S:
            return "AuthFailure.SignatureExpire", "the timestamp is not within five minutes of the server's"
        headers = "".join(f"{name}:{request.headers.get(name, '').strip().lower()}\n" for name in names.split(";"))
        body = hashlib.sha256(request.body).hexdigest()
        query = request.target.partition("?")[2]
        canonical = "\n".join([request.method, "/", query, headers, names, body])
        scope = f"{date}/{service}/tc3_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        key = f"TC3{secret}".encode()
        for part in (date, service, "tc3_request", text):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(key.hex(), given):
            return "AuthFailure.SignatureFailure", "the signature does not match"
        if request.headers.get("x-tc-token", "") != token:
            return "AuthFailure.TokenFailure", "the token does not match"
        return None

    def _do(self, action: str, data: dict[str, Any]) -> dict[str, Any]:
        vpc = self.vpc
        if action == "DescribeRouteTables":
            wanted = [item for each in data.get("Filters", ()) if each["Name"] == "vpc-id" for item in each["Values"]]
            names = list(vpc.tables) if vpc.network in wanted else []
            offset, limit = int(data.get("Offset", 0)), min(int(data.get("Limit", 20)), vpc.page)
            return {
                "TotalCount": len(names),
                "RouteTableSet": [self._table(name) for name in names[offset : offset + limit]],
            }
        table = data.get("RouteTableId", "")
        if table not in vpc.tables:
            raise Refused("missing")
        for route in data["Routes"]:
            if action == "CreateRoutes":
                vpc.add(
                    table, route["DestinationCidrBlock"], self._target(route),
                    gateway=route["GatewayId"], description=route.get("RouteDescription", ""),
                )  # fmt: skip
                continue
            found = [entry for entry in vpc.tables[table] if entry.id == str(route["RouteId"])]
            if not found:
                raise Refused("missing")
            if action == "DeleteRoutes":
                vpc.remove(found[0])
            elif action == "ReplaceRoutes":
                found[0].details |= {"gateway": route["GatewayId"], "description": route.get("RouteDescription", "")}
                vpc.retarget(found[0], self._target(route))
            else:
                raise Refused("invalid")
        return {"RouteSet": []} if action == "CreateRoutes" else {}

    def _target(self, route: dict[str, Any]) -> str:
        if route.get("GatewayType") != "NORMAL_CVM":
            return ""
        machine = self.vpc.machine_at(route["GatewayId"])
        if machine is None:
            raise Refused("invalid")
        return machine.name

    def _table(self, name: str) -> dict[str, Any]:
        subnet = self.subnet_of.get(name)
        return {
            "VpcId": self.vpc.network,
            "RouteTableId": name,
            "Main": name == next(iter(self.vpc.tables)),
            "AssociationSet": [{"SubnetId": subnet, "RouteTableId": name}] if subnet else [],
            "RouteSet": [self._entry(entry) for entry in self.vpc.shown(name)],
        }

    def _entry(self, entry: Entry) -> dict[str, Any]:
        machine = self.vpc.machines.get(entry.target)
        gateway = entry.details.get("gateway") or (machine.addresses[0] if machine else "vpngw-1")
        return {
            "DestinationCidrBlock": str(entry.destination),
            "GatewayType": "NORMAL_CVM" if machine else "VPN",
            "GatewayId": gateway,
            "RouteId": int(entry.id),
            "RouteDescription": entry.details.get("description", ""),
            "Enabled": entry.details.get("enabled", "yes") == "yes",
            "RouteType": "USER",
            "RouteTableId": entry.table,
        }


def _error(code: str, message: str) -> Response:
    return Response.json({"Response": {"Error": {"Code": code, "Message": message}, "RequestId": "r-1"}})


def build_front(machines: list[tuple[str, str, str]]) -> Tencent:
    """A VPC with *machines*."""
    vpc = Vpc("tencent-vpc", "vpc-lab00001", "ap-lab", ["rtb-lab00001"])
    for number, (name, ipv4, ipv6) in enumerate(machines, 1):
        fields = {"mac": f"52:54:00:00:00:{number:02x}"}
        vpc.add_machine(Machine(name, f"ins-lab{number:05}", ipv4, [ipv4, ipv6], "ap-lab-1", fields=fields))
    return Tencent(vpc)
