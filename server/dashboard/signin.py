"""How a person logs in: authorization code with PKCE (RFC 6749, 7636, 9207, 9700), the token bound to us (RFC 9449).

Only the browser remembers a login that was begun, in a cookie: a random seed under this server's MAC. State and code
verifier are derived from it with a key that never leaves this process. So a flood of logins fills no memory, a code
from a login that another browser began is refused, and the browser never learns the verifier.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from ...configs.roles import DashboardSettings, VerifierSettings
from ...crypto.identity import b64, unb64
from ...errors import InputError, IssuerUnreachable, Refused
from ...oauth.discovery import client, discover, document, endpoint, exchange, get
from ...oauth.jws import SigningKey, from_ec, private_key, read
from ...oauth.tokens import TokenVerifier
from .sessions import OpenSession

logger = logging.getLogger(__name__)
CALLBACK = "/ui/callback"
LOGIN_S = 600
ASSERTION_S = 60
METADATA_S = 600.0
RETRY_S = 5.0  # an issuer that was away is asked again after this time
WAIT_S = 2.0
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_PARAMETER = 4096


class Login:
    """Logins at one issuer; safe for threads.

    Args:
        settings: of the dashboard.
        oauth: the issuer and what its tokens must say.
        verifier: verifies the tokens.
        url: this server's address, as people's browsers know it.
        clock: seconds since 1970.
        http: an HTTP client to use instead of a new one.

    Raises:
        InputError: ``config.key``: the client's key cannot be used.
    """

    def __init__(
        self,
        settings: DashboardSettings,
        oauth: VerifierSettings,
        verifier: TokenVerifier,
        url: str,
        clock: Callable[[], float] = time.time,
        http: httpx.Client | None = None,
    ) -> None:
        self._settings, self._oauth, self._verifier, self._clock = settings, oauth, verifier, clock
        self._redirect = url.rstrip("/") + CALLBACK
        self._client_key = None if settings.key is None else _load(settings.key)
        self._dpop = from_ec(ec.generate_private_key(ec.SECP256R1())) if oauth.binding == "dpop" else None
        self._http = http if http is not None else client(oauth.issuer, oauth.ca)
        self._secret = secrets.token_bytes(32)
        self._metadata: dict[str, Any] = {}
        self._metadata_at, self._failed_at = -METADATA_S, -RETRY_S
        self._nonce: str | None = None
        self._lock = threading.Lock()

    def begin(self) -> tuple[str, str]:
        """Return the cookie of a new login, and the issuer's address to send the browser to.

        Raises:
            Refused: ``auth.issuer_unreachable``, ``auth.issuer_metadata``.
        """
        seed = int(self._clock()).to_bytes(8, "big") + secrets.token_bytes(24)
        cookie = f"{b64(seed)}.{self._derived(seed, 'cookie')}"
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._redirect,
            "scope": self._settings.scope,
            "state": self._derived(seed, "state"),
            "code_challenge": b64(hashlib.sha256(self._derived(seed, "verifier").encode()).digest()),
            "code_challenge_method": "S256",
            **self._resource(),
        }
        if self._dpop is not None:
            asked["dpop_jkt"] = self._dpop.public.thumbprint
        parts = urlsplit(endpoint(self._described(), "authorization_endpoint"))
        query = "&".join(word for word in (parts.query, urlencode(asked)) if word)
        return cookie, urlunsplit(parts._replace(query=query))

    def begun(self, cookie: str, query: Mapping[str, str]) -> bytes:
        """Return the seed of the login that a browser comes back from. Nobody is asked.

        Args:
            cookie: of the login, from the browser.
            query: of the address that the browser came back to.

        Raises:
            Refused: ``session.login``: this browser began no such login.
        """
        seed = self._opened(cookie)
        if seed is None or not hmac.compare_digest(
            query.get("state", "").encode(), self._derived(seed, "state").encode()
        ):
            raise Refused("session.login", "this browser did not begin this login, or began it too long ago")
        return seed

    def finish(self, cookie: str, query: Mapping[str, str]) -> OpenSession:
        """Return what the issuer gives for the code that the browser came back with; arguments as in :meth:`begun`.

        Raises:
            Refused: ``session.login``: this browser began no such login, or the issuer refused; ``auth.*``: the token
                is not valid here; ``auth.issuer_unreachable``.
        """
        seed = self.begun(cookie, query)
        expected = {self._oauth.issuer, ""} if not self._says_who() else {self._oauth.issuer}
        if query.get("iss", "") not in expected:
            raise Refused("session.login", "the reply comes from another issuer")
        code = query.get("code", "")
        if "error" in query or not 0 < len(code) <= MAX_PARAMETER:
            problem = _plain(query.get("error", "nothing"))
            raise Refused("session.login", f"expected a code from the issuer, got {problem}")
        return self._held(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._redirect,
                "code_verifier": self._derived(seed, "verifier"),
            }
        )

    def renew(self, refresh: str) -> OpenSession:
        """Return what the issuer gives for a refresh token.

        Raises:
            Refused: as :meth:`finish`.
        """
        session = self._held({"grant_type": "refresh_token", "refresh_token": refresh})
        return session if session.refresh else OpenSession(session.principal, session.name, refresh)

    def close(self) -> None:
        """Close the connection to the issuer."""
        self._http.close()

    def _held(self, form: Mapping[str, str]) -> OpenSession:
        url = endpoint(self._described(), "token_endpoint")
        status, reply = self._ask(url, form)
        if status != 200 and reply.get("error") == "use_dpop_nonce" and self._nonce is not None:
            status, reply = self._ask(url, form)
        token = reply.get("access_token")
        if status != 200 or not isinstance(token, str):
            problem = f"{status} {_plain(reply.get('error', ''))} {_plain(reply.get('error_description', ''))}"
            raise Refused("session.login", f"the issuer gives no token: {problem.strip()}")
        try:
            data = token.encode("ascii")
        except UnicodeEncodeError:
            raise Refused("session.login", "the issuer's token has characters outside ASCII") from None
        principal = self._verifier.own(data, self._dpop.public.thumbprint if self._dpop else "")
        refresh = reply.get("refresh_token")
        return OpenSession(principal, _called(read(data).claims), refresh if isinstance(refresh, str) else "")

    def _ask(self, url: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        whole = {**form, "client_id": self._settings.client_id, **self._resource()}
        if self._client_key is not None:
            whole |= {"client_assertion_type": ASSERTION_TYPE, "client_assertion": self._assertion(self._client_key)}
        headers = {"Accept": "application/json"}
        if self._dpop is not None:
            headers["DPoP"] = self._proof(self._dpop, url)
        response, body = exchange(self._http, self._http.build_request("POST", url, data=whole, headers=headers))
        self._nonce = response.headers.get("DPoP-Nonce", self._nonce)
        try:
            return response.status_code, document(body)
        except IssuerUnreachable:
            if response.status_code == 200:
                raise
            return response.status_code, {}

    def _assertion(self, key: SigningKey) -> str:
        now, named = int(self._clock()), self._settings.client_id
        claims = {"iss": named, "sub": named, "aud": self._told(), "jti": secrets.token_urlsafe(16)}
        return key.sign({"typ": "JWT"}, {**claims, "iat": now, "exp": now + ASSERTION_S})

    def _told(self) -> str:
        """Return the audience of assertions: the issuer, as RFC 7523bis wants it, or its token endpoint."""
        if self._settings.assertion_audience == "issuer":
            return self._oauth.issuer
        return endpoint(self._described(), "token_endpoint")

    def _proof(self, key: SigningKey, url: str) -> str:
        claims = {"jti": secrets.token_urlsafe(16), "htm": "POST", "htu": url, "iat": int(self._clock())}
        if self._nonce is not None:
            claims["nonce"] = self._nonce
        return key.sign({"typ": "dpop+jwt", "jwk": key.public.jwk}, claims)

    def _resource(self) -> dict[str, str]:
        named = self._settings.audience_parameter
        return {} if named == "none" else {named: self._oauth.audience}

    def _says_who(self) -> bool:
        """Return whether the issuer names itself in its replies (RFC 9207)."""
        return self._described().get("authorization_response_iss_parameter_supported") is True

    def _described(self) -> dict[str, Any]:
        """Return the issuer's metadata. While it is away it is asked every few seconds, and no request queues up."""
        if not self._lock.acquire(timeout=WAIT_S):
            raise IssuerUnreachable("auth.issuer_unreachable", "the issuer has not answered an earlier request yet")
        try:
            if not 0 <= self._clock() - self._metadata_at < METADATA_S:
                if 0 <= self._clock() - self._failed_at < RETRY_S:
                    raise IssuerUnreachable("auth.issuer_unreachable", "the issuer did not answer; try again soon")
                self._failed_at = self._clock()
                self._metadata = discover(self._oauth.issuer, lambda url: get(self._http, url))
                self._metadata_at, self._failed_at = self._clock(), -RETRY_S
            return self._metadata
        finally:
            self._lock.release()

    def _derived(self, seed: bytes, what: str) -> str:
        return b64(hmac.digest(self._secret, b"moonflower.login.v1\0" + what.encode() + b"\0" + seed, "sha256"))

    def _opened(self, cookie: str) -> bytes | None:
        """Return the seed of a login that this process began less than ten minutes ago, or None."""
        text, _, mac = cookie.partition(".")
        try:
            seed = unb64(text)
        except ValueError:
            return None
        began = int.from_bytes(seed[:8], "big")
        fresh = 0 <= self._clock() - began + 1 < LOGIN_S
        return seed if fresh and hmac.compare_digest(mac.encode(), self._derived(seed, "cookie").encode()) else None


def _load(path: Path) -> SigningKey:
    try:
        with path.open("rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(65536)
    except OSError as error:
        raise InputError("config.key", f"[dashboard] key {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        message = f"[dashboard] key {path} can be read by others; expected mode 0600"
        raise InputError("config.key", message, hint=f"chmod 600 {path}")
    try:
        return private_key(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InputError("config.key", f"[dashboard] key {path}: not a private JWK") from error


def _called(claims: Mapping[str, Any]) -> str:
    """Return the person's name in a token."""
    names = (claims.get(name) for name in ("preferred_username", "name", "email", "sub"))
    return _plain(next((name for name in names if isinstance(name, str) and name), ""))


def _plain(text: object) -> str:
    """Return foreign text, short and printable."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:100]
