"""The member's half of a round, as a Flower ClientApp. ``server/coordinator.py`` has the other half.

Each handler takes the same three steps: the guard checks the request, the ledger remembers, then the member acts. What
a handler needs from earlier requests is in the ledger. So a member can be killed and started again between any two
requests, and can be asked again what it was asked before. If anything goes wrong, only a code leaves the member (rule
12). The reason stays in the member's own log.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from .. import logs
from ..canonical import digest
from ..configs.settings import Offer
from ..crypto import answers, pairs, quantise, sealed
from ..crypto.answer_plan import answer_plan
from ..crypto.quantise import Contribution, Ints, OpenedSum
from ..crypto.sealed import Secrets
from ..errors import MoonflowerError, Refused
from ..protocol import envelope as envelopes
from ..protocol import model_version, statement
from ..protocol.circle import Circle, SignedCircle
from ..protocol.context import RoundContext
from ..protocol.envelope import OwnEnvelope, RawEnvelope
from ..protocol.messages import (
    ROUTES,
    Answered,
    Ask,
    Body,
    Enrol,
    Enrolled,
    KeyMade,
    MakeKey,
    Noted,
    Open,
    Opened,
    Refusal,
    Seal,
    Sealed,
    SeatTaken,
    TakeSeat,
    Waits,
)
from ..protocol.records import from_records, to_records
from . import answering, away, bases, circle_key, guard
from .circles import DAY_S, Circles, check_day, check_envelope, check_recipe
from .guard import OwnAnswer, SealList
from .learning.learner import Learner
from .ledger.ledger import Ledger
from .purposes import Given, Kit, MemberRound, vote
from .seals import HeldSeal, Seals
from .seat import Agreed, Seated
from .secret import NodeSecret
from .witness import LogWitness

logger = logging.getLogger(__name__)


class Member:
    """One organisation's node: everything that it does for the federation.

    Args:
        circles: with the member's keys, its own limits, and the circle that it lives in.
        secret: the node's; it decides which part each row is in.
        ledger: the member's store.
        held: what it sealed and has not answered yet.
        learner_for: makes the learner for a circle, an offer and its run from the node's own data.
        clock: seconds since 1970.
        kit: purposes, steps and optimiser; None for the usual kit of every member.
    """

    def __init__(
        self,
        circles: Circles,
        secret: NodeSecret,
        ledger: Ledger,
        seals: Seals,
        learner_for: Callable[[Circle, Offer, str], Learner],
        clock: Callable[[], float] = time.time,
        kit: Kit | None = None,
    ) -> None:
        self.circles, self.identity, self.secret = circles, circles.own.identity, secret
        self.ledger, self.held = ledger, seals
        self.kit, self._clock = kit or Kit(), clock
        self.witness = LogWitness(self.identity, ledger, circles.own.floor.log_key, clock)
        self._learner_for = learner_for
        self._agreed: dict[str, Agreed] = {}  # of the newest run; the ledger has what makes them anew
        self._seated: dict[str, Seated] = {}
        self._tried: dict[str, str] = {}  # context → the only sum of answers that is tried in it

    def enrol(self, request: Enrol) -> Enrolled:
        """Agree to a run in the circle that this member lives in, and return what all members must share."""
        circle = self._enter(SignedCircle.parse(request.circle))
        if request.start not in ("", circle.starts_at) and not self.circles.saw_promoted(request.start):
            raise Refused(
                "base.unknown", "the run starts from a version that this node did not see this circle promote"
            )
        offer = circle.offer(request.seed, request.rounds, request.start, request.choice)
        before, now_s = self.ledger.runs.agreement(request.run), self._clock()
        if before is None:
            check_recipe(circle.recipe, len(circle.names), self.circles.own)
            check_day(self.circles.own, self.ledger.runs.agreed_since(now_s - DAY_S))
        elif digest(before.offer) != digest(offer):
            raise Refused("envelope.context", "this member agreed to this run under another offer")
        self.ledger.runs.agree(request.run, offer, now_s)
        agreed = self._agreement(request.run)
        key = self.ledger.circle_key(agreed.key_use)
        return Enrolled(
            card=self.identity.card.as_dict(),
            agreed=dict(agreed.shared),
            frozen=dict(agreed.frozen),
            sizes=dict(agreed.sizes),
            key=hashlib.sha256(key).hexdigest() if key is not None else "",
        )

    def make_key(self, request: MakeKey) -> KeyMade:
        """Return the circle's key, wrapped for all its members; the circle's first name makes the key, once."""
        agreed = self._agreement(request.run)
        if self.identity.name != agreed.circle.first:
            raise Refused("circle.key", f"only {agreed.circle.first!r} makes the circle's key")
        roster = agreed.roster(request.roster)
        key = self.ledger.circle_key(agreed.key_use)
        if key is None:
            key = answers.generate(answer_plan(agreed.plan))
            self.ledger.keep_key(agreed.key_use, key)
        return circle_key.wrapped(self.identity, agreed.key_use, key, roster)

    def take_seat(self, request: TakeSeat) -> SeatTaken:
        """Take part in a run with all members of the circle, under its key."""
        agreed = self._agreement(request.run)
        roster = agreed.roster(request.roster)
        if request.ciphertext:
            first = agreed.circle.first
            key = circle_key.unwrapped(self.identity, agreed.key_use, agreed.plan, first, roster, request)
            self.ledger.keep_key(agreed.key_use, key)
        kept_key = self.ledger.circle_key(agreed.key_use)
        if kept_key is None:
            raise Refused("circle.key", "this member does not have the circle's key, and the request brought none")
        self.ledger.runs.seat(request.run, request.roster, hashlib.sha256(kept_key).hexdigest())
        self._seated.pop(request.run, None)
        return circle_key.taken(self.identity, agreed.key_use, kept_key)

    def seal(self, request: Seal) -> Sealed:
        """Return this member's envelope for the request's purpose, sealed once in a context."""
        agreed, seat = self._seat(request)
        context = guard.round_context(seat.template, request, self.kit.known)
        guard.check_witnessed(request, self.ledger.has_witnessed(request.checkpoint))
        if self.ledger.answered(context.digest) is not None:
            raise Refused("seal.already", f"{context.purpose} {context.number} was already sealed and answered")
        kept, before = self.held.read(context.digest), self.ledger.sealed(context.digest)
        if kept is not None and before is not None:
            return Sealed(envelope=RawEnvelope(kept.envelope), seal_s=0.0)
        base = bases.of_request(self.kit.known, self.ledger, agreed, seat, context, request)
        version = None if base is None else model_version.parse(base.data)
        given = self._give(self._round(agreed, seat, context, version))
        began = time.perf_counter()
        envelope, seed = self._sealed(seat, context, given.contribution)
        seconds = time.perf_counter() - began
        if base is not None and (agreed.learner.personal or agreed.offer.training.ditto):
            self.ledger.own_parts.note(base.identity, base.promoted, context.digest, given.personal)
        self.ledger.remember_sealed(context, envelope.header, base=base, metrics=given.measured, facts=given.facts)
        self._let_go(context)
        self.held.keep(context.digest, HeldSeal(seed, envelope.data))
        return Sealed(envelope=RawEnvelope(envelope.data), seal_s=seconds)

    def answer_list(self, request: Ask) -> Answered:
        """Return this member's answer to a list and a total: once in a context, and the same bytes when asked again."""
        agreed, seat = self._seat(request)
        context = guard.round_context(seat.template, request, self.kit.known)
        answer, kept = self.ledger.answered(context.digest), self.held.read(context.digest)
        own = kept.signed.digest if kept is not None else ""
        listed = guard.check_list(context, request, self.identity.name, own, answer, seat.roster)
        began = time.perf_counter()
        if answer is None:
            assert kept is not None  # or its header would not be the one that it sealed
            lanes = seat.lanes(self.kit.known[context.purpose], agreed)
            answer = self._answer(seat, context, kept, listed, lanes)
            self.ledger.remember_answered(context, answer)
        self.held.drop(context.digest)
        seconds = time.perf_counter() - began
        return Answered(document=answer.document, signature=answer.signature, answer=answer.answer, answer_s=seconds)

    def open(self, request: Open) -> Opened:
        """Open a sum that all members answered, compute its result, sign the result, and vote."""
        agreed, seat = self._seat(request)
        context = guard.round_context(seat.template, request, self.kit.known)
        answer = self.ledger.answered(context.digest)
        checked = guard.check_answers(context, request, answer, seat.roster)
        assert answer is not None
        work = self.kit.of(context.purpose)
        good = self.ledger.good(context.run, context.base) if work.purpose.voted else []
        guard.check_best(request, good[-1] if good else "")
        began = time.perf_counter()
        size, lanes = agreed.sizes[context.purpose], seat.lanes(work.purpose, agreed)
        guard.check_total(seat.plan, checked, answer, request.total, lanes)
        self._tried[context.digest] = guard.check_tried(request, self._tried.get(context.digest))
        key_sum = answering.key_sum(seat, request, checked)
        blocks = sealed.open_total(seat.plan, context.digest, key_sum, request.total, lanes)
        values, counters = (size, 0) if work.purpose.trained else (0, size)
        at = self._round(agreed, seat, context, bases.kept(self.ledger, work.purpose, agreed, context))
        sums = OpenedSum(blocks, values, counters, len(seat.roster.names), seat.plan)
        conclusion = work.conclude(at, answer.headers, sums)
        seconds = time.perf_counter() - began
        outcome, result = conclusion.statement, conclusion.result
        judging = result is not None and work.purpose.voted
        if result and judging:
            self.ledger.own_parts.adopt(context.digest, result.identity)
        voted, measured = vote(at, result, good) if result and judging else ("", {})
        self.ledger.remember_opened(
            context,
            {"sha256": outcome.sha256, "in_range": outcome.in_range, "members": list(outcome.members)},
            facts=conclusion.facts,
            vote={"sha256": outcome.sha256, "best": request.best, "vote": voted} if judging else None,
            metrics=measured,
            candidate=outcome.sha256 if judging else "",
        )
        encoded = outcome.encode()
        return Opened(
            statement=encoded,
            signature=statement.sign_statement(self.identity, outcome),
            vote=voted,
            vote_signature=self.identity.sign("vote", statement.vote_bytes(encoded, request.best, voted)),
            result=result.data if result and request.upload else b"",
            open_s=seconds,
        )

    # The steps of sealing and answering. The drills replace one of them at a time.

    def _give(self, at: MemberRound) -> Given:
        """Return what this member contributes."""
        return self.kit.of(at.context.purpose).contribute(at)

    def _lanes(self, seat: Seated, contribution: Contribution) -> Ints:
        """Return the contribution as lanes."""
        return quantise.lanes_of(contribution, seat.plan)

    def _sealed(self, seat: Seated, context: RoundContext, contribution: Contribution) -> tuple[OwnEnvelope, bytes]:
        """Return the signed envelope of a contribution, and the seed of all its random values."""
        lanes = self._lanes(seat, contribution)
        secrets = Secrets.fresh(os.urandom(32), self.secret.value, context.digest, sealed.digest_of(lanes))
        body = sealed.seal(seat.plan, context.digest, secrets, lanes)
        return envelopes.seal(self.identity, context, body, pairs.public_mask(secrets.mask_key)), secrets.seed

    def _answer(self, seat: Seated, context: RoundContext, kept: HeldSeal, listed: SealList, lanes: int) -> OwnAnswer:
        """Return the answer to a list."""
        return answering.own_answer(self.identity, seat, context, kept, listed, lanes)

    # What the handlers use.

    def _enter(self, shown: SignedCircle) -> Circle:
        """Return the circle of a run that begins; seals of another circle are deleted: they will never be opened."""
        newest = self.circles.standing.newest
        circle = self.circles.enter(shown)
        if newest is not None and newest.circle.digest != circle.digest:
            self.held.drop_all()
        return circle

    def _agreement(self, run: str) -> Agreed:
        """Return what was agreed to for a run; after a restart it is made anew from the ledger's offer.

        Raises:
            Refused: ``circle.changed``: this member has since entered another circle; also what :func:`check_recipe`
                and :func:`check_envelope` raise.
        """
        circle, agreed = self.circles.living(), self._agreed.get(run)
        if agreed is None:
            kept = self.ledger.runs.agreement(run)
            if kept is None:
                raise Refused("envelope.context", "this member did not agree to that run")
            if kept.offer["circle"] == circle.digest:
                check_recipe(circle.recipe, len(circle.names), self.circles.own)
                offer = Offer.model_validate(kept.offer)
                learner = self._learner_for(circle, offer, run)
                agreed = Agreed.to(offer, kept.offer, learner, self.kit.purposes, circle)
                check_envelope(self.circles.own, agreed.envelope_bytes)
                self._agreed, self._seated = {run: agreed}, {}
        if agreed is None or agreed.circle.digest != circle.digest:
            raise Refused(
                "circle.changed", f"this member lives in circle {circle.number}, and the run is in another one"
            )
        return agreed

    def _seat(self, request: Seal | Ask | Open) -> tuple[Agreed, Seated]:
        agreed = self._agreement(request.run)
        if request.run not in self._seated:
            kept = self.ledger.runs.agreement(request.run)
            assert kept is not None
            key = self.ledger.circle_key(agreed.key_use)
            self._seated = {request.run: Seated.at(request.run, agreed, kept, key)}
        return agreed, self._seated[request.run]

    def _let_go(self, context: RoundContext) -> None:
        """Delete seals for earlier numbers of the same sum, because this number repeats them."""
        for other in self.held.contexts():
            if other != context.digest and self.ledger.is_about(other, context.run, context.purpose):
                self.held.drop(other)

    def _round(
        self, agreed: Agreed, seat: Seated, context: RoundContext, base: model_version.Version | None
    ) -> MemberRound:
        """Return a round as its purpose sees it here."""
        return MemberRound(
            agreed.offer,
            agreed.learner,
            context,
            agreed.counted,
            agreed.scale,
            agreed.floors,
            self.secret.value,
            base,
            self.kit.steps,
            self.kit.optimiser_of(agreed.offer.training),
            self.ledger.own_parts.of,
            self.held.trained.get,
            self.ledger.fact,
            self.ledger.metric,
        )

    def note(self, request: Waits) -> Noted:
        """Write into this member's log which members the run waits for, once for each change."""
        away.tell(request, self._agreement(request.run).circle.names)
        return Noted()

    def answer(self, request: type[Body], records: RecordDict) -> RecordDict:
        """Return the reply to a message: what was asked for, or a refusal that holds only a code."""
        handlers: dict[type[Body], Callable[[Any], Body]] = {
            Enrol: self.enrol,
            MakeKey: self.make_key,
            TakeSeat: self.take_seat,
            Seal: self.seal,
            Ask: self.answer_list,
            Open: self.open,
            Waits: self.note,
        }
        asked: Body | None = None
        with logs.about(member=self.identity.name, run="", round=0):
            try:
                self.witness.look(records)
                asked = from_records(request, records)
                logs.now_about(run=getattr(asked, "run", ""), round=getattr(asked, "number", 0))
                reply = to_records(handlers[request](asked))
                logger.info("%s done", request.kind)
            except MoonflowerError as error:
                level = logging.INFO if error.code == "audit.behind" else logging.WARNING  # asked again, with the proof
                logger.log(level, "%s refused: %s", request.kind, error, extra={"code": error.code})
                reply = self._refusal(request, asked, error.code)
            except Exception as error:  # rule 12: an exception of a task may hold a row; only a code may leave
                logger.warning("%s failed: %s", request.kind, type(error).__name__, extra={"code": "update.failed"})
                logger.debug("the failure in full", exc_info=error)
                reply = self._refusal(request, asked, "update.failed")
            self.witness.countersign(reply)
        return reply

    def _refusal(self, request: type[Body], asked: Body | None, code: str) -> RecordDict:
        """Return the refusal of a message, and note it in the journal; a full or broken journal stops nothing.

        Args:
            request: the expected type of the message.
            asked: the message, if it could be read.
            code: why it is refused.
        """
        about = {name: getattr(asked, name) for name in ("run", "number", "purpose") if hasattr(asked, name)}
        try:
            self.ledger.remember_refusal(request.kind, code, **about)
        except Exception as error:
            logger.warning("the refusal could not be written to the journal: %s", type(error).__name__)
        return to_records(Refusal(code=code))


def client_app(member_of: Callable[[Context], Member]) -> ClientApp:
    """Return the Flower ClientApp that answers for the member of a node's context."""
    app = ClientApp()
    register = {"query": app.query, "train": app.train, "evaluate": app.evaluate}
    for route, exchange in ROUTES.items():
        category, _, action = route.partition(".")

        def handle(message: Message, context: Context, request: type[Body] = exchange.request) -> Message:
            return Message(member_of(context).answer(request, message.content), reply_to=message)

        register[category](action)(handle)
    return app
