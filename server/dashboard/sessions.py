"""Who is logged in: sessions in this process's memory, found by a cookie that is a long random word."""

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
    """The result of a login.

    Attributes:
        principal: from the verified access token.
        name: the person's name at the issuer, for that person's own page only.
        refresh: the refresh token, or "".
    """

    principal: Principal
    name: str
    refresh: str = ""


@dataclass(frozen=True)
class Session:
    """A session.

    Attributes:
        held: the result of the login, or of its newest renewal.
        began, used: seconds since 1970.
    """

    held: OpenSession
    began: float
    used: float


class Sessions:
    """All sessions; thread-safe. If there are too many, the least recently used one is dropped.

    Args:
        idle_s: a session that is not used ends after this time.
        longest_s: every session ends after this time.
        clock: seconds since 1970.
    """

    def __init__(self, idle_s: float, longest_s: float, clock: Callable[[], float]) -> None:
        self._idle_s, self._longest_s, self._clock = idle_s, longest_s, clock
        self._open: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, opened: OpenSession) -> str:
        """Return the cookie of a new session."""
        cookie, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            self._open[_name(cookie)] = Session(opened, now, now)
            while len(self._open) > MAX_SESSIONS:
                self._open.popitem(last=False)
        return cookie

    def find(self, cookie: str, *, use: bool = True) -> Session | None:
        """Return the session of a cookie while it lives. ``use`` counts this as activity of the person.

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
        """Return whether the session's token is still valid."""
        return self._clock() < session.held.principal.expires

    def ends(self, session: Session) -> float:
        """Return when the session ends if it is not renewed, which is no later than its token."""
        return min(session.held.principal.expires, session.began + self._longest_s, session.used + self._idle_s)

    def renew(self, cookie: str, renewed: OpenSession) -> None:
        """Replace the session's token. That does not make the session longer."""
        with self._lock:
            session = self._open.get(_name(cookie))
            if session is not None:
                self._open[_name(cookie)] = Session(renewed, session.began, session.used)

    def end(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(_name(cookie), None)


def _name(cookie: str) -> bytes:
    """Return the key of a session: a hash, so that the cookie is not kept and the lookup time tells nothing."""
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
