"""The server as a submitter or an approver sees it: submit, follow and stop runs; list models and decide on them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..configs.recipe import Recipe, not_free
from ..configs.roles import OperatorConfig
from ..errors import InputError, Refused
from ..oauth.api_client import ApiClient
from ..oauth.login import DpopKey, ServerAuth, TokenSource
from ..protocol.circle import Circle, Start
from ..protocol.circle_board import CircleBoard
from ..protocol.model_version import Version, parse

Event = dict[str, Any]
POLL_S = 0.3
CIRCLE_POLL_S = 2.0
PATIENCE_S = 120.0  # how long a server may be away while a run is followed: it may be restarting
SHORTEST = 6  # fewest digits of a SHA-256 that name a file
LATER = ("run.unreachable", "auth.throttled")


class Remote:
    """A server, and a login to it.

    Args:
        config: where the server is, and how to log in.
        scope: scope of the token.

    Raises:
        InputError: the key or the CA cannot be read.
    """

    def __init__(self, config: OperatorConfig, scope: str = "fl:run") -> None:
        key = DpopKey.generate() if config.oauth.binding == "dpop" else None
        self._tokens = TokenSource(config.oauth, key, scope)
        self._api = ApiClient(config.operator.server, config.operator.ca, ServerAuth(self._tokens, key))

    def close(self) -> None:
        """Close the connections."""
        self._api.close()
        self._tokens.close()

    def circles(self) -> CircleBoard:
        """Return the circles of the server.

        Raises:
            Refused, InputError: as the server said.
        """
        return CircleBoard.parse(self._api.ask("GET", "/api/circle"))

    def propose(self, circle: Circle) -> None:
        """Propose a circle.

        Raises:
            Refused, InputError: as the server said.
        """
        self._api.ask("POST", "/api/circle", json=circle.as_dict())

    def await_circle(self, recipe: Recipe, say: Callable[[str], None]) -> None:
        """Wait until the circle of this recipe begins, if such a circle waits for signatures; else return at once.

        Args:
            recipe: the recipe that a run's config makes.
            say: called with a line that says whose signatures are missing, whenever that changes.

        Raises:
            Refused, InputError: as the server said.
        """
        last = ""
        while True:
            shown = self.circles()
            fits = [signed for signed in shown.proposed if not not_free(signed.circle.recipe, recipe)]
            begun = shown.living is not None and not not_free(shown.living.circle.recipe, recipe)
            if begun or not fits:
                return
            line = f"circle {fits[-1].circle.number} waits for the signatures of {', '.join(fits[-1].missing)}"
            if line != last:
                say(line)
            last = line
            time.sleep(CIRCLE_POLL_S)

    def submit(self, recipe: Recipe, start: str = "") -> str:
        """Submit a run in the current circle; return its identifier.

        Args:
            recipe: the recipe that the run's config makes; it may differ from the circle's in what a run may choose.
            start: name of the version of the circle that the run starts from; "" for the circle's own start.

        Raises:
            Refused, InputError: as the server said; ``circle.differs`` names every key.
        """
        chosen = {"params": {"start": _digits(start)}} if start else {}
        return str(self._api.ask("POST", "/api/runs", json=recipe.as_dict(), **chosen)["run"])

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        return list(self._api.ask("GET", "/api/runs")["runs"])

    def show(self, run: str) -> dict[str, Any]:
        """Return a run's status and result so far."""
        return self._api.ask("GET", f"/api/runs/{run}")

    def stop(self, run: str) -> None:
        """Ask the server to end a run after its current step."""
        self._api.ask("POST", f"/api/runs/{run}/stop")

    def listing(self) -> dict[str, Any]:
        """Return every model version, and which version is released."""
        return self._api.ask("GET", "/api/models")

    def shown(self, name: str) -> dict[str, Any]:
        """Return a version's lineage, card, and who may approve it."""
        return self._api.ask("GET", f"/api/models/{_digits(name)}")

    def decide(self, name: str, value: Any) -> dict[str, Any]:
        """Hand in a signed decision; return its result.

        Raises:
            Refused, InputError: as the server said.
        """
        return self._api.ask("POST", f"/api/models/{_digits(name)}/decisions", json=value)

    def file(self, name: str, *, unreleased: bool) -> Version:
        """Return a version's file. The file of an unreleased version is marked as such.

        Raises:
            Refused, InputError: as the server said, or its reply is not a version.
        """
        asked = {"unreleased": "yes"} if unreleased else {}
        return parse(self._api.send("GET", f"/api/models/{_digits(name)}/file", params=asked).content)

    def start(self, name: str) -> tuple[Start, Version]:
        """Return a version as the start of a circle, with its file. The version was promoted or imported.

        Args:
            name: the version's number, or the first digits of its SHA-256.

        Raises:
            Refused, InputError: as the server said; ``base.unknown``: the version was not promoted.
        """
        imports = [str(entry["sha256"]) for entry in self.listing()["imports"]]
        matches = [sha256 for sha256 in imports if len(name) >= SHORTEST and sha256.startswith(name)]
        if len(matches) == 1:
            sha256 = matches[0]
        else:
            lineage = self.shown(name)["lineage"]
            if lineage["verdict"] != "promoted":
                raise Refused(
                    "base.unknown", f"model {name!r} was not promoted; expected a promoted or an imported version"
                )
            sha256 = str(lineage["sha256"])
        version = self.file(sha256, unreleased=True)
        return Start(sha256, version.identity, bool(matches)), version

    def follow(self, run: str) -> Iterator[Event]:
        """Yield the log's entries about a run until the run is over. The server may be away for up to two minutes.

        Raises:
            Refused: ``run.unreachable``, ``auth.throttled``: the server was away longer; or as the server said.
        """
        after, away_since = -1, None
        while True:
            try:
                entries = self._api.ask("GET", f"/api/runs/{run}/log", params={"after": after})["entries"]
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


def _digits(name: str) -> str:
    """Return the name of a version: a number, or digits of its SHA-256.

    Raises:
        InputError: ``data.model``: any other text, which could lead to another address.
    """
    if not re.fullmatch(r"[0-9a-f]{1,64}", name):
        raise InputError("data.model", f"there is no model version {name!r}; expected a number or digits of a SHA-256")
    return name


def await_ready(probe: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Return once ``probe`` returns true.

    Raises:
        Refused: ``run.unreachable``: it did not within ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() > deadline:
            raise Refused("run.unreachable", f"{what} did not answer within {timeout_s:g} s")
        time.sleep(0.05)
