"""AWS: a real moto server behind what moto lacks: signatures, permissions, dry runs, quotas, pages, black holes,
throttling, eventual consistency; and the instance metadata service."""

from __future__ import annotations

import json
import secrets
import time
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as xml

from pyflannel.lab.cloud.aws_moto import Moto, MotoVpc
from pyflannel.lab.cloud.aws_sign import refusal
from pyflannel.lab.cloud.server import FrontEnd, Request, Response
from pyflannel.lab.cloud.state import Entry, Machine

KEYS = {"AKIALAB": ("lab-secret", ""), "ASIAROLE": ("role-secret", "role-token")}  # id → secret, session token
ROLE = "pyflannel-node"
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
_WRITES = ("CreateRoute", "ReplaceRoute", "DeleteRoute", "ModifyNetworkInterfaceAttribute")
_TOO_MANY, _UNAVAILABLE = 503, 503


class Aws(FrontEnd):
    """`imds`: "2" wants a token, "1" has none, "both" (the default of old images) takes either, "off" is switched off.
    `role`: the instance has one."""

    vpc: MotoVpc

    def __init__(self, vpc: MotoVpc, moto: Moto | None = None) -> None:
        """*moto* ends with this front end."""
        super().__init__(vpc)
        self._moto = moto
        self.imds, self.role = "2", True
        self._tokens: set[str] = set()

    def close(self) -> None:
        if self._moto is not None:
            self._moto.close()

    def environment(self, url: str, metadata: str | None = None) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata or "http://169.254.169.254",
        }

    # The metadata service

    def metadata(self, request: Request, machine: Machine) -> Response:
        if self.imds == "off":
            return Response.text("forbidden", 403)
        if request.path == "/latest/api/token":
            if request.method != "PUT" or self.imds == "1":
                return Response.text("no such thing", 404)
            token = secrets.token_hex(8)
            self._tokens.add(token)
            return Response.text(token)
        given = request.headers.get("x-aws-ec2-metadata-token")
        if (given is None and self.imds == "2") or (given is not None and given not in self._tokens):
            return Response.text("unauthorized", 401)
        found = self._facts(machine).get(request.path.removeprefix("/latest/meta-data/"))
        return Response.text("not found", 404) if found is None else Response.text(found)

    def _facts(self, machine: Machine) -> dict[str, str]:
        number = list(self.vpc.machines).index(machine.name)
        mac = f"0a:00:00:00:00:{number:02x}"
        base = f"network/interfaces/macs/{mac}"
        facts = {
            "instance-id": machine.id,
            "placement/region": self.vpc.region,
            "placement/availability-zone": machine.zone,
            "network/interfaces/macs/": f"{mac}/",
            f"{base}/local-ipv4s": "\n".join(ip for ip in machine.addresses if ":" not in ip),
            f"{base}/interface-id": machine.nic,
            f"{base}/vpc-id": self.vpc.network,
            f"{base}/subnet-id": self.vpc.subnet,
        }
        if ipv6s := [ip for ip in machine.addresses if ":" in ip]:
            facts[f"{base}/ipv6s"] = "\n".join(ipv6s)
        if self.role:
            secret, token = KEYS["ASIAROLE"]
            later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            facts["iam/security-credentials/"] = ROLE
            facts[f"iam/security-credentials/{ROLE}"] = json.dumps(
                {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAROLE", "SecretAccessKey": secret,
                 "Token": token, "Expiration": later, "LastUpdated": "2026-01-01T00:00:00Z"}
            )  # fmt: skip
        return facts

    # The API

    def api(self, request: Request) -> Response:
        data = dict(parse_qsl(request.body.decode())) if not request.headers.get("x-amz-target") else {}
        action = data.get("Action") or request.headers.get("x-amz-target", "").rpartition(".")[2]
        error = _Errors(request)
        if (why := refusal(request, KEYS)) is not None:
            return error(*why, 401)
        trouble = self.vpc.asked(action)
        if trouble == "denied":
            more = " Encoded authorization failure message: k3Xq" if error.is_ec2 else ""
            return error("UnauthorizedOperation", f"You are not authorized to perform this operation.{more}", 403)
        if trouble == "throttle":
            return error("RequestLimitExceeded", "Request limit exceeded.", _TOO_MANY)
        if trouble == "broken" and not self.vpc.faults.after:
            return error("Unavailable", "The service is unavailable.", _UNAVAILABLE)
        if data.get("DryRun", "").lower() == "true":
            return error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        if action == "CreateRoute" and (found := self._no_room(data)):
            return error(*found, 400)
        answer = self.vpc.moto.forward(request)
        if answer.status == 200 and action in _WRITES:
            self._note(action, data)
        if answer.status == 200 and action == "DescribeRouteTables":
            answer = Response(200, self._edited(answer.body, data), answer.headers)
        if trouble == "broken":
            return error("Unavailable", "The service is unavailable.", _UNAVAILABLE)
        return answer

    def _no_room(self, data: dict[str, str]) -> tuple[str, str] | None:
        """Why AWS would refuse what moto would take."""
        table = self.vpc.tables.get(data["RouteTableId"], [])
        if any(entry.destination == _destination(data) for entry in table):
            return "RouteAlreadyExists", f"The route identified by {_destination(data)} already exists."
        if len(table) >= self.vpc.quota:
            return "RouteLimitExceeded", "The maximum number of routes has been reached."
        return None

    def _note(self, action: str, data: dict[str, str]) -> None:
        """What moto has done is done in the copy."""
        vpc = self.vpc
        machine = next((each for each in vpc.machines.values() if each.nic == data.get("NetworkInterfaceId")), None)
        if action == "ModifyNetworkInterfaceAttribute":
            if machine is not None and "SourceDestCheck.Value" in data:
                machine.forwards = data["SourceDestCheck.Value"].lower() == "false"
                vpc.set_running(machine.name, machine.running)  # tells the router
            return
        target = machine.name if machine else ""
        if action == "CreateRoute":
            vpc.copy(data["RouteTableId"], str(_destination(data)), target)
            return
        entry = vpc.find(data["RouteTableId"], _destination(data))
        if entry is not None and action == "ReplaceRoute":
            vpc.retarget(entry, target)
        elif entry is not None:
            vpc.forget(entry)

    def _edited(self, body: bytes, data: dict[str, str]) -> bytes:
        """moto's answer as AWS would give it: a page, with black holes, and changes that show late."""
        root = xml.fromstring(body)
        name = f"{{{root.tag.partition('}')[0][1:]}}}" if root.tag.startswith("{") else ""
        tables = root.find(f"{name}routeTableSet")
        if tables is None:
            return body
        start, every = int(data.get("NextToken", "0")), list(tables)
        for index, table in enumerate(every):
            if not start <= index < start + self.vpc.page:
                tables.remove(table)
                continue
            ident, routes = table.findtext(f"{name}routeTableId", ""), table.find(f"{name}routeSet")
            if ident in self.vpc.tables and routes is not None:
                self._edit(routes, name, self.vpc.shown(ident))
        if start + self.vpc.page < len(every):
            xml.SubElement(root, f"{name}nextToken").text = str(start + self.vpc.page)
        return xml.tostring(root)

    def _edit(self, routes: Any, name: str, shown: list[Entry]) -> None:
        by_destination = {str(entry.destination): entry for entry in shown}
        for item in list(routes):
            text = item.findtext(f"{name}destinationCidrBlock") or item.findtext(f"{name}destinationIpv6CidrBlock")
            if not text or item.findtext(f"{name}origin") == "CreateRouteTable":
                continue
            entry = by_destination.pop(text, None)
            if entry is None:
                routes.remove(item)
                continue
            if entry.target and self.vpc.state_of(entry) == "blackhole":
                item.find(f"{name}state").text = "blackhole"
        for text, entry in by_destination.items():  # removed, and still shown
            item = xml.SubElement(routes, f"{name}item")
            kind = "destinationIpv6CidrBlock" if ":" in text else "destinationCidrBlock"
            machine = self.vpc.machines.get(entry.target)
            for tag, value in (
                (kind, text), ("networkInterfaceId", machine.nic if machine else "eni-0"), ("state", "active"),
                ("origin", "CreateRoute"),
            ):  # fmt: skip
                xml.SubElement(item, f"{name}{tag}").text = value


class _Errors:
    """Errors in the form of the service that *request* is for."""

    def __init__(self, request: Request) -> None:
        self._json = "x-amz-target" in request.headers
        self.is_ec2 = "/ec2/aws4_request" in request.headers.get("authorization", "")

    def __call__(self, code: str, message: str, status: int) -> Response:
        if self._json:
            return Response(
                status,
                json.dumps({"__type": code, "message": message}).encode(),
                {"Content-Type": "application/x-amz-json-1.1"},
            )
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        text = (
            f"<Response><Errors>{error}</Errors><RequestID>r-1</RequestID></Response>"
            if self.is_ec2
            else f"<ErrorResponse>{error}<RequestId>r-1</RequestId></ErrorResponse>"
        )
        return Response(status, text.encode(), {"Content-Type": "text/xml"})


def _destination(data: dict[str, str]) -> Any:
    return ip_network(data.get("DestinationCidrBlock") or data["DestinationIpv6CidrBlock"])


def build_front(machines: list[tuple[str, str, str]], moto: Moto | None = None) -> Aws:
    """A VPC with *machines*, in *moto*, or in one of its own."""
    own = None if moto else Moto()
    xml.register_namespace("", NAMESPACE)
    return Aws(MotoVpc(moto or own, machines), own)  # type: ignore[arg-type]
