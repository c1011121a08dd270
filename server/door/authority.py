"""The embedded issuer's decisions: which client may have which token. authlib does the protocol, this room the rules.

What authlib leaves open is closed here: a client proves itself with a signed assertion of at most two minutes that is
for this issuer and counts once; scopes that it may not have are refused, not dropped; the one resource is known; each
token is bound to the key of a DPoP proof and lives as long as the settings say. This is the only module that knows
authlib. Nothing here logs a token: authlib's own debug line that would is on a path that is not taken.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from starlette.responses import JSONResponse

from ...crypto.jws import PrivateKey, PublicKey, read
from .dpop import Proofs, Seen
from .refusal import TokenRefused

METHOD = "private_key_jwt"
ASSERTION_ALGORITHMS = ("ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA")
ASSERTION_S = 120  # longest life of an assertion
LEEWAY_S = 30
MAX_ASSERTION_BYTES = 8192


class Problem(OAuth2Error):
    """An error that authlib has no class for."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error=error, description=description, status_code=status)


@dataclass(frozen=True)
class IssuerClient(ClientMixin):
    """A registered client; ``jkt`` is the key of the proof with which it asks now."""

    client_id: str
    key: PublicKey
    scopes: frozenset[str]
    jkt: str | None = None

    def get_client_id(self) -> str:
        """Return the name of the client."""
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        """Return what is granted: exactly what was asked for, as the grant has checked it."""
        return scope

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Return whether the client may prove itself like this."""
        return method == METHOD

    def check_grant_type(self, grant_type: str) -> bool:
        """Return whether the client may use a grant."""
        return grant_type == "client_credentials"


class _Request(OAuth2Request):
    """A token request. Its address is a stand-in: authlib refuses any but https, and ours may be http on loopback."""

    def __init__(self, form: dict[str, str], proofs: list[bytes]) -> None:
        super().__init__("POST", "https://issuer.invalid/token", headers={})
        self.payload = BasicOAuth2Payload(form)
        self.proofs = proofs

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data  # type: ignore[no-any-return]


class _Assertions(JWTBearerClientAssertion):
    """Client authentication by a signed assertion (RFC 7523 section 3)."""

    CLIENT_AUTH_METHOD = METHOD

    def __init__(self, audiences: tuple[str, ...], clock: Callable[[], float]) -> None:
        super().__init__(leeway=LEEWAY_S)
        self._audiences, self._clock = audiences, clock
        self._seen = Seen(ASSERTION_S + 2 * LEEWAY_S, 100_000, clock)

    def resolve_client_public_key(self, client: IssuerClient) -> PublicKey:
        return client.key

    def extract_assertion(self, assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return header and claims, not yet verified."""
        try:
            if len(assertion) > MAX_ASSERTION_BYTES:
                raise ValueError("too long")
            jws = read(assertion.encode())
        except ValueError as error:
            raise InvalidClientError(description="the client assertion is malformed") from error
        return jws.header, jws.claims

    def process_assertion_claims(self, assertion: str, key: PublicKey) -> dict[str, Any]:
        """Return the claims of an assertion that this key signed."""
        jws = read(assertion.encode())
        algorithm = jws.header.get("alg")
        if algorithm not in ASSERTION_ALGORITHMS or not key.fits(algorithm) or "crit" in jws.header:
            raise InvalidClientError(description="the client assertion has an algorithm that is not its key's")
        if not key.verify(algorithm, jws):
            raise InvalidClientError(description="the client assertion is not signed by the registered key")
        self.verify_claims(jws.claims)
        return jws.claims

    def verify_claims(self, claims: dict[str, Any]) -> None:
        """Check that the assertion is the client's own, for us, of this minute, and used for the first time."""
        times = [claims.get(name) for name in ("exp", "iat")] + [claims.get("nbf", 0)]
        if not all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 1e12 for one in times):
            raise InvalidClientError(description="exp, iat or nbf of the client assertion is missing or no time")
        exp, iat, nbf = (float(one or 0) for one in times)
        now, named = self._clock(), claims.get("aud")
        if claims.get("iss") != claims.get("sub"):
            raise InvalidClientError(description="iss and sub of the client assertion differ")
        if not set(self._audiences) & {one for one in (named if isinstance(named, list) else [named]) if _text(one)}:
            raise InvalidClientError(description="the client assertion is for another issuer")
        if now >= exp + LEEWAY_S:
            raise InvalidClientError(description="the client assertion has expired")
        if max(iat, nbf) > now + LEEWAY_S:
            raise InvalidClientError(description="the client assertion is not valid yet")
        if exp - min(iat, now) > ASSERTION_S:
            raise InvalidClientError(description=f"the client assertion lives longer than {ASSERTION_S} s")
        jti = claims.get("jti")
        if not _text(jti) or len(str(jti)) > 256:
            raise InvalidClientError(description="the client assertion has no jti")
        try:
            first = self._seen.first(str(claims["sub"]), str(jti))
        except OverflowError:
            raise Problem("temporarily_unavailable", "too many requests at once", 503) from None
        if not first:
            raise InvalidClientError(description="the client assertion was used before")


class _Grant(ClientCredentialsGrant):
    """Client credentials (RFC 6749 section 4.4), with a resource (RFC 8707) and a bound token (RFC 9449)."""

    TOKEN_ENDPOINT_AUTH_METHODS = (METHOD,)

    def validate_token_request(self) -> None:
        form, authority = self.request.form, self.server
        if "client_secret" in form:
            raise InvalidRequestError("this issuer knows no client secrets")
        super().validate_token_request()
        if form.get("client_id", self.client.client_id) != self.client.client_id:
            raise InvalidClientError(description="client_id is not the client of the assertion")
        if form.get("resource", authority.audience) != authority.audience:
            raise Problem("invalid_target", "the resource is not one that this issuer gives tokens for")
        try:
            use = authority.proofs.check(self.request.proofs, "POST", authority.token_endpoint)
            self.request.client = replace(self.client, jkt=use())
        except TokenRefused as refusal:
            busy = refusal.status == 503
            raise Problem(
                "temporarily_unavailable" if busy else refusal.error, str(refusal), 503 if busy else 400
            ) from None

    def validate_requested_scope(self) -> None:
        asked = (self.request.payload.scope or "").split()
        if not asked or not set(asked) <= self.client.scopes:
            raise InvalidScopeError(description="the client may not have this scope, or named none")

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        token = self.generate_token(scope=self.request.payload.scope, include_refresh_token=False)
        return 200, token, self.TOKEN_RESPONSE_HEADER


class _Tokens(JWTBearerTokenGenerator):
    """Access tokens as RFC 9068 has them, bound to the client's key."""

    def __init__(self, issuer: str, audience: str, ttl_s: int, key: PrivateKey, clock: Callable[[], float]) -> None:
        super().__init__(issuer, alg=key.algorithm, expires_generator=ttl_s)
        self._audience, self._ttl_s, self._key, self._clock = audience, ttl_s, key, clock

    def access_token_generator(self, client: IssuerClient, grant_type: str, user: Any, scope: str) -> str:
        """Return a signed token."""
        now = int(self._clock())
        claims = {
            "iss": self.issuer,
            "sub": client.client_id,
            "client_id": client.client_id,
            "aud": self._audience,
            "iat": now,
            "exp": now + self._ttl_s,
            "jti": secrets.token_urlsafe(16),
            "scope": " ".join(scope.split()),
            "cnf": {"jkt": client.jkt},
        }
        return self._key.sign({"typ": "at+jwt"}, claims)

    def generate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the reply of the token endpoint."""
        return {**super().generate(*args, **kwargs), "token_type": "DPoP"}


class Authority(AuthorizationServer):
    """The authorization server, without any transport.

    Args:
        issuer: its address.
        audience: the one resource that it gives tokens for.
        ttl_s: life of a token.
        key: signs tokens.
        clients: by client_id; read anew for each request, so that one taken out gets no more tokens.
        clock: now, in seconds since 1970.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        ttl_s: int,
        key: PrivateKey,
        clients: Mapping[str, IssuerClient],
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self.audience, self.token_endpoint = audience, f"{issuer.rstrip('/')}/token"
        self.proofs = Proofs(clock=clock)
        self._clients = clients
        self.register_client_auth_method(METHOD, _Assertions((issuer, self.token_endpoint), clock))
        self.register_grant(_Grant)
        self.register_token_generator("default", _Tokens(issuer, audience, ttl_s, key, clock))

    def query_client(self, client_id: str) -> IssuerClient | None:
        """Return a registered client."""
        return self._clients.get(client_id)

    def respond(self, form: dict[str, str], proofs: list[bytes]) -> JSONResponse:
        """Return the reply to a token request: its form fields, and its DPoP headers."""
        reply: JSONResponse = self.create_token_response(_Request(form, proofs))
        return reply

    def create_oauth2_request(self, request: _Request) -> _Request:
        """Return the request as authlib wants it, which it is."""
        return request

    def handle_response(self, status: int, body: dict[str, Any], headers: Any) -> JSONResponse:
        """Return the reply."""
        return JSONResponse(body, status, dict(headers))

    def save_token(self, token: dict[str, Any], request: _Request) -> None:
        """Keep no token: they verify by themselves."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Tell nobody."""


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
