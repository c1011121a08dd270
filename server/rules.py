"""The coordinator's rules, without IO: what it accepts into a sum, what it takes as opened, when a run ends.

The twin of ``client/guard.py``. A round, in order:

1. a :class:`Collection` takes envelopes until all invited members have answered or time is up; each is checked
   whole before it is added, a refused one leaves no trace;
2. closing it fixes set A, of at least ``min_members`` (``round.too_few``), and of exactly the earlier set where
   this base was opened before (rule 2);
3. a :class:`Hearing` takes the openers' signed statements until a quorum agrees; a disagreeing minority is named;
4. the gate judges; :class:`Patience` counts refused and failed rounds in a row and says when the run ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..configs.settings import GateSettings
from ..crypto.identity import Roster
from ..errors import Refused
from ..protocol.context import RoundContext
from ..protocol.envelope import Envelope, RawEnvelope, SignedHeader, check
from ..protocol.messages import Opened
from ..protocol.purposes import Purpose
from ..protocol.statement import Proof, Statement, quorum, vote_bytes

FIELDS = ("schema", "task", "package", "layout", "start")
AWAY = frozenset(
    {
        "envelope.late",
        "envelope.epoch",
        "update.failed",
        "auth.client_revoked",
        "open.quorum",
    }
)
"""Why an opening may fail without anybody's bad will: members were away, broke or left. The round is
repeated."""


@dataclass(frozen=True)
class Agreement:
    """What all enrolled members have in common: digests by field, and sizes."""

    agreed: Mapping[str, str]
    sizes: Mapping[str, int]


def agree(
    digests: Mapping[str, Mapping[str, str]], sizes: Mapping[str, Mapping[str, int]], purposes: Iterable[str]
) -> tuple[Agreement, dict[str, str]]:
    """Return what most members share, and for each member that differs the first field in which it does.

    Args:
        digests: member → digest by field, of exactly :data:`FIELDS`.
        sizes: member → size by purpose.
        purposes: of the run; a member that does not know one differs in it.
    """
    names = (*FIELDS, *purposes)
    said: dict[str, dict[str, str | int | None]] = {
        member: {**digests[member], **{name: sizes[member].get(name) for name in purposes}} for member in digests
    }
    common = {name: Counter(fields[name] for fields in said.values()).most_common(1)[0][0] for name in names if said}
    odd: dict[str, str] = {}
    for member, fields in said.items():
        differing = [name for name in names if fields[name] != common[name] or fields[name] is None]
        if differing or {*sizes[member]} != {*purposes}:
            odd[member] = differing[0] if differing else "purposes"
    agreed = {name: str(common[name]) for name in FIELDS if said}
    return Agreement(agreed, {name: int(common[name] or 0) for name in purposes if said}), odd


@dataclass
class Collection:
    """Envelopes of one sum, as they come.

    Attributes:
        context: the round's.
        roster: the epoch's members.
        invited: who was asked.
        body_bytes: length of a body.
        fixed: the set for which this base was opened before; no other is closed (rule 2).
        accepted: member → signed header, of the envelopes in the sum.
        excluded: member → code, of those that are not.
    """

    context: RoundContext
    roster: Roster
    invited: frozenset[str]
    body_bytes: int
    fixed: frozenset[str] | None = None
    accepted: dict[str, SignedHeader] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)

    def check(self, member: str, raw: RawEnvelope) -> Envelope:
        """Return the envelope that ``member`` sent, once everything about it is right.

        Raises:
            Refused: ``envelope.*``.
        """
        if member not in self.invited:
            raise Refused("envelope.member", "the member was not invited to this round")
        if member in self.accepted:
            raise Refused("envelope.replay", "the member's envelope is already in the sum")
        return check(raw, self.roster.card(member), self.context, self.body_bytes)

    def accept(self, envelope: Envelope) -> None:
        """Record that an envelope was added to the sum."""
        self.accepted[envelope.header.member] = envelope.signed

    def exclude(self, member: str, code: str) -> None:
        """Record that a member is not in the sum, and why; an accepted envelope stays accepted."""
        if member not in self.accepted:
            self.excluded.setdefault(member, code)

    @property
    def waiting(self) -> frozenset[str]:
        """Members from whom nothing has come yet."""
        return self.invited - self.accepted.keys() - self.excluded.keys()

    def close(self) -> tuple[str, ...]:
        """Return set A, sorted; whoever is still missing is late.

        Raises:
            Refused: ``round.too_few``.
        """
        for member in self.waiting:
            self.exclude(member, "envelope.late")
        members = tuple(sorted(self.accepted))
        needed = self.context.min_members
        if len(members) < needed:
            raise Refused("round.too_few", f"{len(members)} members' envelopes came, {needed} are needed")
        if self.fixed is not None and set(members) != self.fixed:
            missing = ", ".join(sorted(self.fixed - set(members)))
            raise Refused("round.too_few", f"this base was opened for a set that included {missing}")
        return members


@dataclass(frozen=True)
class AgreedOpening:
    """An opening's result: the statement that a quorum signed, its proof, the signed votes, and who disagreed."""

    statement: Statement
    proof: Proof
    votes: Mapping[str, float | None]
    vote_signatures: Mapping[str, bytes]
    disagreeing: tuple[str, ...]


@dataclass
class Hearing:
    """The openers' answers about one sum."""

    purpose: Purpose
    context: RoundContext
    roster: Roster
    members: tuple[str, ...]
    wanted_quorum: int
    best: str
    statements: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    votes: dict[str, float | None] = field(default_factory=dict)
    vote_signatures: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def hear(self, member: str, opened: Opened) -> None:
        """Take an opener's answer, once its signatures and its context are right.

        Raises:
            Refused: ``open.set``, ``envelope.signature``, ``envelope.context`` or ``open.disagree``.
        """
        if member not in self.members or member in self.statements:
            raise Refused("open.set", "the opener is not in the set, or answered before")
        node = self.roster.card(member).node
        voted = vote_bytes(opened.statement, self.best, opened.vote)
        if not node.verify("opened", opened.statement, opened.signature) or not node.verify(
            "vote", voted, opened.vote_signature
        ):
            raise Refused("envelope.signature", "the opening or the vote is not signed by the member")
        said = Statement.parse(opened.statement)
        if said.context != self.context.digest or said.members != self.members:
            raise Refused("envelope.context", "the statement is about another round")
        self.statements[member], self.signatures[member] = opened.statement, opened.signature
        self.votes[member], self.vote_signatures[member] = opened.vote, opened.vote_signature

    def refuse(self, member: str, code: str) -> None:
        """Record that a member did not open."""
        if member not in self.statements:
            self.refused.setdefault(member, code)

    @property
    def waiting(self) -> frozenset[str]:
        """Openers from whom nothing has come yet."""
        return frozenset(self.members) - self.statements.keys() - self.refused.keys()

    @property
    def enough(self) -> bool:
        """Whether a quorum agrees, with as many votes as the gate needs: nobody slow can change that."""
        counted = Counter(self.statements.values()).most_common(1)
        if not counted or counted[0][1] < quorum(self.members, self.wanted_quorum):
            return False
        votes = [self.votes[member] for member, said in self.statements.items() if said == counted[0][0]]
        needed = self.context.min_members if self.purpose.voted else 0
        return sum(vote is not None for vote in votes) >= needed

    def conclude(self) -> AgreedOpening:
        """Return what a quorum agrees on.

        Raises:
            Refused: the refusals' most frequent code where openers refused, ``open.disagree`` where they signed
                different results, else ``open.quorum``.
        """
        counted = Counter(self.statements.values()).most_common(1)
        needed = quorum(self.members, self.wanted_quorum)
        if not counted or counted[0][1] < needed:
            codes = Counter(self.refused.values()).most_common(1)
            code = "open.disagree" if len(set(self.statements.values())) > 1 else "open.quorum"
            code = codes[0][0] if codes else code
            raise Refused(code, f"{counted[0][1] if counted else 0} of {needed} openers agree")
        statement = counted[0][0]
        agreeing = {member for member, said in self.statements.items() if said == statement}
        return AgreedOpening(
            Statement.parse(statement),
            Proof(statement, {member: self.signatures[member] for member in agreeing}),
            {member: self.votes[member] for member in sorted(agreeing)},
            {member: self.vote_signatures[member] for member in sorted(agreeing)},
            tuple(sorted(self.statements.keys() - agreeing)),
        )


@dataclass
class Patience:
    """Counts what went wrong in a row; a promoted round sets both counters back."""

    settings: GateSettings
    refused: int = 0
    failed: int = 0

    def count(self, status: str) -> None:
        """A round ended ``promoted``, ``refused`` or ``failed``."""
        {"promoted": self.promoted, "refused": self.was_refused, "failed": self.has_failed}[status]()

    def promoted(self) -> None:
        """A round was promoted."""
        self.refused = self.failed = 0

    def was_refused(self) -> None:
        """The gate refused a candidate."""
        self.refused, self.failed = self.refused + 1, 0

    def has_failed(self) -> None:
        """A round ended without a candidate; it does not count as a refusal."""
        self.failed += 1

    @property
    def code(self) -> str:
        """``run.patience`` or ``run.max_failed`` when the run must end, else ""."""
        if self.refused >= self.settings.patience:
            return "run.patience"
        return "run.max_failed" if self.failed >= self.settings.max_failed else ""
