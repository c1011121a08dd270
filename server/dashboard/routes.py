"""The dashboard's routes under ``/ui/``: pages, login, and the API for people who are logged in.

``/ui/api/…`` is ``/api/…`` with a session instead of a token: same routes, same scopes, same refusals. The API itself
knows no cookies, so a foreign page cannot make a browser act there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from ...errors import Full, MoonflowerError, Refused
from ...oauth.allowance import Allowance
from ...oauth.tokens import Principal
from ..door.replied import Json
from ..watch.views import Views
from .events import Events, State
from .sessions import Session, Sessions
from .signin import LOGIN_S, Login

logger = logging.getLogger(__name__)
COOKIE = "__Host-moonflower"
LOGIN_COOKIE = "__Host-moonflower-login"
HEADER = "x-moonflower"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
TYPES |= {"svg": "image/svg+xml"}
EARLY_S = 60.0  # a token is renewed this long before it ends
TRIES = 3  # of one login; each makes the server ask the issuer
QUIET_S = 60.0
ASKING = 8  # logins for which the issuer is asked at once; others wait for their turn
AWAY = ("auth.issuer_unreachable", "auth.issuer_metadata")
USEFUL = frozenset({"fl:run", "fl:audit", "fl:approve"})


class Dashboard:
    """An ASGI app.

    Args:
        login: logs people in.
        sessions: of people who are logged in.
        api: the API's own app.
        scopes: scopes of which one opens an API route.
        denied: returns whether this server shut out a token's client or subject.
        views: of the records, for the pages that listen.
        federation: its name.
        url: this server's address.
        clock: seconds since 1970.
        tell: called with an event and what it is about, for the security team: ``login``, ``login_refused`` and
            ``logout``.
    """

    def __init__(
        self,
        *,
        login: Login,
        sessions: Sessions,
        api: Any,
        scopes: Callable[[str, str], Sequence[str] | None],
        denied: Callable[[Principal], bool],
        views: Views,
        federation: str,
        url: str,
        clock: Callable[[], float],
        tell: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self._login, self._sessions, self._api, self._scopes = login, sessions, api, scopes
        self._denied, self._feed = denied, tell
        self._federation, self._url, self._clock = federation, url.rstrip("/"), clock
        self._origin = _origin(url)
        self.events = Events(views)
        self._files = _static()
        self._tries = Allowance(TRIES)
        self._asking = asyncio.Semaphore(ASKING)
        self._told: dict[str, float] = {}
        self._app = Starlette(
            routes=[
                Route("/", self._home),
                Route("/ui", self._home),
                Route("/ui/", self._index),
                Route("/ui/static/{name}", self._file),
                Route("/ui/login", self._begin),
                Route("/ui/callback", self._finish),
                Route("/ui/logout", self._end, methods=["POST"]),
                Route("/ui/session", self._who),
                Route("/ui/events", self._events),
                Route("/ui/api/{path:path}", self._forward, methods=["GET", "POST"]),
            ]
        )
        self._app.router.redirect_slashes = False  # it would send the browser to whatever the request calls this host

    @staticmethod
    def serves(path: str) -> bool:
        """Return whether a path is the dashboard's."""
        return path in ("/", "/ui") or path.startswith("/ui/")

    def close(self) -> None:
        """End the pages' event streams."""
        self.events.close()
        self._login.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", ()) if name.decode() not in HEADERS]
                if b"cache-control" not in {name for name, _ in headers}:
                    headers.append((b"cache-control", b"no-store"))
                headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, guarded)

    async def _home(self, _: Request) -> Response:
        return RedirectResponse("/ui/", 307)

    async def _index(self, request: Request) -> Response:
        return self._static(request, "index.html")

    async def _file(self, request: Request) -> Response:
        return self._static(request, request.path_params["name"])

    def _static(self, request: Request, name: str) -> Response:
        if name not in self._files:
            return _error(404, "http.not_found", "no such page")
        data, tag = self._files[name]
        headers = {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=TYPES[name.rpartition(".")[2]], headers=headers)

    async def _begin(self, request: Request) -> Response:
        if _origin(f"https://{request.headers.get('host', '')}") != self._origin:
            return RedirectResponse(f"{self._url}/ui/login", 303)  # where the issuer sends the browser, too
        try:
            cookie, to = await run_in_threadpool(self._login.begin)
        except MoonflowerError as error:
            logger.warning("nobody can log in: %s: %s", error.code, error)
            return RedirectResponse("/ui/?problem=issuer", 303)
        response = RedirectResponse(to, 303)
        _set(response, LOGIN_COOKIE, cookie, LOGIN_S, "lax")  # it must come with the issuer's redirection
        return response

    async def _finish(self, request: Request) -> Response:
        query = dict(request.query_params)
        cookie = request.cookies.get(LOGIN_COOKIE, "")
        try:
            self._login.begun(cookie, query)
            if self._tries.wait_s(cookie):  # not by address: others may share it
                raise Refused("session.login", f"this login failed {TRIES} times; begin another one")
            self._tries.spend(cookie)
            async with self._asking:
                session = await run_in_threadpool(self._login.finish, cookie, query)
            if await run_in_threadpool(self._denied, session.principal):
                raise Refused("session.login", "this client or person was shut out of this server")
        except MoonflowerError as error:
            self._tell(error, _address(request))
            problem = "issuer" if error.code in AWAY else "login"
            response = RedirectResponse(f"/ui/?problem={problem}", 303)
        else:
            if session.principal.scopes & USEFUL:
                self._sessions.end(request.cookies.get(COOKIE, ""))
                response = RedirectResponse("/ui/", 303)
                _set(response, COOKIE, self._sessions.begin(session), None, "strict")
                who = session.principal
                scopes = sorted(who.scopes & USEFUL)
                self._feed(
                    "login", subject=who.subject, client_id=who.client_id, scopes=scopes, address=_address(request)
                )
            else:
                response = RedirectResponse("/ui/?problem=scope", 303)
        _set(response, LOGIN_COOKIE, "", 0, "lax")
        return response

    def _tell(self, error: MoonflowerError, address: str) -> None:
        """Log why a login was refused: each code once a minute, because a stranger may cause any number of them."""
        now = time.monotonic()
        if now - self._told.get(error.code, -QUIET_S) >= QUIET_S:
            self._told[error.code] = now
            logger.warning("a login was refused: %s: %s", error.code, error)
            self._feed("login_refused", code=error.code, address=address)

    async def _end(self, request: Request) -> Response:
        if not self._is_own(request):
            return _error(403, "session.origin", "the request is not from a page of this server")
        cookie = request.cookies.get(COOKIE, "")
        session = self._sessions.find(cookie, use=False)
        if session is not None:
            self._feed("logout", subject=session.held.principal.subject, address=_address(request))
        self._sessions.end(cookie)
        response = Json({})
        _set(response, COOKIE, "", 0, "strict")
        return response

    async def _who(self, request: Request) -> Response:
        session = await self._session(request)
        if session is None:
            return Json(None)
        opened = session.held
        ends = None if opened.refresh else self._sessions.ends(session)
        about = {"name": opened.name, "scopes": sorted(opened.principal.scopes & USEFUL), "ends": ends}
        return Json({**about, "now": self._clock(), "federation": self._federation, "server": self._url})

    async def _events(self, request: Request) -> Response:
        session, cookie = await self._session(request), request.cookies.get(COOKIE, "")
        if session is None:
            return _error(401, "session.none", "not logged in, or the session has ended")

        def state() -> State:
            session = self._let_in(cookie, use=False)
            return "over" if session is None else "live" if self._sessions.is_good(session) else "stale"

        try:
            stream = await self.events.stream(cookie, state)
        except Full:
            return _error(503, "session.full", "too many open pages; close some")
        headers = {"x-accel-buffering": "no", "cache-control": "no-store, no-transform"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _forward(self, request: Request) -> Response:
        path = "/api/" + request.path_params["path"]
        session = await self._session(request, use="x-moonflower-poll" not in request.headers)
        if session is None:
            return _error(401, "session.none", "not logged in, or the session has ended")
        scopes = self._scopes(request.method, path)
        if scopes is None:
            return _error(404, "http.not_found", "no such route")
        if request.method != "GET" and not self._is_own(request):
            return _error(403, "session.origin", "the request is not from a page of this server")
        if not session.held.principal.scopes & set(scopes):
            return _error(403, "session.scope", f"this needs the scope {' or '.join(scopes)}")
        return _Handed(self._api, path, session.held.principal)

    async def _session(self, request: Request, *, use: bool = True) -> Session | None:
        """Return the session of a request if its token is valid; renew a token that is about to end, if possible."""
        cookie = request.cookies.get(COOKIE, "")
        session = await run_in_threadpool(self._let_in, cookie, use=use) if cookie else None
        if session is None:
            return None
        left = session.held.principal.expires - self._clock()
        if left < EARLY_S and session.held.refresh:
            try:
                renewed = await run_in_threadpool(self._login.renew, session.held.refresh)
            except MoonflowerError as error:
                logger.warning("a session could not be renewed: %s: %s", error.code, error)
                if left <= 0 and error.code not in AWAY:
                    self._sessions.end(cookie)
            else:
                self._sessions.renew(cookie, renewed)
                session = self._sessions.find(cookie, use=use)
        return session if session is not None and self._sessions.is_good(session) else None

    def _let_in(self, cookie: str, *, use: bool) -> Session | None:
        """Return the session of a cookie; one whose person was shut out meanwhile ends now."""
        session = self._sessions.find(cookie, use=use)
        if session is not None and self._denied(session.held.principal):
            self._sessions.end(cookie)
            return None
        return session

    def _is_own(self, request: Request) -> bool:
        """Return whether one of our own pages sent a request: no other page can set this header or this origin."""
        own = request.headers.get("origin") == self._origin
        site = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
        return own and site and request.headers.get(HEADER) == "1"


class _Handed(Response):
    """A request that is handed on to the API in the name of the person who is logged in."""

    def __init__(self, api: Any, path: str, principal: Any) -> None:
        super().__init__()
        self._api, self._path, self._principal = api, path, principal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        inner = {"path": self._path, "raw_path": self._path.encode(), "root_path": "", "principal": self._principal}
        kept = {name: scope[name] for name in ("type", "asgi", "http_version", "method", "scheme", "query_string")}
        more = {name: scope[name] for name in ("client", "server", "extensions", "state") if name in scope}
        headers = [(name, value) for name, value in scope["headers"] if name in (b"content-type", b"content-length")]
        await self._api({**kept, **more, **inner, "headers": headers}, receive, send)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _origin(url: str) -> str:
    """Return the origin of an address as browsers write it (RFC 6454), always https, or "" for junk.

    >>> _origin("https://FL.example.org:443/x"), _origin("https://127.0.0.1:8443")
    ('https://fl.example.org', 'https://127.0.0.1:8443')
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    shown = f"[{host}]" if ":" in host else host
    return f"https://{shown}" + ("" if port in (None, 443) else f":{port}")


def _static() -> dict[str, tuple[bytes, str]]:
    """Return the files by name, each with its ETag."""
    assets = {}
    for file in files(__package__).joinpath("static").iterdir():
        if file.name.rpartition(".")[2] in TYPES:
            data = file.read_bytes()
            assets[file.name] = data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return assets


def _set(response: Response, name: str, value: str, max_age: int | None, same_site: Any) -> None:
    response.set_cookie(name, value, max_age, path="/", secure=True, httponly=True, samesite=same_site)


def _error(status: int, code: str, detail: str) -> Response:
    return Json({"code": code, "detail": detail}, status)
