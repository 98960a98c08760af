"""Google's access tokens: issued by the metadata service, or for an assertion that a service account's key signed."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qs

from pyflannel.lab.cloud.server import Request, Response

SCOPE = "https://www.googleapis.com/auth/compute"
ACCOUNT = "pyflannel-node@lab-project.iam.gserviceaccount.com"
AUDIENCE = "https://oauth2.googleapis.com/token"  # of an assertion, wherever it's sent
LIFETIME_S, SKEW_S = 3600, 300  # a token's, or an assertion's at most; how far a clock may be off
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Tokens:
    """All that were issued. `account` is the machines' own service account, if they have one; `scopes` narrow it.
    `now` is the cloud's clock."""

    def __init__(self) -> None:
        self.now = time.time
        self.account, self.scopes = ACCOUNT, [SCOPE]
        self.issued: dict[str, tuple[list[str], float]] = {}  # token → scopes, when it ends (seconds since 1970)
        self._keys: dict[str, Any] = {}  # key id → public key
        self.secrets: list[str] = []  # private keys, as they were given out

    def issue(self, scopes: list[str]) -> dict[str, Any]:
        """A new token, as the metadata service and the OAuth endpoint tell it."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self.issued[token] = list(scopes), self.now() + LIFETIME_S
        return {"access_token": token, "expires_in": LIFETIME_S, "token_type": "Bearer"}

    def scopes_of(self, authorization: str) -> list[str] | None:
        """Of the token in the header *authorization*; None if it isn't valid."""
        kind, _, token = authorization.partition(" ")
        scopes, until = self.issued.get(token, ([], 0.0))
        return scopes if kind == "Bearer" and until > self.now() else None

    def key_file(self, url: str) -> dict[str, str]:
        """A new key of the service account, as Google hands it out; its token endpoint is at *url*."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        ident = secrets.token_hex(8)
        self._keys[ident] = key.public_key()
        self.secrets.append(pem)
        return {
            "type": "service_account", "project_id": "lab-project", "private_key_id": ident, "private_key": pem,
            "client_email": ACCOUNT, "client_id": "1", "token_uri": f"{url}/token",
        }  # fmt: skip

    def grant(self, request: Request) -> Response:
        """POST /token (RFC 7523): a token for a signed assertion."""
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if form.get("grant_type") != _GRANT:
            return _refused("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
        head, claims, signature = (form.get("assertion", "") + "..").split(".")[:3]
        header, said = _decoded(head), _decoded(claims)
        if not self._signed(header, f"{head}.{claims}", signature):
            return _refused("invalid_grant", "Invalid JWT Signature.")
        now, issued, ends = self.now(), float(said.get("iat", 0)), float(said.get("exp", 0))
        if not (now - SKEW_S < ends <= issued + LIFETIME_S and issued < now + SKEW_S):
            return _refused(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your "
                "iat and exp values in the JWT claim.",
            )
        if said.get("iss") != ACCOUNT or said.get("aud") != AUDIENCE:
            return _refused("invalid_grant", "Invalid JWT: iss or aud is somebody else's.")
        return Response.json(self.issue(str(said.get("scope", "")).split()))

    def _signed(self, header: dict[str, Any], text: str, signature: str) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        key = self._keys.get(str(header.get("kid")))
        if key is None or header.get("alg") != "RS256":
            return False
        try:
            key.verify(_bytes(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _decoded(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(_bytes(text)))
    except (ValueError, TypeError):
        return {}


def _refused(error: str, description: str) -> Response:
    return Response.json({"error": error, "error_description": description}, 400)
