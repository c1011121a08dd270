"""Approvers' decisions and releases, as rows. ``server/releases/board.py`` has the rules.

Rows are only added, each in the transaction of its log entry and under that entry's index.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Column, Connection, Integer, String, Table, insert, select

from ...canonical import canonical
from ...crypto.identity import b64, unb64
from ...protocol.approval import Decision, SignedDecision
from .database import metadata

_decisions = Table(
    "decisions",
    metadata,
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("time", String, nullable=False),
    Column("key", String, nullable=False),
    Column("decision", String, nullable=False),
    Column("signature", String, nullable=False),
)
_releases = Table(
    "releases",
    metadata,
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("time", String, nullable=False),
    Column("event", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("required", Integer, nullable=False),
    Column("after", Integer, nullable=False),
    Column("approvals", String, nullable=False),
)


@dataclass(frozen=True)
class Taken(SignedDecision):
    """A decision that was accepted.

    Attributes:
        index: of its log entry.
        time: UTC.
        key: thumbprint of the approver's key.
    """

    index: int
    time: str
    key: str

    @cached_property
    def decision(self) -> Decision:
        """What was decided."""
        return Decision.parse(self.data)

    def as_dict(self) -> dict[str, Any]:
        """The decision as JSON-able values: who, when, what, and everything that a check of the signature needs."""
        decision = self.decision
        return {
            "index": self.index,
            "time": self.time,
            "action": decision.action,
            "member": decision.member,
            "approver": decision.approver,
            "key": self.key,
            "after": decision.after,
            "reason": decision.reason,
            **super().as_dict(),
        }


@dataclass(frozen=True)
class Change:
    """A change of what is released.

    Attributes:
        index: of its log entry. The next decisions come ``after`` it.
        time: UTC.
        event: ``released`` or ``rolled_back``.
        sha256, version: what is released since then.
        required: approvals that it needed; 0 for an automatic release.
        after: index of the change before it; -1 for the first.
        approvals: indices of the decisions that made it.
    """

    index: int
    time: str
    event: str
    sha256: str
    version: int
    required: int
    after: int
    approvals: tuple[int, ...]


@dataclass(frozen=True)
class Releases:
    """All decisions and changes so far, oldest first."""

    decisions: tuple[Taken, ...]
    changes: tuple[Change, ...]

    @property
    def current(self) -> Change | None:
        """The change that released the present version."""
        return self.changes[-1] if self.changes else None

    @property
    def after(self) -> int:
        """The value of ``after`` that a decision needs to count now."""
        return self.changes[-1].index if self.changes else -1

    def rejection(self, sha256: str) -> Taken | None:
        """Return the decision that rejected a version, or None."""
        rejections = (
            taken for taken in self.decisions if taken.decision.action == "reject" and taken.decision.sha256 == sha256
        )
        return next(rejections, None)

    def behind(self, change: Change) -> list[Taken]:
        """Return the decisions that made a change."""
        return [taken for taken in self.decisions if taken.index in change.approvals]

    def newest(self, sha256: str) -> Change | None:
        """Return the newest change that released a version, or None."""
        return next((release for release in reversed(self.changes) if release.sha256 == sha256), None)


def read(db: Connection) -> Releases:
    """Return everything that was decided and released."""
    decisions = [
        Taken(row.decision.encode("ascii"), unb64(row.signature), row.idx, row.time, row.key)
        for row in db.execute(select(_decisions).order_by(_decisions.c.idx))
    ]
    changes = []
    for row in db.execute(select(_releases).order_by(_releases.c.idx)):
        fields = row._asdict()
        changes.append(Change(index=fields.pop("idx"), **{**fields, "approvals": tuple(json.loads(row.approvals))}))
    return Releases(tuple(decisions), tuple(changes))


def keep(db: Connection, taken: Taken) -> None:
    """Add a decision."""
    row = {"idx": taken.index, "time": taken.time, "key": taken.key}
    texts = {"decision": taken.data.decode("ascii"), "signature": b64(taken.signature)}
    db.execute(insert(_decisions).values({**row, **texts}))


def change(db: Connection, new: Change) -> None:
    """Add a change of what is released."""
    row: dict[str, Any] = {**vars(new), "idx": new.index, "approvals": canonical(list(new.approvals)).decode()}
    del row["index"]
    db.execute(insert(_releases).values(row))
