"""A member's ledger: its own SQLite file (0600), synced to disk before the member acts on it.

It holds the runs that the member agreed to and with whom, the circle's key, what was sealed from which base, what was
answered in each context, and the versions that the member holds, with its own validation metric of each. A member that
was killed at any moment continues from the ledger and from the seals beside it (``client/seals.py``). The coordinator
never sees it. The rules that read it are in ``client/guard.py``.

Every transition is one transaction, which also writes an entry of the journal (``journal.py``). The tables are in
``ddl.py``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert

from ...canonical import canonical
from ...protocol.answer import list_digest
from ...protocol.context import RoundContext
from ...store import Store, add, by, put
from ..checkpoints import HeldCheckpoint
from ..guard import Before, OwnAnswer
from . import ddl, journal
from .circle_book import CircleBook
from .own_parts import OwnParts
from .row_sets import RowSets
from .run_book import RunBook

FILE_NAME = "ledger.db"
APPLICATION_ID = 0x6D666C64  # "mfld"
CHECKPOINTS = 1000  # most checkpoints that a member keeps
_FORK, _PROVED_FORK = "log.fork", "log.fork.proved"

_SIZE = ddl.witnessed.c.size
_NEWEST_CANDIDATE = by(ddl.candidates, "run").order_by(ddl.candidates.c.number.desc()).limit(1)
_NEWEST_CHECKPOINT = select(ddl.witnessed).order_by(_SIZE.desc()).limit(1)
_BEYOND = select(_SIZE).order_by(_SIZE.desc()).offset(bindparam("most")).limit(1).scalar_subquery()
_TOO_MANY = ddl.witnessed.delete().where(_SIZE <= _BEYOND)
_HELD = select(ddl.models.c.sha256).where(ddl.models.c.sha256 == bindparam("sha256"))


@dataclass(frozen=True)
class Base:
    """A version that this member works with.

    Attributes:
        sha256, identity: of the version, see :class:`~moonflower.protocol.model_version.Version`.
        data: its file.
        trained: whether it is trained from, not only judged.
        promoted: whether this member saw all members promote it.
        number: of the round that made it.
        norm: of the update that led to it.
    """

    sha256: str
    identity: str
    data: bytes
    trained: bool
    promoted: bool
    number: int
    norm: float


class Ledger:
    """A member's ledger.

    Args:
        path: its file; None keeps it in memory (simulate).
        clock: seconds since 1970.

    Attributes:
        circles: circles that the member knows.
        row_sets: sets of rows that it used.
        runs: runs that it agreed to.
        own_parts: its own tensors.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = Store(path, ddl.metadata, APPLICATION_ID, private=True), clock
        self.circles = CircleBook(self._store, self._note)
        self.row_sets = RowSets(self._store, self._note)
        self.own_parts = OwnParts(self._store)
        self.runs = RunBook(self._store, self._note, self._note_once)

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def keep_key(self, use: str, key: bytes) -> None:
        """Keep the circle's key; it replaces an earlier key for the same use."""
        row = {"use": use, "digest": hashlib.sha256(key).hexdigest(), "key": key}
        with self._store.transaction() as db:
            db.execute(put(ddl.keys), row)

    def circle_key(self, use: str) -> bytes | None:
        """Return the circle's key for a use, or None."""
        with self._store.read() as db:
            row = db.execute(by(ddl.keys, "use"), {"use": use}).one_or_none()
        return None if row is None else bytes(row.key)

    def remember_sealed(
        self,
        context: RoundContext,
        header: str,
        *,
        base: Base | None = None,
        metrics: Mapping[str, float | None] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Persist what was sealed, before its first byte is sent.

        Args:
            context: what it was sealed under.
            header: digest of the envelope's header.
            base: version that was trained from or judged; its file replaces the previous one. None if there is no base.
            metrics: version → this member's own validation metric, for the versions measured along the way.
            facts: for this member alone, such as what it counted.
        """
        row: dict[str, Any] = {
            **_place(context),
            "context": context.digest,
            "round": context.round,
            "base": context.base,
            "identity": base.identity if base is not None and base.trained else "",
        }
        row |= {"header": header}
        with self._store.transaction() as db:
            db.execute(put(ddl.sealed), row)
            if base is not None:
                _keep_base(db, context, base)
            _keep_metrics(db, metrics or {})
            for key, value in (facts or {}).items():
                _keep_fact(db, key, value)
            self._note(db, "sealed", **_place(context), context=context.digest, base=context.base, header=header)

    def sealed(self, context: str) -> str | None:
        """Return the header digest of what was sealed last in a context, or None."""
        with self._store.read() as db:
            row = db.execute(by(ddl.sealed, "context"), {"context": context}).one_or_none()
        return None if row is None else str(row.header)

    def good(self, run: str, base: str) -> list[str]:
        """Return a run's good versions up to a base, oldest first: its start, and the promoted versions."""
        row = ddl.bases.c
        reached = select(func.max(row.number)).where((row.run == run) & (row.sha256 == base)).scalar_subquery()
        good = (row.run == run) & (row.number <= reached) & (row.promoted | (row.number == 0))
        with self._store.read() as db:
            return [str(sha256) for sha256 in db.execute(select(row.sha256).where(good).order_by(row.number)).scalars()]

    def is_about(self, context: str, run: str, purpose: str) -> bool:
        """Return whether this member sealed under a context for this run and purpose."""
        row = {"context": context, "run": run, "purpose": purpose}
        with self._store.read() as db:
            return db.execute(by(ddl.sealed, *row), row).first() is not None

    def before(self, context: RoundContext) -> Before:
        """Return what this member did earlier in a context's run (rule 3)."""
        run = {"run": context.run}
        again = {**run, "base": context.base, "round": context.round, "purpose": context.purpose}
        with self._store.read() as db:
            trained = db.execute(by(ddl.sealed, *again), again).first()
            rows = db.execute(by(ddl.bases, *run), run).all()
            last = db.execute(_NEWEST_CANDIDATE, run).one_or_none()
        newest = None if last is None else (int(last.number), str(last.sha256))
        numbers = {int(entry.number): float(entry.norm) for entry in rows}
        norms = {number: norm for number, norm in numbers.items() if number > 0}
        return Before(max(numbers, default=-1), trained is not None, norms, newest)

    def remember_answered(self, context: RoundContext, answer: OwnAnswer) -> None:
        """Persist what this member answers in a context, before it answers; the first answer holds (rule 2)."""
        row = {**vars(answer), "headers": canonical(dict(answer.headers)).decode()}
        with self._store.transaction() as db:
            db.execute(insert(ddl.answered), row)
            headers = list_digest(answer.headers.values())
            what = {"context": answer.context, "headers": headers, "total": answer.total}
            self._note(db, "answered", **_place(context), **what)

    def answered(self, context: str) -> OwnAnswer | None:
        """Return what this member answered in a context, or None."""
        with self._store.read() as db:
            row = db.execute(by(ddl.answered, "context"), {"context": context}).one_or_none()
        return None if row is None else OwnAnswer(**{**row._asdict(), "headers": json.loads(row.headers)})

    def remember_opened(
        self,
        context: RoundContext,
        statement: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        vote: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        candidate: str = "",
    ) -> None:
        """Persist this member's statement about an opened sum, before it is sent.

        Args:
            context: of the round.
            statement: what was signed, for the journal.
            facts: that follow from the sum, such as the total of all members' rows; for this member alone.
            vote: on the candidate, for the journal; None if there is no vote.
            metrics: version → this member's own validation metric, for the versions measured along the way.
            candidate: SHA-256 of the version that members vote on; "" if there is none.
        """
        with self._store.transaction() as db:
            for key, value in (facts or {}).items():
                _keep_fact(db, key, value)
            _keep_metrics(db, metrics or {})
            if candidate:
                row = {"run": context.run, "number": context.number, "sha256": candidate}
                db.execute(add(ddl.candidates), row)
            self._note_once(db, "opened", **_place(context), **statement)
            if vote is not None:
                self._note_once(db, "judged", **_place(context), **vote)

    def remember_refusal(
        self,
        kind: str,
        code: str,
        *,
        run: str = "",
        number: int | None = None,
        purpose: str = "",
    ) -> None:
        """Note in the journal that a message was refused, and why; each refusal once, and only up to a limit.

        Args:
            kind: of the message.
            code: of the refusal.
            run, number, purpose: what the message claims to be about; not checked.
        """
        about = {"run": run[:80], "number": _stored(number), "purpose": purpose[:20]}
        with self._store.transaction() as db:
            journal.note_refusal(db, self._clock(), code, **about, kind=kind)

    def model(self, sha256: str) -> bytes | None:
        """Return a version's file, if this member still has it."""
        with self._store.read() as db:
            row = db.execute(by(ddl.models, "sha256"), {"sha256": sha256}).one_or_none()
        return None if row is None else bytes(row.model)

    def newest_model(self) -> bytes | None:
        """Return the file of the version that this member works with, or None."""
        with self._store.read() as db:
            row = db.execute(select(ddl.models.c.model).limit(1)).one_or_none()
        return None if row is None else bytes(row.model)

    def metric(self, sha256: str) -> float | None:
        """Return this member's own validation metric of a version, if it was measured."""
        with self._store.read() as db:
            row = db.execute(by(ddl.versions, "sha256"), {"sha256": sha256}).one_or_none()
        return None if row is None or row.metric is None else float(row.metric)

    def keep_checkpoint(self, checkpoint: HeldCheckpoint) -> None:
        """Keep a checkpoint that this member witnessed; only the newest ``CHECKPOINTS`` checkpoints stay."""
        with self._store.transaction() as db:
            db.execute(add(ddl.witnessed), vars(checkpoint))
            db.execute(_TOO_MANY, {"most": CHECKPOINTS})

    def newest_checkpoint(self) -> HeldCheckpoint | None:
        """Return the newest checkpoint that this member witnessed, or None."""
        with self._store.read() as db:
            row = db.execute(_NEWEST_CHECKPOINT).one_or_none()
        return None if row is None else HeldCheckpoint(**row._asdict())

    def checkpoint(self, size: int) -> HeldCheckpoint | None:
        """Return the checkpoint of this size, if this member witnessed it and still has it."""
        with self._store.read() as db:
            row = db.execute(by(ddl.witnessed, "size"), {"size": size}).one_or_none()
        return None if row is None else HeldCheckpoint(**row._asdict())

    def has_witnessed(self, label: str) -> bool:
        """Return whether this member witnessed the checkpoint with this label and still has it."""
        size = label.partition(" ")[0]
        if not (size.isascii() and size.isdigit() and len(size) < 19):
            return False
        checkpoint = self.checkpoint(int(size))
        return checkpoint is not None and checkpoint.label == label

    def forget_checkpoints(self) -> None:
        """Delete every checkpoint at the operator's request, so that the next one is taken as the first."""
        with self._store.transaction() as db:
            newest = db.execute(select(func.max(ddl.witnessed.c.size))).scalar_one()
            db.execute(ddl.witnessed.delete())
            db.execute(ddl.facts.delete().where(ddl.facts.c.key.in_((_FORK, _PROVED_FORK))))
            self._note(db, "let_go", kind="checkpoints", newest=newest)

    def keep_fork(self, held: str, shown: str, *, proved: bool) -> None:
        """Keep two checkpoints, signed by one key, if nothing shows that one is a later state of the other.

        The first such pair stays, and so does the first pair that proves a fork. A pair without proof, such as one with
        a junk proof of growth, can be made as often as a coordinator likes. It must not take the place of a proof.

        Args:
            held: note of the checkpoint that this member held.
            shown: note of the checkpoint that it refused.
            proved: whether the pair alone proves two histories: equal sizes, different roots.
        """
        with self._store.transaction() as db:
            row = {
                "key": _PROVED_FORK if proved else _FORK,
                "value": canonical({"held": held, "shown": shown}).decode(),
            }
            db.execute(add(ddl.facts), row)

    def fork(self) -> dict[str, str] | None:
        """Return the pair that :meth:`keep_fork` kept, preferably one that proves a fork; or None."""
        pair = self.fact(_PROVED_FORK) or self.fact(_FORK)
        return None if pair is None else dict(pair)

    def fact(self, key: str) -> Any:
        """Return the value under a key, or None."""
        with self._store.read() as db:
            row = db.execute(by(ddl.facts, "key"), {"key": key}).one_or_none()
        return None if row is None else json.loads(row.value)

    def fact_once(self, key: str, value: Any) -> Any:
        """Keep a value under a key that has none yet; return the kept value."""
        row = {"key": key, "value": canonical(value).decode()}
        with self._store.transaction() as db:
            db.execute(add(ddl.facts), row)
            return json.loads(db.execute(by(ddl.facts, "key"), {"key": key}).one().value)

    def journal(self) -> list[dict[str, Any]]:
        """Return what this member did and refused, oldest first: a dict per entry, ``what`` as JSON-able values."""
        with self._store.read() as db:
            return journal.entries(db)

    def _note(self, db: Connection, event: str, **about: Any) -> None:
        """Write an entry of the journal, in the transaction of what it is about."""
        journal.note(db, self._clock(), event, **about)

    def _note_once(self, db: Connection, event: str, **about: Any) -> None:
        journal.note_once(db, self._clock(), event, **about)


def _place(context: RoundContext) -> dict[str, str | int]:
    return {"purpose": context.purpose, "run": context.run, "number": context.number}


def _keep_base(db: Connection, context: RoundContext, base: Base) -> None:
    """Keep the version that this member works with, in place of the previous one; note if it is promoted or trained."""
    if db.execute(_HELD, {"sha256": base.sha256}).first() is None:
        db.execute(ddl.models.delete())
        db.execute(insert(ddl.models), {"sha256": base.sha256, "model": base.data})
    if base.promoted:
        seen = {"sha256": base.sha256, "identity": base.identity, "circle": context.circle}
        db.execute(add(ddl.promoted), seen)
    if base.trained:
        row = {"run": context.run, "number": base.number, "sha256": base.sha256, "norm": base.norm}
        row["promoted"] = base.promoted
        db.execute(add(ddl.bases), row)


def _keep_metrics(db: Connection, metrics: Mapping[str, float | None]) -> None:
    for sha256, metric in metrics.items():
        db.execute(put(ddl.versions), {"sha256": sha256, "metric": metric})


def _keep_fact(db: Connection, key: str, value: Any) -> None:
    db.execute(put(ddl.facts), {"key": key, "value": canonical(value).decode()})


def _stored(number: int | None) -> int | None:
    """Return a number that came from outside, if SQLite can hold it."""
    return number if number is not None and abs(number) < 1 << 63 else None
