"""Sums that are not over: their contexts, and what came in each so far. A context lives until its sum is opened.

So a coordinator whose process dies continues in the same context, and no member is asked again for what it gave.
Envelopes are files (``envelopes.py``); everything else is rows. What is damaged or missing is asked for again, and a
member gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Integer, LargeBinary, String, Table, select

from ...canonical import canonical
from ...protocol.context import RoundContext
from ...store import add, by, put
from .database import metadata

_contexts = Table(
    "contexts",
    metadata,
    Column("context", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("purpose", String, nullable=False),
    Column("fields", String, nullable=False),
    Column("total", String, nullable=False),  # "" until the list is fixed
)
_sealed = Table(
    "contexts_sealed",
    metadata,
    Column("context", String, primary_key=True),
    Column("member", String, primary_key=True),
    Column("header", String, nullable=False),
)
_answers = Table(
    "contexts_answered",
    metadata,
    Column("context", String, primary_key=True),
    Column("member", String, primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class KeptAnswer:
    """A member's answer to a list, as it came."""

    document: bytes
    signature: bytes
    answer: bytes


def begin(db: Connection, context: RoundContext) -> None:
    """Record a context before any member is asked in it. A context that is there stays."""
    row = {"context": context.digest, "run": context.run, "number": context.number, "purpose": context.purpose}
    row |= {"fields": canonical(context.as_dict()).decode(), "total": ""}
    db.execute(add(_contexts), row)


def going_on(db: Connection, run: str, number: int, purpose: str) -> RoundContext | None:
    """Return the context of a sum that is not over; None if it was not begun."""
    row = _contexts.c
    where = (row.run == run) & (row.number == number) & (row.purpose == purpose)
    fields = db.execute(select(row.fields).where(where)).scalar_one_or_none()
    return None if fields is None else RoundContext(**json.loads(fields))


def bound_to(db: Connection, run: str) -> str:
    """Return the checkpoint that a run's unfinished sum is bound to; "" if there is no such sum."""
    fields = db.execute(select(_contexts.c.fields).where(_contexts.c.run == run).limit(1)).scalar_one_or_none()
    return "" if fields is None else str(json.loads(fields)["checkpoint"])


def fix(db: Connection, context: str, total: str) -> None:
    """Record that a context's list is fixed, and the SHA-256 of its sealed total."""
    db.execute(_contexts.update().where(_contexts.c.context == context).values(total=total))


def total(db: Connection, context: str) -> str:
    """Return the SHA-256 of a context's sealed total; "" if its list is not fixed."""
    return db.execute(select(_contexts.c.total).where(_contexts.c.context == context)).scalar_one_or_none() or ""


def keep_envelope(db: Connection, context: str, member: str, header: str) -> None:
    """Record that a member's envelope is in a sum, in place of an earlier one whose file was lost."""
    db.execute(put(_sealed), {"context": context, "member": member, "header": header})


def envelopes(db: Connection, context: str) -> dict[str, str]:
    """Return the header digests of a sum's envelopes, by member. A digest is the name of the envelope's file."""
    rows = db.execute(by(_sealed, "context").order_by(_sealed.c.member), {"context": context})
    return {row.member: row.header for row in rows}


def keep_answer(db: Connection, context: str, member: str, answer: KeptAnswer) -> None:
    """Record a member's answer. A member never gives another one."""
    db.execute(add(_answers), {"context": context, "member": member, **vars(answer)})


def answers(db: Connection, context: str) -> dict[str, KeptAnswer]:
    """Return the answers to a context's list, by member."""
    rows = db.execute(by(_answers, "context").order_by(_answers.c.member), {"context": context})
    return {row.member: KeptAnswer(row.document, row.signature, row.answer) for row in rows}


def over(db: Connection, context: str) -> None:
    """Forget a context: its sum was opened, or its number failed."""
    for table in (_contexts, _sealed, _answers):
        db.execute(table.delete().where(table.c.context == context))


def all_over(db: Connection, run: str) -> None:
    """Forget every context of a run."""
    for context in db.execute(select(_contexts.c.context).where(_contexts.c.run == run)).scalars().all():
        over(db, context)


def headers(db: Connection) -> frozenset[str]:
    """Return the digests of the headers whose envelopes are still needed."""
    return frozenset(db.execute(select(_sealed.c.header)).scalars())
