"""The journal of a member: its own record of what it did and what it refused, in the ledger's transactions.

An entry is written in the transaction of the deed that it is about. It holds digests, names and codes. It never holds a
key, a count of rows or a value of a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert

from ...canonical import canonical
from .ddl import journal

DEEDS = {
    "circle_seen": "was shown a circle for the first time; the waiting time of the members that it lets go begins",
    "circle_consented": "its operator agrees to the members that a circle lets go, before their time is over",
    "circle_signed": "signed a circle; from now on others may have its signature",
    "circle_began": "lives in a circle that all its members signed, and no longer in an earlier one",
    "circle_left": "said farewell to a circle; it no longer seals or answers in it",
    "ledger_lost": "its ledger is not the one that it had before; it waits for a circle that says so",
    "agreed": "agreed to this offer of a run",
    "seated": "took part in a run with these members, under this key of the circle",
    "sealed": "sealed an envelope under this context",
    "answered": "answered this list and total; from now on they may have been opened",
    "opened": "opened the sum and signed what follows from it",
    "judged": "voted on a candidate",
    "refused": "refused a message; the code says why",
    "let_go": "dropped what it held, because its operator decided so; from now on that no longer binds it",
}
_DEED = [column for column in journal.c if column.name not in ("idx", "time")]
_SAME = select(journal.c.idx).where(*(column.is_not_distinct_from(bindparam(column.name)) for column in _DEED)).limit(1)
_REFUSED = select(func.count()).select_from(journal).where(journal.c.event == "refused")
REFUSALS = 10_000  # most refusals that a journal holds, so that endless bad requests do not fill this member's disk


def note(db: Connection, time_s: float, event: str, **about: Any) -> None:
    """Write an entry: its event, one of ``DEEDS``, and what it is about."""
    db.execute(insert(journal), _entry(time_s, event, about))


def note_once(db: Connection, time_s: float, event: str, **about: Any) -> None:
    """Write an entry, unless the journal already holds it: repeating an old answer is not a new deed."""
    entry = _entry(time_s, event, about)
    if db.execute(_SAME, entry).first() is None:
        db.execute(insert(journal), entry)


def note_refusal(db: Connection, time_s: float, code: str, **about: Any) -> None:
    """Write that a message was refused; the same refusal once, and at most ``REFUSALS`` in all."""
    if db.execute(_REFUSED).scalar_one() < REFUSALS:
        note_once(db, time_s, "refused", code=code, **about)


def entries(db: Connection) -> list[dict[str, Any]]:
    """Return all entries, oldest first: one dict per entry, ``what`` as JSON-able values."""
    rows = db.execute(select(journal).order_by(journal.c.idx)).all()
    return [{**row._asdict(), "what": json.loads(row.what)} for row in rows]


def _entry(time_s: float, event: str, about: Mapping[str, Any]) -> dict[str, Any]:
    if event not in DEEDS:
        raise ValueError(f"unknown deed {event!r}")
    moment = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
    fields: dict[str, Any] = {"run": "", "number": None, "purpose": "", "code": ""}
    what = {name: value for name, value in about.items() if name not in fields}
    fields |= {name: value for name, value in about.items() if name in fields}
    return {"time": moment.replace("+00:00", "Z"), "event": event, **fields, "what": canonical(what).decode()}
