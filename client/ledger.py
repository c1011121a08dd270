"""What a member must not forget: its own SQLite file (0600), synced to disk before the member acts on it.

Keys of epochs, what was sealed under which context, which set each base was opened for, the versions that the
member holds and its own validation metric of each. The coordinator never sees it. The rules that read it are
in ``guard.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Column, Float, Integer, LargeBinary, MetaData, String, Table, select
from sqlalchemy.dialects.sqlite import insert

from ..canonical import canonical
from ..crypto.keys import EpochKey, EpochTerms
from ..store import Store
from .guard import Remembered

APPLICATION_ID = 0x6D666C64  # "mfld"
metadata = MetaData()
_epochs = Table(
    "epochs",
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("terms", String, nullable=False),
    Column("he_key", LargeBinary, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("confirmed", Boolean, nullable=False),
)
_sealed = Table(
    "sealed",
    metadata,
    Column("purpose", String, primary_key=True),
    Column("run", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("context", String, nullable=False),
    Column("header", String, nullable=False),
    Column("clipped_share", Float, nullable=False),
    Column("envelope", LargeBinary),
)
_opened = Table(
    "opened",
    metadata,
    Column("purpose", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("members", String, nullable=False),
)
_versions = Table(
    "versions",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("model", LargeBinary),
    Column("metric", Float),
)
_facts = Table("facts", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))


class Ledger:
    """A member's ledger; ``path`` None keeps it in memory (simulate)."""

    def __init__(self, path: Path | None) -> None:
        self._store = Store(path, metadata, APPLICATION_ID, private=True)

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def keep_epoch(self, key: EpochKey) -> None:
        """Keep an epoch's keys, not yet confirmed by all members."""
        row = {
            "epoch": key.terms.epoch,
            "terms": canonical(vars(key.terms)).decode(),
            "he_key": key.he_key,
            "secret": key.secret,
            "confirmed": False,
        }
        with self._store.transaction() as db:
            db.execute(insert(_epochs).values(row).on_conflict_do_update(["epoch"], set_=row))

    def confirm_epoch(self, epoch: int) -> None:
        """Mark an epoch's keys as confirmed."""
        with self._store.transaction() as db:
            db.execute(_epochs.update().where(_epochs.c.epoch == epoch).values(confirmed=True))

    def epoch(self, epoch: int, *, confirmed: bool = True) -> EpochKey | None:
        """Return an epoch's keys; only confirmed ones unless asked otherwise."""
        with self._store.read() as db:
            row = db.execute(select(_epochs).where(_epochs.c.epoch == epoch)).one_or_none()
        if row is None or (confirmed and not row.confirmed):
            return None
        return EpochKey(EpochTerms(**json.loads(row.terms)), row.he_key, row.secret)

    def remember_sealed(self, purpose: str, run: str, number: int, sealed: Remembered) -> None:
        """Persist an envelope before its first byte is sent; earlier envelopes of the purpose lose their bytes."""
        with self._store.transaction() as db:
            db.execute(_sealed.update().where(_sealed.c.purpose == purpose, _sealed.c.run == run).values(envelope=None))
            db.execute(insert(_sealed).values(purpose=purpose, run=run, number=number, **vars(sealed)))

    def sealed(self, purpose: str, run: str, number: int) -> Remembered | None:
        """Return what was sealed for a round."""
        where = (_sealed.c.purpose == purpose) & (_sealed.c.run == run) & (_sealed.c.number == number)
        with self._store.read() as db:
            row = db.execute(select(_sealed).where(where)).one_or_none()
        return None if row is None else Remembered(row.context, row.header, row.clipped_share, row.envelope)

    def remember_opening(self, purpose: str, key: str, members: Sequence[str]) -> None:
        """Persist for which set a base (or data digest) is opened, before it is opened (rule 2)."""
        with self._store.transaction() as db:
            row = {"purpose": purpose, "key": key, "members": canonical(sorted(members)).decode()}
            db.execute(insert(_opened).values(row).on_conflict_do_nothing())

    def opened(self, purpose: str, key: str) -> list[str] | None:
        """Return the members of the set for which this was opened, or None."""
        where = (_opened.c.purpose == purpose) & (_opened.c.key == key)
        with self._store.read() as db:
            members = db.execute(select(_opened.c.members).where(where)).scalar_one_or_none()
        return None if members is None else list(json.loads(members))

    def keep_model(self, sha256: str, model: bytes) -> None:
        """Keep the version that this member trains from; other versions' bytes are dropped."""
        with self._store.transaction() as db:
            db.execute(_versions.update().values(model=None))
            row = {"sha256": sha256, "model": model}
            db.execute(insert(_versions).values(row).on_conflict_do_update(["sha256"], set_=row))

    def model(self, sha256: str) -> bytes | None:
        """Return a version's file, if this member still has it."""
        with self._store.read() as db:
            found = db.execute(select(_versions.c.model).where(_versions.c.sha256 == sha256)).scalar_one_or_none()
        return None if found is None else bytes(found)

    def keep_metric(self, sha256: str, metric: float | None) -> None:
        """Keep this member's own validation metric of a version."""
        with self._store.transaction() as db:
            row = {"sha256": sha256, "metric": metric}
            db.execute(insert(_versions).values(row).on_conflict_do_update(["sha256"], set_=row))

    def metric(self, sha256: str) -> float | None:
        """Return this member's own validation metric of a version, if it was measured."""
        with self._store.read() as db:
            value = db.execute(select(_versions.c.metric).where(_versions.c.sha256 == sha256)).scalar_one_or_none()
        return None if value is None else float(value)

    def keep_fact(self, key: str, value: Any) -> None:
        """Keep a JSON-able value under a key, such as the opened statistics of a roster."""
        with self._store.transaction() as db:
            row = {"key": key, "value": canonical(value).decode()}
            db.execute(insert(_facts).values(row).on_conflict_do_update(["key"], set_=row))

    def fact(self, key: str) -> Any:
        """Return the value under a key, or None."""
        with self._store.read() as db:
            value = db.execute(select(_facts.c.value).where(_facts.c.key == key)).scalar_one_or_none()
        return None if value is None else json.loads(value)
