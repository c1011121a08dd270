"""The coordinator's state folder: ``moonflower.db``, ``log.key``, ``log.pub``, ``models/`` and ``envelopes/``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ... import files
from ...errors import InputError
from . import contexts
from .database import FILE_NAME, CoordinatorStore
from .envelopes import Envelopes
from .log import Log
from .log_key import open_signer
from .models import Models

ENVELOPES = "envelopes"


class State:
    """An open state folder.

    Args:
        folder: created if it does not exist.
        federation: name of the federation; the log's origin.
        listeners: called with each log entry once it is committed.
        clock: seconds since 1970.
        keep_envelopes_h: hours for which envelopes of updates are kept; 0 keeps none.

    Raises:
        InputError: ``config.state``: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        federation: str,
        listeners: Iterable[Callable[[dict[str, Any]], None]] = (),
        clock: Callable[[], float] = time.time,
        keep_envelopes_h: int = 0,
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError("config.state", f"{folder} cannot be made: {error.strerror}") from None
        self.folder = folder
        self.store = CoordinatorStore(folder / FILE_NAME)
        self.log = Log(self.store, open_signer(folder, log_origin(federation)), clock, listeners)
        self.models = Models(folder / "models")
        self.envelopes = Envelopes(folder / ENVELOPES, keep_envelopes_h, clock)

    def sweep(self) -> None:
        """Remove the temporary files that killed processes left."""
        for folder in (self.folder, self.models.folder):
            files.sweep(folder)

    def expire(self, young_s: float = 0.0) -> int:
        """Delete envelopes that no sum needs and that were kept long enough; see :meth:`Envelopes.expire`."""
        with self.store.read() as db:
            needed = contexts.headers(db)
        return self.envelopes.expire(needed, young_s)

    def close(self) -> None:
        """Close the database."""
        self.store.close()


def log_origin(federation: str) -> str:
    """Return the log's origin: a C2SP key name has no spaces and no plus signs."""
    return "moonflower/" + "-".join(federation.split()).replace("+", "-")


def log_name(folder: Path) -> str:
    """Return the name of a folder's log, which :class:`State` takes in place of the federation's name.

    Raises:
        InputError: ``config.state``: it holds no log.
    """
    try:
        origin = (folder / "log.pub").read_text(encoding="utf-8").partition("+")[0]
    except (OSError, UnicodeDecodeError):
        raise InputError("config.state", f"{folder}: no readable log.pub; expected a server's state folder") from None
    return origin.removeprefix("moonflower/")


def open_existing(folder: Path) -> tuple[CoordinatorStore, Models]:
    """Return the store and models of an existing folder, for commands that only read.

    Raises:
        InputError: ``config.state``.
    """
    if not (folder / FILE_NAME).is_file():
        raise InputError(
            "config.state", f"{folder} holds no {FILE_NAME}; expected the folder of a server or a simulation"
        )
    return CoordinatorStore(folder / FILE_NAME), Models(folder / "models")
