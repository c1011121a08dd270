"""What the server's replies mean to a node, and what a missing reply means.

* no answer, 408, 429, 502, 503, 504: ask again (:class:`Again`), with a growing pause;
* refused by the gateway (one of moonflower's codes, or a 401 that asks for a token): :class:`NodeRefused`;
* 401 otherwise: :class:`Forgotten`, Flower no longer knows this key, or the clocks differ;
* 403: :class:`RunOver`; anything else: :class:`FleetError`.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx

from ...canonical import parse_json
from ...errors import Again, FleetError, Forgotten, NodeRefused, RunOver
from ...logs import REQUEST_HEADER, printable, request_id, this_request
from ...oauth.discovery import skew

logger = logging.getLogger(__name__)
LONGEST_PAUSE_S = 20.0


class Outage:
    """Logs once that something is out of reach, and once that it is back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._since: float | None = None

    def begin(self, why: str) -> None:
        """Log the reason, unless an outage is going on."""
        with self._lock:
            if self._since is None:
                self._since = self._now()
                logger.warning("%s; trying again until it works", why)

    def over(self) -> None:
        """Log that it works again, if an outage was going on."""
        if self._since is not None:
            with self._lock:
                if self._since is not None:
                    logger.info("works again after %.0f s", self._now() - self._since)
                    self._since = None


class Gate:
    """Interceptor next to the wire: adds the token and the request's id for both sides' logs, and judges every reply.

    Flower's own code sees only good replies; it would end the process on some of the others.
    """

    def __init__(self, auth: httpx.Auth | None, clock: Callable[[], float]) -> None:
        self._auth, self._clock = auth, clock

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Return the reply to a request, if it is a success."""
        context.request.headers[REQUEST_HEADER] = this_request()
        if self._auth is None:
            response = call_next(context)
        else:
            flow = self._auth.sync_auth_flow(context.request)
            try:
                request = next(flow)
                while True:
                    response = call_next(replace(context, request=request))
                    request = flow.send(response)
            except StopIteration:
                pass
            finally:
                flow.close()
        if not response.is_success:
            raise self.judge(response)
        return response

    def judge(self, response: httpx.Response) -> Exception:
        """Return the exception for a reply that is not a success."""
        status, (code, detail) = response.status_code, _said(response)
        if status in (408, 429, 502, 503, 504):
            return Again(f"the server is not ready (status {status})", _retry_after(response))
        if code.startswith("auth."):
            why = f"{detail or code}{skew(response, self._clock())}{_quoted(response)}"
            return NodeRefused(code, f"the server refuses this node: {why}")
        if status == 401 and "www-authenticate" in response.headers:
            return NodeRefused("auth.refused", f"the server refuses this node's token: {detail or 'no reason given'}")
        if status == 401:
            return Forgotten("fleet.forgotten", f"the server does not know this node{skew(response, self._clock())}")
        if status == 403:
            return RunOver("fleet.run_over", "the run is over")
        return FleetError("fleet.answer", f"the server answered status {status} {detail}".rstrip())


def _said(response: httpx.Response) -> tuple[str, str]:
    """Return code and detail of an error reply: moonflower's, or the text that Flower gives."""
    try:
        body = parse_json(response.content[:65536])
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    code, detail = body.get("code"), body.get("detail") or body.get("public_details") or body.get("message")
    known = isinstance(code, str) and len(code) <= 64 and code.replace(".", "").replace("_", "").isalnum()
    return (str(code) if known else ""), printable(detail, 300) if isinstance(detail, str) else ""


def _quoted(response: httpx.Response) -> str:
    """Return the id of the request in the server's log, if the reply names it."""
    quoted = response.headers.get(REQUEST_HEADER, "")
    return f" (request {quoted})" if quoted and request_id(quoted) == quoted else ""


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isascii() and text.isdigit() else 0.0


def unreachable(error: httpx.RequestError) -> tuple[str, bool]:
    """Return why there was no answer, and whether a person has to fix it."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the server's certificate is not valid: {printable(cause.verify_message, 200)} ([client] ca)", True
        if isinstance(cause, ssl.SSLError):
            return f"TLS with the server failed: {printable(cause.reason or 'handshake failed', 200)}", True
        cause = cause.__cause__ or cause.__context__ if cause else None
    return f"the server cannot be reached ({type(error).__name__})", False
