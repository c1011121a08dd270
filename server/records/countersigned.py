"""The newest checkpoint that each member countersigned."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, Connection, Integer, String, Table, select

from ...store import put
from .database import metadata

_witnesses = Table(
    "witnesses",
    metadata,
    Column("member", String, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("root", String, nullable=False),
    Column("line", String, nullable=False),
    Column("time_s", Integer, nullable=False),
)


@dataclass(frozen=True)
class Countersigned:
    """What a member signed.

    Attributes:
        size: entries of the log.
        root: Merkle root over them, in hex.
        line: the signature line of a note (C2SP tlog-cosignature).
        time_s: when, by the member's clock; seconds since 1970.
    """

    size: int
    root: str
    line: str
    time_s: int


def keep(db: Connection, member: str, witness: Countersigned) -> None:
    """Keep what a member signed, in place of its earlier one."""
    db.execute(put(_witnesses), {"member": member, **vars(witness)})


def witnesses(db: Connection) -> dict[str, Countersigned]:
    """Return what each member signed last."""
    rows = (row._asdict() for row in db.execute(select(_witnesses).order_by(_witnesses.c.member)))
    return {fields.pop("member"): Countersigned(**fields) for fields in rows}
