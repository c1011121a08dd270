"""What coordinator and members say to each other: frozen messages and their form as Flower records.

One class a message. Text and numbers travel as canonical JSON in a ConfigRecord; bytes are put together into one
piece for blobs and one for an envelope, because Flower makes several requests for every piece. Small pieces stand in
the same record, large ones are Arrays, which Flower cuts into chunks. A piece is named by its type: a field that is
declared a :class:`RawEnvelope` accepts nothing but an envelope, so a plaintext update is refused by type at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .canonical import canonical, parse_canonical
from .crypto.envelope import RawEnvelope
from .errors import Refused

ENVELOPE, BLOB = "moonflower.envelope.v1", "moonflower.blob.v1"
_KIND, _JSON, _LOG = "kind", "json", "log"
INLINE_BYTES = 1 << 20
"""Pieces up to here stand in the message's own record: one request of Flower's instead of four."""
MAX_EPOCH = 1 << 53
A = TypeVar("A", bound="Attachment")
M = TypeVar("M", bound="Body")
Shared = Literal["schema", "task", "package", "layout", "start"]
Size = Literal["update", "statistics", "tallies"]


class Attachment(BaseModel):
    """Base of what goes along with a message, whatever that is about: strict, frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def attach(self, records: RecordDict) -> None:
        """Put this into the records of a message."""
        records.config_records["message"][_LOG] = canonical(self.model_dump()).decode()

    @classmethod
    def attached(cls: type[A], records: RecordDict) -> A:
        """Return what came along with a message.

        Raises:
            Refused: ``audit.missing``: nothing, or nothing of this form.
        """
        try:
            return cls.model_validate(parse_canonical(str(records.config_records["message"][_LOG]).encode()))
        except (KeyError, ValueError):
            raise Refused("audit.missing", "the message shows nothing of the log") from None


class Body(BaseModel):
    """Base of all messages: strict, frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)
    kind: ClassVar[str]

    def to_records(self) -> RecordDict:
        """Return the message as Flower records."""
        plain: dict[str, Any] = {}
        blobs: list[bytes] = []
        sizes: dict[str, int | dict[str, int]] = {}
        pieces: dict[str, bytes] = {}
        for name, value in sorted(
            self, key=lambda item: item[0]
        ):  # blobs lie in the order in which canonical JSON lists their sizes
            if isinstance(value, RawEnvelope):
                pieces[ENVELOPE] = value.data
            elif isinstance(value, bytes):
                sizes[name] = len(value)
                blobs.append(value)
            elif isinstance(value, dict) and value and all(isinstance(item, bytes) for item in value.values()):
                parts = sorted(value.items())
                sizes[name] = {key: len(item) for key, item in parts}
                blobs += [item for _, item in parts]
            else:
                plain[name] = value
        if sizes:
            pieces[BLOB] = b"".join(blobs)
        config: dict[str, Any] = {_KIND: self.kind, _JSON: canonical({"fields": plain, "sizes": sizes}).decode()}
        arrays = {stype: _array(stype, data) for stype, data in pieces.items() if len(data) > INLINE_BYTES}
        config |= {stype: data for stype, data in pieces.items() if len(data) <= INLINE_BYTES}
        records = RecordDict({"message": ConfigRecord(config)})
        if arrays:
            records["bytes"] = ArrayRecord(arrays)
        return records

    @classmethod
    def from_records(cls: type[M], records: RecordDict) -> M:
        """Return the message in ``records``.

        Raises:
            Refused: ``envelope.plaintext`` where an envelope was due and something else came;
                ``envelope.malformed`` for any other wrong form.
        """
        envelopes = [name for name in cls.model_fields if cls._is_envelope(name)]
        wrong = "envelope.plaintext" if envelopes else "envelope.malformed"
        try:
            config = records.config_records["message"]
            arrays = records.array_records.get("bytes", {})
            said = parse_canonical(str(config[_JSON]).encode())
            fields, sizes = said["fields"], said["sizes"]
            if config[_KIND] != cls.kind or len(said) != 2 or not (type(fields) is type(sizes) is dict):
                raise Refused("envelope.malformed", f"not a message of kind {cls.kind!r}")
        except (KeyError, ValueError, TypeError):
            raise Refused(wrong, f"not a message of kind {cls.kind!r}") from None
        wanted = {ENVELOPE} if envelopes else set()
        wanted |= {BLOB} if sizes else set()
        pieces = _pieces(config, arrays)
        if {*pieces} != wanted:
            came = ", ".join(sorted(pieces)) or "nothing"
            raise Refused(wrong, f"a {cls.kind} message came with {came}; expected {', '.join(sorted(wanted))}")
        fields |= _split(pieces.get(BLOB, b""), sizes)
        fields |= {name: RawEnvelope(pieces[ENVELOPE]) for name in envelopes}
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
            raise Refused("envelope.malformed", f"{cls.kind} message: {where} has the wrong form") from None

    @classmethod
    def _is_envelope(cls, name: str) -> bool:
        return name in cls.model_fields and cls.model_fields[name].annotation is RawEnvelope


def _array(stype: str, data: bytes) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)


def _pieces(config: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, bytes]:
    """Return what came as bytes, by type; a type that came twice, or an array under another's name, is none of ours."""
    small = {name: value for name, value in config.items() if name not in (_KIND, _JSON, _LOG)}
    large = {array.stype: array.data for name, array in arrays.items() if array.stype == name}
    if len(large) < len(arrays) or {*small} & {*large} or not all(isinstance(data, bytes) for data in small.values()):
        return {"pieces of another form": b""}
    return small | large


def _split(whole: bytes, sizes: Mapping[str, Any]) -> dict[str, bytes | dict[str, bytes]]:
    """Return the blobs that were put together, by field.

    Raises:
        Refused: ``envelope.malformed``: the sizes do not add up.
    """
    fields: dict[str, bytes | dict[str, bytes]] = {}
    at = 0

    def take(size: Any) -> bytes:
        nonlocal at
        if type(size) is not int or size < 0:
            raise Refused("envelope.malformed", "the size of a blob is no whole number")
        at += size
        return whole[at - size : at]

    for name, size in sizes.items():
        fields[name] = {key: take(part) for key, part in size.items()} if isinstance(size, dict) else take(size)
    if at != len(whole):
        raise Refused("envelope.malformed", f"the blobs' sizes add up to {at} bytes, {len(whole)} came")
    return fields


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
        sizes: parameters of an update, counters of statistics and of tallies.
        epoch: newest one of which this member holds keys; the next is beyond it.
    """

    kind = "enrolled"
    card: dict[str, Any]
    epoch: int = Field(ge=0, le=MAX_EPOCH)
    agreed: dict[Shared, str]
    sizes: dict[Size, int]

    @model_validator(mode="after")
    def _whole(self) -> Enrolled:
        if len(self.agreed) != 5 or len(self.sizes) != 3 or min(self.sizes.values()) < 0:
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


class Seal(Body):
    """Asks for a sealed vector: statistics, an update trained from ``base``, or tallies of ``base``.

    Attributes:
        number, round, purpose, base, clip, checkpoint: the round's own part of the RoundContext; the member knows the
            rest.
        model: the base's file; empty for statistics.
        proof: what proves the base (rule 3); empty where the base is the agreed start vector.
    """

    kind = "seal"
    run: str
    epoch: int
    number: int
    round: int
    purpose: str
    base: str
    clip: float
    checkpoint: str
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


class Open(Body):
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
    run: str
    epoch: int
    number: int
    round: int
    purpose: str
    base: str
    clip: float
    checkpoint: str
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
