"""What a member must not forget: its own SQLite file (0600), synced to disk before the member acts on it.

Which runs the member agreed to, keys and rosters of epochs, what was sealed under which context, which set each base
was opened for, the versions that the member holds and its own validation metric of each. A member that was killed at
any moment goes on from it. The coordinator never sees it. The rules that read it are in ``guard.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    null,
    select,
)
from sqlalchemy.dialects.sqlite import insert

from ..canonical import canonical
from ..crypto.context import RoundContext
from ..crypto.keys import EpochKey, EpochTerms
from ..store import Store
from .guard import Remembered

APPLICATION_ID = 0x6D666C64  # "mfld"
metadata = MetaData()
_agreements = Table(
    "agreements",
    metadata,
    Column("run", String, primary_key=True),
    Column("offer", String, nullable=False),
)
_epochs = Table(
    "epochs",
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("run", String, nullable=False),
    Column("roster", String, nullable=False),
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
    Column("epoch", Integer, primary_key=True),
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
_versions = Table("versions", metadata, Column("sha256", String, primary_key=True), Column("metric", Float))
_models = Table(  # apart: SQLite writes a whole row again when any part of it changes
    "models", metadata, Column("sha256", String, primary_key=True), Column("model", LargeBinary, nullable=False)
)
_facts = Table("facts", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))


@dataclass(frozen=True)
class Epoch:
    """An epoch as this member took part in it.

    Attributes:
        run: the run that it was dealt for.
        roster: its members' cards, in order.
        key: its terms and keys.
        confirmed: whether all members' answers were found to agree (rule 8).
    """

    run: str
    roster: Sequence[Mapping[str, Any]]
    key: EpochKey
    confirmed: bool = False


class Ledger:
    """A member's ledger; ``path`` None keeps it in memory (simulate)."""

    def __init__(self, path: Path | None) -> None:
        self._store = Store(path, metadata, APPLICATION_ID, private=True)

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def keep_agreement(self, run: str, offer: Mapping[str, Any]) -> None:
        """Keep what a run was agreed to for; the first offer stays."""
        row = {"run": run, "offer": canonical(offer).decode()}
        with self._store.transaction() as db:
            db.execute(insert(_agreements).values(row).on_conflict_do_nothing())

    def agreement(self, run: str) -> dict[str, Any] | None:
        """Return the offer that this member agreed to for a run, or None."""
        with self._store.read() as db:
            offer = db.execute(select(_agreements.c.offer).where(_agreements.c.run == run)).scalar_one_or_none()
        return None if offer is None else dict(json.loads(offer))

    def keep_epoch(self, epoch: Epoch) -> None:
        """Keep an epoch's roster and keys, in place of an earlier deal of the same number."""
        key = epoch.key
        row = {
            "epoch": key.terms.epoch,
            "run": epoch.run,
            "roster": canonical([dict(card) for card in epoch.roster]).decode(),
            "terms": canonical(vars(key.terms)).decode(),
            "he_key": key.he_key,
            "secret": key.secret,
            "confirmed": epoch.confirmed,
        }
        with self._store.transaction() as db:
            db.execute(insert(_epochs).values(row).on_conflict_do_update(["epoch"], set_=row))

    def confirm_epoch(self, epoch: int) -> None:
        """Mark an epoch's keys as confirmed."""
        with self._store.transaction() as db:
            db.execute(_epochs.update().where(_epochs.c.epoch == epoch).values(confirmed=True))

    def epoch(self, epoch: int) -> Epoch | None:
        """Return an epoch, confirmed or not."""
        with self._store.read() as db:
            row = db.execute(select(_epochs).where(_epochs.c.epoch == epoch)).one_or_none()
        if row is None:
            return None
        key = EpochKey(EpochTerms(**json.loads(row.terms)), row.he_key, row.secret)
        return Epoch(row.run, json.loads(row.roster), key, row.confirmed)

    def cards(self) -> list[dict[str, Any]]:
        """Return the cards of all confirmed epochs, newest first, each once; they were pinned when it kept them."""
        query = select(_epochs.c.roster).where(_epochs.c.confirmed).order_by(_epochs.c.epoch.desc())
        with self._store.read() as db:
            rosters = db.execute(query).scalars().all()
        cards: dict[tuple[str, str], dict[str, Any]] = {}
        for roster in rosters:
            for card in json.loads(roster):
                cards.setdefault((card["name"], card["node"]["x"]), card)
        return list(cards.values())

    def remember_sealed(self, context: RoundContext, sealed: Remembered) -> None:
        """Persist an envelope before its first byte is sent; earlier envelopes of the purpose lose their bytes."""
        earlier = (_sealed.c.purpose == context.purpose) & (_sealed.c.run == context.run)
        with self._store.transaction() as db:
            db.execute(_sealed.update().where(earlier).values(envelope=None))
            db.execute(insert(_sealed).values(**_place(context), **vars(sealed)))

    def sealed(self, context: RoundContext, *, envelope: bool = True) -> Remembered | None:
        """Return what was sealed in the place of a context: its purpose, run, epoch and number.

        Args:
            envelope: read its bytes too; else they are None, as if they were lost.
        """
        where: list[ColumnElement[bool]] = [_sealed.c[name] == value for name, value in _place(context).items()]
        bytes_ = _sealed.c.envelope if envelope else null().label("envelope")
        with self._store.read() as db:
            row = db.execute(
                select(_sealed.c.context, _sealed.c.header, _sealed.c.clipped_share, bytes_).where(*where)
            ).one_or_none()
        return None if row is None else Remembered(**row._asdict())

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
        """Keep the version that this member trains from; the one before is dropped."""
        with self._store.transaction() as db:
            if db.execute(select(_models.c.sha256).where(_models.c.sha256 == sha256)).first() is None:
                db.execute(_models.delete())
                db.execute(insert(_models).values(sha256=sha256, model=model))

    def model(self, sha256: str) -> bytes | None:
        """Return a version's file, if this member still has it."""
        with self._store.read() as db:
            found = db.execute(select(_models.c.model).where(_models.c.sha256 == sha256)).scalar_one_or_none()
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


def _place(context: RoundContext) -> dict[str, str | int]:
    """Return for what an envelope is sealed once (rule 7). A new epoch has new keys: there the same may be sealed."""
    return {"purpose": context.purpose, "run": context.run, "epoch": context.epoch, "number": context.number}
