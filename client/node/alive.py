"""The node's sign of life: an empty file in its state folder, touched whenever the server answers a heartbeat.

``moonflower health`` looks at the file's age. The file says nothing that ``client.log`` does not say. Only those who
monitor the process rely on it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

FILE_NAME = "connected"
STALE_S = 45.0
"""A node sends a heartbeat every 10 s; after this time four of them have failed."""


def give(folder: Path) -> None:
    """Note that the server has just heard from this node; a disk that cannot be written does not stop the node."""
    with contextlib.suppress(OSError):
        (folder / FILE_NAME).touch(mode=0o600)


def take_back(folder: Path) -> None:
    """Note that this node is no longer connected."""
    with contextlib.suppress(OSError):
        (folder / FILE_NAME).unlink(missing_ok=True)


def age_s(folder: Path, now: Callable[[], float] = time.time) -> float | None:
    """Return how long ago the server heard from the node, or None if it is not connected."""
    try:
        return now() - (folder / FILE_NAME).stat().st_mtime
    except OSError:
        return None
