"""What openers sign: the result of an opening, and the proof that a quorum of such signatures makes.

The statement's bytes are a pure function of the opened sum and the round, so that honest openers sign the same.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..canonical import canonical, digest, parse_canonical
from ..errors import Refused
from .context import RoundContext
from .identity import Identity, Roster, b64, unb64


@dataclass(frozen=True)
class Statement:
    """One opening's result.

    Attributes:
        context: digest of the RoundContext.
        federation, run, number, purpose, base: the round, in clear.
        members: set A, sorted.
        headers: digest of A's header digests, in that order.
        sha256: the model version that results (statistics, update) or that was measured (tallies).
        clip: the clip of a round that starts from this version.
        in_range: False when the sum holds what honest members cannot add up to.
        metrics: of tallies; else empty.
    """

    context: str
    federation: str
    run: str
    number: int
    purpose: str
    base: str
    members: tuple[str, ...]
    headers: str
    sha256: str
    clip: float
    in_range: bool
    metrics: Mapping[str, float | None]

    @classmethod
    def of(
        cls,
        context: RoundContext,
        headers: Mapping[str, str],
        *,
        sha256: str,
        clip: float,
        in_range: bool,
        metrics: Mapping[str, float | None] | None = None,
    ) -> Statement:
        """Return the statement about an opening of the sum of these headers (member to header digest)."""
        members = tuple(sorted(headers))
        return cls(
            context.digest,
            context.federation,
            context.run,
            context.number,
            context.purpose,
            context.base,
            members,
            digest([headers[member] for member in members]),
            sha256,
            clip,
            in_range,
            metrics or {},
        )

    def encode(self) -> bytes:
        """Return the canonical bytes that openers sign."""
        return canonical({**vars(self), "metrics": dict(self.metrics), "v": 1})

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """Return the statement in ``data``.

        Raises:
            Refused: ``open.disagree``: not a statement.
        """
        try:
            value = parse_canonical(data)
            if value.pop("v") != 1:
                raise ValueError("another version")
            statement = cls(**{**value, "members": tuple(value["members"])})
            members = statement.members
            good = (
                all(isinstance(member, str) for member in members)
                and list(members) == sorted(set(members))
                and all(isinstance(text, str) for text in (statement.federation, statement.run, statement.purpose))
                and all(isinstance(text, str) and len(text) in (0, 64) for text in (statement.base, statement.sha256))
                and all(isinstance(text, str) and len(text) == 64 for text in (statement.context, statement.headers))
                and isinstance(statement.clip, float)
                and isinstance(statement.in_range, bool)
                and isinstance(statement.metrics, dict)
                and all(value is None or type(value) is float for value in statement.metrics.values())
                and type(statement.number) is int
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            good = False
        if not good:
            raise Refused("open.disagree", "an opener's statement is malformed")
        return statement


def quorum(members: Sequence[str], wanted: int) -> int:
    """Return how many openers must agree: ``wanted``, or the majority of the set where it is 0.

    >>> quorum(["a", "b", "c", "d"], 0)
    3
    """
    return min(wanted, len(members)) if wanted else len(members) // 2 + 1


@dataclass(frozen=True)
class Proof:
    """A statement with the signatures of openers: proves a base (rule 3)."""

    statement: bytes
    signatures: Mapping[str, bytes]

    def as_dict(self) -> dict[str, Any]:
        """The proof as JSON-able values."""
        return {
            "statement": self.statement.decode(),
            "signatures": {member: b64(signature) for member, signature in sorted(self.signatures.items())},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Proof:
        """Return the proof.

        Raises:
            Refused: ``base.unproved``: malformed.
        """
        try:
            signatures = {str(member): unb64(text) for member, text in value["signatures"].items()}
            return cls(str(value["statement"]).encode(), signatures)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused("base.unproved", "the base's proof is malformed") from None

    def verify(self, roster: Roster, wanted_quorum: int) -> Statement:
        """Return the statement, once a quorum of its set's members is found to have signed it.

        Raises:
            Refused: ``base.unproved``.
        """
        try:
            statement = Statement.parse(self.statement)
        except Refused:
            raise Refused("base.unproved", "the base's proof holds no statement") from None
        signers = (
            name
            for name in statement.members
            if name in roster.names
            and roster.card(name).node.verify("opened", self.statement, self.signatures.get(name, b""))
        )
        needed = quorum(statement.members, wanted_quorum)
        signed = sum(1 for _ in itertools.islice(signers, needed))  # one signature costs a millisecond to check
        if signed < needed:
            raise Refused("base.unproved", f"{signed} of {needed} openers signed the base")
        return statement


def sign_statement(identity: Identity, statement: Statement) -> bytes:
    """Return a member's signature under a statement."""
    return identity.sign("opened", statement.encode())


def vote_bytes(statement: bytes, best: str, vote: float | None) -> bytes:
    """Return what a vote's signature covers: the result, the version it was compared with, and the vote."""
    return canonical({"statement": digest_of(statement), "best": best, "vote": vote})


def digest_of(statement: bytes) -> str:
    """Return the SHA-256 of a statement's bytes."""
    return hashlib.sha256(statement).hexdigest()
