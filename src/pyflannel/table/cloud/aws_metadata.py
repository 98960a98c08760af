"""What EC2's instance metadata service says of this machine: version 2 (a session's token), else version 1."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from pyflannel.model.node import IPAddress
from pyflannel.table.cloud.contract import CloudError, NotInCloud
from pyflannel.table.cloud.direct import DIRECT

ENDPOINT, ENDPOINT_VARIABLE = "http://169.254.169.254", "AWS_EC2_METADATA_SERVICE_ENDPOINT"  # the SDK's own
TOKEN_LIFE_S = 300
ANSWER_S = 3.0
_TOKEN_LIFE, _TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"


@dataclass(frozen=True, slots=True)
class Interface:
    """One of this machine's network interfaces (an ENI)."""

    id: str
    vpc: str
    subnet: str
    addresses: tuple[IPAddress, ...]

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions that it has an address of."""
        return tuple(sorted({ip.version for ip in self.addresses}))


@dataclass(frozen=True, slots=True)
class Identity:
    """This machine. `version` is that of the service which said so."""

    instance: str
    region: str
    zone: str
    interfaces: tuple[Interface, ...]
    version: int


def identity() -> Identity:
    """Ask the service. Raises NotInCloud, CloudError."""
    base = os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip("/")
    token = _token(base)
    headers = {_TOKEN: token} if token else {}

    def get(path: str) -> str:
        request = urllib.request.Request(f"{base}/latest/meta-data/{path}", headers=headers)
        try:
            with DIRECT.open(request, timeout=ANSWER_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ""
            raise _refused(base, error.code, token) from None
        except (OSError, ValueError) as error:
            raise _silent(base, error) from None

    instance = get("instance-id")
    if not instance:
        raise NotInCloud(f"{base} has no instance-id: is this an EC2 instance?")
    zone = get("placement/availability-zone")
    macs = [mac.strip("/") for mac in get("network/interfaces/macs/").split()]
    found = tuple(_interface(lambda name, mac=mac: get(f"network/interfaces/macs/{mac}/{name}")) for mac in macs)  # type: ignore[misc]
    return Identity(instance, get("placement/region") or zone[:-1], zone, found, 2 if token else 1)


def _interface(get: Callable[[str], str]) -> Interface:
    addresses = [ip_address(word) for name in ("local-ipv4s", "ipv6s") for word in get(name).split()]
    return Interface(get("interface-id"), get("vpc-id"), get("subnet-id"), tuple(addresses))


def _token(base: str) -> str | None:
    """A session's token; None where version 1 has to do."""
    headers = {_TOKEN_LIFE: str(TOKEN_LIFE_S)}
    request = urllib.request.Request(f"{base}/latest/api/token", method="PUT", headers=headers)
    try:
        with DIRECT.open(request, timeout=ANSWER_S) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError:
        return None
    except TimeoutError:
        return None  # the answer dies on the way if the hop limit is too low
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            return None
        raise _silent(base, error) from None


def _refused(base: str, code: int, token: str | None) -> CloudError:
    if code == 401 and token is None:
        return CloudError(
            f"{base} wants IMDSv2, and its token doesn't reach us: run flanneld in the host's network, or raise the "
            "instance's HttpPutResponseHopLimit to 2"
        )
    if code == 403:
        return CloudError(f"{base} is switched off for this instance: set its HttpEndpoint to enabled")
    return CloudError(f"the metadata service {base} answers {code}")


def _silent(base: str, error: Exception) -> NotInCloud:
    return NotInCloud(f"no metadata service of EC2 answers at {base} ({error}): is this an EC2 instance?")
