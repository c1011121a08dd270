"""The sets of rows that a member used, as keyed hashes, and the sets of each run. Snapshots need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, select, true
from sqlalchemy.dialects.sqlite import insert

from ...store import Store, add, by
from .ddl import snapshot_sets, snapshots

PARTS = ("train", "validation", "test")


class RowSets:
    """The sets of rows in a member's ledger.

    Args:
        store: the ledger's.
        note: writes an entry of the journal in a transaction.
    """

    def __init__(self, store: Store, note: Callable[..., None]) -> None:
        self._store, self._note = store, note

    def of_run(self, run: str) -> dict[str, str] | None:
        """Return the digests of a run's sets, by part; None if none were chosen yet."""
        with self._store.read() as db:
            return _digests(db, snapshots.c.run == run)

    def newest(self) -> dict[str, str] | None:
        """Return the digests of the sets in use, by part: those of the run that chose last; None if no run has."""
        with self._store.read() as db:
            return _digests(db, true())

    def of_part(self, part: str) -> dict[str, bytes]:
        """Return every set of a part that was in use: digest → keyed hashes, 16 bytes per row."""
        with self._store.read() as db:
            rows = db.execute(by(snapshot_sets, "part"), {"part": part}).all()
        return {row.digest: bytes(row.hashes) for row in rows}

    def keep(self, run: str, chosen: Mapping[str, tuple[str, bytes]]) -> None:
        """Record which sets a run has: part → digest and keyed hashes."""
        with self._store.transaction() as db:
            _add(db, chosen)
            row = {"run": run, **{part: digest for part, (digest, _) in chosen.items()}}
            db.execute(insert(snapshots), row)

    def replace(self, changed: Mapping[str, tuple[str, bytes]]) -> None:
        """Replace the sets in use because rows were deleted; the run that has them continues with the new ones."""
        with self._store.transaction() as db:
            _add(db, changed)
            newest = select(snapshots.c.id).order_by(snapshots.c.id.desc()).limit(1).scalar_subquery()
            values = {part: digest for part, (digest, _) in changed.items()}
            db.execute(snapshots.update().where(snapshots.c.id == newest).values(values))
            self._note(db, "let_go", kind="rows", parts=sorted(changed))


def _add(db: Connection, sets: Mapping[str, tuple[str, bytes]]) -> None:
    rows = [{"part": part, "digest": digest, "hashes": hashes} for part, (digest, hashes) in sets.items()]
    db.execute(add(snapshot_sets), rows)


def _digests(db: Connection, where: Any) -> dict[str, str] | None:
    row = db.execute(select(snapshots).where(where).order_by(snapshots.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else {part: getattr(row, part) for part in PARTS}
