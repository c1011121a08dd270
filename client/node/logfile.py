"""The member's own log: entries of its node, worker and keeper, on stderr and in ``state/client.log``.

The node and its worker write to their stderr. The keeper reads both through one pipe, and only the keeper writes the
file, so that the file also has what a dying process prints.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

from ... import logs
from ...logs import LogFormat

FILE_NAME = "client.log"
MAX_BYTES, BACKUPS = 5_000_000, 3
LONGEST_LINE = 1 << 16


class LogFile:
    """The keeper's log: its own entries, and what its children print.

    Args:
        form: of its lines, and of the children's.
        member: name.
        folder: where ``client.log`` is kept; it is rotated at 5 MB, and three old files stay.
    """

    def __init__(self, form: LogFormat, member: str, folder: Path) -> None:
        file = RotatingFileHandler(
            folder / FILE_NAME, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True
        )
        screen = logging.StreamHandler(sys.stderr)
        self._form = form
        self._raw = logging.Logger("moonflower.client.raw")  # lines that have their form already
        self._own = logging.Logger("moonflower.client.keeper")
        own = logs.formatter(form, "keeper", member=member)
        for logger, style in ((self._raw, logging.Formatter("%(message)s")), (self._own, own)):
            for target in (file, screen):
                logger.addHandler(_Through(target, style))
        self._file = file

    def say(self, level: int, message: str) -> None:
        """Write an entry of the keeper."""
        self._own.log(level, "%s", message)

    def follow(self, pipe: IO[bytes]) -> threading.Thread:
        """Start to copy ``pipe`` line by line until it ends; return the thread that copies."""
        thread = threading.Thread(target=self._copy, args=(pipe,), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _copy(self, pipe: IO[bytes]) -> None:
        with pipe:
            for raw in iter(lambda: pipe.readline(LONGEST_LINE), b""):
                line = logs.printable(raw.decode(errors="replace").rstrip(), LONGEST_LINE)
                if logs.is_ours(line, self._form):
                    self._raw.info("%s", line)
                elif line.strip():  # not ours: a library, or the last words of a crash
                    self._own.warning("%s", line)


class _Through(logging.Handler):
    """Formats a record in its logger's way and hands it to a shared handler."""

    def __init__(self, target: logging.Handler, form: logging.Formatter) -> None:
        super().__init__()
        self._target, self._form = target, form

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a closed terminal must not end the keeper."""
        line = logging.makeLogRecord({"msg": "%s", "args": (self._form.format(record),), "levelno": record.levelno})
        with contextlib.suppress(OSError, ValueError):
            self._target.handle(line)
