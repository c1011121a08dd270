"""The circles in the ledger: which circles a node saw and when, which it signed, and in which it has lived."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, func, select

from ...canonical import canonical
from ...protocol.circle import Circle
from ...store import Store, add, by, put
from ..standing import CircleStanding, KnownCircle, KnownStart
from . import ddl

_LOST = "ledger.lost"
_CIRCLES = select(ddl.circles)
Check = Callable[[CircleStanding, KnownStart], None]
MAX_IDLE = 64
"""Most circles that a ledger keeps in addition to those that its node signed, left, or agreed to."""


class CircleBook:
    """The circles in a ledger.

    Args:
        store: the ledger's.
        note: writes an entry of the journal, in a transaction.
    """

    def __init__(self, store: Store, note: Callable[..., None]) -> None:
        self._store, self._note = store, note

    def standing(self) -> CircleStanding:
        """Return this node's standing to circles."""
        with self._store.read() as db:
            return self._standing(db)

    def see(self, circle: Circle, now: float) -> None:
        """Keep a circle, and when this node first saw it."""
        row = {"digest": circle.digest, "document": canonical(circle.as_dict()).decode(), "seen_s": now}
        row |= dict.fromkeys(("by_hand", "consented", "spent", "begun", "left"), False)
        with self._store.transaction() as db:
            if db.execute(add(ddl.circles), row).rowcount:
                self._note(db, "circle_seen", circle=circle.digest, circle_number=circle.number)
                self._forget_old(db)

    def start(self, circle: Circle) -> KnownStart:
        """Return what this node knows of the version from which a circle starts."""
        with self._store.read() as db:
            return self._start(db, circle)

    def promoted_in(self, sha256: str) -> str | None:
        """Return the digest of the circle in which this node saw a version promoted, or None."""
        column = ddl.promoted.c
        with self._store.read() as db:
            return db.execute(select(column.circle).where(column.sha256 == sha256)).scalar_one_or_none()

    def sign(self, circle: Circle, now: float, by_hand: bool, check: Check) -> None:
        """Remember that this node signs a circle, before its signature is made.

        Args:
            circle: that was seen.
            now: seconds since 1970.
            by_hand: the operator decided to sign this circle.
            check: raises if the node may not sign; runs in the same transaction, because two processes sign from one
                ledger.
        """
        with self._store.transaction() as db:
            start = self._start(db, circle)
            check(self._standing(db), start)
            column = ddl.circles.c
            last = db.execute(select(func.max(column.turn))).scalar_one()
            row = {"signed_s": now, "turn": (last or 0) + 1, "by_hand": by_hand, "spent": start.summed}
            db.execute(ddl.circles.update().where(column.digest == circle.digest).values(row))
            self._note(db, "circle_signed", circle=circle.digest, circle_number=circle.number)

    def confirm(self, circle: Circle) -> None:
        """Remember that the operator chose a circle that this node has already signed, perhaps by a rule."""
        with self._store.transaction() as db:
            column = ddl.circles.c
            db.execute(ddl.circles.update().where(column.digest == circle.digest).values(by_hand=True))

    def consent(self, circle: Circle) -> None:
        """Remember that the operator agrees to the members that a circle lets go, before their time is over."""
        with self._store.transaction() as db:
            column = ddl.circles.c
            db.execute(ddl.circles.update().where(column.digest == circle.digest).values(consented=True))
            self._note(db, "circle_consented", circle=circle.digest, circle_number=circle.number)

    def begin(self, circle: Circle, check: Check) -> None:
        """Remember that all members signed a circle; this node lives in it from now on."""
        with self._store.transaction() as db:
            standing = self._standing(db)
            check(standing, self._start(db, circle))
            column = ddl.circles.c
            db.execute(ddl.circles.update().where(column.digest == circle.digest).values(begun=True))
            if standing.lost is not None:
                db.execute(ddl.facts.delete().where(ddl.facts.c.key == _LOST))
            self._note(db, "circle_began", circle=circle.digest, circle_number=circle.number)

    def leave(self, circle: Circle) -> None:
        """Remember a farewell to a circle that was seen."""
        with self._store.transaction() as db:
            column = ddl.circles.c
            db.execute(ddl.circles.update().where(column.digest == circle.digest).values(left=True))
            self._note(db, "circle_left", circle=circle.digest, circle_number=circle.number)

    def lose(self, number: int) -> None:
        """Remember that this is not the node's earlier ledger; ``number``: of the newest circle in the earlier one."""
        with self._store.transaction() as db:
            before = self._standing(db).lost
            row = {"key": _LOST, "value": canonical(max(number, before or 0)).decode()}
            db.execute(put(ddl.facts), row)
            if before is None:
                self._note(db, "ledger_lost", circle_number=number)

    def _forget_old(self, db: Connection) -> None:
        """Forget old circles about which this node did nothing, because a server can show any number of them."""
        column = ddl.circles.c
        idle = column.signed_s.is_(None) & ~column.consented & ~column.left
        old = select(column.digest).where(idle).order_by(column.seen_s.desc()).offset(MAX_IDLE)
        db.execute(ddl.circles.delete().where(column.digest.in_(old.scalar_subquery())))

    def _start(self, db: Connection, circle: Circle) -> KnownStart:
        start, promoted, sealed = circle.start, ddl.promoted.c, ddl.sealed.c
        if start is None:
            return KnownStart(summed=self._standing(db).began_with(circle.recipe.checkpoint))
        answered = select(sealed.identity).where(sealed.context.in_(select(ddl.answered.c.context)))
        seen = select(promoted.sha256).where(promoted.identity == start.identity)
        files = set(db.execute(seen).scalars())
        summed = db.execute(answered.where(sealed.identity == start.identity).limit(1)).first()
        newest = self._standing(db).newest
        living = "" if newest is None else newest.circle.digest
        others = select(promoted.sha256).where(promoted.circle == living, promoted.identity.not_in(answered))
        better = db.execute(others.limit(1)).first()
        return KnownStart(bool(files), start.sha256 in files, summed is not None, better is not None)

    def _standing(self, db: Connection) -> CircleStanding:
        rows = db.execute(_CIRCLES).all()
        lost = db.execute(by(ddl.facts, "key"), {"key": _LOST}).one_or_none()
        return CircleStanding(tuple(map(_known, rows)), None if lost is None else int(json.loads(lost.value)))


@lru_cache(maxsize=64)
def _parsed(document: str) -> Circle:
    """Return the circle in a kept document; cached, because a member looks at its own circle with every message."""
    return Circle.parse(json.loads(document))


def _known(row: Any) -> KnownCircle:
    circle = _parsed(row.document)
    flags = row.by_hand, row.consented, row.spent, row.begun, row.left
    return KnownCircle(circle, row.seen_s, row.signed_s, row.turn or 0, *map(bool, flags))
