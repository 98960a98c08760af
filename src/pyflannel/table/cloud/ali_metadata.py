"""What the metadata service of Alibaba Cloud says of this machine; with a session's token where it has one."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from pyflannel.table.cloud.contract import CloudError, NotInCloud
from pyflannel.table.cloud.direct import DIRECT

ENDPOINT, ENDPOINT_VARIABLE = "http://100.100.100.200", "METADATA_ENDPOINT"  # flannel's variable
ANSWER_S = 3.0
TRIES, PAUSE_S = 3, 0.5  # Ours to tune: a service that is silent once makes nobody an outsider; flannel tried for 5 s
_TOKEN_LIFE, _TOKEN = "X-aliyun-ecs-metadata-token-ttl-seconds", "X-aliyun-ecs-metadata-token"


@dataclass(frozen=True, slots=True)
class Identity:
    """This machine; `address` is its primary interface's, where a route to the instance leads."""

    instance: str
    region: str
    zone: str
    vpc: str
    address: str


def base() -> str:
    """Where the service is."""
    url = urlsplit(os.environ.get(ENDPOINT_VARIABLE, "") or ENDPOINT)
    return f"{url.scheme}://{url.netloc}"


def identity() -> Identity:
    """Ask the service. Raises NotInCloud, CloudError."""
    token = _ask("/latest/api/token", "PUT", {_TOKEN_LIFE: "300"})
    headers = {_TOKEN: token} if token else {}

    def get(name: str) -> str:
        found = _ask(f"/latest/meta-data/{name}", "GET", headers)
        if found is None:
            raise CloudError(f"the metadata service {base()} has no {name}: is this a machine in a VPC?")
        return found.strip()

    names = ("instance-id", "region-id", "zone-id", "vpc-id", "private-ipv4")
    return Identity(*map(get, names))


def _ask(path: str, method: str, headers: dict[str, str]) -> str | None:
    """None if the service doesn't have it."""
    request = urllib.request.Request(f"{base()}{path}", method=method, headers=headers)
    silence: Exception | None = None
    for left in reversed(range(TRIES)):
        try:
            with DIRECT.open(request, timeout=ANSWER_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if method == "PUT" or error.code == 404:
                return None
            raise CloudError(f"the metadata service {base()} answers {error.code} for {path}") from None
        except (OSError, ValueError) as error:
            silence = error
            time.sleep(PAUSE_S if left else 0.0)
    raise NotInCloud(f"no metadata service of Alibaba Cloud answers at {base()} ({silence}): is this an ECS instance?")
