"""Checks, without the coordinator, that a model file is a released version, from its model card and the members' pins.

The model card came with the file, from a party that is not trusted. Only its signed parts count:

1. the members' cards, signed by node keys whose pins the reader holds. All others are ignored.
2. the openers' statement: members together made the version with exactly these bytes, and every member signed it.
3. the approvals: as many members as the reader asks for, each with a key on its own card, signed this digest, for one
   federation, one action and one place in the log.

This check cannot show that the version was not rejected or replaced since. Only the log shows that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..crypto.identity import Card, parse_card
from ..errors import Refused
from .approval import Decision, SignedDecision, counted
from .model_version import Version
from .purposes import UPDATE
from .statement import Proof, Statement


@dataclass(frozen=True)
class Checked:
    """What the check found out about a file.

    Attributes:
        federation: the federation whose version it is.
        openers: the pinned members that made the version together and signed it.
        approvals: the decisions that released it.
    """

    federation: str
    openers: tuple[str, ...]
    approvals: tuple[Decision, ...]


def check(version: Version, card: Any, pins: Mapping[str, str], *, min_approvals: int, min_openers: int = 2) -> Checked:
    """Return what is proved about a version, if it was released.

    Args:
        version: the file.
        card: its model card, as parsed JSON. It is not trusted and may be anything.
        pins: member → pin, of the members that the reader knows.
        min_approvals: how many members' approvers must have signed.
        min_openers: how many pinned members must have signed the opening. Nothing is known of the other members.

    Raises:
        Refused: ``release.unreleased``: the file is marked so, or has too few valid approvals; ``release.digest``: the
            card is about another file; ``release.malformed``: not a model card; ``base.unknown``: members did not make
            the version.
    """
    if version.unreleased:
        raise Refused("release.unreleased", "the file is marked as not released")
    try:
        sha256 = card["sha256"]
        cards, proof, by = list(card["cards"]), Proof.from_dict(card["proof"]), card["release"]["by"]
        listed = [] if by is None else list(by["approvals"])
        signed = [
            SignedDecision.from_dict({name: approval[name] for name in ("decision", "signature")})
            for approval in listed
        ]
    except (Refused, KeyError, TypeError, ValueError, AttributeError):
        raise Refused("release.malformed", "not a moonflower model card") from None
    if sha256 != version.sha256:
        raise Refused("release.digest", f"the card is about {sha256!r}, the file is {version.sha256}")
    known = _pinned(cards, pins)
    statement, openers = _opened(proof, known)
    if statement.sha256 != version.sha256 or statement.purpose != UPDATE.name or not statement.in_range:
        raise Refused("base.unknown", "what the openers signed is not this version")
    if len(openers) < min_openers:
        raise Refused("base.unknown", f"{len(openers)} pinned members signed the version; expected {min_openers}")
    approvals = _approvals(signed, known, statement.federation, version.sha256)
    if len(approvals) < min_approvals:
        got = f"approvers of {len(approvals)} pinned members signed for it"
        raise Refused("release.unreleased", f"{got}; expected {min_approvals}")
    return Checked(statement.federation, openers, approvals)


def _opened(proof: Proof, known: Mapping[str, Card]) -> tuple[Statement, tuple[str, ...]]:
    """Return the statement and the pinned members of the sum, all of whom must have signed it.

    Raises:
        Refused: ``base.unknown``.
    """
    try:
        statement = Statement.parse(proof.statement)
        openers = tuple(name for name in statement.members if name in known)
        if {*proof.words} != {*statement.members}:
            raise Refused("base.unknown", "not signed by every member of the sum")
        for name in openers:
            proof.words[name].check(known[name], proof.statement, proof.best)
    except Refused as error:
        raise Refused("base.unknown", f"the openers' statement: {error}") from None
    return statement, openers


def _pinned(cards: list[Any], pins: Mapping[str, str]) -> dict[str, Card]:
    """Return member → card, for the cards that carry the pin that the reader holds."""
    pinned = {}
    for raw in cards:
        try:
            card = parse_card(raw)
        except Refused:
            continue
        if pins.get(card.name) == card.node.pin:
            pinned[card.name] = card
    return pinned


def _approvals(
    signed: list[SignedDecision], cards: Mapping[str, Card], federation: str, sha256: str
) -> tuple[Decision, ...]:
    """Return the largest set of decisions that count and agree on action and place in the log."""
    best: tuple[SignedDecision, ...] = ()
    for entry in signed:
        try:
            decision = Decision.parse(entry.data)
        except Refused:
            continue
        if decision.action != "reject":
            agreeing = counted(
                signed, cards, federation=federation, action=decision.action, sha256=sha256, after=decision.after
            )
            best = max(best, agreeing, key=len)
    return tuple(Decision.parse(entry.data) for entry in best)
