"""The messages between coordinator and members, and which message answers which.

Each message is a frozen class. ``records.py`` has their form as Flower records. A field declared a
:class:`RawEnvelope` accepts nothing but an envelope, so a plaintext update is refused by type at both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..configs.training import MOST_CHOICES
from .envelope import RawEnvelope

Shared = Literal["circle", "schema", "task", "package", "layout", "start"]
SHARED: tuple[Shared, ...] = ("circle", "schema", "task", "package", "layout", "start")
MAX_TENSORS = 10_000


class Attachment(BaseModel):
    """Base of what travels along with any message: strict, frozen, no unknown fields."""

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
        checkpoint: its newest checkpoint, a signed note.
        key: the key that signs it, as text.
        since: size of the checkpoint that this member is believed to hold; 0 for none.
        proof: that the log only grew since then: Merkle hashes in hex (RFC 9162 section 2.1.4).
    """

    checkpoint: str
    key: str
    since: int = Field(ge=0)
    proof: list[str] = Field(max_length=128)


class Witnessed(Attachment):
    """What a member says of the log with every reply: the newest checkpoint that it holds, countersigned."""

    checkpoint: str


class Refusal(Body):
    """A member's reply if it refuses a request: a code, never an exception's text (rule 12)."""

    kind = "refusal"
    code: str = Field(pattern=r"^[a-z_]+\.[a-z_]+$", max_length=64)


class Enrol(Body):
    """Asks a member to take part in a run.

    Attributes:
        run: identifier.
        circle: the run's circle, with the signatures of all its members (``SignedCircle``).
        seed, rounds: of the run.
        start: SHA-256 of the version of the circle from which the run starts; "" for the circle's own start.
        choice: which server optimiser of the recipe it uses, see :meth:`Circle.offer`.
    """

    kind = "enrol"
    run: str
    circle: dict[str, Any]
    seed: int = Field(ge=0, lt=2**63)
    rounds: int = Field(ge=1, le=100_000)
    start: str = Field(pattern=r"^([0-9a-f]{64})?$")
    choice: int = Field(ge=0, le=MOST_CHOICES)


class Enrolled(Body):
    """The member's card, and the digests that all members must share.

    Attributes:
        agreed: digests by field, all of :data:`SHARED`.
        frozen: digest of each tensor that does not travel, by its name.
        sizes: by purpose: the number of an update's parameters, or of whole numbers.
        key: digest of the circle's key that this member holds; "" if it holds none.
    """

    kind = "enrolled"
    card: dict[str, Any]
    agreed: dict[Shared, str]
    frozen: dict[str, str] = Field(max_length=MAX_TENSORS)
    sizes: dict[str, int] = Field(min_length=1, max_length=100)
    key: str = Field(pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _whole(self) -> Enrolled:
        if {*self.agreed} != {*SHARED} or min(self.sizes.values()) < 0:
            raise ValueError("a digest or size is missing")
        return self


class MakeKey(Body):
    """Asks the circle's first member to wrap the circle's key for every member.

    Attributes:
        run: the run that is to begin.
        roster: all members' cards, sorted by name.
    """

    kind = "make_key"
    run: str
    roster: list[dict[str, Any]]


class KeyMade(Body):
    """The circle's key, wrapped and signed for each member.

    Attributes:
        ciphertexts, signatures: by recipient.
    """

    kind = "key_made"
    ciphertexts: dict[str, bytes]
    signatures: dict[str, bytes]


class TakeSeat(Body):
    """Tells a member who takes part in a run, and hands it the circle's key if it has none.

    Attributes:
        run: the run that is to begin.
        roster: all members' cards, sorted by name.
        ciphertext, signature: the key from the circle's first member; empty if this member said that it holds the key.
    """

    kind = "take_seat"
    run: str
    roster: list[dict[str, Any]]
    ciphertext: bytes
    signature: bytes


class SeatTaken(Body):
    """The member's signed statement of which key it holds.

    Attributes:
        key: SHA-256 of the circle's key.
        signature: over circle and key.
    """

    kind = "seat_taken"
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str


class RoundRequest(Body):
    """Base of all requests in a round.

    Attributes:
        run: the run, under whose agreement the request is.
        number, round, purpose, base, checkpoint: the round's part of the RoundContext. The member knows the rest.
    """

    run: str
    number: int
    round: int
    purpose: str
    base: str
    checkpoint: str


class Seal(RoundRequest):
    """Asks for a sealed vector: statistics, an update trained from ``base``, or tallies of ``base``.

    Attributes:
        model: the base's file. For statistics, the file of the version from which the run starts; empty for version 0.
        proof: what proves the base (rule 3); empty for statistics.
        refused: proof of the newest candidate, if it was refused and the base is older; else empty.
    """

    kind = "seal"
    model: bytes
    proof: dict[str, Any]
    refused: dict[str, Any]


class Sealed(Body):
    """The member's envelope.

    Attributes:
        seal_s: seconds it took to quantise, seal and sign.
    """

    kind = "sealed"
    envelope: RawEnvelope
    seal_s: float = Field(ge=0)


class Ask(RoundRequest):
    """Asks every member of the circle for its answer: may this list and this total be opened together?

    Attributes:
        headers, signatures: each member's signed envelope header.
        total: SHA-256 of the sealed total.
    """

    kind = "ask"
    headers: dict[str, bytes]
    signatures: dict[str, bytes]
    total: str = Field(pattern=r"^[0-9a-f]{64}$")


class Answered(Body):
    """The member's answer. It is the same bytes whenever it is asked.

    Attributes:
        document: canonical bytes; see ``protocol.answer``.
        signature: under the document.
        answer: the masked one-time key, sealed with the circle's key: seeds, then residues.
        answer_s: seconds it took.
    """

    kind = "answered"
    document: bytes
    signature: bytes
    answer: bytes
    answer_s: float = Field(ge=0)


class Open(RoundRequest):
    """Asks a member to open a sum and, for an update, to vote on the candidate.

    Attributes:
        documents, signatures: each member's answer document.
        seeds: of each member's sealed answer.
        keys: the sum of the sealed answers: residues without seeds.
        answers: the sealed answers themselves if their sum did not open; else empty.
        total: the sealed sum.
        best: SHA-256 of the best version, with which the vote compares; "" if there is no vote.
        upload: whether this member sends the result with its reply.
    """

    kind = "open"
    documents: dict[str, bytes]
    signatures: dict[str, bytes]
    seeds: dict[str, bytes]
    keys: bytes
    answers: dict[str, bytes]
    total: bytes
    best: str
    upload: bool


class Opened(Body):
    """An opener's signed statement about the result, its vote, and the result itself if that was asked for.

    Attributes:
        statement: canonical bytes, the same from every opener (see ``protocol.statement``).
        vote: one of ``gate.VOTES``; "" if there is no vote.
        vote_signature: over the result, the version it was compared with, and the vote.
    """

    kind = "opened"
    statement: bytes
    signature: bytes
    vote: str = Field(pattern=r"^(better|same|worse|abstain)?$")
    vote_signature: bytes
    result: bytes
    open_s: float = Field(ge=0)


class Waits(Body):
    """Tells a member that has done its part which members the run is waiting for. Nothing is asked of it.

    Attributes:
        run: the run that waits.
        number: of the round; 0 before the first.
        step: what the run waits for, one of ``words.STEPS``.
        since: member → when it was first asked; ISO 8601, UTC.
        why: member → one of ``words.WHY``.
        returns: member → how often its node came back meanwhile.
    """

    kind = "waits"
    run: str
    number: int
    step: str
    since: dict[str, str]
    why: dict[str, str]
    returns: dict[str, int]


class Noted(Body):
    """Confirms that the member has written the notice into its own log."""

    kind = "noted"


@dataclass(frozen=True)
class Route(Generic[Q, A]):
    """A kind of exchange: a request and its reply.

    Attributes:
        name: Flower's message type.
        request: class of the request.
        reply: class of the reply.
    """

    name: str
    request: type[Q]
    reply: type[A]


ENROL = Route("query.enrol", Enrol, Enrolled)
MAKE_KEY = Route("query.make_key", MakeKey, KeyMade)
TAKE_SEAT = Route("query.take_seat", TakeSeat, SeatTaken)
SEAL = Route("train.seal", Seal, Sealed)
ANSWER = Route("query.answer", Ask, Answered)
OPEN = Route("evaluate.open", Open, Opened)
TELL = Route("query.tell", Waits, Noted)
ROUTES: dict[str, Route[Any, Any]] = {
    route.name: route for route in (ENROL, MAKE_KEY, TAKE_SEAT, SEAL, ANSWER, OPEN, TELL)
}
