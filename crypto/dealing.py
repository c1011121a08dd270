"""An epoch's deals in scheme ``threshold``: every member deals to every member (rule 8); see ``crypto.shamir``.

As in ``crypto.keys``: payloads are wrapped for the recipient's card and signed over the epoch's terms, here together
with what the dealer committed to; all members compare signed answers before anybody seals. The answer is a MAC over all
commitments under the epoch secret, to which every member gave a part, and check values: a dealer whose shares do not
fit each other is named (``deal.disagree``). The coordinator relays, and sees commitments and check values only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..canonical import digest
from ..errors import Refused
from .flood import ThresholdPlan
from .identity import Identity, Roster, b64, unb64
from .keys import Deal, EpochTerms
from .shamir import EpochShare


@dataclass(frozen=True)
class EpochShares:
    """What a member keeps of an epoch. Its ``repr`` shows no share.

    Attributes:
        terms: of the epoch.
        plan: its parameters.
        name: the member.
        own: what it keeps of its own deal.
        payloads: what it was dealt, by dealer.
        commitments: of each dealer to each payload, by dealer and recipient.
    """

    terms: EpochTerms
    plan: ThresholdPlan
    name: str
    own: bytes
    payloads: Mapping[str, bytes]
    commitments: Mapping[str, Mapping[str, str]]

    def __repr__(self) -> str:
        return f"EpochShares(epoch={self.terms.epoch})"

    @cached_property
    def held(self) -> EpochShare:
        """The shares, checked against what was committed to.

        Raises:
            Refused: ``deal.signature``.
        """
        names = tuple(sorted(self.payloads))
        return EpochShare(self.plan, names, self.name, self.own, self.payloads, self.commitments)


def wrap(
    identity: Identity, terms: EpochTerms, roster: Roster, payloads: Mapping[str, bytes], commitments: Mapping[str, str]
) -> list[Deal]:
    """Return a member's deals to all members, its own included: wrapped and signed."""
    deals = []
    for card in roster.cards:
        ciphertext = card.wrap(payloads[card.name], terms.bytes("wrap", recipient=card.name, dealer=identity.name))
        signature = identity.sign("deal", _dealt(terms, identity.name, card.name, ciphertext, commitments))
        deals.append(Deal(identity.name, card.name, ciphertext, signature))
    return deals


def receive(
    identity: Identity,
    terms: EpochTerms,
    roster: Roster,
    plan: ThresholdPlan,
    own: bytes,
    deals: Mapping[str, Deal],
    commitments: Mapping[str, Mapping[str, str]],
) -> EpochShares:
    """Return what a member holds after all members' deals to it.

    Args:
        identity: the member.
        terms: of the epoch.
        roster: its members.
        plan: its parameters.
        own: what it kept when it dealt.
        deals: by dealer, its own included.
        commitments: as they came, by dealer and recipient.

    Raises:
        Refused: ``deal.signature``: a deal is missing, not signed by its dealer, for another member, or not what was
            committed to; the sentence names the dealer.
    """
    if not {*deals} == {*commitments} == {*roster.names}:
        raise Refused("deal.signature", "the deals are not of exactly the members of the roster")
    payloads = {}
    for card in roster.cards:
        deal, said = deals[card.name], commitments[card.name]
        body = _dealt(terms, card.name, identity.name, deal.ciphertext, said)
        if not card.node.verify("deal", body, deal.signature):
            raise Refused("deal.signature", f"the deal of {card.name!r} is not signed by it over these terms")
        info = terms.bytes("wrap", recipient=identity.name, dealer=card.name)
        payloads[card.name] = identity.unwrap(deal.ciphertext, info)
    shares = EpochShares(terms, plan, identity.name, own, payloads, commitments)
    assert shares.held.name == identity.name  # reading them is the check
    return shares


def sign_answer(identity: Identity, shares: EpochShares) -> dict[str, Any]:
    """Return the member's signed answer, for all others to compare: a MAC of all deals, and check values."""
    answer = shares.held.answer()
    return {**answer, "signature": b64(identity.sign("answer", _answered(shares.terms, identity.name, answer)))}


def confirm(shares: EpochShares, roster: Roster, answers: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that every member signed its answer, that all hold the same deals, and that no dealer's contradict.

    Raises:
        Refused: ``deal.signature``; ``deal.disagree``, with the dealer's name.
    """
    for card in roster.cards:
        answer = dict(answers.get(card.name, {}))
        try:
            signature = unb64(str(answer.pop("signature", "")))
        except ValueError:
            signature = b""
        if not card.node.verify("answer", _answered(shares.terms, card.name, answer), signature):
            raise Refused("deal.signature", f"the answer of {card.name!r} is missing or not signed by it")
    shares.held.confirm(answers)


def _answered(terms: EpochTerms, member: str, answer: Mapping[str, Any]) -> bytes:
    said = {"answer": str(answer.get("answer", "")), "checks": digest(answer.get("checks"))}
    return terms.bytes("answer", member=member, **said)


def _dealt(terms: EpochTerms, dealer: str, recipient: str, ciphertext: bytes, commitments: Mapping[str, str]) -> bytes:
    body = {"ciphertext": hashlib.sha256(ciphertext).hexdigest(), "commitments": digest(dict(commitments))}
    return terms.bytes("deal", dealer=dealer, recipient=recipient, **body)
