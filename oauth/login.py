"""Getting and using a member's or an operator's token: client credentials, private_key_jwt, DPoP.

A token source keeps one token, renews it early, and asks the issuer once, however many threads want the token. While
the issuer is unreachable, a token that is still valid stays in use, and the issuer is asked again at most every 5
seconds.
"""

from __future__ import annotations

import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx

from ..configs.roles import LoginSettings
from ..errors import InputError, IssuerUnreachable, LoginRefused, Refused
from .discovery import client, discover, document, endpoint, exchange, get, skew
from .keys import DpopKey, load_key, new_client_key

__all__ = ["DpopKey", "IssuerUnreachable", "LoginRefused", "ServerAuth", "TokenSource", "load_key", "new_client_key"]

ASSERTION_S = 60
RETRY_S = 5.0
EARLY_S = 60.0  # a token is renewed this long before its end, or a fifth of its life, whichever is less
METADATA_S = 3600.0
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,8192}=*")
_ERROR = re.compile(r'error="?([a-z_]+)')


class TokenSource:
    """Gets tokens of one scope; safe for threads.

    Args:
        settings: the issuer, and the client in whose name tokens are asked for.
        key: to which tokens are bound; needed unless ``settings.binding`` is "none".
        scope: words to ask for, such as ``fl:train``.
        clock: now, in seconds since 1970.
        http: an HTTP client to use; by default a new one is made and kept.

    Raises:
        InputError: ``config.key``: the client's key cannot be used, or the key for binding is missing;
            ``config.file``: the CA cannot be read.
    """

    def __init__(
        self,
        settings: LoginSettings,
        key: DpopKey | None,
        scope: str,
        *,
        clock: Callable[[], float] = time.time,
        http: httpx.Client | None = None,
    ) -> None:
        if settings.binding == "dpop" and key is None:
            raise InputError("config.key", 'binding = "dpop" needs a key that tokens are bound to')
        self._settings, self._scope, self._clock = settings, settings.scope or scope, clock
        self._key = key if settings.binding == "dpop" else None
        self._signer = load_key(settings.key)
        self._http = http if http is not None else client(settings.issuer, settings.ca)
        self._fetching = threading.Lock()
        self._lock = threading.Lock()  # guards what follows; never held while the issuer is asked
        self._token = ""
        self._renew_at = self._ends = 0.0
        self._forced = False
        self._forced_at = -math.inf
        self._failed: Refused | None = None
        self._failed_at = -math.inf
        self._metadata: dict[str, Any] | None = None
        self._metadata_at = -math.inf
        self._nonce: str | None = None
        self._skew = ""

    def close(self) -> None:
        """Close the connection to the issuer."""
        self._http.close()

    def token(self) -> str:
        """Return a valid token, fetched only if necessary.

        Raises:
            LoginRefused: ``auth.client_refused``: the issuer refuses this client.
            IssuerUnreachable: ``auth.issuer_unreachable``: it does not answer, and no valid token is left.
            Refused: ``auth.issuer_metadata``: the metadata at the issuer's address is another issuer's.
        """
        token = self._held()
        if token is not None:
            return token
        # While the token is still good, callers do not wait for the thread that renews it.
        if not self._fetching.acquire(blocking=not self._good()):
            return self._token
        try:
            token = self._held()
            return token if token is not None else self._renewed()
        finally:
            self._fetching.release()

    def refused(self, token: str) -> None:
        """Note that the server refused a token, so that the next :meth:`token` fetches a new one.

        A server that refuses every token cannot make this client ask the issuer more often than every 5 seconds.
        """
        with self._lock:
            now = self._clock()
            if token == self._token and not 0 <= now - self._forced_at < RETRY_S:
                self._forced, self._forced_at = True, now

    def _held(self) -> str | None:
        """Return the token if it needs no renewal, or cannot be renewed yet."""
        with self._lock:
            now = self._clock()
            if self._token and not self._forced and now < self._renew_at:
                return self._token
            if self._failed is None or not 0 <= now - self._failed_at < RETRY_S:
                return None
            if isinstance(self._failed, IssuerUnreachable) and self._usable(now):
                return self._token
            raise type(self._failed)(self._failed.code, str(self._failed), hint=self._failed.hint)

    def _good(self) -> bool:
        with self._lock:
            return self._usable(self._clock())

    def _usable(self, now: float) -> bool:
        return bool(self._token) and not self._forced and now < self._ends

    def _renewed(self) -> str:
        asked = self._clock()
        try:
            token, life_s = self._fetched()
        except Refused as failure:
            with self._lock:
                self._failed, self._failed_at = failure, self._clock()
                self._metadata = None  # it may have moved
                if isinstance(failure, IssuerUnreachable) and self._usable(self._failed_at):
                    return self._token
            raise
        with self._lock:
            self._token, self._forced, self._failed = token, False, None
            self._ends = asked + life_s
            self._renew_at = self._ends - min(EARLY_S, life_s / 5)
        return token

    def _fetched(self) -> tuple[str, float]:
        """Return a new token and its life in seconds."""
        url = endpoint(self._described(), "token_endpoint")
        status, reply = self._ask(url)
        if status != 200 and reply.get("error") == "use_dpop_nonce" and self._nonce is not None:
            status, reply = self._ask(url)
        if status != 200:
            error = " ".join(_plain(reply.get(name)) for name in ("error", "error_description"))
            raise LoginRefused(
                "auth.client_refused",
                f"the issuer gives {self._settings.client_id!r} no token: {status} {error}".rstrip() + self._skew,
                hint="ask the issuer's administrator whether client, key, scope and audience are registered there",
            )
        token, kind, life = reply.get("access_token"), reply.get("token_type"), reply.get("expires_in", 60)
        wanted = "bearer" if self._key is None else "dpop"
        if not isinstance(kind, str) or kind.lower() != wanted:
            raise LoginRefused("auth.client_refused", f"the issuer's token is not of the type {wanted}")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise LoginRefused("auth.client_refused", "the issuer's access_token is missing or malformed")
        if isinstance(life, bool) or not isinstance(life, int | float) or not 0 < life <= 86400:
            raise LoginRefused(
                "auth.client_refused", "the issuer's expires_in is not a time of more than 0 and at most 86400 s"
            )
        return token, float(life)

    def _described(self) -> dict[str, Any]:
        if self._metadata is None or not 0 <= self._clock() - self._metadata_at < METADATA_S:
            self._metadata = discover(self._settings.issuer, lambda url: get(self._http, url))
            self._metadata_at = self._clock()
        return self._metadata

    def _ask(self, url: str) -> tuple[int, dict[str, Any]]:
        """Return status and reply of the token endpoint. Each request has its own assertion and proof."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.client_id,
            "scope": self._scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self._assertion(url),
        }
        if self._settings.audience is not None:
            form[self._settings.audience_parameter] = self._settings.audience
        headers = {"Accept": "application/json"}
        if self._key is not None:
            headers["DPoP"] = self._key.proof("POST", url, nonce=self._nonce)
        response, body = exchange(self._http, self._http.build_request("POST", url, data=form, headers=headers))
        self._nonce = response.headers.get("DPoP-Nonce", self._nonce)
        self._skew = skew(response, self._clock())
        if response.status_code == 200:
            return 200, document(body)
        try:
            return response.status_code, document(body)
        except IssuerUnreachable:  # a refusal without a reason is still a refusal
            return response.status_code, {}

    def _assertion(self, token_endpoint: str) -> str:
        """Return a new client assertion (RFC 7523)."""
        now, named = int(self._clock()), self._settings.client_id
        claims = {
            "iss": named,
            "sub": named,
            "aud": self._settings.issuer if self._settings.assertion_audience == "issuer" else token_endpoint,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + ASSERTION_S,
        }
        return self._signer.sign({"typ": "JWT"}, claims)


class ServerAuth(httpx.Auth):
    """Puts token and proof on each request to the server; safe for threads.

    If a reply asks for a nonce, the request is repeated once with the nonce. If a reply refuses the token, it is
    repeated once with a new token.

    Args:
        source: of tokens.
        key: the same key as the source's, or None for tokens that are not bound.
    """

    def __init__(self, source: TokenSource, key: DpopKey | None) -> None:
        self._source, self._key = source, key
        self._nonce: str | None = None  # the newest; one assignment, so no lock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the request, and yield it again if a reply gives reason to."""
        token, reasons = self._source.token(), {"nonce", "token"}
        while True:
            self._sign(request, token)
            response = yield request
            self._nonce = response.headers.get("DPoP-Nonce", self._nonce)
            reason = _reason(response)
            if reason not in reasons:
                return
            reasons.remove(reason)
            if reason == "token":
                self._source.refused(token)
                renewed = self._source.token()
                if renewed == token:
                    return
                token = renewed

    def _sign(self, request: httpx.Request, token: str) -> None:
        if self._key is None:
            request.headers["Authorization"] = f"Bearer {token}"
            return
        request.headers["Authorization"] = f"DPoP {token}"
        request.headers["DPoP"] = self._key.proof(request.method, str(request.url), token=token, nonce=self._nonce)


def _reason(response: httpx.Response) -> str:
    """Return what a reply asks for: "nonce", "token", or "" for nothing that can be given."""
    if response.status_code != 401:
        return ""
    challenges = response.headers.get_list("WWW-Authenticate")
    ours = [challenge for challenge in challenges if challenge.lower().startswith(("dpop", "bearer"))]
    errors = {match.group(1) for challenge in ours for match in [_ERROR.search(challenge)] if match}
    if "use_dpop_nonce" in errors:
        return "nonce" if "DPoP-Nonce" in response.headers else ""
    return "token" if ours else ""


def _plain(value: Any) -> str:
    """Return an issuer's text as printable words, without long ones, such as a token that it repeats."""
    words = (value if isinstance(value, str) else "")[:200].split()
    shown = " ".join(word if len(word) <= 40 else "..." for word in words)
    return "".join(character if character.isascii() and character.isprintable() else "?" for character in shown)
