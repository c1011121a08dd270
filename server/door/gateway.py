"""The only way in from outside: an ASGI app in front of Flower's that denies by default.

It checks each request in this order:

1. The route is known, else 404.
2. The token is from our issuer, for us, with the scope of the route (``oauth/tokens.py``).
3. On Flower's routes, the token's client is a member on the roster and not revoked, and the key that signs the request
   is the one pinned for that member.
4. The body is small enough and comes in time.

Only then does Flower see the request. Refusals are logged with their code, each kind once a minute and member, so that
a flood of junk does not fill the log. An address that was refused too often gets no reasons until it has waited. An
error behind the gateway becomes 503 in front of it: a node takes that as
"later", and 500 or 403 as an end. Every reply carries the request's id in our log, which is the node's own if it named
one. The dashboard's pages, if any, come before the token: they have sessions of their own (``dashboard/``), and the
same limits on bodies.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from ... import logs
from ...configs.roles import ServerSettings
from ...crypto.identity import PublicKey
from ...errors import TooMuch
from ...oauth.allowance import Allowance
from ...oauth.refusal import challenge
from ...oauth.tokens import Principal, TokenRefused, TokenVerifier
from ..records.members import RosterMember
from .limits import bounded

logger = logging.getLogger(__name__)
Headers = Sequence[tuple[bytes, bytes]]

# get-fab, register-node and unregister-node are not among them: no code, and keys come from the roster.
FLEET = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)
ACTIVATE = "/v1/fleet/activate-node"
QUIET_S = 60.0
RETRY_S = 5
SOON = ("auth.unknown_kid", "auth.not_yet_valid")  # 503, because they may be right in a minute; counted all the same
API_BODY_BYTES = 512 << 10  # largest body on our own routes: a circle with its schema, or a run
OPEN_BODY_BYTES = 64 << 10  # largest body without a token, which a page sends: outsiders could fill the memory


@dataclass(frozen=True)
class Turn:
    """Whether something is logged now.

    Attributes:
        due: it is.
        unsaid: how often it was not logged since the last time.
    """

    due: bool
    unsaid: int


class Gateway:
    """An ASGI app.

    Args:
        flower: Flower's app.
        api: our own routes. They get the :class:`Principal` in ``scope["principal"]``.
        scopes: returns the scopes of which one opens a route of ours, by (method, path); None for an unknown route.
        verifier: verifies tokens.
        member_of: returns the member that an OAuth client belongs to, or None.
        denied: returns whether this server shut out a token's client or subject.
        login: called with a member and its key's PEM before its node logs in, once that key has signed the request.
        note: called with (code, member, details) for the audit log.
        settings: limits.
        dashboard: the app of the pages for people; None for none.
        tell: called with an event and what it is about, for the security team: ``node_login``, ``refused``.

    Attributes:
        refusals: requests that were refused for their token, by code, including those that the log leaves out.
    """

    def __init__(
        self,
        *,
        flower: Any,
        api: Any,
        scopes: Callable[[str, str], Sequence[str] | None],
        verifier: TokenVerifier,
        member_of: Callable[[str, str], RosterMember | None],
        denied: Callable[[Principal], bool],
        login: Callable[[RosterMember, bytes], None],
        note: Callable[[str, str, dict[str, Any]], None],
        settings: ServerSettings,
        dashboard: Any = None,
        tell: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self._dashboard = dashboard
        self._flower, self._api, self._scopes = flower, api, scopes
        self._verifier, self._member_of, self._login, self._note = verifier, member_of, login, note
        self._denied, self._feed = denied, tell
        self._settings = settings
        self._allowance = Allowance(settings.refusals_per_minute)
        self.refusals: Counter[str] = Counter()
        self._quiet: dict[tuple[str, str], tuple[float, int]] = {}
        self._counting = threading.Lock()
        self._activating = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            claimed = next((value for name, value in scope["headers"] if name == logs.REQUEST_HEADER.encode()), b"")
            request = logs.request_id(claimed.decode("latin-1"))
            with logs.about(request=request):
                await self._answer(scope, receive, _named(send, request))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        answer = _Answer(send)
        try:
            await self._serve(scope, receive, answer)
        except TokenRefused as refusal:
            await _reply(send, refusal.status, refusal.code, str(refusal), refusal.headers)
        except TooMuch as refusal:
            await _reply(send, refusal.status, refusal.code, str(refusal), [("connection", "close")])
        except Exception as error:
            if answer.begun:
                raise
            self._say_broken(scope["path"], error)
            answer.broken = True
        if answer.broken:
            retry = [("retry-after", str(RETRY_S))]
            await _reply(send, 503, "http.unavailable", "the server cannot answer now; try later", retry)

    def cut(self, code: str, address: str) -> None:
        """Log that a connection was closed before it sent a request: each kind once a minute."""
        turn = self._turn(code, "")
        if turn.due:
            before = f"; {turn.unsaid} more since the last such line" if turn.unsaid else ""
            logger.warning("closed a connection from %s: %s%s", address, code, before)

    async def _serve(self, scope: Any, receive: Any, answer: _Answer) -> None:
        method, path = scope["method"], scope["path"]
        if self._dashboard is not None and self._dashboard.serves(path):
            body = await _whole(bounded(receive, OPEN_BODY_BYTES, self._settings.body_timeout_s))
            if body is not None:
                await self._dashboard(scope, _again(body, receive), answer)
            return
        fleet = path in FLEET and method == "POST"
        scopes = ("fl:train",) if fleet else self._scopes(method, path)
        if scopes is None:
            await _reply(answer, 404, "http.not_found", "no such route", [])
            return
        address, member = scope["client"][0] if scope["client"] else "", None
        if scopes:
            principal, member = await run_in_threadpool(self._admit, scope, scopes, address)
            scope = {**scope, "principal": principal}
        most = self._settings.max_body_mb << 20 if fleet else API_BODY_BYTES if scopes else OPEN_BODY_BYTES
        body = await _whole(bounded(receive, most, self._settings.body_timeout_s))
        if body is None:
            return  # the client is gone
        answer.nonce = self._verifier.nonce()
        if member is not None and path == ACTIVATE:
            await self._activate(scope, receive, answer, body, member)
        else:
            await (self._flower if fleet else self._api)(scope, _again(body, receive), answer)

    async def _activate(self, scope: Any, receive: Any, answer: _Answer, body: bytes, member: RosterMember) -> None:
        """Let a node log in. A session that its dead process left is ended only if the node key signed the request."""
        async with self._activating:
            if _signed(scope["headers"]):
                await run_in_threadpool(self._login, member, _node_key(scope["headers"]))
                address = scope["client"][0] if scope["client"] else ""
                self._feed("node_login", member=member.name, client_id=member.client_id, address=address)
            await self._flower(scope, _again(body, receive), answer)

    def _admit(self, scope: Any, scopes: Sequence[str], address: str) -> tuple[Principal, RosterMember | None]:
        """Return the principal of a request that may pass, and on Flower's routes the member.

        Raises:
            TokenRefused: it may not; counted against the address, and logged.
        """
        path, headers = scope["path"], scope["headers"]
        sent = scope["raw_path"].decode("ascii", "replace")
        principal, member = None, None
        try:
            principal = self._verifier.verify(scope["method"], sent, headers, *scopes)
            if self._denied(principal):
                raise TokenRefused("auth.client_revoked", "this client or person was shut out of this server")
            if path in FLEET:
                member = self._member_of(principal.issuer, principal.client_id)
                self._seat(principal, member, headers)
        except TokenRefused as refused:
            refusal = self._counted(refused, member.name if member else "", address, path)
            if path in FLEET and refusal.status == 403:
                refusal.status = 401  # Flower's nodes take 403 as the end of a run
            if refusal.code in ("auth.node_mismatch", "auth.client_revoked"):
                challenge(refusal, "DPoP" if principal and principal.jkt else "Bearer")
            raise refusal from None
        return principal, member

    def _counted(self, refusal: TokenRefused, member: str, address: str, path: str) -> TokenRefused:
        """Return the refusal to answer with: a short one if the address has caused too many.

        It is counted against the address and logged, unless it is a step of the protocol or the issuer is away. An
        address shuts nobody out: a request that is right passes, whatever else comes from there.
        """
        step = refusal.code == "auth.dpop_nonce" or (refusal.status >= 500 and refusal.code not in SOON)
        wait_s = 0.0 if step else self._allowance.wait_s(address)
        if wait_s and refusal.status < 500:
            retry = [("retry-after", str(int(wait_s) + 1))]
            refusal = TokenRefused("auth.throttled", "too many refused requests from this address", 429, retry)
        with self._counting:
            self.refusals[refusal.code] += 1
        if not (step or wait_s):
            self._allowance.spend(address)
            self._tell(refusal.code, member, address, path)
        return refusal

    def _seat(self, principal: Principal, member: RosterMember | None, headers: Headers) -> None:
        """Check that token, member and node key belong together."""
        pin = pin_of(_node_key(headers))
        if member is None or pin is None or pin != member.pin or principal.jkt not in (None, pin):
            raise TokenRefused("auth.node_mismatch", "token, member and node key do not belong together")
        if member.revoked:
            raise TokenRefused("auth.client_revoked", "this member was revoked")

    def _tell(self, code: str, member: str, address: str, path: str) -> None:
        """Log a refusal: the first at once, then at most one a minute, with the number of others."""
        turn = self._turn(code, member)
        if not turn.due:
            return
        self._feed("refused", code=code, member=member, address=address, route=_route(path), more=turn.unsaid)
        # Addresses stay out of the audit log.
        logger.warning("refused %s from %s", path, address, extra={"code": code, "member": member})
        try:
            self._note(code, member, {"path": _route(path), "more": turn.unsaid})
        except Exception as error:  # a full disk: the request is refused, recorded or not
            self._say_broken(path, error)

    def _say_broken(self, path: str, error: Exception) -> None:
        """Log an error, each kind once a minute: a full disk affects every request."""
        if self._turn(type(error).__name__, "").due:
            trace = None if isinstance(error, OSError | OperationalError) else error
            logger.error("%s could not be served: %s", path, str(error).partition("\n")[0], exc_info=trace)

    def _turn(self, code: str, member: str) -> Turn:
        """Return whether this may be logged: it was not logged in the last minute."""
        with self._counting:
            now = time.monotonic()
            since, unsaid = self._quiet.get((code, member), (-QUIET_S, 0))
            due = now - since >= QUIET_S
            self._quiet[code, member] = (now, 0) if due else (since, unsaid + 1)
            return Turn(due, unsaid)


class _Answer:
    """The way back: adds the nonce for the next proof. It holds back an app's own 500, and sets ``broken``."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.nonce = ""
        self.begun = self.broken = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start" and not self.begun:
            self.broken = message["status"] == 500
            self.begun = not self.broken
            if self.nonce:
                message = {**message, "headers": [*message.get("headers", ()), (b"dpop-nonce", self.nonce.encode())]}
        if not self.broken:
            await self._send(message)


def _named(send: Any, request: str) -> Any:
    """Return an ASGI ``send`` that adds the request's id in our log."""

    async def named(message: Any) -> None:
        if message["type"] == "http.response.start":
            header = (logs.REQUEST_HEADER.encode(), request.encode())
            message = {**message, "headers": [*message.get("headers", ()), header]}
        await send(message)

    return named


async def _whole(receive: Any) -> bytes | None:
    """Return a request's body, or None if the client is gone."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Any) -> Any:
    """Return an ASGI ``receive`` that gives a body that was read already, and then what comes after it."""
    replayed = False

    async def received() -> Any:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


def _route(path: str) -> str:
    """Return a path as it may go into the audit log: without the parts that a stranger may have chosen.

    >>> _route("/v1/fleet/pull-messages"), _route("/api/runs"), _route("/api/runs/anna@example.org/log")
    ('/v1/fleet/pull-messages', '/api/runs', '/api/runs/…')
    """
    known, rest = path.split("/")[:3], path.split("/")[3:]
    return path if path in FLEET or not rest else "/".join([*known, "…"])


def _node_key(headers: Headers) -> bytes:
    """Return the PEM of the key that a Fleet request claims to be signed with. Flower's app checks the signature."""
    return _field(headers, b"flwr-public-key")


def _field(headers: Headers, name: bytes) -> bytes:
    """Return the decoded base64 of a header, or nothing if the header is not there exactly once."""
    values = [value for field, value in headers if field == name]
    if len(values) != 1:
        return b""
    try:
        return base64.b64decode(values[0], validate=True)
    except binascii.Error:
        return b""


def _signed(headers: Headers) -> bool:
    """Return whether a Fleet request has its node key's signature. Flower's app checks how old that is."""
    key = load_pem_public_key(_node_key(headers))
    stamp = next((value for name, value in headers if name == b"flwr-timestamp"), b"")
    assert isinstance(key, ec.EllipticCurvePublicKey)  # it is the pinned key of a member
    try:
        key.verify(_field(headers, b"flwr-signature"), stamp, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def pin_of(pem: bytes) -> str | None:
    """Return the pin of a node key's PEM; None if it is not such a key, or not in our spelling."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return None
    canonical = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(key).pin if canonical == pem else None  # one spelling, one node


async def _reply(send: Any, status: int, code: str, message: str, headers: Sequence[tuple[str, str]]) -> None:
    body = json.dumps({"code": code, "detail": message}).encode()
    plain = [("content-type", "application/json"), ("content-length", str(len(body))), *headers]
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in plain]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
