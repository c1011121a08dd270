"""Circles as the coordinator keeps them: proposed, signed one by one, begun; and farewells. All of it is in the log.

The coordinator relays and decides nothing: a member believes signatures only, and counts its own days
(``client/standing.py``). The coordinator refuses only what no honest member would sign or believe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from sqlalchemy import Boolean, Column, Connection, Float, Integer, String, Table, func, select
from sqlalchemy.dialects.sqlite import insert

from ...canonical import canonical
from ...errors import InputError, Refused
from ...protocol.act import Act
from ...protocol.circle import SIGNATURE_DAYS, Circle, Farewell, Signature, SignedCircle, check_signature
from ...protocol.circle_board import CircleBoard
from ...store import by
from . import members as roster
from .database import metadata
from .log import Log
from .models import Models

DAY_S = 86400.0
JUMP = 100
MAX_PROPOSED = 16
"""Most circles that can wait for signatures at once."""
_circles = Table(
    "circles",
    metadata,
    Column("digest", String, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("document", String, nullable=False),  # canonical JSON
    Column("proposed_s", Float, nullable=False),
    Column("begun", Boolean, nullable=False),
)
_signatures = Table(
    "circle_signatures",
    metadata,
    Column("circle", String, primary_key=True),
    Column("member", String, primary_key=True),
    Column("document", String, nullable=False),
    Column("signed_s", Float, nullable=False),
    Column("turn", Integer, nullable=False),  # 1 for the first signature that came
)
_farewells = Table(
    "farewells",
    metadata,
    Column("circle", String, primary_key=True),
    Column("member", String, primary_key=True),
    Column("document", String, nullable=False),
)
_LIVING = select(_circles.c.digest).where(_circles.c.begun).order_by(_circles.c.number.desc()).limit(1)
_SIGNATURES = by(_signatures, "circle").order_by(_signatures.c.member)


def board(db: Connection, now: float) -> CircleBoard:
    """Return the living circle, the open proposals and the farewells."""
    column, living = _circles.c, living_circle(db)
    number = living.circle.number if living is not None else 0
    rows = db.execute(select(column.digest).where(column.number > number).order_by(column.number)).scalars()
    open_circles = tuple(signed(db, digest) for digest in rows if not _is_over(db, digest, now))
    words = select(_farewells.c.document).where(_farewells.c.circle == (living.circle.digest if living else ""))
    farewells = tuple(Farewell.parse(json.loads(text)) for text in db.execute(words).scalars())
    signed_numbers = select(func.max(column.number)).join(_signatures, _signatures.c.circle == column.digest)
    taken = db.execute(signed_numbers).scalar_one() or 0
    newest = max([taken, *(entry.circle.number for entry in open_circles)])
    return CircleBoard(living, open_circles, farewells, int(newest))


def living_circle(db: Connection) -> SignedCircle | None:
    """Return the circle that began last, with all signatures; None if none has begun."""
    digest = db.execute(_LIVING).scalar_one_or_none()
    return None if digest is None else signed(db, digest)


def living_digest(db: Connection) -> str:
    """Return the digest of the circle that began last; "" if none has begun."""
    return str(db.execute(_LIVING).scalar_one_or_none() or "")


def signed(db: Connection, digest: str) -> SignedCircle:
    """Return a circle with its signatures so far.

    Raises:
        Refused: ``circle.differs``: no circle has this digest.
    """
    kept = db.execute(by(_circles, "digest"), {"digest": digest}).one_or_none()
    if kept is None:
        raise Refused("circle.differs", f"no circle {digest[:16]} at this server")
    rows = db.execute(_SIGNATURES, {"circle": digest})
    return SignedCircle(_parsed(kept.document), {row.member: Signature.parse(json.loads(row.document)) for row in rows})


@lru_cache(maxsize=64)
def _parsed(document: str) -> Circle:
    """Return a circle from its document, which was checked when it was kept. Pages and runs use the same few."""
    return Circle.parse(json.loads(document))


def propose(db: Connection, log: Log, circle: Circle, now: float) -> None:
    """Keep a proposed circle. Proposing it again changes nothing.

    Raises:
        Refused: ``circle.changed``: the number is taken or too high, or too many circles wait for signatures.
    """
    if db.execute(select(_circles.c.digest).where(_circles.c.digest == circle.digest)).first() is not None:
        return
    there = board(db, now)
    expected = there.newest + 1
    if not expected <= circle.number <= expected + JUMP:  # a proposal must not use the numbers up
        span = f"a number from {expected} to {expected + JUMP}"
        raise Refused("circle.changed", f"circle {circle.number}: expected {span}")
    if len(there.proposed) >= MAX_PROPOSED:
        raise Refused("circle.changed", f"{MAX_PROPOSED} circles wait for signatures already, the most allowed")
    row = {"digest": circle.digest, "number": circle.number, "proposed_s": now, "begun": False}
    db.execute(insert(_circles).values({**row, "document": canonical(circle.as_dict()).decode()}))
    words = Act.between(there.living.circle if there.living else None, circle).words()
    log.append(db, "circle_proposed", circle=circle.digest, document=circle.as_dict(), act=words)


def check_door(db: Connection, circle: Circle) -> None:
    """Check that every member of a circle is on this server's roster, with the pin that the circle has for it.

    Raises:
        Refused: ``circle.differs``: names the first member that is not.
    """
    known, revoked = {member.name: member.pin for member in roster.members(db)}, roster.revoked(db)
    for name, pin in circle.members:
        if name not in known:
            hint = "moonflower member add CARD, at the server"
            raise Refused("circle.differs", f"{name!r} is not on this server's roster", hint=hint)
        if known[name] != pin or name in revoked:
            what = "was revoked" if name in revoked else f"has the pin {known[name]} on the roster, not {pin}"
            raise Refused("circle.differs", f"{name!r} {what}", hint="moonflower member add CARD, at the server")


def check_start(db: Connection, models: Models, circle: Circle) -> None:
    """Check that the version from which a circle starts is here, is intact, and is the one that the circle names.

    Raises:
        Refused: ``base.unknown``.
    """
    start = circle.start
    if start is None:
        return
    promoted = any(entry.sha256 == start.sha256 and entry.verdict == "promoted" for entry in models.entries(db))
    if not (start.sha256 in models.imports(db) if start.imported else promoted):
        kind = "imported file" if start.imported else "promoted version"
        raise Refused("base.unknown", f"this server has no {kind} {start.sha256[:16]} to start from")
    try:
        version = models.read(start.sha256)
    except InputError as error:
        raise Refused("base.unknown", str(error)) from None
    if version.identity != start.identity:
        raise Refused("base.unknown", f"version {start.sha256[:16]} does not have the identity that the circle names")


def take_signature(db: Connection, log: Log, digest: str, member: str, signature: Signature, now: float) -> bool:
    """Keep a member's signature under a circle; return whether the circle begins with it.

    Raises:
        Refused: ``circle.differs``: it is not that member's, or the circle can no longer begin.
    """
    proposed = signed(db, digest)
    check_signature(proposed.circle, member, signature)
    row = {"circle": digest, "member": member, "document": canonical(signature.as_dict()).decode(), "signed_s": now}
    if member not in proposed.signatures:
        if _is_over(db, digest, now):
            what = f"circle {proposed.circle.number} can no longer begin; expected one that waits for signatures"
            raise Refused("circle.differs", what)
        turn = (db.execute(select(func.max(_signatures.c.turn))).scalar_one() or 0) + 1
        db.execute(insert(_signatures).values({**row, "turn": turn}))
        log.append(db, "circle_signed", member=member, circle=digest, **signature.as_dict())
    column = _circles.c
    begun = db.execute(select(column.begun).where(column.digest == digest)).scalar_one()
    if begun or signed(db, digest).missing or _is_over(db, digest, now):
        return False
    db.execute(_circles.update().where(column.digest == digest).values(begun=True))
    log.append(
        db, "circle_began", circle=digest, members=list(proposed.circle.names), circle_number=proposed.circle.number
    )
    return True


def take_farewell(db: Connection, log: Log, farewell: Farewell) -> None:
    """Keep a member's farewell to a circle.

    Raises:
        Refused: ``circle.differs``: it is not signed by a member of that circle.
    """
    left = signed(db, farewell.circle).circle
    if not farewell.is_from(farewell.name, left.pins.get(farewell.name, ""), left.digest):
        raise Refused("circle.differs", f"the farewell of {farewell.name!r} is not signed by a member of that circle")
    row = {"circle": farewell.circle, "member": farewell.name, "document": canonical(farewell.as_dict()).decode()}
    if db.execute(insert(_farewells).values(row).on_conflict_do_nothing()).rowcount:
        log.append(db, "farewell", member=farewell.name, circle=farewell.circle, **farewell.signed.as_dict())


def _is_over(db: Connection, digest: str, now: float) -> bool:
    """Return whether a circle that has not begun can no longer begin.

    That is so if a circle with this number or a higher one has begun, if the proposal or a signature is too old, or
    if a member that signed it signed a higher one later.
    """
    column = _circles.c
    rows = db.execute(select(column.digest, column.number, column.begun, column.proposed_s)).all()
    numbers: Mapping[str, int] = {row.digest: row.number for row in rows}
    if any(row.begun and row.number >= numbers[digest] for row in rows):
        return True
    if any(row.digest == digest and now - row.proposed_s > SIGNATURE_DAYS * DAY_S for row in rows):
        return True
    signatures = list(db.execute(select(_signatures)).all())
    mine = {row.member: row for row in signatures if row.circle == digest}
    if any(now - signature.signed_s > SIGNATURE_DAYS * DAY_S for signature in mine.values()):
        return True
    return any(
        row.member in mine and row.turn > mine[row.member].turn and numbers[row.circle] > numbers[digest]
        for row in signatures
    )
