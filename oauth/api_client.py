"""A client for moonflower's routes at a server. It adds a token, and raises the server's errors as moonflower's own."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..configs.roles import is_loopback
from ..errors import InputError, IssuerUnreachable, Refused

TIMEOUT_S = 30.0
UNREACHABLE = "run.unreachable"


class ApiClient:
    """A client for one server; safe for threads.

    Args:
        server: its address.
        ca: the server's private CA (PEM); None for the machine's own list.
        auth: adds and renews the token.

    Raises:
        InputError: the CA cannot be read.
    """

    def __init__(self, server: str, ca: Path | None, auth: httpx.Auth | None) -> None:
        verify: ssl.SSLContext | bool = True
        if ca is not None:
            try:
                verify = ssl.create_default_context(cafile=ca)
            except (OSError, ssl.SSLError) as error:
                raise InputError(
                    "config.file", f"ca = {ca}: expected a readable CA certificate in PEM: {error}"
                ) from None
        outside = not is_loopback(urlsplit(server).hostname or "")  # proxies are only for other machines
        self._http = httpx.Client(base_url=server, auth=auth, verify=verify, timeout=TIMEOUT_S, trust_env=outside)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """Return the JSON object of the server's reply.

        Raises:
            Refused, InputError: with the server's code, or the server cannot be reached (``run.unreachable``).
        """
        reply = self.send(method, path, **more)
        try:
            body = reply.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused(UNREACHABLE, f"the server said {reply.status_code}, without the expected JSON object")
        return body

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Return the server's reply, if it is a success.

        Raises:
            Refused, InputError: with the server's code, or the server cannot be reached (``run.unreachable``).
        """
        try:
            reply = self._http.request(method, path, **more)
        except IssuerUnreachable as error:
            raise Refused(UNREACHABLE, str(error)) from None
        except httpx.TransportError as error:
            raise Refused(UNREACHABLE, f"{self._http.base_url} cannot be reached: {error}") from None
        if reply.is_success:
            return reply
        try:
            body = reply.json()
            body = body if isinstance(body, dict) else {}
        except ValueError:
            body = {}
        code, detail = str(body.get("code", UNREACHABLE)), str(body.get("detail", "no reason given"))
        if reply.status_code in (502, 503, 504):
            code = UNREACHABLE
        kind = InputError if reply.status_code == 400 or code == "data.model" else Refused
        raise kind(code, f"the server said {reply.status_code}: {detail}", hint=str(body.get("hint", "")))
