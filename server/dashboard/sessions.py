"""Who is logged in: sessions in this process's memory, found by a cookie that is nothing but a long random word."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ...oauth.tokens import Principal

MAX_SESSIONS = 1000


@dataclass(frozen=True)
class OpenSession:
    """What a login gave.

    Attributes:
        principal: by the verified access token.
        name: how the issuer calls the person, for that person's own page only.
        refresh: what a new token can be had for, or "".
    """

    principal: Principal
    name: str
    refresh: str = ""


@dataclass(frozen=True)
class Session:
    """A session.

    Attributes:
        held: of the login, or of its newest renewal.
        began, used: seconds since 1970.
    """

    held: OpenSession
    began: float
    used: float


class Sessions:
    """All of them; safe for threads. Where there are too many, the one that was used longest ago goes.

    Args:
        idle_s: one that nobody uses ends after this time.
        longest_s: any ends after this time.
        clock: seconds since 1970.
    """

    def __init__(self, idle_s: float, longest_s: float, clock: Callable[[], float]) -> None:
        self._idle_s, self._longest_s, self._clock = idle_s, longest_s, clock
        self._open: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, held: OpenSession) -> str:
        """Return the cookie of a new session."""
        cookie, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            self._open[_name(cookie)] = Session(held, now, now)
            while len(self._open) > MAX_SESSIONS:
                self._open.popitem(last=False)
        return cookie

    def find(self, cookie: str, *, use: bool = True) -> Session | None:
        """Return the session of a cookie while it lives; ``use``: a person did something.

        A token that has expired leaves a session that can only be renewed: see :meth:`is_good`.
        """
        name, now = _name(cookie), self._clock()
        with self._lock:
            session = self._open.get(name)
            if session is None:
                return None
            if now >= self.ends(session) and not session.held.refresh:
                del self._open[name]
                return None
            if now >= min(session.began + self._longest_s, session.used + self._idle_s):
                del self._open[name]
                return None
            if use:
                session = Session(session.held, session.began, now)
                self._open[name] = session
                self._open.move_to_end(name)
            return session

    def is_good(self, session: Session) -> bool:
        """Return whether the session's token still counts."""
        return self._clock() < session.held.principal.expires

    def ends(self, session: Session) -> float:
        """Return when the session ends if nobody renews it; no later than its token."""
        return min(session.held.principal.expires, session.began + self._longest_s, session.used + self._idle_s)

    def renew(self, cookie: str, held: OpenSession) -> None:
        """Put a new token in the place of the old one; the session lives no longer by that."""
        with self._lock:
            session = self._open.get(_name(cookie))
            if session is not None:
                self._open[_name(cookie)] = Session(held, session.began, session.used)

    def end(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(_name(cookie), None)


def _name(cookie: str) -> bytes:
    """Return under what a session is kept: not the cookie itself, and looked up in no time that tells anything."""
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
