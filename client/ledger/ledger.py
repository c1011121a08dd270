"""What a member must not forget: its own SQLite file (0600), synced to disk before the member acts on it.

Which runs the member agreed to, keys and rosters of epochs, what was sealed under which context, which set each base
was opened for, the versions that the member holds and its own validation metric of each. A member that was killed at
any moment goes on from it. The coordinator never sees it. The rules that read it are in ``client/guard.py``.

Every transition is one transaction, and writes an entry of the journal (``journal.py``) in it. The tables are in
``tables.py``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, null, select
from sqlalchemy.dialects.sqlite import insert

from ...canonical import canonical, digest
from ...crypto.schemes.deal import EpochKey, EpochTerms
from ...protocol.context import RoundContext
from ...store import Store
from ..guard import HeldCheckpoint, Remembered
from . import journal, tables

FILE_NAME = "ledger.db"
APPLICATION_ID = 0x6D666C64  # "mfld"
CHECKPOINTS = 1000  # that a member keeps
_FORK, _PROVED_FORK = "log.fork", "log.fork.proved"


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
    """A member's ledger.

    Args:
        path: its file; None keeps it in memory (simulate).
        clock: seconds since 1970.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = Store(path, tables.metadata, APPLICATION_ID, private=True), clock

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def keep_agreement(self, run: str, offer: Mapping[str, Any]) -> None:
        """Keep what a run was agreed to for; the first offer stays."""
        row = {"run": run, "offer": canonical(offer).decode()}
        with self._store.transaction() as db:
            if db.execute(insert(tables.agreements).values(row).on_conflict_do_nothing()).rowcount:
                self._note(db, "agreed", run=run, offer=digest(offer))

    def agreement(self, run: str) -> dict[str, Any] | None:
        """Return the offer that this member agreed to for a run, or None."""
        with self._store.read() as db:
            offer = db.execute(
                select(tables.agreements.c.offer).where(tables.agreements.c.run == run)
            ).scalar_one_or_none()
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
            db.execute(insert(tables.epochs).values(row).on_conflict_do_update(["epoch"], set_=row))
            self._note(db, "dealt", run=epoch.run, epoch=key.terms.epoch, roster=key.terms.roster)

    def confirm_epoch(self, epoch: int) -> None:
        """Mark an epoch's keys as confirmed."""
        waiting = (tables.epochs.c.epoch == epoch) & ~tables.epochs.c.confirmed
        with self._store.transaction() as db:
            run = db.execute(select(tables.epochs.c.run).where(waiting)).scalar_one_or_none()
            if run is not None:
                db.execute(tables.epochs.update().where(waiting).values(confirmed=True))
                self._note(db, "confirmed", run=run, epoch=epoch)

    def epoch(self, epoch: int) -> Epoch | None:
        """Return an epoch, confirmed or not."""
        with self._store.read() as db:
            row = db.execute(select(tables.epochs).where(tables.epochs.c.epoch == epoch)).one_or_none()
            if row is None:
                return None
        key = EpochKey(EpochTerms(**json.loads(row.terms)), row.he_key, row.secret)
        return Epoch(row.run, json.loads(row.roster), key, row.confirmed)

    def newest_epoch(self) -> int:
        """Return the number of the newest epoch of which this member holds keys; 0 for none."""
        with self._store.read() as db:
            return int(db.execute(select(func.max(tables.epochs.c.epoch))).scalar_one() or 0)

    def cards(self) -> list[dict[str, Any]]:
        """Return the cards of all confirmed epochs, newest first, each once; they were pinned when it kept them."""
        query = select(tables.epochs.c.roster).where(tables.epochs.c.confirmed).order_by(tables.epochs.c.epoch.desc())
        with self._store.read() as db:
            rosters = db.execute(query).scalars().all()
        cards: dict[tuple[str, str], dict[str, Any]] = {}
        for roster in rosters:
            for card in json.loads(roster):
                cards.setdefault((card["name"], card["node"]["x"]), card)
        return list(cards.values())

    def remember_sealed(
        self,
        context: RoundContext,
        sealed: Remembered,
        model: bytes | None = None,
        metrics: Mapping[str, float | None] | None = None,
    ) -> None:
        """Persist an envelope before its first byte is sent; earlier envelopes of the purpose lose their bytes.

        Args:
            context: what it was sealed under.
            sealed: its digests and bytes.
            model: the base's file, for the opening; the one before is dropped. None for statistics, which have no base.
            metrics: version → this member's own validation metric, of those that were measured on the way.
        """
        earlier = (tables.sealed.c.purpose == context.purpose) & (tables.sealed.c.run == context.run)
        with self._store.transaction() as db:
            db.execute(tables.sealed.update().where(earlier).values(envelope=None))
            db.execute(insert(tables.sealed).values(**_place(context), **vars(sealed)))
            if model is not None:
                _keep_model(db, context.base, model)
            _keep_metrics(db, metrics or {})
            self._note(db, "sealed", **_place(context), context=sealed.context, base=context.base, header=sealed.header)

    def sealed(self, context: RoundContext, *, envelope: bool = True) -> Remembered | None:
        """Return what was sealed in the place of a context: its purpose, run, epoch and number.

        Args:
            envelope: read its bytes too; else they are None, as if they were lost.
        """
        where: list[ColumnElement[bool]] = [tables.sealed.c[name] == value for name, value in _place(context).items()]
        bytes_ = tables.sealed.c.envelope if envelope else null().label("envelope")
        columns = (tables.sealed.c.context, tables.sealed.c.header, tables.sealed.c.clipped_share, bytes_)
        with self._store.read() as db:
            row = db.execute(select(*columns).where(*where)).one_or_none()
        return None if row is None else Remembered(**row._asdict())

    def remember_opening(self, context: RoundContext, key: str, members: Sequence[str]) -> None:
        """Persist for which set a base (or data digest) is opened, before it is opened (rule 2); the first one holds.

        Args:
            context: of the round.
            key: the base, or the digest of the statistics' data.
            members: set A.
        """
        row = {"purpose": context.purpose, "key": key, "members": canonical(sorted(members)).decode()}
        with self._store.transaction() as db:
            db.execute(insert(tables.opened).values(row).on_conflict_do_nothing())
            self._note_once(db, "opening", **_place(context), context=context.digest, members=sorted(members))

    def remember_opened(
        self,
        context: RoundContext,
        said: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        vote: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
    ) -> None:
        """Persist what this member is about to say of an opened sum, before it says so.

        Args:
            context: of the round.
            said: what was signed, for the journal.
            facts: that follow from the sum, such as the total of all members' rows; for this member alone.
            vote: on the candidate, for the journal; None where there is none to be had.
            metrics: version → this member's own validation metric, of those that were measured on the way.
        """
        with self._store.transaction() as db:
            for key, value in (facts or {}).items():
                _keep_fact(db, key, value)
            _keep_metrics(db, metrics or {})
            self._note_once(db, "opened", **_place(context), **said)
            if vote is not None:
                self._note_once(db, "judged", **_place(context), **vote)

    def remember_refusal(
        self,
        kind: str,
        code: str,
        *,
        run: str = "",
        epoch: int | None = None,
        number: int | None = None,
        purpose: str = "",
    ) -> None:
        """Note in the journal that a message was refused, and why; the same once, and not without end.

        Args:
            kind: of the message.
            code: of the refusal.
            run, epoch, number, purpose: what the message said that it is about; not checked by anybody.
        """
        said = {"run": run[:80], "epoch": _stored(epoch), "number": _stored(number), "purpose": purpose[:20]}
        with self._store.transaction() as db:
            journal.note_refusal(db, self._clock(), code, **said, kind=kind)

    def opened(self, purpose: str, key: str) -> list[str] | None:
        """Return the members of the set for which this was opened, or None."""
        where = (tables.opened.c.purpose == purpose) & (tables.opened.c.key == key)
        with self._store.read() as db:
            members = db.execute(select(tables.opened.c.members).where(where)).scalar_one_or_none()
        return None if members is None else list(json.loads(members))

    def model(self, sha256: str) -> bytes | None:
        """Return a version's file, if this member still has it."""
        with self._store.read() as db:
            found = db.execute(
                select(tables.models.c.model).where(tables.models.c.sha256 == sha256)
            ).scalar_one_or_none()
        return None if found is None else bytes(found)

    def metric(self, sha256: str) -> float | None:
        """Return this member's own validation metric of a version, if it was measured."""
        with self._store.read() as db:
            value = db.execute(
                select(tables.versions.c.metric).where(tables.versions.c.sha256 == sha256)
            ).scalar_one_or_none()
        return None if value is None else float(value)

    def keep_checkpoint(self, held: HeldCheckpoint) -> None:
        """Keep a checkpoint of the coordinator's log that this member witnessed; old ones but the newest go."""
        with self._store.transaction() as db:
            db.execute(insert(tables.witnessed).values(**vars(held)).on_conflict_do_nothing())
            size = tables.witnessed.c.size
            beyond = select(size).order_by(size.desc()).offset(CHECKPOINTS).limit(1).scalar_subquery()
            db.execute(tables.witnessed.delete().where(size <= beyond))

    def newest_checkpoint(self) -> HeldCheckpoint | None:
        """Return the newest checkpoint that this member witnessed, or None."""
        with self._store.read() as db:
            row = db.execute(select(tables.witnessed).order_by(tables.witnessed.c.size.desc()).limit(1)).one_or_none()
        return None if row is None else HeldCheckpoint(**row._asdict())

    def checkpoint(self, size: int) -> HeldCheckpoint | None:
        """Return the checkpoint of this size, if this member witnessed it lately."""
        with self._store.read() as db:
            row = db.execute(select(tables.witnessed).where(tables.witnessed.c.size == size)).one_or_none()
        return None if row is None else HeldCheckpoint(**row._asdict())

    def has_witnessed(self, label: str) -> bool:
        """Return whether this member lately witnessed the checkpoint with this label."""
        size = label.partition(" ")[0]
        if not (size.isascii() and size.isdigit() and len(size) < 19):
            return False
        held = self.checkpoint(int(size))
        return held is not None and held.label == label

    def forget_checkpoints(self) -> None:
        """Let go of every checkpoint, so that the next one is taken as the first: the operator decided so."""
        with self._store.transaction() as db:
            newest = db.execute(select(func.max(tables.witnessed.c.size))).scalar_one()
            db.execute(tables.witnessed.delete())
            db.execute(tables.facts.delete().where(tables.facts.c.key.in_((_FORK, _PROVED_FORK))))
            self._note(db, "let_go", kind="checkpoints", newest=newest)

    def keep_fork(self, held: str, shown: str, *, proved: bool) -> None:
        """Keep two checkpoints, signed by one key, of which one was not shown to be a later state of the other.

        The first two stay, and the first two that prove it. What proves nothing, as a proof of growth that is junk,
        anybody can make as often as he likes, and must not stand in the place of a proof.

        Args:
            held: note of the one that this member held.
            shown: note of the one that it refused.
            proved: they are two histories for anybody who reads them: of one size, with different roots.
        """
        with self._store.transaction() as db:
            row = {
                "key": _PROVED_FORK if proved else _FORK,
                "value": canonical({"held": held, "shown": shown}).decode(),
            }
            db.execute(insert(tables.facts).values(row).on_conflict_do_nothing())

    def fork(self) -> dict[str, str] | None:
        """Return what :meth:`keep_fork` kept, rather what proves it; or None."""
        found = self.fact(_PROVED_FORK) or self.fact(_FORK)
        return None if found is None else dict(found)

    def opened_statistics(self) -> list[list[str]]:
        """Return the sets for which this member's own statistics were opened: one for each state of its rows."""
        with self._store.read() as db:
            opened = select(tables.opened.c.members).where(tables.opened.c.purpose == "statistics")
            sets = db.execute(opened).scalars().all()
        return sorted(json.loads(members) for members in sets)

    def forget_statistics(self) -> None:
        """Let go of the sets of :meth:`opened_statistics`, so that rule 2 allows another: the operator decided so."""
        sets = self.opened_statistics()
        with self._store.transaction() as db:
            db.execute(tables.opened.delete().where(tables.opened.c.purpose == "statistics"))
            self._note(db, "let_go", purpose="statistics", sets=sets)

    def fact(self, key: str) -> Any:
        """Return the value under a key, or None."""
        with self._store.read() as db:
            value = db.execute(select(tables.facts.c.value).where(tables.facts.c.key == key)).scalar_one_or_none()
        return None if value is None else json.loads(value)

    def journal(self) -> list[dict[str, Any]]:
        """Return what this member did and refused, oldest first: a dict an entry, ``what`` as JSON-able values."""
        with self._store.read() as db:
            return journal.entries(db)

    def _note(self, db: Connection, event: str, **about: Any) -> None:
        """Write an entry of the journal, in the transaction of what it is about."""
        journal.note(db, self._clock(), event, **about)

    def _note_once(self, db: Connection, event: str, **about: Any) -> None:
        journal.note_once(db, self._clock(), event, **about)


def _place(context: RoundContext) -> dict[str, str | int]:
    """Return for what an envelope is sealed once (rule 7). A new epoch has new keys: there the same may be sealed."""
    return {"purpose": context.purpose, "run": context.run, "epoch": context.epoch, "number": context.number}


def _keep_model(db: Connection, sha256: str, model: bytes) -> None:
    """Keep the version that this member trains from; the one before is dropped."""
    if db.execute(select(tables.models.c.sha256).where(tables.models.c.sha256 == sha256)).first() is None:
        db.execute(tables.models.delete())
        db.execute(insert(tables.models).values(sha256=sha256, model=model))


def _keep_metrics(db: Connection, metrics: Mapping[str, float | None]) -> None:
    for sha256, metric in metrics.items():
        row = {"sha256": sha256, "metric": metric}
        db.execute(insert(tables.versions).values(row).on_conflict_do_update(["sha256"], set_=row))


def _keep_fact(db: Connection, key: str, value: Any) -> None:
    row = {"key": key, "value": canonical(value).decode()}
    db.execute(insert(tables.facts).values(row).on_conflict_do_update(["key"], set_=row))


def _stored(number: int | None) -> int | None:
    """Return a number that came from outside, if SQLite can hold it."""
    return number if number is not None and abs(number) < 1 << 63 else None
