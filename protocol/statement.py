"""The statement that openers sign about an opening's result, and the proof that all members' signatures on it make.

The statement's bytes are a pure function of the opened sum and the round, so honest openers sign the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..canonical import canonical, parse_canonical
from ..crypto.identity import Card, Identity, Roster, b64, unb64
from ..errors import Refused
from .answer import list_digest
from .context import RoundContext
from .gate import VOTES


@dataclass(frozen=True)
class Statement:
    """One opening's result.

    Attributes:
        context: digest of the RoundContext.
        federation, run, number, purpose, base: the round, in the clear.
        members: all members of the sum, sorted.
        headers: digest of the list of their headers.
        sha256: the model version that results (statistics, update) or that was measured (tallies).
        norm: Euclidean norm of the opened mean update; 0 if there is no update, None if the candidate is not finite.
        signal: length of the opened sum relative to a sum of coins alone, for the group where that is least; else 0.
        in_range: False if the sum holds a value that honest members cannot add up to.
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
    norm: float | None
    signal: float
    in_range: bool
    metrics: Mapping[str, float | None]

    @classmethod
    def of(
        cls,
        context: RoundContext,
        headers: Mapping[str, str],
        *,
        sha256: str,
        in_range: bool,
        norm: float | None = 0.0,
        signal: float = 0.0,
        metrics: Mapping[str, float | None] | None = None,
    ) -> Statement:
        """Return the statement about an opened sum of these headers (member → header digest)."""
        members = tuple(sorted(headers))
        return cls(
            context.digest,
            context.federation,
            context.run,
            context.number,
            context.purpose,
            context.base,
            members,
            list_digest(headers.values()),
            sha256,
            norm,
            signal,
            in_range,
            metrics or {},
        )

    def encode(self) -> bytes:
        """Return the canonical bytes that openers sign."""
        return canonical({**vars(self), "metrics": dict(self.metrics), "v": 2})

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """Return the statement in ``data``.

        Raises:
            Refused: ``open.disagree``: not a statement.
        """
        try:
            value = parse_canonical(data)
            if value.pop("v") != 2:
                raise ValueError("another version")
            statement = cls(**{**value, "members": tuple(value["members"])})
            members = statement.members
            good = (
                all(isinstance(member, str) for member in members)
                and list(members) == sorted(set(members))
                and all(isinstance(text, str) for text in (statement.federation, statement.run, statement.purpose))
                and all(isinstance(text, str) and len(text) in (0, 64) for text in (statement.base, statement.sha256))
                and all(isinstance(text, str) and len(text) == 64 for text in (statement.context, statement.headers))
                and isinstance(statement.signal, float)
                and (statement.norm is None or isinstance(statement.norm, float))
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


@dataclass(frozen=True)
class Words:
    """One member's signature under a statement, and its signed vote.

    Attributes:
        signature: under the statement.
        vote: on the version that results, one of ``gate.VOTES``; "" if there is no vote.
        vote_signature: over the result, the version it was compared with, and the vote.
    """

    signature: bytes
    vote: str
    vote_signature: bytes

    def check(self, card: Card, statement: bytes, best: str) -> None:
        """Check both signatures.

        Raises:
            Refused: ``envelope.signature``.
        """
        voted = vote_bytes(statement, best, self.vote)
        if not card.node.verify("opened", statement, self.signature) or not card.node.verify(
            "vote", voted, self.vote_signature
        ):
            raise Refused("envelope.signature", f"the opening or the vote is not signed by {card.name!r}")


@dataclass(frozen=True)
class Proof:
    """A statement with the signature and vote of every member. It proves a base (rule 3).

    Attributes:
        statement: its bytes.
        best: SHA-256 of the version with which the votes compare; "" if there is no vote.
        words: signatures and vote of each member of the sum.
    """

    statement: bytes
    best: str
    words: Mapping[str, Words]

    @property
    def votes(self) -> dict[str, str]:
        """Member → vote."""
        return {member: word.vote for member, word in sorted(self.words.items())}

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as JSON-able values."""
        return {
            "statement": self.statement.decode(),
            "best": self.best,
            "signatures": {member: b64(word.signature) for member, word in sorted(self.words.items())},
            "votes": self.votes,
            "vote_signatures": {member: b64(word.vote_signature) for member, word in sorted(self.words.items())},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Proof:
        """Return the proof.

        Raises:
            Refused: ``base.unknown``: malformed.
        """
        try:
            votes, voted = value["votes"], value["vote_signatures"]
            words = {
                str(member): Words(unb64(text), _vote(votes[member]), unb64(voted[member]))
                for member, text in value["signatures"].items()
            }
            if not len(words) == len(votes) == len(voted):
                raise ValueError("votes of others")
            return cls(str(value["statement"]).encode(), str(value["best"]), words)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused("base.unknown", "the base's proof is malformed") from None

    def verify(self, roster: Roster) -> Statement:
        """Return the statement, after checking that every member on the roster signed it and its vote.

        Raises:
            Refused: ``base.unknown``.
        """
        try:
            statement = Statement.parse(self.statement)
        except Refused:
            raise Refused("base.unknown", "the base's proof does not hold a valid statement") from None
        if statement.members != roster.names or {*self.words} != {*roster.names}:
            raise Refused("base.unknown", "the base's proof does not hold the signature and vote of every member")
        for card in roster.cards:
            try:
                self.words[card.name].check(card, self.statement, self.best)
            except Refused as error:
                raise Refused("base.unknown", f"the base's proof: {error}") from None
        return statement


def _vote(value: Any) -> str:
    if value not in ("", *VOTES):
        raise ValueError("not a vote")
    return str(value)


def sign_statement(identity: Identity, statement: Statement) -> bytes:
    """Return a member's signature under a statement."""
    return identity.sign("opened", statement.encode())


def vote_bytes(statement: bytes, best: str, vote: str) -> bytes:
    """Return the bytes that a vote's signature covers: the result, the version compared with, and the vote."""
    return canonical({"statement": digest_of(statement), "best": best, "vote": vote})


def digest_of(statement: bytes) -> str:
    """Return the SHA-256 of a statement's bytes."""
    return hashlib.sha256(statement).hexdigest()
