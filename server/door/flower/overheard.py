"""Brings a ServerApp's output into the server's log: Flower starts it without an output of its own.

The server holds both ends of a pipe, and a ServerApp of the same user finds its writing end under ``/proc``. Without it
a ServerApp that failed would leave no trace of why.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import IO

from .... import logs
from ....logs import LogFormat

logger = logging.getLogger(__name__)
LONGEST_LINE = 1 << 16


def opened(form: LogFormat) -> Path:
    """Return the path that ServerApps write to. While this process lives, it copies their lines to its own stderr."""
    hear, tell = os.pipe()
    threading.Thread(target=_copy, args=(os.fdopen(hear, "rb"), form), name="overheard", daemon=True).start()
    return Path(f"/proc/{os.getpid()}/fd/{tell}")


def stream_to(path: Path | None) -> IO[str] | None:
    """Return a stream to that path, or None if there is no path or its server is gone."""
    try:
        return None if path is None else path.open("w", buffering=1, encoding="utf-8", errors="replace")
    except OSError:
        return None


def _copy(pipe: IO[bytes], form: LogFormat) -> None:
    for raw in iter(lambda: pipe.readline(LONGEST_LINE), b""):
        line = logs.printable(raw.decode(errors="replace").rstrip(), LONGEST_LINE)
        if logs.is_ours(line, form):
            print(line, file=sys.stderr, flush=True)
        elif line.strip():
            logger.warning("%s", line)
