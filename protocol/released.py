"""Checking, without the coordinator, that a model file is a released version: from its card and the members' pins.

The card came from whoever handed the file over. Of what it says nothing counts but what carries signatures:

1. the members' cards, signed by node keys whose pins the reader holds; all others are left aside;
2. the openers' statement: members made the version with exactly these bytes together, and everybody signed it;
3. the approvals: as many members as the reader asks for, each with a key on its own card, signed this digest, for one
   federation, one action and one place in the log.

What it cannot show: that nobody rejected the version or released another one since. That stands in the log only.
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
    """What was found to be true of a file.

    Attributes:
        federation: whose version it is.
        openers: members that made it together and signed it.
        approvals: decisions that released it.
    """

    federation: str
    openers: tuple[str, ...]
    approvals: tuple[Decision, ...]


def check(version: Version, card: Any, pins: Mapping[str, str], *, min_approvals: int, min_openers: int = 2) -> Checked:
    """Return what is true of a version, if it was released.

    Args:
        version: the file.
        card: its model card, as parsed JSON; anything, in the hands of a stranger.
        pins: member → pin, of those whom the reader knows.
        min_approvals: members whose approvers must have signed.
        min_openers: pinned members that must have signed the opening; of the others nothing is known.

    Raises:
        Refused: ``release.unreleased``: the file is marked so, or too few approvals are right; ``release.digest``: the
            card is about another file; ``release.malformed``: no card; ``base.unknown``: members did not make it.
    """
    if version.unreleased:
        raise Refused("release.unreleased", "the file is marked as not released")
    try:
        sha256 = card["sha256"]
        cards, proof, by = list(card["cards"]), Proof.from_dict(card["proof"]), card["release"]["by"]
        listed = [] if by is None else list(by["approvals"])
        signed = [SignedDecision.from_dict({name: one[name] for name in ("decision", "signature")}) for one in listed]
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
        found = f"approvers of {len(approvals)} pinned members signed for it"
        raise Refused("release.unreleased", f"{found}; expected {min_approvals}")
    return Checked(statement.federation, openers, approvals)


def _opened(proof: Proof, known: Mapping[str, Card]) -> tuple[Statement, tuple[str, ...]]:
    """Return the statement, and which pinned members of the sum signed it: all of them, or it is none.

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
    """Return member → card, of those whose card carries the pin that the reader holds."""
    found = {}
    for value in cards:
        try:
            card = parse_card(value)
        except Refused:
            continue
        if pins.get(card.name) == card.node.pin:
            found[card.name] = card
    return found


def _approvals(
    signed: list[SignedDecision], cards: Mapping[str, Card], federation: str, sha256: str
) -> tuple[Decision, ...]:
    """Return the most decisions that agree on action and place in the log, and count."""
    best: tuple[SignedDecision, ...] = ()
    for one in signed:
        try:
            said = Decision.parse(one.data)
        except Refused:
            continue
        if said.action != "reject":
            agreeing = counted(
                signed, cards, federation=federation, action=said.action, sha256=sha256, after=said.after
            )
            best = max(best, agreeing, key=len)
    return tuple(Decision.parse(one.data) for one in best)
