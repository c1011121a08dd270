"""What a member must not forget in scheme ``threshold``: the ledger's deals, shares and answers.

The functions work inside a transaction of ``client.ledger``. Deals are kept before the first of them is sent, so that a
member that is asked again deals the same; shares go when a newer epoch is confirmed. What was answered about a context
stays for ever, and stands here before an answer leaves (``flood.Answered``, ``flood.FloodCount``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from ..canonical import canonical
from ..crypto.dealing import EpochShares
from ..crypto.flood import Answered, ThresholdPlan
from ..crypto.keys import EpochTerms
from . import tables


@dataclass(frozen=True)
class OwnDeal:
    """What a member dealt for an epoch, and keeps until the epoch is confirmed. Its ``repr`` shows no share."""

    run: str
    terms: EpochTerms
    own: bytes
    payloads: Mapping[str, bytes]
    commitments: Mapping[str, str]

    def __repr__(self) -> str:
        return f"OwnDeal(epoch={self.terms.epoch})"


def keep_deal(db: Connection, deal: OwnDeal) -> None:
    """Keep what this member is about to deal, in place of any earlier deal of its own that was not confirmed."""
    row = {
        "epoch": deal.terms.epoch,
        "run": deal.run,
        "terms": canonical(vars(deal.terms)).decode(),
        "own": deal.own,
        "payloads": _joined(deal.payloads),
        "commitments": canonical(dict(deal.commitments)).decode(),
    }
    db.execute(tables.dealt.delete())
    db.execute(insert(tables.dealt).values(row))


def deal_of(db: Connection, epoch: int) -> OwnDeal | None:
    """Return what was dealt for an epoch, or None."""
    row = db.execute(select(tables.dealt).where(tables.dealt.c.epoch == epoch)).one_or_none()
    if row is None:
        return None
    commitments = json.loads(row.commitments)
    payloads = _parted(row.payloads, sorted(commitments))
    return OwnDeal(row.run, EpochTerms(**json.loads(row.terms)), row.own, payloads, commitments)


def keep_shares(db: Connection, shares: EpochShares) -> None:
    """Keep an epoch's shares, in place of earlier ones of the same number."""
    row = {
        "epoch": shares.terms.epoch,
        "plan": canonical(shares.plan.as_dict()).decode(),
        "member": shares.name,
        "own": shares.own,
        "payloads": _joined(shares.payloads),
        "commitments": canonical({dealer: dict(said) for dealer, said in shares.commitments.items()}).decode(),
    }
    db.execute(insert(tables.shares).values(row).on_conflict_do_update(["epoch"], set_=row))


def shares_of(db: Connection, terms: EpochTerms) -> EpochShares | None:
    """Return an epoch's shares, or None."""
    row = db.execute(select(tables.shares).where(tables.shares.c.epoch == terms.epoch)).one_or_none()
    if row is None:
        return None
    commitments = json.loads(row.commitments)
    payloads = _parted(row.payloads, sorted(commitments))
    plan = ThresholdPlan(**json.loads(row.plan))
    return EpochShares(terms, plan, row.member, row.own, payloads, commitments)


def confirmed(db: Connection, epoch: int) -> None:
    """Let go of what only earlier epochs needed, and of this one's own deal: nothing old is opened again."""
    db.execute(tables.dealt.delete().where(tables.dealt.c.epoch <= epoch))
    db.execute(tables.shares.delete().where(tables.shares.c.epoch < epoch))


def answered(db: Connection, context: str) -> Answered | None:
    """Return what was answered about a context, or None."""
    row = db.execute(select(tables.answered).where(tables.answered.c.context == context)).one_or_none()
    if row is None:
        return None
    attempts = tuple((number, tuple(openers)) for number, openers in json.loads(row.attempts))
    return Answered(context, tuple(json.loads(row.members)), attempts)


def keep_answered(db: Connection, record: Answered, epoch: int, spent: int) -> None:
    """Keep what is about to be answered, and what of an epoch's flooding is spent then."""
    attempts = [[number, list(openers)] for number, openers in record.attempts]
    row: dict[str, Any] = {
        "context": record.context,
        "members": canonical(list(record.members)).decode(),
        "attempts": canonical(attempts).decode(),
    }
    db.execute(insert(tables.answered).values(row).on_conflict_do_update(["context"], set_=row))
    count = {"epoch": epoch, "spent": spent}
    db.execute(insert(tables.flood).values(count).on_conflict_do_update(["epoch"], set_=count))


def spent(db: Connection, epoch: int) -> int:
    """Return what of an epoch's flooding is spent."""
    return int(db.execute(select(tables.flood.c.spent).where(tables.flood.c.epoch == epoch)).scalar_one_or_none() or 0)


def _joined(payloads: Mapping[str, bytes]) -> bytes:
    """Return payloads, which are of one length, in the order of their names."""
    return b"".join(payloads[name] for name in sorted(payloads))


def _parted(data: bytes, names: list[str]) -> dict[str, bytes]:
    size = len(data) // len(names)
    return {name: data[at * size : (at + 1) * size] for at, name in enumerate(names)}
