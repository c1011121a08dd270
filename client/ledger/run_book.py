"""The runs in the ledger: which runs this node agreed to, when, and with which members it took its seat."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from ...canonical import canonical, digest
from ...store import Store, add, by
from .ddl import agreements


@dataclass(frozen=True)
class Agreement:
    """A run as this member agreed to it.

    Attributes:
        offer: what it carries.
        roster: its members' cards, in order; empty until this member took its seat.
        key: SHA-256 of the circle's key at that time.
    """

    offer: dict[str, Any]
    roster: Sequence[Mapping[str, Any]] = ()
    key: str = ""


class RunBook:
    """What a node agreed to.

    Args:
        store: the ledger's.
        note, note_once: write an entry of the journal in a transaction.
    """

    def __init__(self, store: Store, note: Callable[..., None], note_once: Callable[..., None]) -> None:
        self._store, self._note, self._note_once = store, note, note_once

    def agree(self, run: str, offer: Mapping[str, Any], now_s: float) -> None:
        """Keep the offer that this member agreed to for a run, and when; the first offer and the first time stay.

        Args:
            run: its identifier.
            offer: what it carries.
            now_s: seconds since 1970, by the node's own clock.
        """
        row = {"run": run, "offer": canonical(offer).decode(), "agreed_s": now_s}
        with self._store.transaction() as db:
            if db.execute(add(agreements), row).rowcount:
                self._note(db, "agreed", run=run, offer=digest(offer))

    def agreement(self, run: str) -> Agreement | None:
        """Return what this member agreed to for a run, or None."""
        with self._store.read() as db:
            row = db.execute(by(agreements, "run"), {"run": run}).one_or_none()
        if row is None:
            return None
        return Agreement(dict(json.loads(row.offer)), json.loads(row.roster or "[]"), row.key or "")

    def newest(self) -> tuple[str, Agreement] | None:
        """Return the run that this member agreed to last, and how; None before the first."""
        with self._store.read() as db:
            run = db.execute(select(agreements.c.run).order_by(agreements.c.agreed_s.desc()).limit(1)).scalar()
        found = None if run is None else self.agreement(run)
        return None if run is None or found is None else (run, found)

    def agreed_since(self, moment_s: float) -> tuple[float, ...]:
        """Return the times after a moment at which runs were agreed to, earliest first, including future times."""
        at_s = agreements.c.agreed_s
        with self._store.read() as db:
            return tuple(db.execute(select(at_s).where(at_s > moment_s).order_by(at_s)).scalars())

    def seat(self, run: str, roster: Sequence[Mapping[str, Any]], key: str) -> None:
        """Keep the members with which this member takes part in a run, and the key; the newest call counts."""
        row = {"roster": canonical([dict(card) for card in roster]).decode(), "key": key}
        with self._store.transaction() as db:
            db.execute(agreements.update().where(agreements.c.run == run).values(row))
            self._note_once(db, "seated", run=run, key=key, members=[card["name"] for card in roster])
