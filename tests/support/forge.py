"""An issuer under the tests' thumb: real keys, so that a forged token has exactly one fault, and a clock to turn."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from moonflower.configs.roles import VerifierSettings
from moonflower.crypto.identity import b64
from moonflower.errors import IssuerUnreachable
from moonflower.oauth.jws import SigningKey, private_key
from moonflower.oauth.login import DpopKey
from moonflower.oauth.tokens import TokenRefused, TokenVerifier

NOW = 1_800_000_000.0
AUDIENCE = "https://moonflower.invalid/"
SERVER = "https://fl.example.org:8443"
PATH = "/v1/fleet/pull-messages"
Headers = list[tuple[bytes, bytes]]


class Clock:
    """A clock that stands until it is turned."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ec_key(kid: str, curve: str = "P-256", **members: str) -> SigningKey:
    made = ECKey.generate_key(curve, private=True)
    return private_key({**made.as_dict(private=True), "kid": kid, **members})


def rsa_key(kid: str, bits: int = 2048, **members: str) -> SigningKey:
    made = RSAKey.generate_key(bits, private=True)
    return private_key({**made.as_dict(private=True), "kid": kid, **members})


def okp_key(kid: str) -> SigningKey:
    made = OKPKey.generate_key("Ed25519", private=True)
    return private_key({**made.as_dict(private=True), "kid": kid})


RSA = rsa_key("rsa")  # slow to make, so all tests share it
EC = ec_key("es")


def part(value: Any) -> str:
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def compact(header: Any, claims: Any, key: SigningKey | None = None) -> str:
    """Return a token with exactly this header, signed with the algorithm that it names where ``key`` can do so."""
    signed = f"{part(header)}.{part(claims)}"
    signature = JWSRegistry.algorithms[header["alg"]].sign(signed.encode(), key.key) if key is not None else b""
    return f"{signed}.{b64(signature)}"


class Issuer:
    """Publishes keys, and signs whatever a test wants."""

    def __init__(self, url: str = "https://issuer.example.org", clock: Clock | None = None) -> None:
        self.url, self.clock = url, clock or Clock()
        self.keys: dict[str, SigningKey] = {"es": EC, "rsa": RSA}
        self.listed: list[Any] | None = None  # instead of the keys
        self.metadata: dict[str, Any] = {"issuer": url, "jwks_uri": f"{url.rstrip('/')}/jwks"}
        self.down = False
        self.fetched: list[str] = []

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url.removeprefix(self.url.rstrip("/")))
        if self.down:
            raise IssuerUnreachable("auth.issuer_unreachable", "down")
        if url.endswith("/jwks"):
            listed = [{**key.public.key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]
            return json.dumps({"keys": listed if self.listed is None else self.listed}).encode()
        return json.dumps(self.metadata).encode()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims with changes; None takes one out."""
        claims = {
            "iss": self.url,
            "sub": "anna",
            "client_id": "anna",
            "aud": AUDIENCE,
            "iat": int(self.clock.now),
            "exp": int(self.clock.now) + 300,
            "jti": secrets.token_hex(8),
            "scope": "fl:train",
        }
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def token(self, claims: Mapping[str, Any] | None = None, *, key: SigningKey | None = None, **header: Any) -> str:
        """Return a good token with changes, signed by the issuer's own key unless told otherwise."""
        merged = {"alg": "ES256", "typ": "at+jwt", "kid": "es", **header}
        kept = {name: value for name, value in merged.items() if value is not None}
        return compact(kept, self.claims() if claims is None else dict(claims), key or self.keys["es"])


def verifier(issuer: Issuer, *, binding: str = "none", nonces: bool = False, **changes: Any) -> TokenVerifier:
    """Return a verifier of the issuer's tokens; by default of tokens that are not bound."""
    limits = {name: changes.pop(name) for name in ("most_proofs", "most_tokens", "secret") if name in changes}
    settings = {"issuer": issuer.url, "audience": AUDIENCE, "binding": binding, "nonces": nonces, **changes}
    return TokenVerifier(
        VerifierSettings.model_validate(settings), url=SERVER, clock=issuer.clock, fetch=issuer.fetch, **limits
    )


def bearer(token: str) -> Headers:
    return [(b"authorization", b"Bearer " + token.encode())]


def dpop(token: str, *proofs: str, scheme: str = "DPoP") -> Headers:
    return [(b"authorization", f"{scheme} {token}".encode()), *((b"dpop", proof.encode()) for proof in proofs)]


def refused(
    code: str, status: int, check: TokenVerifier, headers: Headers, scope: str = "fl:train", **call: str
) -> TokenRefused:
    """Return the refusal of a request, which must have this code and status."""
    with pytest.raises(TokenRefused) as refusal:
        check.verify(call.get("method", "POST"), call.get("path", PATH), headers, scope)
    assert (refusal.value.code, refusal.value.status) == (code, status), str(refusal.value)
    for _, value in headers:  # no refusal repeats what it refuses
        secret = value.decode("latin-1").rpartition(" ")[2]
        assert len(secret) < 20 or secret not in f"{refusal.value} {refusal.value.headers}"
    return refusal.value


def node_key(clock: Clock) -> DpopKey:
    return DpopKey(ec.generate_private_key(ec.SECP384R1()), clock=clock)


def thumb(token: str) -> str:
    return b64(hashlib.sha256(token.encode()).digest())


class Bridge(httpx.BaseTransport):
    """Lets an ordinary client talk to an ASGI app in this process."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests: list[httpx.Request] = []
        self.down = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.down:
            raise httpx.ConnectError("down")
        return asyncio.run(self._serve(request))

    async def _serve(self, request: httpx.Request) -> httpx.Response:
        response = await httpx.ASGITransport(self.app).handle_async_request(request)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())
