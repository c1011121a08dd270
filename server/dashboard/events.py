"""Tells every open page that something has changed, with one look at the records for all (server-sent events).

A page gets the whole overview each time, and fetches what else it shows. A slow page gets the newest overview and skips
those in between.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Literal

from ...errors import Full
from ..watch.views import Views

logger = logging.getLogger(__name__)
State = Literal["live", "stale", "over"]
LOOK_S = 0.4
ALIVE_S = 5.0
KEEP_ALIVE = 3  # after this many times ALIVE_S without news, a comment keeps proxies from closing the connection
MAX_STREAMS = 200
MAX_STREAMS_EACH = 8


class Events:
    """The pages that listen. Everything happens on one event loop; the records are read in a thread.

    Args:
        views: of the records.
    """

    def __init__(self, views: Views) -> None:
        self._views = views
        self._listening: dict[asyncio.Queue[bytes], str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._newest = b""
        self._closed = False

    async def stream(self, who: str, state: Callable[[], State]) -> AsyncIterator[bytes]:
        """Yield events until the session is over, has to be renewed, or the server ends.

        Args:
            who: whose page it is. Each session may have a few.
            state: of the session; checked before each event, and every few seconds.

        Raises:
            Full: too many pages listen.
        """
        each = sum(listener == who for listener in self._listening.values())
        if len(self._listening) >= MAX_STREAMS or each >= MAX_STREAMS_EACH:
            raise Full
        queue: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._listening[queue] = who
        if self._looking is None or self._looking.done():
            self._newest = b""
            self._looking = asyncio.get_running_loop().create_task(self._look())
        elif self._newest:
            queue.put_nowait(self._newest)
        return self._events(queue, state)

    async def _events(self, queue: asyncio.Queue[bytes], state: Callable[[], State]) -> AsyncIterator[bytes]:
        quiet = 0
        try:
            yield b"retry: 2000\n\n"
            while not self._closed:
                news = b""
                with suppress(TimeoutError):
                    news = await asyncio.wait_for(queue.get(), ALIVE_S)
                now = state()
                if now != "live":  # if the token must be renewed, the page comes back by itself, and that renews it
                    yield b"event: end\ndata: {}\n\n" if now == "over" else b": come again\n\n"
                    return
                quiet = 0 if news else quiet + 1
                if news:
                    yield news
                elif quiet == KEEP_ALIVE:
                    quiet = 0
                    yield b": still here\n\n"
        finally:
            del self._listening[queue]

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for queue in self._listening:
            _put(queue, b": the server ends\n\n")

    async def _look(self) -> None:
        """Look for changes as long as a page listens."""
        seen: object = None
        while self._listening and not self._closed:
            try:
                mark = await asyncio.to_thread(self._views.mark)
                if mark != seen:
                    overview = await asyncio.to_thread(self._views.overview)
                    self._newest = b"event: overview\ndata: " + json.dumps(overview).encode() + b"\n\n"
                    for queue in self._listening:
                        _put(queue, self._newest)
                    seen = mark
            except Exception as error:  # a locked database, a full disk: the next look may do better
                logger.warning("the dashboard could not read the records: %s", str(error).partition("\n")[0])
            await asyncio.sleep(LOOK_S)


def _put(queue: asyncio.Queue[bytes], data: bytes) -> None:
    with suppress(asyncio.QueueEmpty):
        queue.get_nowait()
    queue.put_nowait(data)
