"""Runs and rounds as rows: what the coordinator must know after a restart, and what reports are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Boolean, Column, Connection, Integer, String, Table, func, literal_column, select
from sqlalchemy.dialects.sqlite import insert

from ...canonical import canonical
from ...store import by, put
from .database import metadata

_runs = Table(
    "runs",
    metadata,
    Column("run", String, primary_key=True),
    Column("offer", String, nullable=False),
    Column("status", String, nullable=False),
    Column("code", String, nullable=False),
    Column("stop", Boolean, nullable=False),
    Column("summary", String, nullable=False),
    Column("plan", String, nullable=False),
)
_rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("run", String, nullable=False),
    Column("body", String, nullable=False),
)
_IN_ORDER = by(_rounds, "run").order_by(_rounds.c.number)
INTERRUPTED = "run.interrupted"
CONVERGED = "run.converged"  # the code of a run that is done early because there is nothing more to gain


@dataclass(frozen=True)
class RunRow:
    """A run as it is on record.

    Attributes:
        run: identifier.
        offer: what it carries to the members.
        status: ``queued``, then ``running``, then ``done``, ``failed``, ``policy`` or ``stopped``.
        code: why it ended, if not by its plan, or "".
        stop: whether a stop was requested.
        summary: bytes and seconds of its update rounds, as ``Wire.summary`` gives them; empty before the first round.
    """

    run: str
    offer: Mapping[str, Any]
    status: str
    code: str
    stop: bool
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """One round's outcome, as in result.json.

    Attributes:
        round: which of the run's planned rounds, from 1. A round that failed and its repetition share it.
        number: federation-wide, never reused.
        status: ``running``, ``promoted``, ``kept``, ``refused`` or ``failed``.
        code: why it was refused or failed, or "".
        members: all members in the sum; empty before the list is fixed.
        named: member → code.
        warnings: (member, code) pairs.
        votes: how often each word of ``gate.VOTES`` was said; empty before there was a vote.
        metrics: over all members' test rows, when reported.
    """

    round: int
    number: int
    status: str = "running"
    code: str = ""
    members: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[tuple[str, str], ...] = ()
    votes: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float | None] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The round in the form of result.json."""
        return {
            "round": self.round,
            "number": self.number,
            "status": self.status,
            "code": self.code,
            "members": list(self.members),
            "named": [{"member": member, "code": code} for member, code in sorted(self.named.items())],
            "warnings": [{"member": member, "code": code} for member, code in self.warnings],
            "votes": dict(self.votes),
            "metrics": self.metrics,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Round:
        """Return the round that :meth:`as_dict` wrote."""
        return cls(
            round=value["round"],
            number=value["number"],
            status=value["status"],
            code=value["code"],
            members=tuple(value["members"]),
            named={item["member"]: item["code"] for item in value["named"]},
            warnings=tuple((item["member"], item["code"]) for item in value["warnings"]),
            votes=value["votes"],
            metrics=value["metrics"],
        )


def queue_run(db: Connection, run: str, offer: Mapping[str, Any]) -> None:
    """Add a run that waits for its coordinator."""
    row = {"run": run, "offer": canonical(offer).decode(), "status": "queued", "code": "", "stop": False}
    db.execute(insert(_runs).values(**row, summary="{}", plan="{}"))


def begin_run(db: Connection, run: str) -> None:
    """Record that a queued run is being carried out."""
    db.execute(_runs.update().where(_runs.c.run == run).values(status="running"))


def end_run(db: Connection, run: str, status: str, code: str) -> None:
    """Record how a run ended: ``done``, ``failed``, ``policy`` or ``stopped``."""
    db.execute(_runs.update().where(_runs.c.run == run).values(status=status, code=code))


def request_stop(db: Connection, run: str) -> None:
    """Request a run's stop. Its coordinator checks this before every exchange and while it waits."""
    db.execute(_runs.update().where(_runs.c.run == run).values(stop=True))


def write_summary(db: Connection, run: str, summary: Mapping[str, Any]) -> None:
    """Keep the bytes and seconds of a run's update rounds so far, for other processes to show."""
    db.execute(_runs.update().where(_runs.c.run == run).values(summary=canonical(summary).decode()))


def keep_plan(db: Connection, run: str, plan: Mapping[str, Any]) -> None:
    """Keep the parameters of a run's sums."""
    db.execute(_runs.update().where(_runs.c.run == run).values(plan=canonical(plan).decode()))


def plan(db: Connection, run: str) -> dict[str, Any] | None:
    """Return the parameters of a run's sums; None before its members took their seats."""
    text = db.execute(select(_runs.c.plan).where(_runs.c.run == run)).scalar_one_or_none()
    return json.loads(text) or None if text else None


def runs(db: Connection) -> list[RunRow]:
    """Return all runs, oldest first."""
    return [_run_row(row) for row in db.execute(select(_runs).order_by(literal_column("rowid")))]


def run_row(db: Connection, run: str) -> RunRow | None:
    """Return a run, or None if there is no such run."""
    row = db.execute(by(_runs, "run"), {"run": run}).one_or_none()
    return None if row is None else _run_row(row)


def open_runs(db: Connection) -> list[str]:
    """Return the runs that are queued or running, oldest first."""
    return [row.run for row in runs(db) if row.status in ("queued", "running")]


def statuses(db: Connection) -> dict[str, int]:
    """Return how many runs have which status."""
    counted = select(_runs.c.status, func.count()).group_by(_runs.c.status)
    return {str(row[0]): int(row[1]) for row in db.execute(counted)}


def newest_run(db: Connection) -> RunRow | None:
    """Return the run that was accepted last, or None before the first."""
    row = db.execute(select(_runs).order_by(literal_column("rowid").desc()).limit(1)).one_or_none()
    return None if row is None else _run_row(row)


def newest_ended(db: Connection, run: str) -> Round | None:
    """Return a run's newest round that ended. At most one later round is in progress."""
    query = select(_rounds.c.body).where(_rounds.c.run == run).order_by(_rounds.c.number.desc()).limit(2)
    newest = (Round.from_dict(json.loads(body)) for body in db.execute(query).scalars())
    return next((outcome for outcome in newest if outcome.status != "running"), None)


def next_number(db: Connection) -> int:
    """Return the next round number, from 1; numbers are never reused."""
    return 1 + (db.execute(select(func.max(_rounds.c.number))).scalar_one() or 0)


def write_round(db: Connection, run: str, outcome: Round) -> None:
    """Add a round, or replace what is known of it."""
    row = {"number": outcome.number, "run": run, "body": canonical(outcome.as_dict()).decode()}
    db.execute(put(_rounds), row)


def rounds(db: Connection, run: str) -> list[dict[str, Any]]:
    """Return a run's rounds in the form of result.json, in order."""
    return [json.loads(row.body) for row in db.execute(_IN_ORDER, {"run": run})]


def running(db: Connection, run: str) -> Round | None:
    """Return a run's round in progress, if there is one."""
    return next((Round.from_dict(entry) for entry in rounds(db, run) if entry["status"] == "running"), None)


def break_off(db: Connection, run: str, code: str) -> list[Round]:
    """Record a run's round in progress, if there is one, as failed with ``code``; return what was recorded."""
    broken = [Round.from_dict(value) for value in rounds(db, run) if value["status"] == "running"]
    ended = [replace(outcome, status="failed", code=code) for outcome in broken]
    for outcome in ended:
        write_round(db, run, outcome)
    return ended


def finished(db: Connection, run: str) -> list[Round]:
    """Return a run's rounds that count as planned ones, in order: all but those broken off and the one in progress."""
    outcomes = [Round.from_dict(value) for value in rounds(db, run)]
    return [outcome for outcome in outcomes if outcome.status != "running" and outcome.code != INTERRUPTED]


def _run_row(row: Any) -> RunRow:
    fields = row._asdict()
    del fields["plan"]
    return RunRow(**{**fields, "offer": json.loads(row.offer), "summary": json.loads(row.summary)})
