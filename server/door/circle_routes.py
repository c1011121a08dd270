"""Routes about circles: show, propose, sign, leave. Tokens only let requests in; what counts are signatures."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import InputError, Refused
from ...protocol.circle import Circle, Farewell, Signature
from ..records import circles
from ..records.state import State
from .replied import Json, error_reply, json_of, refusal

EVERYBODY = ("fl:run", "fl:train", "fl:audit", "fl:approve")
CIRCLE_SCOPES: dict[str, dict[str, tuple[str, ...]]] = {
    "/api/circle": {"GET": EVERYBODY, "POST": ("fl:run",)},
    "/api/circle/signatures": {"POST": ("fl:train",)},
    "/api/circle/farewells": {"POST": ("fl:train",)},
}


class CircleRoutes:
    """The routes.

    Args:
        state: the coordinator's records.
        clock: seconds since 1970.
    """

    def __init__(self, state: State, clock: Callable[[], float] = time.time) -> None:
        self._state, self._clock = state, clock
        self.routes = [
            Route("/api/circle", self._show, methods=["GET"]),
            Route("/api/circle", self._propose, methods=["POST"]),
            Route("/api/circle/signatures", self._sign, methods=["POST"]),
            Route("/api/circle/farewells", self._leave, methods=["POST"]),
        ]

    async def _show(self, _: Request) -> Response:
        def look() -> dict[str, Any]:
            with self._state.store.read() as db:
                return circles.board(db, self._clock()).as_dict()

        return Json(await run_in_threadpool(look))

    async def _propose(self, request: Request) -> Response:
        def propose(db: Connection, value: Any) -> dict[str, Any]:
            circle = Circle.parse(value)
            circles.check_door(db, circle)
            circles.check_start(db, self._state.models, circle)
            circles.propose(db, self._state.log, circle, self._clock())
            return {"circle": circle.digest}

        return await self._change(request, propose)

    async def _sign(self, request: Request) -> Response:
        def sign(db: Connection, value: Any) -> dict[str, Any]:
            digest, member = _text(value, "circle"), _text(value, "member")
            signature = Signature.parse({name: value.get(name) for name in ("key", "signature")})
            return {"begins": circles.take_signature(db, self._state.log, digest, member, signature, self._clock())}

        return await self._change(request, sign)

    async def _leave(self, request: Request) -> Response:
        def leave(db: Connection, value: Any) -> dict[str, Any]:
            farewell = Farewell.parse(value)
            circles.take_farewell(db, self._state.log, farewell)
            return {"circle": farewell.circle}

        return await self._change(request, leave)

    async def _change(self, request: Request, what: Callable[[Connection, Any], dict[str, Any]]) -> Response:
        def change(value: Any) -> dict[str, Any]:
            with self._state.store.transaction() as db:
                return what(db, value)

        try:
            value = await json_of(request, "a circle, a signature or a farewell")
            return Json(await run_in_threadpool(change, value), 201)
        except InputError as error:
            return error_reply(400, error.code, str(error))
        except Refused as error:
            return refusal(error)


def _text(value: Any, name: str) -> str:
    """Return a text of a JSON object.

    Raises:
        Refused: ``circle.differs``: the text is missing or too long.
    """
    text = value.get(name) if isinstance(value, dict) else None
    if not isinstance(text, str) or len(text) > 256:
        raise Refused("circle.differs", f"{name} is missing or too long; expected a text of at most 256 characters")
    return text
