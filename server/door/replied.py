"""Error replies of our routes: a status, a code, a sentence."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from ...errors import MoonflowerError

_STATUS = {
    "data.model": 404,
    "release.digest": 404,
    "release.malformed": 400,
    "release.reason": 400,
    "release.unknown_approver": 403,
    "release.signature": 403,
}


def refusal(error: MoonflowerError) -> Response:
    """Return the reply to a refused request; status 409 unless its code has another one."""
    return error_reply(_STATUS.get(error.code, 409), error.code, str(error), error.hint)


def error_reply(status: int, code: str, detail: str, hint: str = "") -> Response:
    """Return a reply with a code, a sentence, and the hint if there is one."""
    return JSONResponse({"code": code, "detail": detail, **({"hint": hint} if hint else {})}, status)
