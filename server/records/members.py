"""Who may take part: members with their OAuth client and pin. Adding and revoking are entries of the log.

It also keeps the newest card of every member that was seen, with the keys of its witness and its approvers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, Column, Connection, String, Table, select
from sqlalchemy.dialects.sqlite import insert

from ...canonical import canonical
from ...crypto.identity import Card, parse_card
from ...errors import InputError, Refused, nearest
from ...store import by, put
from .database import metadata
from .log import Log
from .reasons import check_reason

_members = Table(
    "members",
    metadata,
    Column("name", String, primary_key=True),
    Column("issuer", String, nullable=False),
    Column("client_id", String, nullable=False),
    Column("pin", String, nullable=False),
    Column("revoked", Boolean, nullable=False),
)
_cards = Table("cards", metadata, Column("name", String, primary_key=True), Column("card", String, nullable=False))
_BY_NAME, _CARDS = select(_members).order_by(_members.c.name), select(_cards.c.card)


@dataclass(frozen=True)
class RosterMember:
    """One member.

    Attributes:
        name: its name.
        issuer, client_id: the OAuth client of its node.
        pin: RFC 7638 thumbprint of its node key.
        revoked: it may no longer take part; its name stays taken.
    """

    name: str
    issuer: str
    client_id: str
    pin: str
    revoked: bool = False


def members(db: Connection) -> list[RosterMember]:
    """Return all members by name, including revoked ones."""
    return [RosterMember(**row._asdict()) for row in db.execute(_BY_NAME)]


def pins(db: Connection) -> dict[str, str]:
    """Return name → pin of the members that may take part."""
    return {member.name: member.pin for member in members(db) if not member.revoked}


def revoked(db: Connection) -> frozenset[str]:
    """Return the names of revoked members."""
    return frozenset(member.name for member in members(db) if member.revoked)


def keep_card(db: Connection, card: Mapping[str, Any]) -> None:
    """Keep a member's card in place of its earlier one. The caller has compared the pin."""
    db.execute(put(_cards), {"name": card["name"], "card": canonical(card).decode()})


def take_card(db: Connection, log: Log, card: Mapping[str, Any]) -> None:
    """Keep a card that an operator entered. A new card is logged, because it says whose approvals count."""
    kept = db.execute(by(_cards, "name"), {"name": card["name"]}).one_or_none()
    if kept is None or kept.card != canonical(card).decode():
        keep_card(db, card)
        log.append(db, "card_taken", member=card["name"], card=dict(card))


def cards(db: Connection, *, of_all: bool = False) -> dict[str, Card]:
    """Return name → newest card of members that may take part; with ``of_all`` also of those that left."""
    gone = frozenset[str]() if of_all else revoked(db)
    kept = [_kept(text) for text in db.execute(_CARDS).scalars()]
    return {card.name: card for card in kept if card is not None and card.name not in gone}


def _kept(text: str) -> Card | None:
    """Return a card on record; None if it would not be taken now. Its member sends another one when it enrols."""
    try:
        return parse_card(json.loads(text))
    except Refused:
        return None


def by_client(db: Connection, issuer: str, client_id: str) -> RosterMember | None:
    """Return the member that an OAuth client belongs to, even if it is revoked."""
    client = {"issuer": issuer, "client_id": client_id}
    row = db.execute(by(_members, *client), client).one_or_none()
    return None if row is None else RosterMember(**row._asdict())


def add(db: Connection, log: Log, new: RosterMember) -> bool:
    """Add a member, or readmit a revoked one, with a new key if it has one; return False if it is there already.

    Raises:
        InputError: ``config.member``: name, client or pin belong to another member.
    """
    readmitted = False
    for known in members(db):
        if known == new:
            return False
        shared = [
            field
            for field, same in (
                ("name", known.name == new.name),
                ("client_id", (known.issuer, known.client_id) == (new.issuer, new.client_id)),
                ("pin", known.pin == new.pin),
            )
            if same
        ]
        if known.revoked and known.name == new.name:
            readmitted = True
            continue
        if shared and known.revoked:
            raise InputError(
                "config.member",
                f"{shared[0]} of {new.name!r} belonged to member {known.name!r}, now revoked; expected a new one",
            )
        if shared:
            raise InputError("config.member", f"{shared[0]} of {new.name!r} already belongs to member {known.name!r}")
    if readmitted:
        db.execute(_members.delete().where(_members.c.name == new.name))
    db.execute(insert(_members).values(**vars(new)))
    log.append(db, "member_added", member=new.name, pin=new.pin, issuer=new.issuer, client_id=new.client_id)
    return True


def revoke(db: Connection, log: Log, name: str, reason: str) -> None:
    """Revoke a member: its requests are refused from now on. Runs wait until it is readmitted or let go.

    Raises:
        InputError: ``config.member``: no such member, or already revoked; ``config.reason``: the reason is not allowed.
    """
    reason = check_reason(reason)
    known = {member.name: member for member in members(db)}
    if name not in known or known[name].revoked:
        present = [member.name for member in known.values() if not member.revoked]
        what = "is already revoked" if name in known else "is not on the roster"
        raise InputError("config.member", f"member {name!r} {what}; {nearest(name, present)}")
    db.execute(_members.update().where(_members.c.name == name).values(revoked=True))
    log.append(db, "member_revoked", member=name, reason=reason)
