"""What openers sign: the result of an opening, and the proof that a quorum of such signatures makes.

The statement's bytes are a pure function of the opened sum and the round, so that honest openers sign the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..canonical import canonical, digest, parse_canonical
from ..crypto.identity import Card, Identity, Roster, b64, unb64
from ..errors import Refused
from .context import RoundContext


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

    def verify(self, roster: Roster, wanted_quorum: int, remembered: Iterable[Card] = ()) -> Statement:
        """Return the statement, once a quorum of its set's members is found to have signed it.

        Args:
            roster: the members of today.
            wanted_quorum: as in :func:`quorum`.
            remembered: cards of earlier epochs that whoever asks confirmed itself. Their signatures count beside one
                of the roster at least: members that left cannot prove a base among themselves.

        Raises:
            Refused: ``base.unproved``.
        """
        try:
            statement = Statement.parse(self.statement)
        except Refused:
            raise Refused("base.unproved", "the base's proof holds no statement") from None
        needed = quorum(statement.members, wanted_quorum)
        signed = self._signers(roster.cards, {*statement.members}, needed)
        if signed:
            signed |= self._signers(remembered, {*statement.members} - signed, needed - len(signed))
        if len(signed) < needed:
            raise Refused("base.unproved", f"{len(signed)} of {needed} openers signed the base")
        return statement

    def _signers(self, cards: Iterable[Card], names: set[str], most: int) -> set[str]:
        """Return who of ``names`` signed, and stop at ``most``: one signature costs a millisecond to check."""
        found: set[str] = set()
        for card in cards:
            if len(found) == most:
                break
            signature = self.signatures.get(card.name, b"")
            if card.name in names - found and card.node.verify("opened", self.statement, signature):
                found.add(card.name)
        return found


def sign_statement(identity: Identity, statement: Statement) -> bytes:
    """Return a member's signature under a statement."""
    return identity.sign("opened", statement.encode())


def vote_bytes(statement: bytes, best: str, vote: float | None) -> bytes:
    """Return what a vote's signature covers: the result, the version it was compared with, and the vote."""
    return canonical({"statement": digest_of(statement), "best": best, "vote": vote})


def digest_of(statement: bytes) -> str:
    """Return the SHA-256 of a statement's bytes."""
    return hashlib.sha256(statement).hexdigest()
