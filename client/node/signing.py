"""The thread that asks the server for proposed circles now and then, and signs those that the config admits (rule 1).

It runs beside the loop. It records every proposed circle, so that the waiting time of members that the circle lets go
begins. It signs the circles that ``[circle] sign`` admits. An error becomes a line in the log, and the thread tries
again.
"""

from __future__ import annotations

import logging
import threading

from ...errors import MoonflowerError, Stopped
from ..circles import Circles
from ..desk import CircleDesk

logger = logging.getLogger(__name__)
LOOK_S = 10.0


class Signing:
    """Looks at circles until it is told to stop.

    Args:
        desk: of the server.
        circles: the node's.
        stop: set to end the node.
        every_s: seconds between two looks.
    """

    def __init__(self, desk: CircleDesk, circles: Circles, stop: threading.Event, every_s: float = LOOK_S) -> None:
        self._desk, self._circles, self._stop, self._every_s = desk, circles, stop, every_s
        self._said = ""

    def start(self) -> threading.Thread:
        """Start looking."""
        thread = threading.Thread(target=self._run, name="circles", daemon=True)
        thread.start()
        return thread

    def look(self) -> None:
        """Look once: record the proposed circles, and sign those that the config admits.

        Raises:
            Refused, InputError: the server refused, or cannot be reached.
        """
        shown = self._desk.shown()
        self._circles.look(shown.all)
        for circle, signature in self._circles.sign_by_rule(shown.proposed, shown.farewells):
            begins = self._desk.hand_in(circle, self._circles.name, signature)
            logger.info("signed circle %d%s", circle.number, ", which begins" if begins else "")

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
                self._said = ""
            except Stopped:
                return
            except MoonflowerError as error:
                if str(error) != self._said:
                    logger.info("cannot look at circles: %s", error, extra={"code": error.code})
                self._said = str(error)
            except Exception as error:  # if the thread ended, it would sign nothing more, and nobody would notice
                logger.warning("cannot look at circles: %s", type(error).__name__)
            self._stop.wait(self._every_s)
