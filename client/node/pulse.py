"""Threads beside the node's work: heartbeats to the server, and checks that the work is still wanted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ...errors import Forgotten, MoonflowerError, Refused
from .fleet import Fleet

logger = logging.getLogger(__name__)

HEARTBEAT_S, WATCH_S = 10.0, 5.0


class Pulse:
    """Heartbeats in their own thread, which only :meth:`stop` ends.

    Args:
        fleet: the server.
        every_s: seconds between two heartbeats.
        heard: called when the server has taken a heartbeat.

    Attributes:
        problem: what the last heartbeat found that the node must act on, or None.
    """

    def __init__(self, fleet: Fleet, every_s: float = HEARTBEAT_S, heard: Callable[[], None] = lambda: None) -> None:
        self._fleet, self._every_s, self._end = fleet, every_s, threading.Event()
        self._heard = heard
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self.problem: MoonflowerError | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread without waiting for a heartbeat that is under way."""
        self._end.set()

    def _beat(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                self._fleet.heartbeat()
            except Forgotten as problem:
                self.problem = problem
            except Refused as problem:
                if problem.code != "auth.issuer_unreachable":
                    self.problem = problem
            except Exception as error:  # out of reach: pulling reports it, and the next heartbeat follows
                logger.debug("a heartbeat failed: %r", error)
            else:
                self.problem = None
                if not self._end.is_set():
                    self._heard()


class Watch:
    """Finds out whether a run is over, without blocking.

    Args:
        fleet: the server.
        run_id: of the run.
    """

    def __init__(self, fleet: Fleet, run_id: int) -> None:
        self._fleet, self._run_id = fleet, run_id
        self._next = time.monotonic() + WATCH_S
        self._asking: threading.Thread | None = None
        self._over = False

    def over(self) -> bool:
        """Return whether the run was over when the server was last asked; it is asked every 5 s."""
        if time.monotonic() > self._next and (self._asking is None or not self._asking.is_alive()):
            self._next = time.monotonic() + WATCH_S
            self._asking = threading.Thread(target=self._ask, name="watch", daemon=True)  # the server may hang
            self._asking.start()
        return self._over

    def _ask(self) -> None:
        self._over = self._fleet.is_over(self._run_id)
