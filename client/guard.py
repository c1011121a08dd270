"""The member's rules, without IO: what it agrees to, what it trains from, what it seals, what it helps to open.

The server's half of the rules is ``server/rules.py``. Every function checks what came from the coordinator against
what the ledger remembers, and returns only if nothing is wrong. The caller writes to the ledger next, and acts last.
The rules are those of docs/protocol.md:

2. everybody or nobody: a member answers only one list in a context, and the list has one header of every member;
3. a base is a version that this node knows: it signed it itself, in this run, and has the votes of all members; a run
   begins at version 0, where its circle starts, or at a version that this node saw promoted in that circle;
7. a round is bound to a checkpoint of the log that this member has witnessed.

Where a run starts is in ``client/bases.py``, rule 1 in ``client/standing.py``, rule 9 in ``client/circles.py``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..configs.settings import Offer
from ..crypto import tau
from ..crypto.identity import Roster
from ..crypto.pairs import check_public
from ..crypto.planner import Plan
from ..crypto.sealed import residues_of
from ..errors import Refused
from ..protocol import gate
from ..protocol.answer import SignedAnswer, list_digest
from ..protocol.context import RoundContext
from ..protocol.envelope import SignedHeader
from ..protocol.gate import Verdict
from ..protocol.messages import Ask, Open, RoundRequest, Seal
from ..protocol.purposes import Purposes
from ..protocol.statement import Proof, Statement


@dataclass(frozen=True)
class SealList:
    """A list that this member may answer: one header of every name in its circle.

    Attributes:
        headers: name → header digest.
        masks: name → public mask key.
        total: SHA-256 of the sealed total.
    """

    headers: Mapping[str, str]
    masks: Mapping[str, bytes]
    total: str

    @property
    def digest(self) -> str:
        """Digest of the list."""
        return list_digest(self.headers.values())


@dataclass(frozen=True)
class OwnAnswer:
    """What this member answered in a context: one list, and one total.

    Attributes:
        context: digest of the RoundContext.
        headers: name → header digest.
        total: SHA-256 of the sealed total.
        document, signature: the answer's.
        answer: as it was sealed.
    """

    context: str
    headers: Mapping[str, str]
    total: str
    document: bytes
    signature: bytes
    answer: bytes


def check_witnessed(request: Seal, witnessed: bool) -> None:
    """Check that a round is bound to a checkpoint that this member has witnessed (rule 7).

    Raises:
        Refused: ``audit.fork``.
    """
    if not witnessed:
        raise Refused("audit.fork", f"the round is bound to a checkpoint not witnessed here: {request.checkpoint}")


def round_context(template: RoundContext, request: RoundRequest, purposes: Purposes) -> RoundContext:
    """Return the context that a request is about: the request's fields, and the rest as agreed at enrolment.

    Raises:
        Refused: ``envelope.context``.
    """
    purpose = purposes.get(request.purpose)
    if request.run != template.run or purpose is None or min(request.number, request.round) < 0:
        raise Refused("envelope.context", "the request does not belong to the run that this member agreed to")
    if purpose.trained and not 1 <= request.round <= int(template.training["rounds"]):
        raise Refused("envelope.context", "the request is for a round that the run does not plan")
    if purpose.when == "start" and (request.number, request.round) != (0, 0):
        raise Refused("envelope.context", "the request's purpose belongs to the start of a run; expected round 0")
    if bool(request.base) != purpose.based:
        expected = "a base" if purpose.based else "no base"
        raise Refused("envelope.context", f"the request is for purpose {purpose.name!r}; expected {expected}")
    return template.at(request.number, request.round, request.purpose, request.base, request.checkpoint)


@dataclass(frozen=True)
class Before:
    """What this member did earlier in a run, from its ledger.

    Attributes:
        number: the round that made the newest base that this member trained from; -1 if it has not trained.
        trained: whether it already trained from this base in this round; a retry gives the same update.
        norms: round → norm of the mean that made a base, for the bases that this member trained from.
        newest: (round, version) of the newest candidate that it opened; None if it opened none.
    """

    number: int = -1
    trained: bool = False
    norms: Mapping[int, float] = field(default_factory=dict)
    newest: tuple[int, str] | None = None


@dataclass(frozen=True)
class KnownBase:
    """A base that this node knows.

    Attributes:
        statement: the statement about it.
        promoted: whether the votes of all members promoted it; if not, it was kept, or it is a run's start.
    """

    statement: Statement
    promoted: bool


@dataclass(frozen=True)
class BaseRules:
    """What a base is checked against (rule 3).

    Attributes:
        context: of the round.
        roster: all members of the circle, including this one.
        offer: of the run.
        purposes: that this member knows.
        before: what it did in this run.
    """

    context: RoundContext
    roster: Roster
    offer: Offer
    purposes: Purposes
    before: Before

    def check(self, proof: Mapping[str, Any], refused: Mapping[str, Any]) -> KnownBase:
        """Return what is known of the context's base, if this node knows it.

        A base is known by a statement of this run that all members signed, this one too, and by the votes of all
        members, which did not refuse it. It must be the newest such candidate. If this member opened a newer one, the
        request must prove that the votes of all members refused the newer one. This member trains from an older base
        only in the round in which it already trained from it, because that gives the same update.

        Args:
            proof: of the base, as it came.
            refused: proof that the newest candidate was refused; empty if it was not.

        Raises:
            Refused: ``base.unknown``.
        """
        statement, verdict = self._said(proof)
        code = verdict.code if verdict else ""
        context, before = self.context, self.before
        trained = self.purposes[context.purpose].trained
        problems = (
            (statement.sha256 != context.base, "is of another version"),
            (not statement.in_range, "is of a sum that was out of range"),
            (bool(code), f"is of a candidate that the gate refused: {code}"),
            (
                trained and statement.number < before.number and not before.trained,
                "is of an older version than the one that this member trained from last",
            ),
        )
        for wrong, what in problems:
            if wrong:
                raise Refused("base.unknown", f"the base's proof {what}")
        newer = before.newest if before.newest is not None and before.newest[1] != context.base else None
        if trained and newer is not None and newer[0] > statement.number and not before.trained:
            self._check_refused(newer, refused)
        return KnownBase(statement, verdict is not None and verdict.status == "promoted")

    def _check_refused(self, newest: tuple[int, str], refused: Mapping[str, Any]) -> None:
        statement, verdict = self._said(refused) if refused else (None, None)
        was_refused = verdict is not None and not verdict.accepted
        if statement is None or (statement.number, statement.sha256) != newest or not was_refused:
            raise Refused("base.unknown", f"the candidate of round {newest[0]} is newer, and no proof shows it refused")

    def _said(self, proof: Mapping[str, Any]) -> tuple[Statement, Verdict | None]:
        """Return what a proof of this run says, and the gate's verdict; the verdict is None if nobody votes."""
        proven = Proof.from_dict(proof)
        statement = proven.verify(self.roster)
        purpose = self.purposes.get(statement.purpose)
        if (statement.federation, statement.run) != (self.context.federation, self.context.run):
            raise Refused("base.unknown", "the base's proof is of another run")
        if purpose is None or not purpose.makes_version:
            raise Refused("base.unknown", "the base's proof is not about a model")
        if not purpose.voted:
            return statement, None
        norms = [norm for number, norm in sorted(self.before.norms.items()) if number < statement.number]
        return statement, gate.judge(
            proven.votes, statement.norm, norms, in_range=statement.in_range, settings=self.offer.gate
        )


def check_best(request: Open, best: str) -> None:
    """Check that a vote compares with the version that this member knows as the best (rule 7).

    Raises:
        Refused: ``base.unknown``.
    """
    if request.best != best:
        raise Refused("base.unknown", "the request names another best version than this member knows")


def check_list(
    context: RoundContext, request: Ask, member: str, own: str, answer: OwnAnswer | None, roster: Roster
) -> SealList:
    """Return the list that this member is asked to answer, if it may (rule 2).

    Args:
        context: built from the request and what was agreed.
        request: headers, signatures and the total's digest.
        member: whose guard this is.
        own: digest of the header that this member sealed last in this context; "" for none.
        answer: what it answered in this context before, or None.
        roster: all members of the circle.

    Raises:
        Refused: ``open.list``: the list lacks a member or has another name, its header of this member is not the one
            that this member sealed, or this member answered another list or total; ``envelope.signature``,
            ``.member``, ``.context`` or ``.malformed``.
    """
    names = {*roster.names}
    if {*request.headers} != names or {*request.signatures} != names:
        raise Refused("open.list", "the list does not hold exactly one header of every member of the circle")
    digests, masks = {}, {}
    for card in roster.cards:
        signed = SignedHeader(request.headers[card.name], request.signatures[card.name])
        header = signed.verify(card)
        if header.context != context.digest:
            raise Refused("envelope.context", f"{card.name!r} sealed under another context than this member")
        digests[card.name], masks[card.name] = signed.digest, bytes.fromhex(header.mask)
        check_public(masks[card.name], card.name)
    listed = SealList(digests, masks, request.total)
    if answer is not None:
        if (dict(answer.headers), answer.total) != (digests, listed.total):
            raise Refused("open.list", "this member already answered another list or total in this context")
        return listed
    if not own or not hmac.compare_digest(own, digests[member]):
        raise Refused("open.list", "this member's header on the list is not the one that it sealed")
    return listed


@dataclass(frozen=True)
class Answers:
    """The answers to one list, as an opener checked them.

    Attributes:
        digests: name → SHA-256 of its sealed answer.
        tau: name → functionals of its body.
    """

    digests: Mapping[str, str]
    tau: Mapping[str, tuple[int, ...]]


def check_answers(context: RoundContext, request: Open, answer: OwnAnswer | None, roster: Roster) -> Answers:
    """Return the answers of all members, if all are about the list and total that this member answered itself.

    Args:
        context: built from the request and what was agreed.
        request: documents, signatures, and the total.
        answer: what this member answered.
        roster: all members of the circle.

    Raises:
        Refused: ``open.list``, ``envelope.signature``.
    """
    names = {*roster.names}
    if answer is None or answer.context != context.digest:
        raise Refused("open.list", "this member did not answer in this context")
    if any({*named} != names for named in (request.documents, request.signatures, request.seeds)):
        raise Refused("open.list", "expected one answer of every member of the circle, and of nobody else")
    if hashlib.sha256(request.total).hexdigest() != answer.total:
        raise Refused("open.list", "the total is not the one that this member answered")
    wanted = list_digest(answer.headers.values())
    documents = {
        card.name: SignedAnswer(request.documents[card.name], request.signatures[card.name]).verify(
            card, context.digest, wanted, answer.total
        )
        for card in roster.cards
    }
    return Answers(
        {name: document.answer for name, document in documents.items()},
        {name: document.tau for name, document in documents.items()},
    )


def check_tried(request: Open, before: str | None) -> str:
    """Return the digest of the only sum of answers that this member tries in a context.

    A coordinator that could send sums of its own choice would learn the circle's key from which of them open.

    Args:
        request: holds a sum of answers, or the answers themselves, each signed by its member.
        before: digest of the sum that was tried in this context, or None.

    Raises:
        Refused: ``open.key``: the request holds another sum than the one tried before.
    """
    if request.answers:
        return before or ""
    seeds = b"".join(seed for _, seed in sorted(request.seeds.items()))
    tried = hashlib.sha256(request.keys + seeds).hexdigest()
    if before is not None and tried != before:
        raise Refused("open.key", "another sum of answers was tried in this context; expected the answers themselves")
    return tried


def check_total(plan: Plan, answers: Answers, answer: OwnAnswer, total: bytes, lanes: int) -> None:
    """Check that a total is the sum of exactly the bodies that were answered.

    Raises:
        Refused: ``open.tau``; ``envelope.malformed``: it does not have the length of a total.
    """
    expected = len(plan.primes) * tau.FUNCTIONALS
    if any(len(functionals) != expected for functionals in answers.tau.values()):
        raise Refused("open.tau", f"an answer has the wrong number of functionals; expected {expected}")
    headers = list_digest(answer.headers.values())
    computed = tau.functionals(plan, headers, answer.total, residues_of(plan, total, lanes))
    if computed != tau.added(plan, list(answers.tau.values())):
        raise Refused("open.tau", "the total is not the sum of the envelopes on the list")
