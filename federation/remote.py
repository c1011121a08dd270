"""The server as an operator sees it from a desk: submit a run, follow it, stop it; look at models, decide on them."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..configs.roles import OperatorConfig, is_loopback
from ..errors import InputError, IssuerUnreachable, Refused
from ..oauth.login import DpopKey, ServerAuth, TokenSource
from ..protocol.model_version import Version, parse

Event = dict[str, Any]
POLL_S = 0.3
TIMEOUT_S = 30.0
PATIENCE_S = 120.0  # how long a server may be away while a run is followed; it may be starting again
LATER = ("run.unreachable", "auth.throttled")


class Remote:
    """A server and the right to ask it.

    Args:
        config: where it is, and how to log in.
        scope: of the token.

    Raises:
        InputError: key or CA cannot be read.
    """

    def __init__(self, config: OperatorConfig, scope: str = "fl:run") -> None:
        settings, login = config.operator, config.oauth
        key = DpopKey.generate() if login.binding == "dpop" else None
        verify: ssl.SSLContext | bool = True
        if settings.ca is not None:
            try:
                verify = ssl.create_default_context(cafile=settings.ca)
            except (OSError, ssl.SSLError) as error:
                raise InputError("config.file", f"operator.ca = {settings.ca}: not a readable CA: {error}") from None
        outside = not is_loopback(urlsplit(settings.server).hostname or "")  # a proxy is for the way out
        self._tokens = TokenSource(login, key, scope)
        auth = ServerAuth(self._tokens, key)
        self._http = httpx.Client(
            base_url=settings.server, auth=auth, verify=verify, timeout=TIMEOUT_S, trust_env=outside
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._tokens.close()

    def submit(self, offer: Mapping[str, Any]) -> str:
        """Submit a run; returns its identifier.

        Raises:
            Refused, InputError: as the server said.
        """
        return str(self._ask("POST", "/api/runs", json=dict(offer))["run"])

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        return list(self._ask("GET", "/api/runs")["runs"])

    def show(self, run: str) -> dict[str, Any]:
        """Return a run's status and result so far."""
        return self._ask("GET", f"/api/runs/{run}")

    def stop(self, run: str) -> None:
        """Ask that a run ends after what it is at."""
        self._ask("POST", f"/api/runs/{run}/stop")

    def listing(self) -> dict[str, Any]:
        """Return every model version, and which one is released."""
        return self._ask("GET", "/api/models")

    def shown(self, name: str) -> dict[str, Any]:
        """Return a version's lineage, card, and who may approve it."""
        return self._ask("GET", f"/api/models/{_digits(name)}")

    def decide(self, name: str, value: Any) -> dict[str, Any]:
        """Hand a signed decision over; returns what came of it.

        Raises:
            Refused, InputError: as the server said.
        """
        return self._ask("POST", f"/api/models/{_digits(name)}/decisions", json=value)

    def file(self, name: str, *, unreleased: bool) -> Version:
        """Return a version's file; one that is not released is marked.

        Raises:
            Refused, InputError: as the server said, or what came is no version.
        """
        asked = {"unreleased": "yes"} if unreleased else {}
        return parse(self._send("GET", f"/api/models/{_digits(name)}/file", params=asked).content)

    def follow(self, run: str) -> Iterator[Event]:
        """Yield the log's entries about a run until it is over; the server may be away for two minutes meanwhile.

        Raises:
            Refused: ``run.unreachable``, ``auth.throttled``: it stayed away longer; or as the server said.
        """
        after, away_since = -1, None
        while True:
            try:
                entries = self._ask("GET", f"/api/runs/{run}/log", params={"after": after})["entries"]
                away_since = None
            except Refused as error:
                if error.code not in LATER:
                    raise
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE_S:
                    raise
                entries = []
            for entry in entries:
                after = entry["index"]
                yield entry
                if entry["event"] == "run_ended":
                    return
            if not entries:
                time.sleep(POLL_S)

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        reply = self._send(method, path, **more)
        try:
            said = reply.json()
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise Refused("run.unreachable", f"the server said {reply.status_code}: no answer of ours")
        return said

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Return a reply, if the server did as it was asked.

        Raises:
            Refused, InputError: as the server said, or it cannot be reached.
        """
        try:
            reply = self._http.request(method, path, **more)
        except IssuerUnreachable as error:
            raise Refused("run.unreachable", str(error)) from None
        except httpx.TransportError as error:
            raise Refused("run.unreachable", f"{self._http.base_url} cannot be reached: {error}") from None
        if reply.is_success:
            return reply
        try:
            said = reply.json()
            said = said if isinstance(said, dict) else {}
        except ValueError:
            said = {}
        code, detail = str(said.get("code", "run.unreachable")), str(said.get("detail", "no reason given"))
        if reply.status_code in (502, 503, 504):
            code = "run.unreachable"
        sentence = f"the server said {reply.status_code}: {detail}"
        raise (InputError if reply.status_code == 400 or code == "data.model" else Refused)(code, sentence)


def _digits(name: str) -> str:
    """Return the name of a version: a number, or digits of its SHA-256.

    Raises:
        InputError: ``data.model``: another word, which would be another address.
    """
    if not re.fullmatch(r"[0-9a-f]{1,64}", name):
        raise InputError("data.model", f"there is no model version {name!r}; expected a number or digits of a SHA-256")
    return name


def await_ready(probe: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Return once ``probe`` is true.

    Raises:
        Refused: ``run.unreachable``: it was not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() > deadline:
            raise Refused("run.unreachable", f"{what} did not answer within {timeout_s:g} s")
        time.sleep(0.05)
