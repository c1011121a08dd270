"""The listener for metrics, separate from the public one: GET /metrics, on loopback or behind a token of its own.

It does not use OAuth: a scraper runs beside the server, or holds the token file. If other machines can reach the
address, it speaks TLS with the server's certificate, so that the token does not travel in the clear.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from starlette.concurrency import run_in_threadpool

from ...configs.roles import ServerSettings, is_loopback
from ...errors import InputError
from ..door.limits import protocol

logger = logging.getLogger(__name__)
PATH = "/metrics"
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
CONNECTIONS = 20  # of one address
QUIET_S = 60.0
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]{32,512}")  # RFC 6750 b64token; 32 characters cannot be guessed


def read_token(path: Path) -> bytes:
    """Return the token from a file that only its owner can read.

    Raises:
        InputError: ``config.key``: it is missing, readable by others, or not a token of 32 to 512 characters.
    """
    try:
        with path.open("rb") as file:
            text, mode = file.read(1024).strip(), path.stat().st_mode
    except OSError as error:
        raise InputError("config.key", f"{path}: the metrics token cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise InputError("config.key", f"{path}: expected mode 0600", hint=f"chmod 600 {path}")
    if not _TOKEN.fullmatch(text):
        raise InputError("config.key", f"{path}: expected one line of 32 to 512 letters, digits or ._~+/=-")
    return text


class Scrape:
    """An ASGI app that answers scrapes.

    Args:
        registry: what is shown.
        token: the token that a request must bear; None for no token.
    """

    def __init__(self, registry: CollectorRegistry, token: bytes | None = None) -> None:
        self._registry = registry
        self._token = None if token is None else hashlib.sha256(token).digest()
        self._turn = asyncio.Lock()  # one at a time: the gateway's requests need the threads
        self._said: dict[str, float] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request. A body is not read."""
        if scope["type"] != "http":
            return
        if (scope["method"], scope["path"]) != ("GET", PATH):
            await _reply(send, 404, b"not found\n")
            return
        if not self._may_pass(scope["headers"]):
            self._say(logging.WARNING, "refused a scrape without the right token")
            await _reply(send, 401, b"expected a bearer token\n", [(b"www-authenticate", b'Bearer realm="metrics"')])
            return
        try:
            async with self._turn:
                text = await run_in_threadpool(generate_latest, self._registry)
        except Exception as error:  # a full disk, an edited log: `up` is 0 then, and the server continues
            self._say(logging.ERROR, f"the metrics cannot be read: {type(error).__name__}: {error}".partition("\n")[0])
            await _reply(send, 503, b"the metrics cannot be read now\n")
            return
        await _reply(send, 200, text, [(b"content-type", CONTENT_TYPE)])

    def _may_pass(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        if self._token is None:
            return True
        values = [value for name, value in headers if name == b"authorization"]
        scheme, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
        right = hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self._token)
        return right and scheme.lower() == b"bearer"

    def _say(self, level: int, words: str) -> None:
        """Log something, at most once a minute for the same words."""
        now = time.monotonic()
        if now - self._said.get(words, -QUIET_S) >= QUIET_S:
            self._said = {**{earlier: at for earlier, at in self._said.items() if now - at < QUIET_S}, words: now}
            logger.log(level, "%s", words)


def served(app: Scrape, settings: ServerSettings, tls: ssl.SSLContext) -> uvicorn.Config:
    """Return the listener's config: like the public listener, but without TLS on loopback."""
    more: dict[str, Any] = {}
    if settings.metrics and not is_loopback(settings.metrics.rpartition(":")[0]):
        more["ssl_context_factory"] = lambda *_: tls
    return uvicorn.Config(
        app,
        http=protocol(settings.head_timeout_s, CONNECTIONS),
        ws="none",
        lifespan="off",
        server_header=False,
        log_level="warning",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        **more,
    )


async def _reply(send: Any, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    plain = [] if headers and status == 200 else [(b"content-type", b"text/plain; charset=utf-8")]
    length = (b"content-length", str(len(body)).encode())
    lines = [*plain, length, (b"connection", b"close"), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
