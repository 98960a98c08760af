"""The moto process behind the emulated AWS, and the network in it, of which a Vpc is kept as the copy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from ipaddress import ip_network
from typing import Any

from pyflannel.lab.cloud.server import Request, Response
from pyflannel.lab.cloud.state import Entry, Machine, Vpc
from pyflannel.lab.shell import LabError

REGION, ZONE = "eu-west-1", "eu-west-1a"  # moto knows real regions only
START_S = 30.0


class Moto:
    """A moto server in a process of its own."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyflannel.lab.cloud.moto_server", str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
        )  # fmt: skip
        until = time.monotonic() + START_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise LabError("moto's server doesn't start: pip install 'pyflannel[lab]'") from None
                time.sleep(0.05)
        self.client = self._client()

    def _client(self) -> Any:
        """EC2's API at moto itself, past what the front end adds."""
        import botocore.session
        from botocore.config import Config

        return botocore.session.Session().create_client(
            "ec2", region_name=REGION, endpoint_url=self.url, aws_access_key_id="moto", aws_secret_access_key="moto",
            config=Config(retries={"max_attempts": 1}),
        )  # fmt: skip

    def forward(self, request: Request) -> Response:
        """*request*, answered by moto."""
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        onward = urllib.request.Request(self.url + request.target, request.body or None, headers, method=request.method)
        try:
            with urllib.request.urlopen(onward, timeout=30) as answer:
                return Response(answer.status, answer.read(), {"Content-Type": answer.headers["Content-Type"]})
        except urllib.error.HTTPError as error:
            return Response(error.code, error.read(), {"Content-Type": error.headers["Content-Type"]})

    def reset(self) -> None:
        """Forget everything."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=30).close()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class MotoVpc(Vpc):
    """A VPC in moto. What tests and commands change here is changed in moto first."""

    def __init__(self, moto: Moto, machines: list[tuple[str, str, str]]) -> None:
        self.moto, client = moto, moto.client
        net = str(ip_network(f"{machines[0][1]}/16", strict=False))
        vpc = client.create_vpc(CidrBlock=net)["Vpc"]["VpcId"]
        self.subnet = client.create_subnet(VpcId=vpc, CidrBlock=net)["Subnet"]["SubnetId"]
        self.gateway = client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        client.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=vpc)
        filters = [{"Name": "vpc-id", "Values": [vpc]}]
        table = client.describe_route_tables(Filters=filters)["RouteTables"][0]["RouteTableId"]
        super().__init__("aws-vpc", vpc, REGION, [table])
        for name, ipv4, ipv6 in machines:
            self.add_machine(self._launch(name, ipv4, ipv6))

    def _launch(self, name: str, ipv4: str, ipv6: str) -> Machine:
        client = self.moto.client
        interface = client.create_network_interface(
            SubnetId=self.subnet, PrivateIpAddress=ipv4, Ipv6Addresses=[{"Ipv6Address": ipv6}]
        )["NetworkInterface"]["NetworkInterfaceId"]
        instance = client.run_instances(
            ImageId="ami-12345678", MinCount=1, MaxCount=1,
            NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": interface}],
        )["Instances"][0]["InstanceId"]  # fmt: skip
        # An instance's source/destination check is on until somebody switches it off.
        return Machine(name, instance, interface, [ipv4, ipv6], ZONE, forwards=False)

    def new_table(self, subnet: str = "") -> str:
        """A further route table, associated with *subnet* if one is given."""
        client = self.moto.client
        name = str(client.create_route_table(VpcId=self.network)["RouteTable"]["RouteTableId"])
        if subnet:
            client.associate_route_table(RouteTableId=name, SubnetId=subnet)
        self.tables[name] = []
        return name

    def copy(self, table: str, destination: str, target: str) -> Entry:
        """Note a route that moto has been given already."""
        return super().add(table, destination, target)

    def forget(self, entry: Entry) -> None:
        """Note that a route is gone from moto."""
        super().remove(entry)

    def add(self, table: str, destination: str, target: str, *, alike: bool = False, **details: str) -> Entry:
        machine = self.machines.get(target)
        hop = {"NetworkInterfaceId": machine.nic} if machine else {"GatewayId": self.gateway}
        self.moto.client.create_route(RouteTableId=table, **hop, **_named(destination))
        return super().add(table, destination, target, alike=alike, **details)

    def remove(self, entry: Entry) -> None:
        self.moto.client.delete_route(RouteTableId=entry.table, **_named(str(entry.destination)))
        super().remove(entry)


def _named(destination: str) -> dict[str, str]:
    return {"DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock": destination}
