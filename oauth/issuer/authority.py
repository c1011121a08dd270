"""The embedded issuer's rules about which client may have which token. authlib implements the protocol.

These rules close what authlib leaves open. A client authenticates with a signed assertion that lives at most two
minutes, is for this issuer and counts once. Scopes that it may not have are refused, not dropped. Only one resource is
accepted. Each token is bound to the key of a DPoP proof and lives as long as the settings say. A client either asks in
its own name or lets people log in (authorization code, PKCE with S256 only), never both. A person gets only those of
the scopes asked for that it may have. A code counts once, within a minute. This is the only module that knows authlib.
Nothing here logs a token. authlib's debug lines would, so its logger is silenced.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from starlette.responses import JSONResponse

from ...errors import TokenRefused
from ..dpop import Proofs, Seen
from ..jws import SigningKey, VerificationKey, read

METHOD = "private_key_jwt"
ASSERTION_ALGORITHMS = ("ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA")
ASSERTION_S = 120  # longest life of an assertion
LEEWAY_S = 30
MAX_ASSERTION_BYTES = 8192
CODE_S = 60.0
MAX_CODES = 1000  # that nobody has used yet
logger = logging.getLogger(__name__)
logging.getLogger("authlib").setLevel(logging.WARNING)


class Problem(OAuth2Error):
    """An error that authlib has no class for."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error=error, description=description, status_code=status)


@dataclass(frozen=True)
class IssuerClient(ClientMixin):
    """A registered client. ``jkt`` is the thumbprint of the key of its present request's proof.

    ``redirect`` is the address to which the codes of people who log in go. A client without it asks in its own name.
    """

    client_id: str
    key: VerificationKey
    scopes: frozenset[str]
    jkt: str | None = None
    redirect: str | None = None

    def get_client_id(self) -> str:
        """Return the name of the client."""
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        """Return the granted scope: exactly what was asked for, which the grant has checked."""
        return scope

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Return whether the client may authenticate with this method."""
        return method == METHOD

    def check_grant_type(self, grant_type: str) -> bool:
        """Return whether the client may use a grant."""
        return grant_type == ("client_credentials" if self.redirect is None else "authorization_code")

    def check_response_type(self, response_type: str) -> bool:
        """Return whether people may log in through the client."""
        return response_type == "code" and self.redirect is not None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Return whether codes may go to this address, which must be exactly the registered one."""
        return redirect_uri == self.redirect

    def get_default_redirect_uri(self) -> str | None:
        """Return None, because a request has to name the address."""
        return None


@dataclass(frozen=True)
class Person:
    """A person who may log in."""

    name: str
    scopes: frozenset[str]


@dataclass(frozen=True)
class _Code:
    """An authorization code that was given out. authlib sets the names of the last two fields."""

    client_id: str
    redirect: str
    scope: str
    person: Person
    until: float
    code_challenge: str
    code_challenge_method: str = "S256"

    def get_redirect_uri(self) -> str:
        return self.redirect

    def get_scope(self) -> str:
        return self.scope


class _Request(OAuth2Request):
    """A request. Its address is a placeholder: authlib accepts only https, and ours may be http on loopback."""

    def __init__(self, form: dict[str, str], proofs: list[bytes], method: str = "POST") -> None:
        super().__init__(method, "https://issuer.invalid/token", headers={})
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

    def resolve_client_public_key(self, client: IssuerClient) -> VerificationKey:
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

    def process_assertion_claims(self, assertion: str, key: VerificationKey) -> dict[str, Any]:
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
        """Check that the assertion is the client's own, for this issuer, recent, and used for the first time."""
        times = [claims.get(name) for name in ("exp", "iat")] + [claims.get("nbf", 0)]
        if not all(isinstance(t, int | float) and not isinstance(t, bool) and abs(t) < 1e12 for t in times):
            raise InvalidClientError(description="exp, iat or nbf of the client assertion is missing or not a time")
        exp, iat, nbf = (float(t or 0) for t in times)
        now, named = self._clock(), claims.get("aud")
        if claims.get("iss") != claims.get("sub"):
            raise InvalidClientError(description="iss and sub of the client assertion differ")
        if not set(self._audiences) & {aud for aud in (named if isinstance(named, list) else [named]) if _text(aud)}:
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
    """Client credentials (RFC 6749 section 4.4) with a resource (RFC 8707) and a bound token (RFC 9449)."""

    TOKEN_ENDPOINT_AUTH_METHODS = (METHOD,)

    def validate_token_request(self) -> None:
        _check_no_secret(self.request)
        super().validate_token_request()
        _bind(self)

    def validate_requested_scope(self) -> None:
        asked = (self.request.payload.scope or "").split()
        if not asked or not set(asked) <= self.client.scopes:
            raise InvalidScopeError(description="the client may not have this scope, or asked for none")

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        token = self.generate_token(scope=self.request.payload.scope, include_refresh_token=False)
        return 200, token, self.TOKEN_RESPONSE_HEADER


class _CodeGrant(AuthorizationCodeGrant):
    """Authorization code (RFC 6749 section 4.1) with PKCE (RFC 7636), a resource and a bound token."""

    TOKEN_ENDPOINT_AUTH_METHODS = (METHOD,)

    def validate_requested_scope(self) -> None:
        payload, client = self.request.payload, self.server.query_client(self.request.payload.client_id)
        asked = set((payload.scope or "").split())
        if not asked or not asked <= client.scopes:
            raise InvalidScopeError(description="the client may not have this scope, or asked for none")
        if payload.data.get("resource", self.server.audience) != self.server.audience:
            raise Problem("invalid_target", "the resource is not one that this issuer gives tokens for")
        if not payload.data.get("code_challenge") or payload.data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("expected a code_challenge with the method S256")

    def validate_token_request(self) -> None:
        _check_no_secret(self.request)
        super().validate_token_request()
        _bind(self)

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        code = self.request.authorization_code
        token = self.generate_token(user=code.person, scope=code.scope, include_refresh_token=False)
        return 200, token, self.TOKEN_RESPONSE_HEADER

    def query_authorization_code(self, code: str, client: IssuerClient) -> _Code | None:
        return self.server.codes.take(code, client.client_id)  # type: ignore[no-any-return]


def _check_no_secret(request: _Request) -> None:
    if "client_secret" in request.form:
        raise InvalidRequestError("this issuer does not accept client secrets")


def _bind(grant: Any) -> None:
    """Check client, resource and proof of a token request, and bind the token to the proof's key."""
    form, authority, client = grant.request.form, grant.server, grant.request.client
    if form.get("client_id", client.client_id) != client.client_id:
        raise InvalidClientError(description="client_id is not the client of the assertion")
    if form.get("resource", authority.audience) != authority.audience:
        raise Problem("invalid_target", "the resource is not one that this issuer gives tokens for")
    try:
        use = authority.proofs.check(grant.request.proofs, "POST", authority.token_endpoint)
        grant.request.client = replace(client, jkt=use())
    except TokenRefused as refusal:
        busy = refusal.status == 503
        raise Problem(
            "temporarily_unavailable" if busy else refusal.error, str(refusal), 503 if busy else 400
        ) from None


class _Codes:
    """Authorization codes that nobody has used yet; safe for threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._open: dict[str, _Code] = {}

    def give(self, code: _Code) -> str:
        """Return a new code."""
        name = secrets.token_urlsafe(32)
        with self._lock:
            self._open = {value: issued for value, issued in self._open.items() if issued.until > self._clock()}
            if len(self._open) >= MAX_CODES:
                raise Problem("temporarily_unavailable", "too many people log in at once", 503)
            self._open[name] = code
        return name

    def take(self, name: str, client_id: str) -> _Code | None:
        """Return what a code was given out for, once, and only to the client that it was given to."""
        with self._lock:
            issued = self._open.pop(name, None)
        good = issued is not None and issued.client_id == client_id and issued.until > self._clock()
        return issued if good else None


class _Tokens(JWTBearerTokenGenerator):
    """Access tokens in the form of RFC 9068, bound to the client's key."""

    def __init__(self, issuer: str, audience: str, ttl_s: int, key: SigningKey, clock: Callable[[], float]) -> None:
        super().__init__(issuer, alg=key.algorithm, expires_generator=ttl_s)
        self._audience, self._ttl_s, self._key, self._clock = audience, ttl_s, key, clock

    def access_token_generator(self, client: IssuerClient, grant_type: str, user: Any, scope: str) -> str:
        """Return a signed token."""
        now = int(self._clock())
        claims = {
            "iss": self.issuer,
            "sub": client.client_id if user is None else user.name,
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
        audience: the only resource for which it gives tokens.
        ttl_s: lifetime of a token in seconds.
        person_ttl_s: lifetime of a token for which a person logged in.
        key: signs tokens.
        clients: by client_id. Read anew for each request, so that a removed client gets no more tokens.
        clock: now, in seconds since 1970.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        ttl_s: int,
        key: SigningKey,
        clients: Mapping[str, IssuerClient],
        clock: Callable[[], float],
        person_ttl_s: int = 3600,
    ) -> None:
        super().__init__()
        self.audience, self.token_endpoint = audience, f"{issuer.rstrip('/')}/token"
        self.proofs, self.codes = Proofs(clock=clock), _Codes(clock)
        self._clients, self._issuer, self._clock = clients, issuer, clock
        self.register_client_auth_method(METHOD, _Assertions((issuer, self.token_endpoint), clock))
        self.register_grant(_Grant)
        self.register_grant(_CodeGrant, [CodeChallenge()])
        self.register_token_generator("default", _Tokens(issuer, audience, ttl_s, key, clock))
        self.register_token_generator("authorization_code", _Tokens(issuer, audience, person_ttl_s, key, clock))

    def asked(self, query: dict[str, str]) -> str:
        """Return the client's address to which the requested code may go.

        Raises:
            ValueError: it may go nowhere. The text is for the person; nothing is sent to the client.
        """
        try:
            return str(self.get_consent_grant(_Request(query, [], "GET")).redirect_uri)
        except OAuth2Error as error:
            raise ValueError(f"{error.error}: {error.description}") from None

    def granted(self, query: dict[str, str], person: Person) -> str:
        """Return the address, with a code (RFC 9207), to which to send the browser of a person who has logged in.

        Raises:
            ValueError: as :meth:`asked`; or the person may have none of the scopes that were asked for.
        """
        redirect, scope = self.asked(query), set(query["scope"].split()) & person.scopes
        if not scope:
            raise ValueError(f"{person.name} may have none of the scopes that this asks for")
        until, words = self._clock() + CODE_S, " ".join(sorted(scope))
        try:
            code = self.codes.give(_Code(query["client_id"], redirect, words, person, until, query["code_challenge"]))
        except Problem as problem:
            raise ValueError(str(problem.description)) from None
        state = {"state": query["state"]} if "state" in query else {}
        return f"{redirect}?{urlencode({'code': code, **state, 'iss': self._issuer})}"

    def query_client(self, client_id: str) -> IssuerClient | None:
        """Return a registered client."""
        return self._clients.get(client_id)

    def respond(self, form: dict[str, str], proofs: list[bytes]) -> JSONResponse:
        """Return the reply to a token request: its form fields, and its DPoP headers."""
        reply: JSONResponse = self.create_token_response(_Request(form, proofs))
        return reply

    def create_oauth2_request(self, request: _Request) -> _Request:
        """Return the request, which already has the form that authlib wants."""
        return request

    def handle_response(self, status: int, body: dict[str, Any], headers: Any) -> JSONResponse:
        """Return the reply, after logging it if it is a refusal."""
        if status >= 400:
            why = body.get("error_description") or body.get("error")
            logger.warning("a request was refused: %s", why, extra={"code": body.get("error")})
        return JSONResponse(body, status, dict(headers))

    def save_token(self, token: dict[str, Any], request: _Request) -> None:
        """Do nothing: tokens are verified by their signature, so they are not kept."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing: authlib's signals are not used."""


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
