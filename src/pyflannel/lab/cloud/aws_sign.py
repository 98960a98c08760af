"""AWS's Signature Version 4, verified as its documents say (SigV4, "Create a signed request")."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit

from pyflannel.lab.cloud.server import Request

SKEW_S = 300  # a request's date may be this far off
_AUTH = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=(\w{64})"
)


def refusal(request: Request, keys: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """Why the signature doesn't hold, a code and a message; None if it does. *keys*: id → secret, session token."""
    match = _AUTH.fullmatch(request.headers.get("authorization", ""))
    if match is None:
        return "MissingAuthenticationToken", "Request is missing a Signature Version 4"
    ident, day, region, service, names, given = match.groups()
    if ident not in keys:
        return "AuthFailure", "AWS was not able to validate the provided access credentials"
    secret, token = keys[ident]
    stamp = request.headers.get("x-amz-date", "")
    try:
        sent = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return "IncompleteSignature", "Date must be in ISO-8601 'basic format'"
    if abs(sent - time.time()) > SKEW_S or not stamp.startswith(day):
        return "RequestExpired", "Request has expired"
    if request.headers.get("x-amz-security-token", "") != token:
        return "AuthFailure", "the security token included in the request is invalid"
    if not {"host", "x-amz-date"} <= set(names.split(";")):
        return "AuthFailure", "host and x-amz-date must be signed"
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names.split(";"))
    parts = urlsplit(request.target)
    query = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
    )
    body = hashlib.sha256(request.body).hexdigest()
    canonical = "\n".join([request.method, quote(parts.path or "/", safe="/-_.~"), query, headers, names, body])
    scope = f"{day}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(key.hex(), given):
        return "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided"
    return None
