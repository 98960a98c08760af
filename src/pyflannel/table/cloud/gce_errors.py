"""What the Compute Engine API refuses, in an operator's words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pyflannel.table.cloud.contract import CloudDenied, CloudError, CloudFull, RouteTaken

POLICY = "deploy/cloud/gce.json"
# Method → the permission it needs first; the API's own words, if they name one, go before.
PERMISSIONS = {
    "routes.list": "compute.routes.list",
    "routes.insert": "compute.routes.create",
    "routes.delete": "compute.routes.delete",
    "instances.get": "compute.instances.get",
    "instances.aggregatedList": "compute.instances.list",
    "globalOperations.get": "compute.globalOperations.get",
    "projects.get": "compute.projects.get",
}
_NAMED = re.compile(r"'(compute\.[A-Za-z.]+)' permission")
_BUSY = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED", "RATE_LIMITED"}
# Two changes of one network at once; trying again is what the API's words ask for.
_NOT_READY = {"resourceNotReady", "RESOURCE_NOT_READY"}


class Gone(CloudError):
    """What is asked for isn't there."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer: its HTTP status, the API's words, and the reasons it gives in any of its formats."""

    status: int
    message: str
    reasons: frozenset[str] = frozenset()

    @classmethod
    def read(cls, status: int, body: bytes) -> Refusal:
        """From an HTTP answer, whatever it holds."""
        try:
            error = json.loads(body)["error"]
            entries = [*error.get("errors", ()), *error.get("details", ())]
            reasons = frozenset(str(each["reason"]) for each in entries if "reason" in each)
            return cls(status, str(error.get("message", "")), reasons)
        except (ValueError, LookupError, TypeError, AttributeError):
            return cls(status, body[:200].decode(errors="replace").strip())

    @classmethod
    def of_operation(cls, operation: dict[str, Any]) -> Refusal | None:
        """Why *operation* failed; None if it didn't."""
        errors = (operation.get("error") or {}).get("errors") or []
        if not errors:
            return None
        words = "; ".join(str(each.get("message") or each.get("code", "")) for each in errors)
        return cls(int(operation.get("httpErrorStatusCode", 0)), words, frozenset(str(e.get("code")) for e in errors))

    @property
    def passing(self) -> bool:
        """Worth another try in a moment?"""
        return self.status == 429 or self.status >= 500 or bool(self.reasons & (_BUSY | _NOT_READY))

    def explained(self, method: str) -> CloudError:
        """As an error that says what to do."""
        said = f"{method}: {self.message or f'HTTP {self.status}'}".rstrip(".")
        if self.reasons & {"quotaExceeded", "QUOTA_EXCEEDED"}:
            return CloudFull(
                f"{said}. Ask for more of the quota ROUTES (console: IAM & Admin, Quotas), delete routes that nobody "
                "needs, or let some nodes use a Fallback"
            )
        if self.status == 429 or self.reasons & _BUSY:
            return CloudError(f"{said}. The cloud throttles us; trying again")
        if self.reasons & _NOT_READY:
            return CloudError(f"{said}. Somebody else changes the network just now; trying again")
        if self.reasons & {"ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficientPermissions"}:
            return CloudDenied(
                f"{said}. The access scopes of this machine are too narrow: stop it, and run `gcloud compute "
                "instances set-service-account NAME --scopes compute-rw` (or cloud-platform)"
            )
        if self.reasons & {"accessNotConfigured", "SERVICE_DISABLED"}:
            return CloudDenied(f"{said}. Run `gcloud services enable compute.googleapis.com`")
        if self.status == 401:
            return CloudDenied(
                f"{said}. The access token isn't taken: was the service account deleted or disabled? Is this "
                "machine's clock right?"
            )
        if self.status == 403 or "PERMISSIONS_ERROR" in self.reasons:
            named = _NAMED.search(self.message)
            permission = named[1] if named else PERMISSIONS[method]
            return CloudDenied(f"{said}. The permission {permission} is missing: grant the role of {POLICY}")
        if self.status == 409 or "RESOURCE_ALREADY_EXISTS" in self.reasons:
            return RouteTaken(
                f"{said}. If `flannelctl cloud plan` doesn't show it, it's another network's, has tags, or yields to "
                "ours by its priority: delete it, or lease another subnet (`flannelctl leases reserve`)"
            )
        if self.status == 404:
            return Gone(said)
        return CloudError(said)


def unlet(reason: str) -> CloudError:
    """Why there is no token: google-auth's words, and what to do."""
    text, reason = reason.lower(), reason.rstrip(".")
    if "reasonable timeframe" in text or "iat and exp" in text:
        return CloudDenied(f"no access token: {reason}. The clock of this machine differs from the cloud's: run NTP")
    if "invalid_grant" in text or "signature" in text:
        return CloudDenied(
            f"no access token: {reason}. The key of the service account was deleted, or isn't its: make another, "
            "or leave GOOGLE_APPLICATION_CREDENTIALS out to use the machine's own account"
        )
    if "service-accounts" in text and "404" in text:
        return CloudDenied(
            "this machine has no service account: stop it, and run `gcloud compute instances set-service-account NAME "
            f"--service-account EMAIL --scopes compute-rw`; the account needs the role of {POLICY}"
        )
    return CloudError(f"no access token: {reason}")
