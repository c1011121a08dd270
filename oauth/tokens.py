"""Finds out who sends a request: verifies the access token (RFC 9068, RFC 6750) and its proof (RFC 9449).

The checks are made in this order, and the first failure ends them: one Authorization header; the token's size; no
header that points to keys; an algorithm, a type and an issuer that are allowed; a key of the issuer that fits the
algorithm; the signature; times, audience, client; whether the token is bound to a key; the proof; the scope. Only a
request that passes all checks changes anything: its proof is used up.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..configs.roles import VerifierSettings
from ..errors import KeysUnavailable, TokenRefused
from .discovery import Fetch, fetcher
from .dpop import Nonces, Proofs
from .jwks import IssuerKeys
from .jws import Jws, VerificationKey, read
from .profiles import Profile, profile_of
from .refusal import challenge

__all__ = ["Principal", "TokenRefused", "TokenVerifier"]

Headers = Sequence[tuple[bytes, bytes]]
MAX_BYTES = 8192
SOON_S = 60.0
"""A token that is valid within this time is not refused for good."""
_POINTERS = ("jku", "x5u", "jwk", "x5c", "crit", "b64", "zip")  # no header chooses the key or how the token is read


@dataclass(frozen=True)
class Principal:
    """The sender of a request. Two issuers may use one name for different clients, so ``client_id`` alone names nobody.

    Attributes:
        jkt: RFC 7638 thumbprint of the key to which the token is bound, or None.
        expires: seconds since 1970, without leeway.
        subject: whom the token is about: the person who logged in, or the client itself.
    """

    issuer: str
    client_id: str
    scopes: frozenset[str]
    jkt: str | None
    expires: float
    subject: str = ""


@dataclass(frozen=True)
class _Accepted:
    """A token that was accepted, with the values that have to be checked again later."""

    principal: Principal
    kid: str
    key: str  # thumbprint
    starts: float


class TokenVerifier:
    """Verifies the tokens of one issuer; safe for threads.

    Args:
        settings: which issuer's tokens count, and how they are checked.
        url: address of this server as its clients write it, such as ``https://fl.example.org:8443``.
        clock: now, in seconds since 1970.
        fetch: returns the document at an address; over https by default.
        secret: 32 bytes for the nonces.
        most_proofs: how many proofs of the last two minutes are remembered.
        most_tokens: how many accepted tokens are remembered.

    Raises:
        InputError: ``config.file``: ``settings.ca`` cannot be read.
    """

    def __init__(
        self,
        settings: VerifierSettings,
        *,
        url: str,
        clock: Callable[[], float] = time.time,
        fetch: Fetch | None = None,
        secret: bytes | None = None,
        most_proofs: int = 100_000,
        most_tokens: int = 4096,
    ) -> None:
        self._settings, self._url, self._clock = settings, url.rstrip("/"), clock
        self._profile: Profile = profile_of(settings)
        self._keys = IssuerKeys(
            settings.issuer,
            ttl_s=settings.jwks_ttl_s,
            cooldown_s=settings.jwks_cooldown_s,
            fetch=fetch or fetcher(settings.issuer, settings.ca),
            clock=clock,
        )
        self._nonces = Nonces(secret or secrets.token_bytes(32), clock)
        self._proofs = Proofs(nonces=self._nonces if settings.nonces else None, most=most_proofs, clock=clock)
        self._most_tokens = most_tokens
        self._accepted: OrderedDict[bytes, _Accepted] = OrderedDict()
        self._lock = threading.Lock()

    def nonce(self) -> str:
        """Return the DPoP nonce to put on replies. A refusal with ``auth.dpop_nonce`` carries it already."""
        return self._nonces.current()

    def verify(self, method: str, path: str, headers: Headers, *scopes: str) -> Principal:
        """Return who sends a request.

        Args:
            method: such as ``POST``.
            path: as sent; a query is ignored.
            headers: names in upper or lower case.
            scopes: of which the token must grant one.

        Raises:
            TokenRefused: ``auth.*``, with status and headers of the reply.
        """
        scheme = "Bearer" if self._settings.binding == "none" else "DPoP"
        try:
            kind, token = _credentials(headers)
            scheme = "DPoP" if kind == "dpop" else scheme
            principal = self._token(token)
            scheme = "DPoP" if principal.jkt is not None else scheme
            use = self._binding(principal, kind, method, path, headers, token)
            if not principal.scopes.intersection(scopes):
                wanted = " or ".join(scopes)
                raise TokenRefused(
                    "auth.scope", f"the token does not grant the scope {wanted}", 403, error="insufficient_scope"
                )
            use()
        except TokenRefused as refusal:
            challenge(refusal, scheme, scope=" ".join(scopes))
            raise
        return principal

    def own(self, token: bytes, jkt: str) -> Principal:
        """Return who logged in. This server itself got the token from its issuer's token endpoint.

        The checks are those of a request, except that there is no proof. The token must therefore be bound to this
        server's own key or, with ``binding = "none"``, to no key.

        Args:
            token: access token.
            jkt: thumbprint of the key with which the token was asked for.

        Raises:
            TokenRefused: ``auth.*``.
        """
        if len(token) > MAX_BYTES:
            raise TokenRefused("auth.too_large", f"the token is longer than {MAX_BYTES} bytes")
        principal = self._token(token)
        if principal.jkt is None and self._settings.binding == "dpop":
            raise TokenRefused("auth.binding_required", "the token is not bound to a key; this server requires DPoP")
        if principal.jkt not in (None, jkt):
            raise TokenRefused("auth.dpop_binding", "the token is bound to a key other than the DPoP proof's")
        return principal

    def _binding(
        self, principal: Principal, kind: str, method: str, path: str, headers: Headers, token: bytes
    ) -> Callable[[], object]:
        """Return the function to call once all else is right, which uses the proof up."""
        if principal.jkt is None:
            if kind == "dpop":
                raise TokenRefused("auth.dpop_unbound", "the token is not bound to a key; DPoP needs one that is")
            if self._settings.binding == "dpop":
                raise TokenRefused(
                    "auth.binding_required", "the token is not bound to a key; this server requires DPoP"
                )
            return lambda: None
        if kind != "dpop":
            raise TokenRefused("auth.dpop_downgrade", "the token is bound to a key; expected DPoP, not Bearer")
        proofs = [value for name, value in headers if name.lower() == b"dpop"]
        url = self._url + path.partition("?")[0]
        return self._proofs.check(proofs, method, url, token=token, jkt=principal.jkt)

    def _token(self, token: bytes) -> Principal:
        """Return whose token it is. For one that was accepted before, only key and times are checked again."""
        name = hashlib.sha256(token).digest()
        with self._lock:
            accepted = self._accepted.get(name)
        if accepted is not None and accepted.key in {key.thumbprint for key in self._find(accepted.kid)}:
            self._timely(accepted.starts, accepted.principal.expires)
            return accepted.principal
        accepted = self._verified(token)
        with self._lock:
            self._accepted[name] = accepted
            while len(self._accepted) > self._most_tokens:
                self._accepted.popitem(last=False)
        return accepted.principal

    def _verified(self, token: bytes) -> _Accepted:
        try:
            jws = read(token)
        except ValueError as error:
            raise TokenRefused("auth.malformed", "the token is not a JWT") from error
        header, claims = jws.header, jws.claims
        if any(name in header for name in _POINTERS):
            raise TokenRefused("auth.header_refused", "the token's header points to keys or changes how to read it")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._profile.algorithms:
            raise TokenRefused("auth.alg_refused", "the token's algorithm is not one of those for this issuer")
        if _type(header) not in self._profile.types:
            raise TokenRefused("auth.typ_refused", "the token's typ is not that of this issuer's access tokens")
        if claims.get("iss") != self._settings.issuer:
            raise TokenRefused("auth.issuer_unknown", "the token is from another issuer")
        key = self._signer(header, algorithm, jws)
        starts, expires = self._times(claims)
        self._timely(starts, expires)
        self._audience(claims)
        client = self._profile.client(claims)
        self._profile.refuse_id_token(claims, client)
        scopes, jkt = self._profile.granted(claims), _bound_to(claims)
        principal = Principal(self._settings.issuer, client, scopes, jkt, expires, str(claims["sub"]))
        return _Accepted(principal, str(key.kid), key.thumbprint, starts)

    def _signer(self, header: dict[str, Any], algorithm: str, jws: Jws) -> VerificationKey:
        """Return the issuer's key that signed the token."""
        kid = header.get("kid")
        if not isinstance(kid, str) or not kid:
            raise TokenRefused("auth.kid_missing", "the token does not name the key that signed it")
        keys = self._find(kid)
        if not keys:
            raise _later(
                "auth.unknown_kid", "the token's key is not one that its issuer publishes now", self._keys.wait_s()
            )
        fitting = [key for key in keys if key.fits(algorithm)]
        if not fitting:
            raise TokenRefused("auth.alg_key_mismatch", "the token's algorithm is not that of its key")
        for key in fitting:
            if key.verify(algorithm, jws):
                return key
        raise TokenRefused("auth.signature", "the token's signature is wrong")

    def _find(self, kid: str) -> tuple[VerificationKey, ...]:
        try:
            return self._keys.find(kid)
        except KeysUnavailable:
            raise TokenRefused(
                "auth.jwks_unavailable", "the issuer's keys are unavailable; try later", 503, [("Retry-After", "5")]
            ) from None

    def _times(self, claims: dict[str, Any]) -> tuple[float, float]:
        """Return the times from which and until which the token is valid."""
        exp, iat = _seconds(claims.get("exp")), _seconds(claims.get("iat"))
        nbf = _seconds(claims.get("nbf", iat))
        if exp - iat > self._profile.lifetime_s:  # iat is not in the future, so exp is near
            raise TokenRefused("auth.lifetime_too_long", f"the token lives longer than {self._profile.lifetime_s} s")
        return max(iat, nbf), exp

    def _timely(self, starts: float, expires: float) -> None:
        now, leeway = self._clock(), self._settings.leeway_s
        if now >= expires + leeway:
            raise TokenRefused("auth.expired", "the token has expired")
        if now < starts - leeway:
            wait_s, why = starts - leeway - now, "the token is not valid yet: compare the clocks"
            raise (
                _later("auth.not_yet_valid", why, wait_s)
                if wait_s <= SOON_S
                else TokenRefused("auth.not_yet_valid", why)
            )

    def _audience(self, claims: dict[str, Any]) -> None:
        audience = claims.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if self._settings.audience not in named:
            raise TokenRefused("auth.audience", f"the token is not for {self._settings.audience}")


def _later(code: str, message: str, wait_s: float) -> TokenRefused:
    """Return a refusal of what may be right soon: a node takes 503 as "later" and 401 as an end."""
    return TokenRefused(code, message, 503, [("Retry-After", str(math.ceil(wait_s)))])


def _credentials(headers: Headers) -> tuple[str, bytes]:
    """Return the scheme, in lower case, and the token of a request."""
    values = [value for name, value in headers if name.lower() == b"authorization"]
    if not values:
        raise TokenRefused("auth.no_token", "the request has no token", error="")
    if len(values) > 1:
        raise TokenRefused(
            "auth.multiple_authorization",
            "the request has more than one Authorization header",
            400,
            error="invalid_request",
        )
    scheme, _, token = values[0].partition(b" ")
    kind = scheme.lower().decode("latin-1")
    if kind not in ("bearer", "dpop"):
        raise TokenRefused("auth.scheme", "the Authorization scheme is not Bearer or DPoP", error="")
    token = token.strip(b" ")
    if len(token) > MAX_BYTES:
        raise TokenRefused("auth.too_large", f"the token is longer than {MAX_BYTES} bytes")
    return kind, token


def _type(header: dict[str, Any]) -> str | None:
    """Return the header's ``typ`` in canonical form, "" if it is missing, None if it is not a text."""
    value = header.get("typ", "")
    return value.lower().removeprefix("application/") if isinstance(value, str) else None


def _seconds(value: Any) -> float:
    """Return a NumericDate. A boolean or a text is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e12:
        raise TokenRefused("auth.claims_malformed", "exp, iat or nbf of the token is missing or not a time")
    return float(value)


def _bound_to(claims: dict[str, Any]) -> str | None:
    """Return the thumbprint in ``cnf``. A token whose binding cannot be checked is refused, not taken as unbound."""
    if "cnf" not in claims:
        return None
    match claims["cnf"]:
        case {"jkt": str(jkt), **others} if not others:
            return jkt
    raise TokenRefused("auth.cnf_unknown", "the token is bound in a way that this server does not know")
