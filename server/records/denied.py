"""Who may not come in, whatever its token says: OAuth clients and subjects that this server shut out.

The issuer revokes a client when it gets round to it, and tokens that are out live on. What stands here counts at the
next request. Members have their own list (``members.py``); this one is for desks, programs and people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Column, Connection, String, Table, select

from ...errors import InputError, nearest
from ...store import put
from .database import metadata
from .log import Log
from .pseudonyms import Pseudonyms
from .reasons import check_reason

Kind = Literal["client", "subject"]
MOST_NAME = 256

_denied = Table(
    "denied",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
)
_ALL = select(_denied).order_by(_denied.c.kind, _denied.c.name)


@dataclass(frozen=True)
class Denied:
    """One that may not come in.

    Attributes:
        kind: whether ``name`` is an OAuth client or a subject.
        name: as tokens write it.
    """

    kind: Kind
    name: str


def denied(db: Connection) -> list[Denied]:
    """Return all that may not come in."""
    return [Denied(**row._asdict()) for row in db.execute(_ALL)]


def is_denied(db: Connection, client: str, subject: str) -> bool:
    """Return whether a token's client or subject was shut out."""
    asked = {("client", client), ("subject", subject)}
    return any((one.kind, one.name) in asked for one in denied(db))


def deny(db: Connection, log: Log, who: Denied, reason: str, names: Pseudonyms) -> None:
    """Shut a client or a subject out: its requests are refused from now on, and its sessions end.

    Raises:
        InputError: ``config.value``: the name is empty or too long, or is shut out already; ``config.reason``.
    """
    reason = check_reason(reason)
    if not 0 < len(who.name) <= MOST_NAME or not who.name.isprintable():
        raise InputError("config.value", f"expected the name of a {who.kind}, 1 to {MOST_NAME} printable characters")
    if who in denied(db):
        raise InputError("config.value", f"{who.kind} {who.name!r} is shut out already")
    db.execute(put(_denied), vars(who))
    log.append(db, "access_denied", kind=who.kind, name=names.of(who.kind, who.name), reason=reason)


def allow(db: Connection, log: Log, who: Denied, names: Pseudonyms) -> None:
    """Let a client or a subject in again.

    Raises:
        InputError: ``config.value``: it is not shut out.
    """
    present = denied(db)
    if who not in present:
        known = [one.name for one in present if one.kind == who.kind]
        raise InputError("config.value", f"{who.kind} {who.name!r} is not shut out; {nearest(who.name, known)}")
    db.execute(_denied.delete().where(_denied.c.kind == who.kind, _denied.c.name == who.name))
    log.append(db, "access_allowed", kind=who.kind, name=names.of(who.kind, who.name))
