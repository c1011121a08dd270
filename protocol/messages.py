"""What coordinator and members say to each other: frozen messages, and which one answers which.

One class a message. How they travel as Flower records is in ``records.py``. A field that is declared a
:class:`RawEnvelope` accepts nothing but an envelope, so a plaintext update is refused by type at both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .envelope import RawEnvelope

MAX_EPOCH = 1 << 53
Shared = Literal["schema", "task", "package", "layout", "start"]


class Attachment(BaseModel):
    """Base of what goes along with a message, whatever that is about: strict, frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Body(BaseModel):
    """Base of all messages: strict, frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)
    kind: ClassVar[str]


Q = TypeVar("Q", bound=Body)
A = TypeVar("A", bound=Body)


class Shown(Attachment):
    """What the coordinator shows of its log with every message.

    Attributes:
        checkpoint: its newest one, a signed note.
        key: that signs it, as text.
        since: the entries of the checkpoint that this member is believed to hold; 0 for none.
        proof: that the log only grew since then: Merkle hashes in hex (RFC 9162 section 2.1.4).
    """

    checkpoint: str
    key: str
    since: int = Field(ge=0)
    proof: list[str] = Field(max_length=128)


class Witnessed(Attachment):
    """What a member says of the log with every reply: the newest checkpoint that it holds, countersigned by it."""

    checkpoint: str


class Refusal(Body):
    """A member's answer when it does not do what it was asked: a code, never an exception's text (rule 12)."""

    kind = "refusal"
    code: str = Field(pattern=r"^[a-z_]+\.[a-z_]+$", max_length=64)


class Enrol(Body):
    """May this run take place at your node?"""

    kind = "enrol"
    run: str
    offer: dict[str, Any]


class Enrolled(Body):
    """The member's card, and what all members must share.

    Attributes:
        agreed: digests by field: schema, task, package, layout, start.
        sizes: by purpose: parameters of an update, or how many whole numbers.
        epoch: newest one of which this member holds keys; the next is beyond it.
    """

    kind = "enrolled"
    card: dict[str, Any]
    epoch: int = Field(ge=0, le=MAX_EPOCH)
    agreed: dict[Shared, str]
    sizes: dict[str, int] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _whole(self) -> Enrolled:
        if len(self.agreed) != 5 or min(self.sizes.values()) < 0:
            raise ValueError("a digest or size is missing")
        return self


class MakeDeals(Body):
    """Asks a member to deal an epoch's keys to every member of the roster."""

    kind = "make_deals"
    run: str
    epoch: int
    roster: list[dict[str, Any]]


class Deals(Body):
    """One wrapped deal and one signature for each member.

    Attributes:
        ciphertexts, signatures: by recipient.
    """

    kind = "deals"
    ciphertexts: dict[str, bytes]
    signatures: dict[str, bytes]


class TakeDeal(Body):
    """Delivers all deals for a member.

    Attributes:
        ciphertexts, signatures: by dealer.
    """

    kind = "take_deal"
    run: str
    epoch: int
    roster: list[dict[str, Any]]
    ciphertexts: dict[str, bytes]
    signatures: dict[str, bytes]


class DealAnswer(Body):
    """The member's signed answer to its deals.

    Attributes:
        answer: a MAC that all members compare.
    """

    kind = "deal_answer"
    answer: str
    signature: str


class Confirm(Body):
    """Relays all answers; a member seals only after they agree."""

    kind = "confirm"
    run: str
    epoch: int
    answers: dict[str, dict[str, Any]]


class Done(Body):
    """Nothing to say but yes."""

    kind = "done"


class RoundRequest(Body):
    """Base of what is asked in a round.

    Attributes:
        run, epoch: which agreement and keys it is under.
        number, round, purpose, base, clip, checkpoint: the round's own part of the RoundContext; the member knows the
            rest.
    """

    run: str
    epoch: int
    number: int
    round: int
    purpose: str
    base: str
    clip: float
    checkpoint: str


class Seal(RoundRequest):
    """Asks for a sealed vector: statistics, an update trained from ``base``, or tallies of ``base``.

    Attributes:
        model: the base's file; empty for statistics.
        proof: what proves the base (rule 3); empty where the base is the agreed start vector.
    """

    kind = "seal"
    model: bytes
    proof: dict[str, Any]


class Sealed(Body):
    """The member's envelope.

    Attributes:
        clipped_share: share of the update's parameters that the clip cut, in steps of 0.05.
        seal_s: seconds it took to quantise, encrypt and serialise.
    """

    kind = "sealed"
    envelope: RawEnvelope
    clipped_share: float = Field(ge=0, le=1)
    seal_s: float = Field(ge=0)


class Open(RoundRequest):
    """Asks members of set A to open a sum and, for an update, to vote on the candidate.

    Attributes:
        members: set A, sorted.
        headers, signatures: each member's signed envelope header.
        seeds: each member's seeds, whose digest its header signs.
        total: the sealed sum: residues without seeds.
        best: SHA-256 of the best promoted version, the gate's reference.
        upload: whether this member shall send the result along.
    """

    kind = "open"
    members: list[str]
    headers: dict[str, bytes]
    signatures: dict[str, bytes]
    seeds: dict[str, bytes]
    total: bytes
    best: str
    upload: bool


class Opened(Body):
    """An opener's signed statement about the result, its vote, and the result itself if it was asked for it.

    Attributes:
        statement: canonical bytes, the same from every opener (see ``crypto.statement``).
        vote: relative worsening of the member's validation metric, clipped to ±1; None to abstain.
        vote_signature: over the result, the version it was compared with, and the vote.
    """

    kind = "opened"
    statement: bytes
    signature: bytes
    vote: float | None = Field(ge=-1, le=1)
    vote_signature: bytes
    result: bytes
    open_s: float = Field(ge=0)


@dataclass(frozen=True)
class Route(Generic[Q, A]):
    """A kind of exchange.

    Attributes:
        name: Flower's message type.
        request: what is asked.
        reply: what an answer is.
    """

    name: str
    request: type[Q]
    reply: type[A]


ENROL = Route("query.enrol", Enrol, Enrolled)
MAKE_DEALS = Route("query.make_deals", MakeDeals, Deals)
TAKE_DEAL = Route("query.take_deal", TakeDeal, DealAnswer)
CONFIRM = Route("query.confirm", Confirm, Done)
SEAL = Route("train.seal", Seal, Sealed)
OPEN = Route("evaluate.open", Open, Opened)
ROUTES: dict[str, Route[Any, Any]] = {
    route.name: route for route in (ENROL, MAKE_DEALS, TAKE_DEAL, CONFIRM, SEAL, OPEN)
}
