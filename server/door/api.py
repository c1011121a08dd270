"""Our own routes behind the gateway: runs, model versions, decisions about them, and views of the records.

A run carries settings, never code (rule 9). A decision about a version carries a signature. The token only lets the
request in.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...configs.recipe import Recipe, chosen, not_free, parse_recipe
from ...errors import InputError, Refused
from ...oauth.tokens import Principal
from ...protocol.circle import Circle
from ..records import circles, history
from ..records.pseudonyms import Pseudonyms
from ..records.state import State
from ..records.waiting import waited_for
from ..releases.registry import Registry
from ..watch.result import result
from ..watch.views import Views
from .circle_routes import CIRCLE_SCOPES, CircleRoutes
from .replied import Json, error_reply, json_of, refusal

READ = ("fl:run", "fl:audit")
MODELS = (*READ, "fl:approve")  # not fl:train: a node gets its bases with its messages
MAX_ENTRIES = 500
SIGN_ANEW = "moonflower circle propose RUN.toml, with the same settings; it begins when all of them have signed"
_MODEL = re.compile(r"/api/models(?:/(?P<name>[0-9a-f]{1,64})(?P<part>/decisions|/file)?)?")
_LOG = re.compile(r"/api/log(?:/checkpoint|/(?:0|[1-9][0-9]{0,15})/proof)?")
_LOOKS = {"/api/overview": MODELS, "/api/rounds": READ, "/api/members": READ}


class Api:
    """The routes.

    Args:
        state: the coordinator's records.
        federation: its name. A run for another federation is refused.
        accepted: called on the event loop after a run was accepted.
        min_approvals: a run that asks for fewer approvals of a release is refused.
        views: of the records; None for views that do not know who is connected.
        names: how the log calls who submits and stops runs; None for their names.
    """

    def __init__(
        self,
        state: State,
        federation: str,
        accepted: Callable[[], None],
        min_approvals: int = 1,
        views: Views | None = None,
        names: Pseudonyms | None = None,
    ) -> None:
        self._state, self._federation, self._accepted = state, federation, accepted
        self._min_approvals, self._names = min_approvals, names or Pseudonyms()
        self._registry = Registry(state.store, state.models, state.log)
        self.views = views or Views(state)
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/api/runs", self._submit, methods=["POST"]),
                Route("/api/runs", self._list, methods=["GET"]),
                Route("/api/runs/{run}", self._show, methods=["GET"]),
                Route("/api/runs/{run}/log", self._log, methods=["GET"]),
                Route("/api/runs/{run}/stop", self._stop, methods=["POST"]),
                Route("/api/models", self._models, methods=["GET"]),
                Route("/api/models/{name}", self._model, methods=["GET"]),
                Route("/api/models/{name}/file", self._file, methods=["GET"]),
                Route("/api/models/{name}/decisions", self._decide, methods=["POST"]),
                Route("/api/overview", self._overview, methods=["GET"]),
                Route("/api/rounds", self._rounds, methods=["GET"]),
                Route("/api/members", self._members, methods=["GET"]),
                Route("/api/log", self._page, methods=["GET"]),
                Route("/api/log/checkpoint", self._checkpoint, methods=["GET"]),
                Route("/api/log/{index:int}/proof", self._proof, methods=["GET"]),
                *CircleRoutes(state).routes,
            ]
        )
        self.app.router.redirect_slashes = False  # it would send the client to whatever the request calls this host

    def scopes(self, method: str, path: str) -> Sequence[str] | None:
        """Return the scopes of which one opens a route: empty if none is needed, None if there is no such route."""
        if (method, path) == ("GET", "/health"):
            return ()
        if (method, path) == ("POST", "/api/runs"):
            return ("fl:run",)
        if path in CIRCLE_SCOPES:
            return CIRCLE_SCOPES[path].get(method)
        if path in _LOOKS:
            return _LOOKS[path] if method == "GET" else None
        if _LOG.fullmatch(path):
            return READ if method == "GET" else None
        if model := _MODEL.fullmatch(path):
            decides = model["part"] == "/decisions"
            if method != ("POST" if decides else "GET"):
                return None
            return ("fl:approve",) if decides else MODELS
        if not (path == "/api/runs" or path.startswith("/api/runs/")):
            return None
        stop = path.endswith("/stop")
        if method != ("POST" if stop else "GET"):
            return None
        return ("fl:run",) if stop else READ

    async def _health(self, _: Request) -> Response:
        return Json({"ok": True})

    async def _submit(self, request: Request) -> Response:
        try:
            raw = await json_of(request, "a run")
            asked = await run_in_threadpool(lambda: parse_recipe(raw, where="the run"))
            if asked.federation.name != self._federation:
                name = asked.federation.name
                raise InputError("config.value", f"the run is for {name!r}; expected {self._federation!r}")
            if asked.gate.approvals < self._min_approvals:
                asks = f"gate.approvals = {asked.gate.approvals}"
                raise InputError("config.value", f"{asks}: expected at least {self._min_approvals} at this server")
        except InputError as error:
            return error_reply(400, error.code, str(error))
        try:
            run = await run_in_threadpool(self._queue, asked, request.query_params.get("start", ""), self._by(request))
        except (Refused, InputError) as error:
            return refusal(error)
        if run is None:
            return error_reply(409, "run.busy", "another run has not ended yet")
        self._accepted()
        return Json({"run": run}, 201)

    def _by(self, request: Request) -> dict[str, str]:
        """Return how the log calls the sender of a request."""
        who: Principal | None = request.scope.get("principal")
        if who is None:
            return {}
        client, subject = self._names.of("client", who.client_id), self._names.of("subject", who.subject)
        return {"client": client} | ({} if who.subject in ("", who.client_id) else {"subject": subject})

    def _queue(self, asked: Recipe, start: str = "", by: Mapping[str, str] | None = None) -> str | None:
        """Queue a run in the present circle and return its identifier; None while another run is not over.

        Args:
            asked: the recipe from the run's config.
            start: name of the version to start from; "" for the circle's own start.
            by: who submits it, as the log calls it.

        Raises:
            Refused: ``circle.differs``: there is no circle, or the run differs from its recipe; ``base.unknown``: no
                run of this circle promoted the version.
            InputError: ``data.model``: there is no such version.
        """
        run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        with self._state.store.transaction() as db:
            if history.open_runs(db):
                return None
            living = circles.living_circle(db)
            if living is None:
                raise Refused("circle.differs", "no circle has begun yet; expected one that all members signed")
            circle = living.circle
            differing = not_free(circle.recipe, asked)
            if differing:
                differences = "; ".join(
                    f"{change.key}: {json.dumps(change.before)} in the circle, {json.dumps(change.after)} in the run"
                    for change in differing
                )
                what = (
                    f"the run differs from circle {circle.number}, which {', '.join(circle.names)} signed, in "
                    f"{differences}"
                )
                raise Refused("circle.differs", what, hint=SIGN_ANEW)
            begins = self._chosen(db, circle, start) if start else ""
            choice = chosen(circle.recipe, asked) or 0
            history.queue_run(db, run, circle.offer(asked.training.seed, asked.training.rounds, begins, choice))
            self._state.log.append(db, "run_asked", run=run, by=dict(by or {}))
        return run

    def _chosen(self, db: Connection, circle: Circle, name: str) -> str:
        """Return the SHA-256 of the version that a run starts from; "" for the circle's own start."""
        entry = self._state.models.find(db, name)
        row = history.run_row(db, entry.run)
        if row is None or row.offer["circle"] != circle.digest or entry.verdict not in ("start", "promoted"):
            what = f"model {name!r} was not promoted in circle {circle.number}"
            hint = f"moonflower circle propose RUN.toml --start {name}, which all members sign"
            raise Refused("base.unknown", f"{what}; expected a version of that circle", hint=hint)
        self._state.models.read(entry.sha256)
        return entry.sha256 if entry.verdict == "promoted" else str(row.offer["start"])

    async def _list(self, _: Request) -> Response:
        return Json({"runs": await run_in_threadpool(self._runs)})

    def _runs(self) -> list[dict[str, Any]]:
        with self._state.store.read() as db:
            away = [vars(member) for member in waited_for(db)]
            return [
                {
                    "away": [member for member in away if member["run"] == row.run],
                    "run": row.run,
                    "status": row.status,
                    "code": row.code,
                    "rounds": len(history.rounds(db, row.run)),
                    "of": row.offer["training"]["rounds"],
                }
                for row in history.runs(db)
            ]

    async def _show(self, request: Request) -> Response:
        shown = await run_in_threadpool(self._one, request.path_params["run"])
        return Json(shown) if shown else error_reply(404, "http.not_found", "there is no such run")

    def _one(self, run: str) -> dict[str, Any] | None:
        with self._state.store.read() as db:
            row = history.run_row(db, run)
        if row is None:
            return None
        return {"run": run, "status": row.status, "code": row.code, "result": result(self._state, run)}

    async def _log(self, request: Request) -> Response:
        try:
            after = int(request.query_params.get("after", "-1"))
            if not -1 <= after < 2**63:
                raise ValueError
        except ValueError:
            return error_reply(400, "config.value", "after: expected the index of an entry, or -1")
        run = request.path_params["run"]
        entries = await run_in_threadpool(lambda: self._state.log.after(after, MAX_ENTRIES, run=run))
        return Json({"entries": entries})

    async def _stop(self, request: Request) -> Response:
        run = request.path_params["run"]
        if not await run_in_threadpool(self._request_stop, run, self._by(request)):
            return error_reply(409, "run.over", "there is no such run, or it is over")
        return Json({"run": run}, 202)

    def _request_stop(self, run: str, by: Mapping[str, str] | None = None) -> bool:
        with self._state.store.transaction() as db:
            if run not in history.open_runs(db):
                return False
            history.request_stop(db, run)
            self._state.log.append(db, "stop_asked", run=run, by=dict(by or {}))
        return True

    async def _models(self, _: Request) -> Response:
        return Json(await run_in_threadpool(self._registry.listing))

    async def _model(self, request: Request) -> Response:
        try:
            return Json(await run_in_threadpool(self._registry.shown, request.path_params["name"]))
        except (Refused, InputError) as error:
            return refusal(error)

    async def _file(self, request: Request) -> Response:
        name, anyway = request.path_params["name"], request.query_params.get("unreleased") == "yes"
        try:
            data = await run_in_threadpool(lambda: self._registry.file(name, unreleased=anyway).data)
        except (Refused, InputError) as error:
            return refusal(error)
        return Response(data, media_type="application/octet-stream")

    async def _decide(self, request: Request) -> Response:
        try:
            value = await json_of(request, "a signed decision", "release.malformed")
            return Json(await run_in_threadpool(self._registry.decide, request.path_params["name"], value), 201)
        except (Refused, InputError) as error:
            return refusal(error)

    async def _overview(self, _: Request) -> Response:
        return Json(await run_in_threadpool(self.views.overview))

    async def _rounds(self, request: Request) -> Response:
        run = request.query_params.get("run", "")
        shown = await run_in_threadpool(self.views.rounds, run)
        return Json(shown) if shown or not run else error_reply(404, "http.not_found", "there is no such run")

    async def _members(self, _: Request) -> Response:
        return Json(await run_in_threadpool(self.views.members))

    async def _page(self, request: Request) -> Response:
        asked = request.query_params
        try:
            before = _index(asked["before"]) if "before" in asked else None
            limit = max(1, _index(asked.get("limit", "50")))
        except ValueError:
            return error_reply(400, "config.value", "before and limit: expected whole numbers")
        about = [asked.get(name, "")[:256] for name in ("event", "run", "member")]
        return Json(await run_in_threadpool(self.views.page, before, limit, *about))

    async def _proof(self, request: Request) -> Response:
        asked = request.query_params
        try:
            size = _index(asked["size"]) if "size" in asked else None
            return Json(await run_in_threadpool(self.views.proof, request.path_params["index"], size))
        except ValueError as error:
            return error_reply(404, "config.index", str(error))

    async def _checkpoint(self, request: Request) -> Response:
        try:
            since = _index(request.query_params.get("since", "0"))
            return Json(await run_in_threadpool(self.views.grown, since))
        except ValueError as error:
            return error_reply(404, "config.index", str(error))


def _index(text: str) -> int:
    """Return a count or an index.

    Raises:
        ValueError: not plain digits, or too many.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise ValueError("expected a whole number of at most 16 digits")
    return int(text)
