"""Checking, without the coordinator, that a model file is a released version: from its card and the members' pins.

The card came from whoever handed the file over. Of what it says nothing counts but what carries signatures:

1. the members' cards, signed by node keys whose pins the reader holds; all others are left aside;
2. the openers' statement: members made the version with exactly these bytes together, and a quorum signed it;
3. the approvals: as many members as the reader asks for, each with a key on its own card, signed this digest, for one
   federation, one action and one place in the log.

What it cannot show: that nobody rejected the version or released another one since. That stands in the log only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..crypto.identity import Card, Roster, parse_card
from ..errors import Refused
from .approval import Decision, SignedDecision, counted
from .model_version import Version
from .purposes import UPDATE
from .statement import Proof, quorum


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


def check(version: Version, card: Any, pins: Mapping[str, str], *, min_approvals: int, min_quorum: int = 2) -> Checked:
    """Return what is true of a version, if it was released.

    Args:
        version: the file.
        card: its model card, as parsed JSON; anything, in the hands of a stranger.
        pins: member → pin, of those whom the reader knows.
        min_approvals: members whose approvers must have signed.
        min_quorum: members that must have signed the opening, whatever the run asked for.

    Raises:
        Refused: ``release.unreleased``: the file is marked so, or too few approvals are right; ``release.digest``: the
            card is about another file; ``release.malformed``: no card; ``base.unproved``: members did not make it.
    """
    if version.unreleased:
        raise Refused("release.unreleased", "the file is marked as not released")
    try:
        sha256, wanted = card["sha256"], card["crypto"]["open_quorum"]
        cards, proof, by = list(card["cards"]), Proof.from_dict(card["proof"]), card["release"]["by"]
        listed = [] if by is None else list(by["approvals"])
        signed = [SignedDecision.from_dict({name: one[name] for name in ("decision", "signature")}) for one in listed]
        if type(wanted) is not int:
            raise ValueError("no number")
    except (Refused, KeyError, TypeError, ValueError, AttributeError):
        raise Refused("release.malformed", "the model card is not one of moonflower's") from None
    if sha256 != version.sha256:
        raise Refused("release.digest", f"the card is about {sha256!r}, the file is {version.sha256}")
    known = _pinned(cards, pins)
    statement = proof.verify(Roster(tuple(known[name] for name in sorted(known))), wanted)
    if statement.sha256 != version.sha256 or statement.purpose != UPDATE.name or not statement.in_range:
        raise Refused("base.unproved", "what the openers signed is not this version")
    if quorum(statement.members, wanted) < min_quorum:
        raise Refused("base.unproved", f"fewer than {min_quorum} signatures prove the version")
    approvals = _approvals(signed, known, statement.federation, version.sha256)
    if len(approvals) < min_approvals:
        found = f"approvers of {len(approvals)} pinned members signed for it"
        raise Refused("release.unreleased", f"{found}; expected {min_approvals}")
    openers = [
        name
        for name in statement.members
        if name in known and known[name].node.verify("opened", proof.statement, proof.signatures.get(name, b""))
    ]
    return Checked(statement.federation, tuple(openers), approvals)


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
