"""Error replies of our routes: a status, a code, a sentence."""

from __future__ import annotations

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...canonical import parse_json
from ...errors import InputError, MoonflowerError

_STATUS = {
    "data.model": 404,
    "release.digest": 404,
    "release.malformed": 400,
    "release.reason": 400,
    "release.unknown_approver": 403,
    "release.signature": 403,
}


class Json(JSONResponse):
    """JSON in ASCII: a text that no encoding has, such as half of a surrogate pair in an old log, does not break it."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of a value."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


async def json_of(request: Request, expected: str, code: str = "config.value") -> Any:
    """Return the JSON in a request's body, parsed beside the event loop.

    Args:
        request: whose body it is.
        expected: what it should be, for the message.
        code: of the refusal.

    Raises:
        InputError: ``code``: not JSON, or a text in it cannot be encoded.
    """
    try:
        return await run_in_threadpool(parse_json, await request.body())
    except ValueError:
        raise InputError(code, f"the body is not JSON that can be kept; expected {expected}") from None


def refusal(error: MoonflowerError) -> Response:
    """Return the reply to a refused request; status 409 unless its code has another one."""
    return error_reply(_STATUS.get(error.code, 409), error.code, str(error), error.hint)


def error_reply(status: int, code: str, detail: str, hint: str = "") -> Response:
    """Return a reply with a code, a sentence, and the hint if there is one."""
    return Json({"code": code, "detail": detail, **({"hint": hint} if hint else {})}, status)
