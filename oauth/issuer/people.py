"""The embedded issuer's login page: for people on one machine, with no password in any config.

At every start, every person gets a new pass phrase of 100 random bits, in a file that only the issuer's user can read.
This is enough for a trial and for nothing else. In a real federation, people use their organisation's login.
"""

from __future__ import annotations

import hmac
import html
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ... import files
from ...errors import InputError
from ..allowance import Allowance
from .authority import Authority, Person

logger = logging.getLogger(__name__)
FILE = "passphrases.json"
TRIES_A_MINUTE = 10
MAX_QUERY = 8192
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # without what looks alike
Form = Callable[[Request], Awaitable[dict[str, str]]]
STYLE = """
:root { color-scheme: light dark; --bg: #faf9f6; --ink: #1e2230; --soft: #5a6070; --line: #8b8f99; --go: #3f4ea3;
  --on: #fff; --bad: #a4262c; }
@media (prefers-color-scheme: dark) { :root { --bg: #14161c; --ink: #e5e6ea; --soft: #a3a8b5; --line: #6d7382;
  --go: #9aa7fb; --on: #14161c; --bad: #ff948e; } }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 24em; margin: 12vh auto 0; padding: 0 20px; }
h1 { font: 500 30px/1.2 ui-serif, Georgia, serif; margin: 0 0 6px; }
p { color: var(--soft); margin: 0 0 18px; } .bad { color: var(--bad); }
label { display: block; font-weight: 600; margin-bottom: 14px; }
input { display: block; width: 100%; box-sizing: border-box; font: inherit; padding: 10px; margin-top: 4px;
  border: 1px solid var(--line); border-radius: 6px; background: transparent; color: inherit; }
button { font: inherit; font-weight: 600; padding: 11px 20px; border: 0; border-radius: 6px; background: var(--go);
  color: var(--on); cursor: pointer; }
:focus-visible { outline: 3px solid var(--go); outline-offset: 2px; }
"""


class People:
    """The people who may log in, and the page on which they do.

    Args:
        people: those who may log in.
        folder: the issuer's folder, to which their pass phrases are written.
        authority: gives out the codes.

    Raises:
        InputError: ``config.value``: the file cannot be written.
    """

    def __init__(self, people: Iterable[Person], folder: Path, authority: Authority) -> None:
        self._people = {person.name: (person, _phrase()) for person in people}
        self._authority = authority
        self._tries = Allowance(TRIES_A_MINUTE)
        if self._people:
            _write(folder / FILE, {name: phrase for name, (_, phrase) in self._people.items()})
            logger.warning("pass phrases of %d people are in %s", len(self._people), folder / FILE)

    def routes(self, form: Form) -> list[Route]:
        """Return the routes; ``form`` reads a form within limits."""

        async def show(request: Request) -> Response:
            try:
                redirect = self._authority.asked(_query(request))
            except ValueError as problem:
                return _page(str(problem), "", 400)
            return _page("", redirect, 200)

        async def log_in(request: Request) -> Response:
            try:
                query, entered = _query(request), await form(request)
                redirect = self._authority.asked(query)
            except ValueError as problem:
                return _page(str(problem), "", 400)
            address = request.client.host if request.client else ""
            if self._tries.wait_s(address):
                return _page("Too many tries. Wait a minute.", redirect, 429)
            person = self._known(entered.get("name", ""), entered.get("passphrase", ""))
            if person is None:
                self._tries.spend(address)
                logger.warning("a login was refused: name and pass phrase do not match")
                return _page("Name and pass phrase do not match.", redirect, 401)
            try:
                to = await run_in_threadpool(self._authority.granted, query, person)
            except ValueError as problem:
                return _page(str(problem), redirect, 403)
            return RedirectResponse(to, 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

        async def style(_: Request) -> Response:
            return Response(STYLE, media_type="text/css")

        return [
            Route("/authorize", show, methods=["GET"]),
            Route("/authorize", log_in, methods=["POST"]),
            Route("/authorize.css", style, methods=["GET"]),
        ]

    def _known(self, name: str, phrase: str) -> Person | None:
        """Return the person who logs in. An unknown name takes as much time as a wrong pass phrase."""
        person, expected = self._people.get(name, (None, _phrase()))
        return person if hmac.compare_digest(phrase.strip().encode(), expected.encode()) else None


def _query(request: Request) -> dict[str, str]:
    """Return the query of a request.

    Raises:
        ValueError: it is too long, or a parameter occurs twice.
    """
    text = request.url.query
    pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=32) if len(text) <= MAX_QUERY else []
    if not pairs or len(dict(pairs)) != len(pairs):
        raise ValueError("not a request from a dashboard that this issuer knows")
    return dict(pairs)


def _phrase() -> str:
    """Return a new pass phrase: 20 letters and digits, 5 bits each."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def _write(path: Path, phrases: dict[str, str]) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.replace(path, json.dumps(phrases, indent=1).encode(), 0o600)
    except OSError as error:
        raise InputError("config.value", f"[issuer] state: {path} cannot be written: {error.strerror}") from error


def _page(problem: str, redirect: str, status: int) -> HTMLResponse:
    """Return the page. ``redirect`` is the address to which the form may lead, "" for no form."""
    notice = f'<p class="bad" role="alert">{html.escape(problem)}</p>' if problem else ""
    fields = (
        '<label>Name<input name="name" autocomplete="username" required autofocus></label>'
        '<label>Pass phrase<input name="passphrase" type="password" autocomplete="current-password" required></label>'
        "<button>Log in</button>"
    )
    form = f'<form method="post">{fields}</form>' if redirect else ""
    parts = urlsplit(redirect)
    to = f"'self' {parts.scheme}://{parts.netloc}" if redirect else "'none'"
    policy = f"default-src 'none'; style-src 'self'; form-action {to}; frame-ancestors 'none'; base-uri 'none'"
    return HTMLResponse(
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Log in</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/authorize.css"></head><body><main><h1>Log in</h1>'
        "<p>moonflower's embedded issuer, for trials on this machine. Pass phrases are in the file "
        f"<b>{FILE}</b> of its folder; they are new after every start.</p>{notice}{form}</main></body></html>",
        status,
        {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )
