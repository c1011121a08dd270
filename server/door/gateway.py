"""The one way in from outside: an ASGI app in front of Flower's, with deny as its default.

Per request, in order: a known route, else 404; an address that was refused too often waits; a token that our issuer
gave, for us, with the scope of the route (``tokens.py``); on Flower's routes also that the token's client is a member
of the roster and not revoked, and that the key which signs the request is the one pinned for that member; then a
body that is small enough and comes in time. Only then does Flower see the request. Refusals are logged with their code,
each kind once a minute and member, so that a flood of junk does not fill the log.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from starlette.concurrency import run_in_threadpool

from ...configs.live import ServerSettings
from ...crypto.identity import NodeKey
from ..records.members import Member
from .limits import Allowance, TooMuch, bounded
from .tokens import Principal, TokenRefused, Verifier

logger = logging.getLogger(__name__)
Headers = Sequence[tuple[bytes, bytes]]

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
)  # get-fab, register-node and unregister-node are not among them: no code, and keys come from the roster
ACTIVATE = "/v1/fleet/activate-node"
QUIET_S = 60.0


class Gateway:
    """An ASGI app.

    Args:
        flower: Flower's app.
        api: our own routes; gets the :class:`Principal` in ``scope["principal"]``.
        scopes: scopes of which one opens our route, by (method, path); None for a path that is not there.
        verifier: of tokens.
        member_of: the member whose node an OAuth client is, or None.
        login: called with a member and its key's PEM before its node logs in.
        note: called with (code, member, details) for the audit log.
        settings: limits.
    """

    def __init__(
        self,
        *,
        flower: Any,
        api: Any,
        scopes: Callable[[str, str], Sequence[str] | None],
        verifier: Verifier,
        member_of: Callable[[str, str], Member | None],
        login: Callable[[Member, bytes], None],
        note: Callable[[str, str, dict[str, Any]], None],
        settings: ServerSettings,
    ) -> None:
        self._flower, self._api, self._scopes = flower, api, scopes
        self._verifier, self._member_of, self._login, self._note = verifier, member_of, login, note
        self._settings = settings
        self._allowance = Allowance(settings.refusals_per_minute)
        self._quiet: dict[tuple[str, str], tuple[float, int]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            try:
                await self._serve(scope, receive, send)
            except TokenRefused as refusal:
                await _reply(send, refusal.status, refusal.code, str(refusal), refusal.headers)
            except TooMuch as refusal:
                await _reply(send, refusal.status, refusal.code, str(refusal), [("connection", "close")])
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        fleet = path in FLEET and method == "POST"
        scopes = ("fl:train",) if fleet else self._scopes(method, path)
        if scopes is None:
            await _reply(send, 404, "http.not_found", "there is nothing here", [])
            return
        address = scope["client"][0] if scope["client"] else ""
        if scopes:
            scope = {**scope, "principal": await run_in_threadpool(self._admit, scope, scopes, address)}
        receive = bounded(receive, self._settings.max_body_mb << 20, self._settings.body_timeout_s)
        if fleet:
            await self._flower(scope, receive, self._translated(send))
        else:
            await self._api(scope, receive, self._with_nonce(send))

    def _admit(self, scope: Any, scopes: Sequence[str], address: str) -> Principal:
        """Return who asks, if the request may pass.

        Raises:
            TokenRefused: it may not; counted against the address, and logged.
        """
        path, headers = scope["path"], scope["headers"]
        sent = scope["raw_path"].decode("ascii", "replace")
        principal, member = None, None
        try:
            wait_s = self._allowance.wait_s(address)
            if wait_s and not self._verifier.knows(headers):
                raise TokenRefused(
                    "auth.throttled", "too many refused requests", 429, [("retry-after", str(int(wait_s) + 1))]
                )
            principal = self._verified(scope["method"], sent, headers, scopes)
            if path in FLEET:
                member = self._member_of(principal.issuer, principal.client_id)
                self._seat(principal, member, path, headers)
        except TokenRefused as refusal:
            if refusal.status < 500 and refusal.code not in ("auth.throttled", "auth.dpop_nonce"):
                self._allowance.spend(address)
                self._tell(refusal.code, member.name if member else "", address, path)
            if path in FLEET and refusal.status == 403:
                refusal.status = 401  # Flower's nodes take 403 for the end of a run
            if refusal.code in ("auth.node_mismatch", "auth.client_revoked"):
                refusal.challenge("DPoP" if principal and principal.jkt else "Bearer")
            raise
        return principal

    def _verified(self, method: str, path: str, headers: Headers, scopes: Sequence[str]) -> Principal:
        *others, last = scopes
        for one in others:
            try:
                return self._verifier.verify(method, path, headers, one)
            except TokenRefused as refusal:
                if refusal.code != "auth.scope":
                    raise
        return self._verifier.verify(method, path, headers, last)

    def _seat(self, principal: Principal, member: Member | None, path: str, headers: Headers) -> None:
        """Check that token, member and node key belong together."""
        pem = _node_key(headers)
        pin = _pin(pem)
        if member is None or pin is None or pin != member.pin or principal.jkt not in (None, pin):
            raise TokenRefused("auth.node_mismatch", "token, member and node key do not belong together")
        if member.revoked:
            raise TokenRefused("auth.client_revoked", "this member was revoked")
        if path == ACTIVATE:
            self._login(member, pem)

    def _tell(self, code: str, member: str, address: str, path: str) -> None:
        """Log a refusal: at once, and then at most once a minute, with how many there were."""
        now = time.monotonic()
        since, count = self._quiet.get((code, member), (-QUIET_S, 0))
        if now - since < QUIET_S:
            self._quiet[code, member] = since, count + 1
            return
        self._quiet[code, member] = now, 0
        logger.warning("refused %s from %s: %s", path, address, code)  # addresses stay out of the audit log
        self._note(code, member, {"path": path, "more": count})

    def _with_nonce(self, send: Any) -> Any:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                nonce = (b"dpop-nonce", self._verifier.nonce().encode())
                message = {**message, "headers": [*message.get("headers", ()), nonce]}
            await send(message)

        return sent

    def _translated(self, send: Any) -> Any:
        """Say 503 where Flower's app says 500: a node takes the one for "later" and the other for its end."""

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 500:
                message = {**message, "status": 503}
            await send(message)

        return self._with_nonce(sent)


def _node_key(headers: Headers) -> bytes:
    """Return the PEM of the key that a Fleet request says it is signed with; Flower's app checks the signature."""
    found = [value for name, value in headers if name == b"flwr-public-key"]
    if len(found) != 1:
        return b""
    try:
        return base64.b64decode(found[0], validate=True)
    except binascii.Error:
        return b""


def _pin(pem: bytes) -> str | None:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return None
    canonical = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return NodeKey(key).pin if canonical == pem else None  # one spelling, one node


async def _reply(send: Any, status: int, code: str, message: str, headers: Sequence[tuple[str, str]]) -> None:
    body = json.dumps({"code": code, "detail": message}).encode()
    plain = [("content-type", "application/json"), ("content-length", str(len(body))), *headers]
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in plain]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
