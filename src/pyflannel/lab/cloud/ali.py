"""Alibaba Cloud's Vpc and Ecs APIs over a Vpc: signed by ACS3-HMAC-SHA256, as its documents say; and its metadata."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pyflannel.lab.cloud.server import FrontEnd, Request, Response
from pyflannel.lab.cloud.state import Entry, Machine, Refused, Vpc

KEYS = {"LTAIlab": ("lab-secret", ""), "STSrole": ("role-secret", "role-token")}  # id → secret, security token
SKEW_S = 900  # a request's date may be this far off
ROLE = "pyflannel-node"
_AUTH = re.compile(r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=(\w{64})")
_VERSIONS = {"DescribeInstances": "2014-05-26"}
_CODES = {
    "quota": "QuotaExceeded",
    "exists": "InvalidCIDRBlock.Duplicate",
    "missing": "InvalidRouteEntry.NotFound",
    "busy": "IncorrectRouteEntryStatus",
    "same": "OperationDenied.NextHopNotChanged",
    "no hop": "InvalidNextHop",
    "other hop": "InvalidNextHop.NotFound",
}
_WRITES = ("CreateRouteEntry", "ModifyRouteEntry", "DeleteRouteEntry")
_SYSTEM = {
    "RouteEntryId": "rte-system", "DestinationCidrBlock": "100.64.0.0/10", "Type": "System", "Status": "Available",
    "NextHops": {"NextHop": [{"NextHopType": "service", "NextHopId": "", "Enabled": 1}]},
}  # fmt: skip


class Ali(FrontEnd):
    """`role`: the instance has one. `hardened`: metadata wants a token. `pending_s`: how long a change takes, and the
    network takes no other meanwhile. `rehearses`: DryRun is known."""

    def __init__(self, vpc: Vpc) -> None:
        super().__init__(vpc)
        self.vswitches_of: dict[str, list[str]] = {}  # table → vSwitches associated with it
        self.role, self.hardened, self.rehearses, self.pending_s = True, True, True, 0.2
        self._tokens: set[str] = set()
        self._nonces: set[str] = set()
        self._made: dict[str, str] = {}  # client token → entry

    def environment(self, url: str, metadata: str | None = None) -> dict[str, str]:
        return {
            "ALIBABA_CLOUD_VPC_ENDPOINT": url,
            "ECS_ENDPOINT": url,
            "METADATA_ENDPOINT": metadata or "http://100.100.100.200",
        }

    # The metadata service

    def metadata(self, request: Request, machine: Machine) -> Response:
        if request.path == "/latest/api/token":
            if request.method != "PUT" or not self.hardened:
                return Response.text("not found", 404)
            token = secrets.token_hex(8)
            self._tokens.add(token)
            return Response.text(token)
        if self.hardened and request.headers.get("x-aliyun-ecs-metadata-token") not in self._tokens:
            return Response.text("forbidden", 403)
        values = {
            "instance-id": machine.id,
            "region-id": self.vpc.region,
            "zone-id": machine.zone,
            "vpc-id": self.vpc.network,
            "private-ipv4": machine.addresses[0],
        }
        if self.role:
            secret, token = KEYS["STSrole"]
            later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 21600))
            values["ram/security-credentials/"] = ROLE
            values[f"ram/security-credentials/{ROLE}"] = json.dumps(
                {"AccessKeyId": "STSrole", "AccessKeySecret": secret, "SecurityToken": token, "Expiration": later,
                 "Code": "Success"}
            )  # fmt: skip
        found = values.get(request.path.removeprefix("/latest/meta-data/"))
        return Response.text("not found", 404) if found is None else Response.text(found)

    # The API

    def api(self, request: Request) -> Response:
        action = request.headers.get("x-acs-action", "")
        if (refusal := self._unsigned(request)) is not None:
            return _error(*refusal, 400)
        if request.headers.get("x-acs-version") != _VERSIONS.get(action, "2016-04-28"):
            return _error("InvalidVersion", "Specified parameter Version is not valid.", 400)
        trouble = self.vpc.asked(action)
        if trouble == "denied":
            return _error("Forbidden.RAM", f"User not authorized to operate on the specified resource ({action}).", 403)
        if trouble == "throttle":
            return _error("Throttling.User", "Request was denied due to user flow control.", 400)
        if trouble == "broken" and not self.vpc.faults.after:
            return _error("ServiceUnavailable", "The request has failed due to a temporary failure.", 503)
        if action in _WRITES and request.query.get("DryRun") == "true" and self.rehearses:
            return _error("DryRunOperation", "Request validation has been passed with DryRun flag set.", 400)
        try:
            answer = self._do(action, request.query)
        except Refused as refused:
            return _error(_CODES.get(refused.why, "InvalidParameter"), f"{action}: {refused.why}", 400)
        if trouble == "broken":
            return _error("ServiceUnavailable", "The request has failed due to a temporary failure.", 503)
        return Response.json({**answer, "RequestId": "r-1"})

    def _unsigned(self, request: Request) -> tuple[str, str] | None:
        """Why the signature doesn't hold; None if it does."""
        match = _AUTH.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            return "IncompleteSignature", "no ACS3 signature"
        ident, names, given = match.groups()
        if ident not in KEYS:
            return "InvalidAccessKeyId.NotFound", "Specified access key is not found."
        secret, token = KEYS[ident]
        stamp = datetime.strptime(request.headers["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        if abs(stamp.timestamp() - time.time()) > SKEW_S:
            return "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired."
        signed = set(names.split(";"))
        if not {"host", "x-acs-action", "x-acs-date", "x-acs-content-sha256", "x-acs-signature-nonce"} <= signed:
            return "IncompleteSignature", "host and all x-acs- headers must be signed"
        body = hashlib.sha256(request.body).hexdigest()
        headers = "".join(f"{name}:{request.headers.get(name, '').strip()}\n" for name in names.split(";"))
        query = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(request.query.items())
        )
        canonical = "\n".join([request.method, request.path, query, headers, names, body])
        text = f"ACS3-HMAC-SHA256\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        wanted = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted, given) or request.headers["x-acs-content-sha256"] != body:
            said = "Specified signature does not match our calculation."  # and then, as the real one, for who debugs:
            return (
                "SignatureDoesNotMatch",
                f"{said} server StringToSign is [{text}] server CanonicalRequest is [{canonical}]",
            )
        if request.headers.get("x-acs-security-token", "") != token:
            return "InvalidSecurityToken.Malformed", "The specified parameter SecurityToken is not valid."
        nonce = request.headers["x-acs-signature-nonce"]
        if nonce in self._nonces:
            return "SignatureNonceUsed", "Specified signature nonce was used already."
        self._nonces.add(nonce)
        return None

    def _do(self, action: str, data: dict[str, str]) -> dict[str, Any]:
        vpc = self.vpc
        if data.get("RegionId") != vpc.region:
            raise Refused("invalid")
        if action == "DescribeInstances":
            wanted = json.loads(data["InstanceIds"])
            if len(wanted) > 100:
                raise Refused("invalid")
            found = [_instance(machine) for machine in vpc.machines.values() if machine.id in wanted]
            return {"Instances": {"Instance": found}, "TotalCount": len(found)}
        if action == "DescribeRouteTableList":
            names = list(vpc.tables) if data.get("VpcId") == vpc.network else []
            size = min(int(data["PageSize"]), vpc.page)
            start = (int(data["PageNumber"]) - 1) * size
            shown = [self._table(name) for name in names[start : start + size]]
            return {"RouterTableList": {"RouterTableListType": shown}, "TotalCount": len(names)}
        if action == "DescribeRouteEntryList":
            return self._entries(data)
        if action == "CreateRouteEntry":
            return {"RouteEntryId": self._create(data)}
        if action == "DeleteRouteEntry" and not data.get("NextHopId"):
            raise Refused("no hop")
        entry = next(
            (each for entries in vpc.tables.values() for each in entries if f"rte-{each.id}" == data["RouteEntryId"]),
            None,
        )
        if entry is None:
            raise Refused("missing")
        self._stable()
        hop = self._entry(entry)["NextHops"]["NextHop"][0]["NextHopId"]
        if action == "DeleteRouteEntry":
            if hop != data["NextHopId"]:
                raise Refused("other hop")
            vpc.remove(entry)
        elif action == "ModifyRouteEntry":
            target = self._target(data["NewNextHopType"], data["NewNextHopId"])
            if hop == data["NewNextHopId"]:
                raise Refused("same")
            entry.details |= {"description": data.get("Description", ""), "ready": str(time.time() + self.pending_s)}
            vpc.retarget(entry, target)
        else:
            raise Refused("invalid")
        return {}

    def _create(self, data: dict[str, str]) -> str:
        token, table = data.get("ClientToken", ""), data["RouteTableId"]
        if token in self._made:
            return self._made[token]
        if table not in self.vpc.tables:
            raise Refused("invalid")
        target = self._target(data["NextHopType"], data["NextHopId"])
        with self.vpc.lock:
            self._stable()
            entry = self.vpc.add(
                table, data["DestinationCidrBlock"], target,
                description=data.get("Description", ""), ready=str(time.time() + self.pending_s),
            )  # fmt: skip
        self._made[token] = f"rte-{entry.id}"
        return f"rte-{entry.id}"

    def _stable(self) -> None:
        """One change at a time, in all of the network."""
        entries = (entry for entries in self.vpc.tables.values() for entry in entries)
        if any(float(entry.details.get("ready", "0")) > time.time() for entry in entries):
            raise Refused("busy")

    def _target(self, kind: str, hop: str) -> str:
        found = [machine.name for machine in self.vpc.machines.values() if machine.id == hop]
        if kind != "Instance" or not found:
            raise Refused("invalid")
        return found[0]

    def _entries(self, data: dict[str, str]) -> dict[str, Any]:
        if data["RouteTableId"] not in self.vpc.tables:
            raise Refused("invalid")
        found = [self._entry(entry) for entry in self.vpc.shown(data["RouteTableId"])]
        if data.get("RouteEntryType") != "Custom":
            found.append({**_SYSTEM, "RouteTableId": data["RouteTableId"]})
        found = [entry for entry in found if data.get("DestinationCidrBlock") in (None, entry["DestinationCidrBlock"])]
        start = int(data.get("NextToken", "0"))
        size = min(int(data["MaxResult"]), self.vpc.page)
        more = {"NextToken": str(start + size)} if start + size < len(found) else {}
        return {"RouteEntrys": {"RouteEntry": found[start : start + size]}, **more}

    def _table(self, name: str) -> dict[str, Any]:
        return {
            "VpcId": self.vpc.network,
            "RouteTableId": name,
            "RouteTableType": "System" if name == next(iter(self.vpc.tables)) else "Custom",
            "VSwitchIds": {"VSwitchId": self.vswitches_of.get(name, [])},
        }

    def _entry(self, entry: Entry) -> dict[str, Any]:
        machine = self.vpc.machines.get(entry.target)
        hop = ("Instance", machine.id) if machine else ("VpnGateway", entry.details.get("gateway", "vpn-1"))
        ready = time.time() >= float(entry.details.get("ready", "0"))
        return {
            "RouteEntryId": f"rte-{entry.id}",
            "RouteTableId": entry.table,
            "DestinationCidrBlock": str(entry.destination),
            "Type": "Custom",
            "Status": "Available" if ready else "Pending",
            "Description": entry.details.get("description", ""),
            "NextHops": {"NextHop": [{"NextHopType": hop[0], "NextHopId": hop[1], "Enabled": 1}]},
        }


def _instance(machine: Machine) -> dict[str, Any]:
    return {
        "InstanceId": machine.id,
        "Status": "Running" if machine.running else "Stopped",
        "VpcAttributes": {"PrivateIpAddress": {"IpAddress": [ip for ip in machine.addresses if ":" not in ip]}},
        "PublicIpAddress": {"IpAddress": []},
        "EipAddress": {"IpAddress": ""},
    }


def _error(code: str, message: str, status: int) -> Response:
    return Response.json({"Code": code, "Message": message, "RequestId": "r-1"}, status)


def build_front(machines: list[tuple[str, str, str]]) -> Ali:
    """A VPC with *machines*."""
    vpc = Vpc("ali-vpc", "vpc-lab00001", "cn-lab", ["vtb-lab00001"], quota=200)
    for number, (name, ipv4, ipv6) in enumerate(machines, 1):
        ident = f"i-lab{number:05}"
        vpc.add_machine(Machine(name, ident, ident, [ipv4, ipv6], "cn-lab-a"))
    return Ali(vpc)
