"""Sealed sums of every purpose: collect all members' envelopes into a list, have it answered, and have it opened.

What arrives is recorded at once (``records/contexts.py``). A coordinator that is started again continues in the same
context, and asks only the members that have not answered.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection

from ..crypto.answer_plan import AnswerSum, answer_plan
from ..crypto.sealed import Sum
from ..errors import InputError, Refused, TooFew
from ..protocol import model_version
from ..protocol.answer import list_digest
from ..protocol.context import RoundContext
from ..protocol.envelope import Envelope, RawEnvelope, SignedHeader
from ..protocol.messages import ANSWER, OPEN, SEAL, Ask, Opened, RoundRequest, Seal, Sealed
from ..protocol.purposes import UPDATE, Purpose
from .exchange import Answer
from .opening import GivenAnswers, Opening
from .records import contexts
from .records.contexts import KeptAnswer
from .records.models import Entry
from .rules import AgreedOpening, Collection, Hearing, SaidWords
from .run import Run, Seats
from .wire import Wire

R = TypeVar("R", bound=RoundRequest)
Check = Callable[[Collection, str, RawEnvelope], Envelope]


@dataclass
class _Collecting:
    """A list while it is being collected."""

    collection: Collection
    running: Sum


@dataclass(frozen=True)
class Collected:
    """A list that is fixed, and its sealed total.

    Attributes:
        purpose: of the sum.
        context: the round's.
        headers: member → signed header, for every member.
        total: the sealed total.
    """

    purpose: Purpose
    context: RoundContext
    headers: Mapping[str, SignedHeader]
    total: bytes

    @property
    def digest(self) -> str:
        """Digest of the list."""
        return list_digest(header.digest for header in self.headers.values())

    @property
    def sha256(self) -> str:
        """SHA-256 of the total."""
        return hashlib.sha256(self.total).hexdigest()


class Sums:
    """The sealed sums of a run. The cost of its rounds is added to ``wire``.

    Attributes:
        params: parameters of an update.
    """

    def __init__(self, run: Run, seats: Seats, wire: Wire) -> None:
        self.seats, self.params = seats, seats.sizes[UPDATE.name]
        self._run, self._wire = run, wire
        self._words = SaidWords()

    def context(self, number: int, planned: int, purpose: Purpose, base: str) -> RoundContext:
        """Return the context of a sum: the one that it began in, if it is not over, or else a new one.

        Args:
            number, planned: of the round; 0 before the first round.
            purpose: of the sum.
            base: SHA-256 of the version that the sum is about, or "".
        """
        with self._run.state.store.read() as db:
            begun = contexts.going_on(db, self._run.id, number, purpose.name)
        checkpoint = begun.checkpoint if begun else self._run.witnesses.newest()
        context = self.seats.template.at(number, planned, purpose.name, base, checkpoint)
        if begun is None or context.digest == begun.digest:
            return context
        with self._run.state.store.transaction() as db:
            self.over(db, begun)
        return replace(context, checkpoint=self._run.witnesses.newest())

    def over(self, db: Connection, context: RoundContext) -> None:
        """Record that a sum is over, and delete what was kept for it after the commit."""
        state, purpose = self._run.state, self._run.purposes[context.purpose]
        kept = contexts.envelopes(db, context.digest)
        contexts.over(db, context.digest)
        if state.envelopes.hours and purpose.when == "round":
            return

        def drop() -> None:
            for header in kept.values():
                state.envelopes.drop(context.number, header)

        state.store.after_commit(db, drop)

    def collect(
        self,
        context: RoundContext,
        bases: Mapping[str, Entry | None],
        refused: Mapping[str, Any] | None = None,
        check: Check = Collection.check,
    ) -> Collected:
        """Ask all members for sealed vectors, add each as it comes, wait for members that are away, and fix the list.

        Args:
            context: the round's.
            bases: member → the version that it is sent; None if the purpose needs no version.
            refused: proof of the newest candidate if that was refused; else empty.
            check: how an envelope is checked before it is added.

        Raises:
            TooFew: ``round.too_few``: a member refused, or sent an envelope that cannot be added.
        """
        run, purpose = self._run, self._run.purposes[context.purpose]
        running = Sum(self.seats.plan, self.seats.lanes(purpose))
        collection = Collection(context, self.seats.roster, running.body_bytes)
        collecting = _Collecting(collection, running)
        self._take_up(collecting, check)
        requests = {
            member: self.sent(member, self._seal_request(context, bases[member], refused or {}))
            for member in self.seats.roster.names
            if member not in collection.accepted
        }
        wait = run.wait("seal", context.number, run.offer.training.train_timeout_s)
        for answer in run.ask(SEAL, requests, wait, at=context.checkpoint):
            try:
                self._take(purpose, collecting, answer, check)
            except Refused as error:
                self._leave_out(collection, answer.member, error.code)
                wait.give_up()
        try:
            members = collection.close()
        except Refused as error:
            raise TooFew(error.code, str(error), dict(collection.named)) from None
        headers = {member: collection.accepted[member] for member in members}
        collected = Collected(purpose, context, headers, self.summed(context, running.dump()))
        self._fix(collected)
        return collected

    def _take_up(self, collecting: _Collecting, check: Check) -> None:
        """Begin a context, or add what came in it before. An envelope that is damaged on disk is asked for again."""
        state, collection = self._run.state, collecting.collection
        context = collection.context
        with state.store.transaction() as db:
            contexts.begin(db, context)
            kept = contexts.envelopes(db, context.digest)
        for member, header in kept.items():
            try:
                envelope = check(collection, member, state.envelopes.read(context.number, header))
            except Refused:
                continue
            collecting.running.add(envelope.body)
            collection.accept(envelope)

    def _fix(self, collected: Collected) -> None:
        """Record the list and its total, before any member is asked to answer them."""
        context = collected.context
        with self._run.state.store.transaction() as db:
            if contexts.total(db, context.digest) == collected.sha256:
                return
            contexts.fix(db, context.digest, collected.sha256)
            self._run.log(
                db,
                "set_closed",
                number=context.number,
                purpose=context.purpose,
                context=context.as_dict(),
                headers={member: header.digest for member, header in collected.headers.items()},
                sum=collected.sha256,
            )

    def _take(self, purpose: Purpose, collecting: _Collecting, answer: Answer[Sealed], check: Check) -> None:
        """Check an envelope and add it to the sum.

        Raises:
            Refused: it was not added.
        """
        member, sealed = answer.member, answer.body()
        collection, running = collecting.collection, collecting.running
        envelope = check(collection, member, sealed.envelope)
        began = time.perf_counter()
        running.add(envelope.body)
        seconds = time.perf_counter() - began
        context, size = collection.context, len(sealed.envelope.data)
        if purpose.when == "round":
            self._wire.sealed(size, sealed.seal_s, seconds)
        header = envelope.signed.digest
        self._run.state.envelopes.keep(context.number, envelope.signed, sealed.envelope)
        with self._run.state.store.transaction() as db:
            contexts.keep_envelope(db, context.digest, member, header)
            about = {"number": context.number, "purpose": context.purpose, "member": member}
            self._run.log(db, "envelope_accepted", **about, header=header, bytes=size)
        collection.accept(envelope)

    def open(self, collected: Collected, best: str) -> tuple[AgreedOpening, model_version.Version | None]:
        """Have all members answer a list and open its total; return what all say, and the version that follows.

        Args:
            collected: the list that is fixed.
            best: SHA-256 of the gate's reference; "" if there is no vote.

        Returns:
            The agreement, and the version. It is None if the purpose makes none or the sum is out of range.

        Raises:
            Refused: a member did not answer or open; the code says why.
            Ended: ``gate.forked``: a member gave two different votes on one candidate.
        """
        context, results = collected.context, dict[str, bytes]()
        request = self._open_request(collected, self._answers(collected), best)
        agreed = self._heard(collected, best, request, results)
        self._note("opened", context, **agreed.proof.as_dict())
        if not (collected.purpose.makes_version and agreed.statement.in_range):
            return agreed, None
        return agreed, self._result(context, request, agreed, results)

    def _answers(self, collected: Collected) -> GivenAnswers:
        """Return the answers of all members to a list.

        Raises:
            Refused: a member did not answer; the code is the first one's.
        """
        run, context, refused = self._run, collected.context, dict[str, str]()
        requests = {member: self.sent(member, self._answer_request(collected)) for member in self.seats.roster.names}
        answers = GivenAnswers(context, self.seats.roster, AnswerSum(answer_plan(self.seats.plan)))
        with run.state.store.read() as db:
            answers.take_up(contexts.answers(db, context.digest), requests)
        wait = run.wait("answer", context.number)
        missing = {member: asked for member, asked in requests.items() if member not in answers.documents}
        for came in run.ask(ANSWER, missing, wait):
            member = came.member
            try:
                answered = came.body()
                signed = answers.add(member, requests[member], answered)
            except Refused as error:
                refused[member] = error.code
                self._note("answer_refused", context, member=member, code=error.code)
                wait.give_up()
                continue
            with run.state.store.transaction() as db:
                kept = KeptAnswer(answered.document, answered.signature, answered.answer)
                contexts.keep_answer(db, context.digest, member, kept)
                about = {"number": context.number, "purpose": context.purpose, "member": member}
                run.log(db, "answered", **about, document=signed.digest)
            if collected.purpose.when == "round":
                size = len(answered.answer) + len(signed.data) + len(signed.signature)
                self._wire.answer_bytes.append(size)
                self._wire.answer_s.append(answered.answer_s)
        if refused:
            reasons = ", ".join(f"{member}: {code}" for member, code in sorted(refused.items()))
            raise Refused(refused[min(refused)], f"only the answers of all members open a sum; missing: {reasons}")
        return answers

    def _heard(self, collected: Collected, best: str, request: Opening, results: dict[str, bytes]) -> AgreedOpening:
        """Have all members open and judge, and return what all say.

        If the sum of the answers does not open, openers get the answers themselves. Then either the coordinator added
        wrongly, or a member answered junk.

        Args:
            collected: the list.
            best: as in :meth:`open`.
            request: what is sent to openers.
            results: digest → file, for those that arrived.
        """
        run, names = self._run, self.seats.roster.names
        hearing = Hearing(collected.purpose, collected.context, self.seats.roster, best)
        asked = {member: self.sent(member, request.body(upload=member == names[0])) for member in names}
        for _ in range(2):
            wait = run.wait("open", collected.context.number)
            for answer in run.ask(OPEN, asked, wait):
                self._hear(hearing, answer, results)
                if hearing.refused.get(answer.member, "open.key") != "open.key":
                    wait.give_up()
            without = [member for member, code in hearing.refused.items() if code == "open.key"]
            if not without:
                break
            asked = {member: request.body(upload=member == names[0], whole=True) for member in without}
        for member in hearing.disagreeing:
            self._note("opening_refused", hearing.context, member=member, code="open.disagree")
        return hearing.conclude()

    def _result(
        self, context: RoundContext, request: Opening, agreed: AgreedOpening, results: dict[str, bytes]
    ) -> model_version.Version:
        """Return the version that every member signed. If the first member did not send it, ask all others."""
        wanted = agreed.statement.sha256
        if wanted not in results:
            again = dict.fromkeys(self.seats.roster.names, request.body(upload=True))
            for answer in self._run.ask(OPEN, again, self._run.wait("open", context.number)):
                try:
                    _keep(answer.body().result, results)
                except Refused as error:
                    self._note("opening_refused", context, member=answer.member, code=error.code)
                if wanted in results:
                    break
        if wanted not in results:
            raise Refused("open.disagree", "no opener sent the result that it signed")
        try:
            return model_version.parse(results[wanted])
        except InputError as error:
            raise Refused("open.disagree", f"the result that every member signed is not a model: {error}") from None

    def _hear(self, hearing: Hearing, answer: Answer[Opened], results: dict[str, bytes]) -> None:
        try:
            opened = answer.body()
            hearing.hear(answer.member, opened)
            self._words.check(answer.member, opened, hearing)
        except Refused as error:
            self._refuse(hearing, answer.member, error.code)
            return
        _keep(opened.result, results)
        if hearing.purpose.when == "round":
            self._wire.open_s.append(opened.open_s)
            words = (opened.statement, opened.signature, opened.vote_signature)
            self._wire.word_bytes.append(sum(map(len, words)))

    def _refuse(self, hearing: Hearing, member: str, code: str) -> None:
        hearing.refuse(member, code)
        self._note("opening_refused", hearing.context, member=member, code=code)

    def _leave_out(self, collection: Collection, member: str, code: str) -> None:
        collection.name(member, code)
        self._note("envelope_refused", collection.context, member=member, code=code)

    def _round(self, context: RoundContext) -> dict[str, Any]:
        """Return the fields that every request of a round has."""
        fields = ("number", "round", "purpose", "base", "checkpoint")
        return {"run": self._run.id, **{name: getattr(context, name) for name in fields}}

    def _seal_request(self, context: RoundContext, base: Entry | None, refused: Mapping[str, Any]) -> Seal:
        sent = {"base": base.sha256 if base else ""}
        purpose = self._run.purposes[context.purpose]
        start = self._run.offer.start if purpose.makes_version and not purpose.based else ""
        named = base.sha256 if base else start
        model = self._run.state.models.read(named).data if named else b""
        proof = dict(base.proof) if base else {}
        return Seal(**{**self._round(context), **sent}, model=model, proof=proof, refused=dict(refused))

    def _answer_request(self, collected: Collected) -> Ask:
        return Ask(
            **self._round(collected.context),
            headers={name: header.data for name, header in collected.headers.items()},
            signatures={name: header.signature for name, header in collected.headers.items()},
            total=collected.sha256,
        )

    def _open_request(self, collected: Collected, answers: GivenAnswers, best: str) -> Opening:
        keys = answers.running.dump()
        if collected.purpose.when == "round":
            base = self._run.state.models.path(collected.context.base).stat().st_size
            pieces = (*answers.documents.values(), *answers.signatures.values(), *answers.seeds.values())
            listed = (*(header.data + header.signature for header in collected.headers.values()), *pieces)
            self._wire.download_bytes.append(base + sum(map(len, listed)) + len(keys) + len(collected.total))
        return Opening(self._round(collected.context), answers, keys, collected.total, best)

    # What the drills of a dishonest coordinator replace.

    def sent(self, member: str, request: R) -> R:
        """Return a request as it is sent to a member."""
        return request

    def summed(self, context: RoundContext, total: bytes) -> bytes:
        """Return a total as it is answered."""
        return total

    def _note(self, event: str, about: RoundContext, /, **details: Any) -> None:
        self._run.note(event, number=about.number, purpose=about.purpose, **details)


def _keep(result: bytes, results: dict[str, bytes]) -> None:
    if result:
        results[hashlib.sha256(result).hexdigest()] = result
