"""The Compute Engine API (v1) over HTTP: credentials by google-auth, pages, operations, and trying again.

A write carries a `requestId`: tried again after a lost answer, it's done once.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from pyflannel.table.cloud.contract import CloudDenied, CloudError
from pyflannel.table.cloud.gce_errors import POLICY, Refusal, unlet

ENDPOINT, ENDPOINT_VARIABLE = "https://compute.googleapis.com", "GCE_COMPUTE_ENDPOINT"
SCOPE = "https://www.googleapis.com/auth/compute"
PAGE = 500  # the most that a list gives at once
# Ours to tune. Times in seconds: a request's, the first pause before another try (doubled each time), and the pauses
# between looks at an operation, which takes some seconds.
REQUEST_S, ATTEMPTS, PAUSE_S = 10.0, 4, 0.25
POLL_S, POLL_LAST_S, OPERATION_S = 0.2, 1.0, 90.0


class Api:
    """One identity's calls. Each raises a CloudError that says what to do."""

    def __init__(self) -> None:
        self._base = os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip("/") + "/compute/v1"
        self._credentials: Any = None
        self._request: Any = None

    @property
    def who(self) -> str:
        """Whose credentials these are, once they were used."""
        kind = type(self._credentials)
        email = getattr(self._credentials, "service_account_email", "") or kind.__name__
        return f"{email} ({'of this machine' if self.of_machine else 'GOOGLE_APPLICATION_CREDENTIALS or gcloud'})"

    @property
    def of_machine(self) -> bool:
        """Are the credentials those of the machine's own service account?"""
        return ".compute_engine." in type(self._credentials).__module__

    def get(self, method: str, path: str, **query: str) -> dict[str, Any]:
        """One resource, or one page."""
        return self._send(method, "GET", path, query, None)

    def pages(self, method: str, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """Every page of a list."""
        page = self.get(method, path, maxResults=str(PAGE), **query)
        yield page
        while token := page.get("nextPageToken"):
            page = self.get(method, path, maxResults=str(PAGE), pageToken=token, **query)
            yield page

    def write(self, method: str, verb: str, project: str, path: str, body: dict[str, Any] | None = None) -> None:
        """A change of a global resource below *project*; done when this returns."""
        root = f"projects/{project}/global"
        operation = self._send(method, verb, f"{root}/{path}", {"requestId": str(uuid.uuid4())}, body)
        deadline, pause_s = time.monotonic() + OPERATION_S, POLL_S
        while operation.get("status") != "DONE":
            if time.monotonic() > deadline:
                raise CloudError(f"{method}: {operation.get('name')} isn't done after {OPERATION_S:.0f} s")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, POLL_LAST_S)
            operation = self.get("globalOperations.get", f"{root}/operations/{operation['name']}")
        if (refusal := Refusal.of_operation(operation)) is not None:
            raise refusal.explained(method)

    def _send(
        self, method: str, verb: str, path: str, query: dict[str, str], body: dict[str, Any] | None
    ) -> dict[str, Any]:
        url = f"{self._base}/{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        renewed, pause_s = False, PAUSE_S
        for left in reversed(range(ATTEMPTS)):
            status, answer = self._once(verb, url, data)
            if 200 <= status < 300:
                return _object(method, answer)
            if status == 401 and not renewed:  # it may have been revoked: another one, at once
                renewed = True
                self._credentials.token = None
                continue
            refusal = Refusal.read(status, answer)
            if not refusal.passing or not left:
                raise refusal.explained(method)
            time.sleep(pause_s * random.uniform(0.7, 1.3))
            pause_s *= 2
        raise CloudDenied(f"{method}: the access token isn't taken, nor a new one")

    def _once(self, verb: str, url: str, data: bytes | None) -> tuple[int, bytes]:
        """Status and body; 599 and the reason if no answer came."""
        from google.auth.exceptions import RefreshError, TransportError

        if self._credentials is None:
            self._log_in()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            self._credentials.before_request(self._request, verb, url, headers)
        except (RefreshError, TransportError) as error:
            raise unlet(str(error.args[0])) from None
        try:
            answer = self._request(url=url, method=verb, body=data, headers=headers, timeout=REQUEST_S)
        except TransportError as error:
            return 599, f"no answer from {self._base}: {error}".encode()
        return int(answer.status), bytes(answer.data)

    def _log_in(self) -> None:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import Request

        self._request = Request()
        try:
            self._credentials, _ = google.auth.default(scopes=[SCOPE], request=self._request)
        except DefaultCredentialsError as error:
            raise CloudDenied(
                f"no credentials: {str(error.args[0]).rstrip('.')}. Give this machine a service account with the role "
                f"of {POLICY}, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
            ) from None


def _object(method: str, body: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError):
        raise CloudError(f"{method}: the answer is no JSON object: {body[:60]!r}") from None
