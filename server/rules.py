"""The coordinator's rules, without IO: what it accepts into a sum, what counts as opened, and when a run ends.

``client/guard.py`` has the members' rules. A round, in order:

1. a :class:`Collection` takes envelopes until every member has sent one, or one has refused. Each envelope is checked
   completely before it is added, so a refused one leaves no trace;
2. closing it fixes the list: one envelope of every member (``round.too_few``);
3. every member answers that list and total, once; :func:`check_answer` checks each answer;
4. a :class:`Hearing` takes the openers' signed statements: all members must say the same;
5. the gate judges; :class:`Patience` counts what went wrong in a row and says when the run ends.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..configs.settings import GateSettings
from ..crypto.identity import Roster
from ..errors import Ended, Refused
from ..protocol.answer import SignedAnswer
from ..protocol.context import RoundContext
from ..protocol.envelope import Envelope, RawEnvelope, SignedHeader, check
from ..protocol.messages import SHARED, Answered, Enrolled, Opened
from ..protocol.purposes import Purpose
from ..protocol.statement import Proof, Statement, Words

JUNK = 2  # the run ends after this many openings without a key


@dataclass(frozen=True)
class Odd:
    """Why a member does not take part.

    Attributes:
        code: why.
        what: what differs, if the code does not say it: a tensor's name.
    """

    code: str
    what: str = ""

    def __str__(self) -> str:
        return f"{self.code} ({self.what})" if self.what else self.code


def agree(answers: Mapping[str, Enrolled], circle: str, purposes: Iterable[str]) -> dict[str, Odd]:
    """Return the first difference of each member that differs from the others.

    Args:
        answers: member → what it said.
        circle: digest of the run's circle. A member in another circle differs, even if most members are in that one.
        purposes: of the run; a member that does not know one of them differs.
    """
    names = list(purposes)
    fields: dict[str, dict[str, str]] = {
        member: {
            **{name: str(answer.agreed[name]) for name in SHARED},
            **{f"frozen.{tensor}": digest for tensor, digest in answer.frozen.items()},
            **{f"size.{name}": str(answer.sizes.get(name)) for name in names},
            "purposes": ",".join(sorted(answer.sizes)),
        }
        for member, answer in answers.items()
    }
    order = list(dict.fromkeys(name for values in fields.values() for name in values))
    common = {name: Counter(values.get(name) for values in fields.values()).most_common(1)[0][0] for name in order}
    common |= {"circle": circle, "purposes": ",".join(sorted(names))}
    odd: dict[str, Odd] = {}
    for member, values in fields.items():
        differing = next((name for name in order if values.get(name) != common[name]), None)
        if differing is not None:
            odd[member] = _odd(differing)
    return odd


def _odd(name: str) -> Odd:
    if name == "circle":
        return Odd("circle.differs")
    kind, dot, rest = name.partition(".")
    if dot and kind == "frozen":
        return Odd("agree.frozen", rest)
    return Odd(f"config.{rest if dot else name}")


@dataclass
class Collection:
    """Envelopes of one sum, as they come.

    Attributes:
        context: the round's.
        roster: all members of the circle.
        body_bytes: length of a body.
        accepted: member → signed header, for the envelopes in the sum.
        named: member → code, for members that are not in the sum.
    """

    context: RoundContext
    roster: Roster
    body_bytes: int
    accepted: dict[str, SignedHeader] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)

    def check(self, member: str, raw: RawEnvelope) -> Envelope:
        """Return the envelope that ``member`` sent, after every check on it.

        Raises:
            Refused: ``envelope.*``.
        """
        if member in self.accepted:
            raise Refused("envelope.replay", "the member's envelope is already in the sum")
        return check(raw, self.roster.card(member), self.context, self.body_bytes)

    def accept(self, envelope: Envelope) -> None:
        """Record that an envelope was added to the sum."""
        self.accepted[envelope.header.member] = envelope.signed

    def name(self, member: str, code: str) -> None:
        """Record that a member is not in the sum, and why. An accepted envelope stays accepted."""
        if member not in self.accepted:
            self.named.setdefault(member, code)

    def close(self) -> tuple[str, ...]:
        """Return all members, sorted.

        Raises:
            Refused: ``round.too_few``.
        """
        missing = [member for member in self.roster.names if member not in self.accepted]
        if missing:
            reasons = ", ".join(f"{member}: {self.named.get(member, 'not waited for')}" for member in missing)
            raise Refused("round.too_few", f"a sum needs every member of the circle; missing: {reasons}")
        return self.roster.names


def check_answer(
    context: RoundContext, roster: Roster, member: str, answered: Answered, headers: str, total: str
) -> SignedAnswer:
    """Return a member's answer document, after checking that it is about this list, this total and the answer received.

    Raises:
        Refused: ``open.list``, ``envelope.signature`` or ``envelope.malformed``.
    """
    signed = SignedAnswer(answered.document, answered.signature)
    document = signed.verify(roster.card(member), context.digest, headers, total)
    if hashlib.sha256(answered.answer).hexdigest() != document.answer:
        raise Refused("envelope.malformed", "the sealed answer is not the one that the document signs")
    return signed


@dataclass(frozen=True)
class AgreedOpening:
    """An opening's result: the statement that all members signed, with their signatures and votes."""

    statement: Statement
    proof: Proof


@dataclass
class Hearing:
    """The openers' statements and votes on one sum.

    Attributes:
        purpose: of the sum.
        context: of the round.
        roster: all members of the circle.
        best: SHA-256 of the gate's reference.
        statements, words: member → what it said.
        refused: member → why it did not open.
    """

    purpose: Purpose
    context: RoundContext
    roster: Roster
    best: str
    statements: dict[str, bytes] = field(default_factory=dict)
    words: dict[str, Words] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def hear(self, member: str, opened: Opened) -> None:
        """Take an opener's statement, after checking its signatures and its context.

        Raises:
            Refused: ``open.list``, ``envelope.signature``, ``envelope.context`` or ``open.disagree``.
        """
        if member in self.statements:
            raise Refused("open.list", "the member opened this sum before")
        words = Words(opened.signature, opened.vote, opened.vote_signature)
        words.check(self.roster.card(member), opened.statement, self.best)
        statement = Statement.parse(opened.statement)
        if statement.context != self.context.digest or statement.members != self.roster.names:
            raise Refused("envelope.context", "the statement is about another round")
        self.statements[member], self.words[member] = opened.statement, words
        self.refused.pop(member, None)

    def refuse(self, member: str, code: str) -> None:
        """Record that a member did not open."""
        if member not in self.statements:
            self.refused[member] = code

    def conclude(self) -> AgreedOpening:
        """Return what all members say.

        Raises:
            Refused: the most frequent code of the refusals, or ``open.disagree``: members signed different results.
        """
        missing = len(self.roster.names) - len(self.statements)
        if missing:
            code = Counter(self.refused.values() or ["circle.away"]).most_common(1)[0][0]
            raise Refused(code, f"{missing} of {len(self.roster.names)} members did not open the sum")
        different = {*self.statements.values()}
        if len(different) != 1:
            raise Refused("open.disagree", f"the openers signed {len(different)} different results")
        statement = different.pop()
        return AgreedOpening(Statement.parse(statement), Proof(statement, self.best, dict(self.words)))

    @property
    def disagreeing(self) -> tuple[str, ...]:
        """The members that signed another statement than most did."""
        counted = Counter(self.statements.values()).most_common(1)
        return tuple(sorted(member for member, statement in self.statements.items() if statement != counted[0][0]))


class SaidWords:
    """Members' votes on candidates. A vote on a candidate cannot change (rule 7)."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str, str], str] = {}

    def check(self, member: str, opened: Opened, hearing: Hearing) -> None:
        """Take a member's vote.

        Raises:
            Ended: ``gate.forked``: it voted differently on the same candidate, compared with the same version.
        """
        if not hearing.purpose.voted:
            return
        candidate = Statement.parse(opened.statement).sha256
        before = self._said.setdefault((member, candidate, hearing.best), opened.vote)
        if before != opened.vote:
            what = f"{member!r} voted {before!r}, then {opened.vote!r}, on candidate {candidate[:16]}"
            raise Ended("gate.forked", f"{what}; the last good model stays")


FIRST_ROUNDS = 5
"""Planned rounds at the start in which a missing promotion does not count."""


@dataclass
class Patience:
    """Counts how rounds end, in a row, and says when the run ends.

    Attributes:
        settings: [gate].
        refused: candidates in a row that were refused.
        failed: round numbers in a row that gave no candidate.
        idle: planned rounds in a row without a promotion, from the sixth on.
    """

    settings: GateSettings
    refused: int = 0
    failed: int = 0
    idle: int = 0

    def count(self, status: str, planned: int) -> None:
        """Count a round.

        Args:
            status: ``promoted``, ``kept``, ``refused`` or ``failed``.
            planned: which of the run's planned rounds it was.
        """
        if status == "failed":
            self.failed += 1
            return
        self.failed = 0
        self.refused = self.refused + 1 if status == "refused" else 0
        self.idle = 0 if status == "promoted" else self.idle + (planned > FIRST_ROUNDS)

    @property
    def code(self) -> str:
        """``run.patience`` or ``run.max_failed`` if the run must end by policy, else ""."""
        if self.refused >= self.settings.patience:
            return "run.patience"
        return "run.max_failed" if self.failed >= self.settings.max_failed else ""

    @property
    def converged(self) -> bool:
        """Whether the run is done because there is nothing more to gain."""
        return bool(self.settings.progress) and self.idle >= self.settings.progress
