"""The members that a run waits for now: rows that its coordinator writes, and pages, metrics and commands read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Integer, String, Table, select
from sqlalchemy.dialects.sqlite import insert

from .database import metadata

_waiting = Table(
    "waiting",
    metadata,
    Column("member", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("step", String, nullable=False),
    Column("since", String, nullable=False),
    Column("why", String, nullable=False),
    Column("returns", Integer, nullable=False),
)


@dataclass(frozen=True)
class WaitedFor:
    """A member that a run waits for.

    Attributes:
        member: its name.
        run: identifier.
        number: federation-wide number of the round; 0 before the first.
        step: what it is asked for: ``enrol``, ``key``, ``seat``, ``seal``, ``answer`` or ``open``.
        since: when it was first asked; ISO 8601, UTC.
        why: ``absent``: its node is not connected; ``silent``: its node is connected and has not answered; ``broke``:
            it is asked again because its process or its connection failed.
        returns: how often its node came back meanwhile.
    """

    member: str
    run: str
    number: int
    step: str
    since: str
    why: str
    returns: int


def write(db: Connection, run: str, away: Iterable[WaitedFor]) -> None:
    """Record the members that a run waits for, in place of all rows before. Runs are carried out one at a time."""
    db.execute(_waiting.delete())
    rows = [vars(member) for member in away if member.run == run]
    if rows:
        db.execute(insert(_waiting).values(rows))


def waited_for(db: Connection) -> list[WaitedFor]:
    """Return the members that a run waits for now, by name."""
    return [WaitedFor(**row._asdict()) for row in db.execute(select(_waiting).order_by(_waiting.c.member))]
