"""An epoch's keys: one member deals, all confirm that they hold the same (rule 8).

The dealer makes the epoch's HE key and a 32-byte epoch secret, wraps both for each member's card and signs every
deal over federation, epoch, roster, parameters, recipient and ciphertext, because encryption to a card
authenticates only its receiver. Each member answers with a signed MAC of what it got; nobody seals before the
answers of all members agree. The coordinator relays, and sees no key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...canonical import canonical, digest
from ...errors import Refused
from ..identity import Identity, Roster, b64, unb64
from ..planner import Plan
from .secret import SecretKey, generate

SECRET_BYTES = 32


@dataclass(frozen=True)
class EpochTerms:
    """What an epoch is agreed over; part of every deal and answer.

    Attributes:
        federation: its name.
        epoch: counts up from 1.
        roster: roster digest.
        crypto: digest of the plan.
    """

    federation: str
    epoch: int
    roster: str
    crypto: str

    @classmethod
    def of(cls, federation: str, epoch: int, roster: Roster, plan: Plan) -> EpochTerms:
        """Return the terms of an epoch of this roster under this plan."""
        return cls(federation, epoch, roster.digest, digest(plan.as_dict()))

    def bytes(self, kind: str, **more: Any) -> bytes:
        """Return the canonical bytes of these terms for one use."""
        return canonical({"kind": kind, **vars(self), **more})


@dataclass(frozen=True)
class Deal:
    """One member's wrapped keys, signed by the dealer."""

    dealer: str
    recipient: str
    ciphertext: bytes
    signature: bytes


@dataclass(frozen=True)
class EpochKey:
    """What a member holds for an epoch. Its ``repr`` shows no key."""

    terms: EpochTerms
    he_key: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"EpochKey(epoch={self.terms.epoch})"

    def answer(self) -> str:
        """Return the MAC that all members compare: keyed by the epoch secret, over terms and HE key."""
        body = self.terms.bytes("answer", he_key=hashlib.sha256(self.he_key).hexdigest())
        return hmac.new(self.secret, body, hashlib.sha256).hexdigest()


def deal(dealer: Identity, terms: EpochTerms, roster: Roster, plan: Plan) -> list[Deal]:
    """Return a deal for every member of the roster, the dealer's own included."""
    payload = secrets.token_bytes(SECRET_BYTES) + generate(plan)
    deals = []
    for card in roster.cards:
        ciphertext = card.wrap(payload, terms.bytes("wrap", recipient=card.name))
        signature = dealer.sign("deal", _dealt(terms, dealer.name, card.name, ciphertext))
        deals.append(Deal(dealer.name, card.name, ciphertext, signature))
    return deals


def receive(identity: Identity, terms: EpochTerms, roster: Roster, plan: Plan, deal: Deal) -> EpochKey:
    """Return the keys in a deal, after checking who dealt them and that they work.

    Raises:
        Refused: ``circle.card``: not signed by a member of the roster, for another member, or no such key.
    """
    if deal.recipient != identity.name:
        raise Refused("circle.card", f"the deal is for {deal.recipient!r}")
    body = _dealt(terms, deal.dealer, deal.recipient, deal.ciphertext)
    if deal.dealer not in roster.names or not roster.card(deal.dealer).node.verify("deal", body, circle.card):
        raise Refused("circle.card", "the deal is not signed by a member of the roster")
    payload = identity.unwrap(deal.ciphertext, terms.bytes("wrap", recipient=identity.name))
    secret, he_key = payload[:SECRET_BYTES], payload[SECRET_BYTES:]
    SecretKey(plan, he_key)  # or it would not load
    return EpochKey(terms, he_key, secret)


def sign_answer(identity: Identity, key: EpochKey) -> dict[str, str]:
    """Return the member's signed answer, for all others to compare."""
    answer = key.answer()
    signature = identity.sign("answer", key.terms.bytes("answer", member=identity.name, answer=answer))
    return {"answer": answer, "signature": b64(signature)}


def confirm(key: EpochKey, roster: Roster, answers: Mapping[str, Mapping[str, str]]) -> None:
    """Check that every member of the roster signed the same answer as this member's own.

    Raises:
        Refused: ``deal.disagree`` names the first member that did not; ``circle.card``.
    """
    own = key.answer()
    for card in roster.cards:
        answer = answers.get(card.name, {})
        value = str(answer.get("answer", ""))
        try:
            signature = unb64(str(answer.get("signature", "")))
        except ValueError:
            signature = b""
        if not card.node.verify("answer", key.terms.bytes("answer", member=card.name, answer=value), signature):
            raise Refused("circle.card", f"the answer of {card.name!r} is missing or not signed by it")
        if not hmac.compare_digest(value.encode(), own.encode()):
            raise Refused("deal.disagree", f"{card.name!r} holds other keys for epoch {key.terms.epoch}")


def _dealt(terms: EpochTerms, dealer: str, recipient: str, ciphertext: bytes) -> bytes:
    return terms.bytes("deal", dealer=dealer, recipient=recipient, ciphertext=hashlib.sha256(ciphertext).hexdigest())
