"""Alibaba Cloud's API by its generic client (ACS3-HMAC-SHA256), and its errors in an operator's words."""

from __future__ import annotations

import logging
import os
import random
import time
from typing import Any
from urllib.parse import urlsplit

from pyflannel.table.cloud.contract import CloudDenied, CloudError, CloudFull, RouteTaken

log = logging.getLogger(__name__)

POLICY = "deploy/cloud/ali-vpc.json"
QUOTA = 200  # custom entries of a route table, by default
SERVICES = "100.64.0.0/10"  # the cloud's own services
VERSIONS = {"vpc": "2016-04-28", "ecs": "2014-05-26"}
ENDPOINT_VARIABLES = {"vpc": "ALIBABA_CLOUD_VPC_ENDPOINT", "ecs": "ECS_ENDPOINT"}  # the second is flannel's
# Ours to tune: a refusal that passes is met again after these pauses, in seconds; the last one is told.
PAUSES_S = (0.3, 0.7, 1.5, 3.0)
CONNECT_MS, READ_MS = 5_000, 10_000
# What passes by itself: throttling, another change of the same network that is under way (one code is misspelt as the
# API does), an earlier request with our ClientToken that isn't done yet, and a nonce that somebody had before.
PASSING = (
    "Throttling", "TaskConflict", "OperationConflict", "OperationFailed.DistibuteLock", "Incorrect", "Incorrcet",
    "LastTokenProcessing", "SystemBusy", "ServiceUnavailable", "InternalError", "SignatureNonceUsed",
)  # fmt: skip
# The API's words to these repeat the request's headers, the security token among them.
_REPEATS_HEADERS = ("SignatureDoesNotMatch", "IncompleteSignature", "InvalidSecurityToken")
_NO_PERMISSION = ("Forbidden.CheckEntryRuleQuota", "Forbidden.VRouterNotFound")  # though they sound like it
_WORDS = 300  # characters of an error that is passed on: it may be a proxy's whole page


class Gone(CloudError):
    """The route isn't there."""


class Same(CloudError):
    """It leads there already: a write whose answer was lost."""


class Rehearsed(CloudError):
    """A dry run: it would have been done."""


class Api:
    """The calls of one region, with *keys* (id, secret), or by the SDK's chain."""

    def __init__(self, region: str, keys: tuple[str, str] | None, metadata: str) -> None:
        """*metadata*: the host of the metadata service, which gives a RAM role's credentials."""
        self._region, self._keys, self._metadata = region, keys, metadata
        self._clients: dict[str, Any] = {}
        self._credential: Any = None
        self.who = ""

    def ask(self, service: str, action: str, **parameters: str | int) -> dict[str, Any]:
        """One call. Raises CloudError."""
        error: CloudError | None = None
        for pause_s in (*PAUSES_S, 0.0):
            try:
                return self._once(service, action, {"RegionId": self._region, **parameters})
            except _Passing as caught:
                error = caught.cause
                time.sleep(pause_s * random.uniform(0.7, 1.3))  # nodes that were refused together don't come together
        assert error is not None
        raise error

    def _once(self, service: str, action: str, parameters: dict[str, str | int]) -> dict[str, Any]:
        from alibabacloud_credentials.exceptions import CredentialException
        from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
        from alibabacloud_tea_openapi.utils_models import OpenApiRequest, Params
        from darabonba.runtime import RuntimeOptions
        from Tea.exceptions import TeaException

        params = Params(
            action=action, version=VERSIONS[service], protocol="HTTPS", pathname="/", method="POST", auth_type="AK",
            style="RPC", req_body_type="formData", body_type="json",
        )  # fmt: skip
        request = OpenApiRequest(query={name: str(value) for name, value in parameters.items()})
        try:
            return dict(self._client(service).call_api(params, request, RuntimeOptions())["body"])
        except AlibabaCloudException as error:
            code, status = str(error.code or ""), int(error.status_code or 0)
            cause = explained(service, action, code, str(error.message or ""))
            if status >= 500 or code.startswith(PASSING):
                raise _Passing(cause) from None
            raise cause from None
        except (TeaException, OSError, ValueError) as error:  # no answer, or one that is no JSON
            said = f"{action}: {str(error)[:_WORDS]}"
            if isinstance(getattr(error, "inner_exception", None), CredentialException):
                who, self._credential = self.who, None  # the next call looks for others
                self._clients.clear()
                raise CloudDenied(f"{said}. No {who} any more: see `flannelctl cloud check`") from None
            raise _Passing(CloudError(f"{said}. Is {self._endpoint(service)[1]} within reach?")) from None

    def _endpoint(self, service: str) -> tuple[str, str]:
        """Protocol and host."""
        text = os.environ.get(ENDPOINT_VARIABLES[service], "")
        url = urlsplit(text if "//" in text or not text else f"https://{text}")
        return url.scheme or "https", url.netloc or f"{service}.{self._region}.aliyuncs.com"

    def _client(self, service: str) -> Any:
        from alibabacloud_tea_openapi.client import Client
        from alibabacloud_tea_openapi.utils_models import Config

        if service not in self._clients:
            if self._credential is None:
                self._credential = self._chain()
            protocol, host = self._endpoint(service)
            config = Config(
                credential=self._credential, protocol=protocol, endpoint=host, region_id=self._region,
                connect_timeout=CONNECT_MS, read_timeout=READ_MS,
            )  # fmt: skip
            self._clients[service] = Client(config)
        return self._clients[service]

    def _chain(self) -> Any:
        """The SDK's providers in the order of its default chain, without the thread that this would start."""
        from alibabacloud_credentials import provider
        from alibabacloud_credentials.client import Client

        theirs = logging.getLogger("credentials")  # it writes to stderr by itself, and stacks of what we say in a line
        theirs.handlers.clear()
        theirs.setLevel(logging.CRITICAL)
        if self._keys is not None:
            ident, secret = self._keys
            self.who = f"access key {ident[:8]}…"
            return Client(provider=provider.StaticAKCredentialsProvider(access_key_id=ident, access_key_secret=secret))

        def role() -> Any:
            made = provider.EcsRamRoleCredentialsProvider(async_update_enabled=False)
            made._EcsRamRoleCredentialsProvider__metadata_service_host = self._metadata
            return made

        kinds = {
            "variables": provider.EnvironmentVariableCredentialsProvider,
            "OIDC": provider.OIDCRoleArnCredentialsProvider,
            "CLI profile": provider.CLIProfileCredentialsProvider,
            "profile": provider.ProfileCredentialsProvider,
            "RAM role of this machine": role,
            "URI": provider.URLCredentialsProvider,
        }
        for kind, make in kinds.items():
            try:
                each = make()
                if each.get_credentials() is not None:
                    self.who = f"credentials from the {kind}"
                    return Client(provider=each)
            except Exception as error:  # each provider has errors of its own
                log.debug("no credentials from the %s: %s", kind, type(error).__name__)
        raise CloudDenied(
            f"no credentials: give this machine a RAM role with the policy {POLICY}, or set "
            "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
        )


class _Passing(Exception):
    """`cause` may be another one the next time."""

    def __init__(self, cause: CloudError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def explained(service: str, action: str, code: str, message: str) -> CloudError:
    """Alibaba's error *code*, and what to do about it."""
    said = f"{action}: {code}" if code.startswith(_REPEATS_HEADERS) else f"{action}: {code}: {message[:_WORDS]}"
    if code == "DryRunOperation":
        return Rehearsed(said)
    if code == "OperationDenied.NextHopNotChanged":
        return Same(said)
    if code.startswith("InvalidTimeStamp"):
        return CloudDenied(f"{said}. The clock of this machine differs from the cloud's: run NTP")
    if code.startswith(("Forbidden", "NoPermission")) and code not in _NO_PERMISSION:
        return CloudDenied(f"{said}. The permission {service}:{action} is missing: grant {POLICY}")
    if code.startswith(("InvalidAccessKeyId", "SignatureDoesNotMatch", "IncompleteSignature", "InvalidSecurityToken")):
        return CloudDenied(f"{said}. The credentials aren't valid: see `flannelctl cloud check`")
    if code.startswith("QuotaExceeded"):
        return CloudFull(
            f"{said}. The route table is full ({QUOTA} custom entries by default): raise "
            "vpc_quota_route_entrys_num in Quota Center, or let some nodes use a Fallback"
        )
    if "Duplicate" in code:
        return RouteTaken(said)
    if code == "InvalidRouteEntry" or ("NotFound" in code and "RouteEntry" in code):
        return Gone(said)
    if code == "InvalidCidrBlock":
        return CloudError(
            f"{said}. No route may lie in a vSwitch's range, or be {SERVICES}: let the config's Network lie elsewhere"
        )
    if code.startswith("Throttling"):
        return CloudError(f"{said}. The cloud throttles us; trying again. A larger SyncSeconds calls less")
    return CloudError(said)
