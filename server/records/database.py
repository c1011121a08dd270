"""The coordinator's database. Modules of this package add their tables to :data:`metadata`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import MetaData

from ...store import USER_VERSION, Store

__all__ = ["APPLICATION_ID", "FILE_NAME", "USER_VERSION", "CoordinatorStore", "metadata"]

metadata = MetaData()

FILE_NAME = "moonflower.db"
APPLICATION_ID = 0x6D666C72  # "mflr"


class CoordinatorStore(Store):
    """The database of one state folder; ``path`` None keeps it in memory."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(path, metadata, APPLICATION_ID)
