"""The only reader of the log for metrics, dashboard and narrator: each gets every entry once, in order.

Only committed entries are handed on. A taker that joins later first gets what it missed, unless it wants news only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from ..records.log import Log

logger = logging.getLogger(__name__)
PAGE = 500
LOOK_S = 0.5
Take = Callable[[dict[str, Any]], None]


class Follower:
    """Follows a log; thread-safe.

    Args:
        log: the coordinator's.

    Attributes:
        size: number of entries handed on so far.
    """

    def __init__(self, log: Log) -> None:
        self._log, self._turn = log, threading.Lock()
        self._takers: list[Take] = []
        self.size = 0

    def join(self, take: Take, *, news_only: bool = False) -> None:
        """Hand every entry to ``take``: first those handed on before, or only those still to come."""
        with self._turn:
            if news_only:
                newest = self._log.checkpoint()
                self._read_to_end()
                take = _from(newest.size if newest else 0, take)
            else:
                for entry in self._log.after(-1, self.size):
                    take(entry)
            self._takers.append(take)

    def read_on(self) -> int:
        """Hand on what was appended since the last time; return the number of entries."""
        with self._turn:
            self._read_to_end()
            return self.size

    def _read_to_end(self) -> None:
        while entries := self._log.after(self.size - 1, PAGE):
            for entry in entries:
                self.size = entry["index"] + 1
                for take in self._takers:
                    take(entry)

    async def follow(self) -> None:
        """Read on at intervals, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.read_on)
            except Exception as error:  # a locked database, a full disk: the next look may do better
                logger.warning("new log entries could not be read: %s", str(error).partition("\n")[0])
            await asyncio.sleep(LOOK_S)


def _from(size: int, take: Take) -> Take:
    """Return a taker that passes on only the entries from this index on."""

    def news(entry: dict[str, Any]) -> None:
        if entry["index"] >= size:
            take(entry)

    return news
