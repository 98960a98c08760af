"""EC2's API by botocore: its own chain of credentials, its adaptive retries; and its errors in an operator's words."""

from __future__ import annotations

import logging
from typing import Any

from pyflannel.table.cloud.contract import CloudDenied, CloudError, CloudFull, RouteTaken

POLICY = "deploy/cloud/aws-vpc.json"
ATTEMPTS = 5  # as flannel's
CONNECT_S, READ_S = 5, 15
DRY_RUN_OK = "DryRunOperation"


class Gone(CloudError):
    """The route isn't there."""


class DryRun(CloudError):
    """It would have been done."""


class Api:
    """The calls of one region. Clients are made when they are first needed: EC2's takes a quarter of a second."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    def ask(self, operation: str, service: str = "ec2", **parameters: Any) -> dict[str, Any]:
        """One call, by the API's own name for it. Raises CloudError."""
        from botocore import xform_name

        return dict(
            self._explained(operation, lambda: getattr(self._client(service), xform_name(operation))(**parameters))
        )

    def all(self, operation: str, items: str, **parameters: Any) -> list[dict[str, Any]]:
        """The *items* of every page."""
        from botocore import xform_name

        def pages() -> list[dict[str, Any]]:
            paginator = self._client("ec2").get_paginator(xform_name(operation))
            return [item for page in paginator.paginate(**parameters) for item in page.get(items, ())]

        return list(self._explained(operation, pages))

    def _client(self, service: str) -> Any:
        import botocore.session
        from botocore.config import Config

        if self._session is None:
            for name in ("botocore", "urllib3"):  # at DEBUG they write down headers, tokens among them
                logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger(name).level))
            self._session = botocore.session.get_session()
        if service not in self._clients:
            config = Config(
                retries={"mode": "adaptive", "max_attempts": ATTEMPTS},
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
            )
            self._clients[service] = self._session.create_client(service, region_name=self._region, config=config)
        return self._clients[service]

    def _explained(self, operation: str, call: Any) -> Any:
        from botocore import exceptions
        from botocore.parsers import ResponseParserError

        try:
            return call()
        except exceptions.ClientError as error:
            told = error.response.get("Error", {})
            raise explained(operation, str(told.get("Code", "")), str(told.get("Message", ""))) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError):
            raise CloudDenied(
                f"{operation}: no credentials: give this instance a role with the policy {POLICY}, or set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
            raise CloudError(f"{operation}: {error}. Do a NAT gateway or VPC endpoints lead to EC2's API?") from None
        except (exceptions.BotoCoreError, ResponseParserError) as error:
            raise CloudError(f"{operation}: {error}") from None


def explained(operation: str, code: str, message: str) -> CloudError:
    """EC2's error *code*, and what to do about it."""
    said = f"{operation}: {code}: {message.partition(' Encoded authorization failure message')[0]}"
    if code == DRY_RUN_OK:
        return DryRun(said)
    if code in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"):
        return CloudDenied(f"{said} The permission ec2:{operation} is missing: grant {POLICY}")
    if code in ("RequestExpired", "SignatureDoesNotMatch", "InvalidSignatureException") or "not yet current" in message:
        return CloudDenied(
            f"{said}. Does the clock of this machine differ from the cloud's (run NTP), or is the secret key wrong?"
        )
    if code in ("AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "ExpiredToken"):
        return CloudDenied(f"{said}. The credentials aren't valid (any more): see `flannelctl cloud check`")
    if code == "RouteLimitExceeded":
        return CloudFull(
            f"{said} The route table is full (500 routes by default, 50 before June 2025): raise the quota 'Routes "
            "per route table' (VPC, L-93826ACB) in Service Quotas, give zones tables of their own, or let some nodes "
            "use a Fallback"
        )
    if code == "RouteAlreadyExists":
        return RouteTaken(said)
    if code == "InvalidRoute.NotFound":
        return Gone(said)
    if code in ("RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"):
        return CloudError(f"{said} AWS throttles this account's calls; trying again. A larger SyncSeconds calls less")
    return CloudError(said)
