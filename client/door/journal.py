"""The member's own log: one line each, with time, level and member; on stderr, and in ``state/client.log``.

The node and its worker write to their stderr. The keeper reads both through one pipe and is the only one that writes
the file, so that what a dying process prints is in it too.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

FILE_NAME = "client.log"
MAX_BYTES, BACKUPS = 5_000_000, 3


class OneLine(logging.Formatter):
    """Formats ``2026-11-23T22:00:01Z INFO member: message``; line breaks and control characters become blanks."""

    converter = staticmethod(time.gmtime)

    def __init__(self, member: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {member.replace('%', '%%')}: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        return printable(super().format(record))


def printable(text: str, limit: int = 4000) -> str:
    """Return text that cannot pretend to be another line of a log.

    >>> printable("a\\nb\\x1b[31m")
    'a b [31m'
    """
    return "".join(char if char.isprintable() else " " for char in text[:limit])


def to_stderr(member: str, stream: IO[str] | None = None) -> None:
    """Send this process's log to stderr, and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(OneLine(member))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("flwr", "httpx", "httpcore"):
        logger = logging.getLogger(noisy)
        logger.handlers.clear()  # flwr brings a coloured one
        logger.setLevel(logging.WARNING)
        logger.propagate = True


class Journal:
    """The keeper's log: what it says itself, and what its children print.

    Args:
        member: name.
        folder: where ``client.log`` is kept; it is rotated at 5 MB, three old ones stay.
    """

    def __init__(self, member: str, folder: Path) -> None:
        file = RotatingFileHandler(
            folder / FILE_NAME, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True
        )
        screen = logging.StreamHandler(sys.stderr)
        self._raw = logging.Logger("moonflower.client.raw")  # lines that have their time already
        self._own = logging.Logger("moonflower.client.keeper")
        for logger, form in ((self._raw, logging.Formatter("%(message)s")), (self._own, OneLine(member))):
            for target in (file, screen):
                logger.addHandler(_Through(target, form))
        self._file = file

    def say(self, level: int, message: str) -> None:
        """Write a line of the keeper's own."""
        self._own.log(level, message)

    def follow(self, pipe: IO[bytes]) -> threading.Thread:
        """Copy what comes through ``pipe`` until it ends, line by line; return the thread that does it."""
        thread = threading.Thread(target=self._copy, args=(pipe,), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _copy(self, pipe: IO[bytes]) -> None:
        with pipe:
            for raw in iter(lambda: pipe.readline(8192), b""):
                line = printable(raw.decode(errors="replace").rstrip())
                if line[:4].isdigit() and line[10:11] == "T" and line[19:20] == "Z":
                    self._raw.info(line)
                elif line.strip():  # not ours: a library, or the last words of a crash
                    self._own.warning(line)


class _Through(logging.Handler):
    """Formats a record in its logger's way and hands it to a shared handler."""

    def __init__(self, target: logging.Handler, form: logging.Formatter) -> None:
        super().__init__()
        self._target, self._form = target, form

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a terminal that is gone must not end the keeper."""
        line = logging.makeLogRecord({"msg": "%s", "args": (self._form.format(record),), "levelno": record.levelno})
        with contextlib.suppress(OSError, ValueError):
            self._target.handle(line)
