"""The member's half of a round, as a Flower ClientApp. Read it, then ``server/coordinator.py``: that is the round.

Each handler goes one way: the guard checks the request, the ledger remembers, then the member acts. What a handler
needs of earlier requests stands in the ledger, so a member may be killed and started again between any two, and asked
again what it was asked before. Whatever goes wrong leaves the member as a code and nothing else (rule 12); the reason
stays in the member's own log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from .. import logs
from ..canonical import digest
from ..configs.settings import FloorSettings, Offer
from ..crypto import planner, quantise
from ..crypto.identity import Identity, Roster, parse_card, parse_roster
from ..crypto.quantise import Contribution, OpenedSum
from ..crypto.schemes import deal
from ..errors import MoonflowerError, Refused
from ..protocol import envelope as envelopes
from ..protocol import model_version, statement
from ..protocol.context import RoundContext
from ..protocol.envelope import OwnEnvelope, RawEnvelope
from ..protocol.messages import (
    ROUTES,
    Body,
    Confirm,
    DealAnswer,
    Deals,
    Done,
    Enrol,
    Enrolled,
    MakeDeals,
    Open,
    Opened,
    Refusal,
    Seal,
    Sealed,
    TakeDeal,
)
from ..protocol.purposes import Purpose
from ..protocol.records import from_records, to_records
from . import epochs, guard
from .guard import Remembered
from .learning.learner import Learner
from .ledger.ledger import Epoch, Ledger
from .purposes import Given, Kit, MemberRound, vote
from .seat import Agreed, Seated
from .witness import LogWitness

logger = logging.getLogger(__name__)
SHARE_STEP = 0.05  # the clipped share is reported in steps, so that it says little about the update


class Member:
    """One organisation's node: everything it does for the federation.

    Args:
        identity: the member's keys.
        floor: the node's own limits.
        pins: every member's pin by name, this one's own included.
        ledger: the member's store.
        learner_for: makes the learner for a run's offer from the node's own data.
        schema_digest: of the node's own schema.
        clock: seconds since 1970.
        kit: what it works with; None for that of every member.
    """

    def __init__(
        self,
        identity: Identity,
        floor: FloorSettings,
        pins: Mapping[str, str],
        ledger: Ledger,
        learner_for: Callable[[Offer], Learner],
        schema_digest: str,
        clock: Callable[[], float] = time.time,
        kit: Kit | None = None,
    ) -> None:
        self.identity, self.floor, self.pins, self.ledger = identity, floor, pins, ledger
        self.kit = kit or Kit()
        self.witness = LogWitness(identity, ledger, floor.log_key, clock)
        self._learner_for, self._schema_digest = learner_for, schema_digest
        self._agreed: dict[str, Agreed] = {}  # of the newest run and epoch; the ledger has what makes them anew
        self._seated: dict[int, Seated] = {}

    def enrol(self, request: Enrol) -> Enrolled:
        """Agree to a run, within the node's floor, and say what all members must share."""
        guard.admit(request.offer, self.floor, self._schema_digest)
        before = self.ledger.agreement(request.run)
        if before is not None and digest(before) != digest(request.offer):
            raise Refused("envelope.context", "this run was agreed to under another offer")
        self.ledger.keep_agreement(request.run, request.offer)
        agreed = self._agreement(request.run)
        return Enrolled(
            card=self.identity.card.as_dict(),
            agreed=dict(agreed.shared),
            sizes=dict(agreed.sizes),
            epoch=self.ledger.newest_epoch(),
        )

    def make_deals(self, request: MakeDeals) -> Deals:
        """Deal the epoch's keys to every member of a roster of pinned cards (rule 8)."""
        roster, plan, terms = self._terms(request)
        return epochs.make_deals(self.identity, terms, roster, plan)

    def take_deal(self, request: TakeDeal) -> DealAnswer:
        """Take what the dealers wrapped for this member; answer so that all can compare."""
        roster, plan, terms = self._terms(request)
        held = self.ledger.epoch(request.epoch)
        if held is not None and (held.confirmed or (held.run, held.key.terms) != (request.run, terms)):
            raise Refused("deal.epoch", f"epoch {request.epoch} was dealt before")
        key = epochs.take_deal(self.identity, terms, roster, plan, request)
        self.ledger.keep_epoch(Epoch(request.run, roster.as_list(), key))
        return DealAnswer(**deal.sign_answer(self.identity, key))

    def confirm(self, request: Confirm) -> Done:
        """Compare all members' answers; only then may this epoch's keys seal."""
        held = self.ledger.epoch(request.epoch)
        if held is None or held.run != request.run:
            raise Refused("deal.epoch", f"no keys were dealt here for epoch {request.epoch}")
        deal.confirm(held.key, parse_roster(held.roster, self.pins), request.answers)
        self.ledger.confirm_epoch(request.epoch)
        return Done()

    def seal(self, request: Seal) -> Sealed:
        """Return this member's envelope: what the request's purpose asks of it, sealed once."""
        agreed, seat = self._seat(request)
        context = guard.round_context(seat.template, request, self.kit.known)
        guard.check_witnessed(request, self.ledger.has_witnessed(request.checkpoint))
        kept = self.ledger.sealed(context)
        guard.check_seal(context, kept)
        seconds = 0.0
        if kept is None:
            base = self._base(agreed, seat, context, request)
            given = self._give(self._round(agreed, seat, context, base))
            began = time.perf_counter()
            envelope = self._sealed(seat, context, given.contribution)
            seconds = time.perf_counter() - began
            share, measured = round(given.clipped_share / SHARE_STEP) * SHARE_STEP, given.measured
            del given  # the ledger copies what it writes, and a model may be large
            kept = Remembered(context.digest, envelope.header, min(share, 1.0), envelope.data)
            self.ledger.remember_sealed(context, kept, base.data if base else None, measured)
        assert kept.envelope is not None
        return Sealed(envelope=RawEnvelope(kept.envelope), clipped_share=kept.clipped_share, seal_s=seconds)

    def open(self, request: Open) -> Opened:
        """Open a sum that the guard allows, compute what follows from it, sign that, and vote (rules 4, 13)."""
        agreed, seat = self._seat(request)
        context = guard.round_context(seat.template, request, self.kit.known)
        own = self.ledger.sealed(context, envelope=False)
        key = self._opening_key(agreed, context)
        opened_before = self.ledger.opened(context.purpose, key)
        chosen = guard.check_opening(context, request, own, opened_before, seat.roster, self.pins, self.floor)
        began = time.perf_counter()
        work = self.kit.of(context.purpose)
        size, lanes = agreed.sizes[context.purpose], seat.lanes(work.purpose, agreed)
        seat.held.check_total(context.digest, chosen.tags, request.total, lanes)
        self.ledger.remember_opening(context, key, request.members)
        rows = seat.held.open(request, lanes)
        values, counters = (size, 1) if work.purpose.trained else (0, size)
        at = self._round(agreed, seat, context, self._kept_base(work.purpose, context))
        sums = OpenedSum(rows, values, counters, len(request.members), seat.plan)
        found = work.conclude(at, chosen.digests, sums)
        seconds = time.perf_counter() - began
        said, result = found.statement, found.result
        judging = result is not None and work.purpose.voted
        voted, measured = vote(at, result, request.best) if result and judging else (None, {})
        self.ledger.remember_opened(
            context,
            {"sha256": said.sha256, "in_range": said.in_range, "members": list(said.members)},
            facts=found.facts,
            vote={"sha256": said.sha256, "best": request.best, "vote": voted} if judging else None,
            metrics=measured,
        )
        encoded = said.encode()
        return Opened(
            statement=encoded,
            signature=statement.sign_statement(self.identity, said),
            vote=voted,
            vote_signature=self.identity.sign("vote", statement.vote_bytes(encoded, request.best, voted)),
            result=result.data if result and request.upload else b"",
            open_s=seconds,
        )

    # The steps of sealing. The drills replace one of them at a time.

    def _give(self, at: MemberRound) -> Given:
        """Return what this member contributes."""
        return self.kit.of(at.context.purpose).contribute(at)

    def _blocks(self, seat: Seated, given: Contribution) -> Iterator[quantise.Ints]:
        """Yield the contribution as plaintext rows."""
        return quantise.slot_blocks(given, seat.plan)

    def _sealed(self, seat: Seated, context: RoundContext, given: Contribution) -> OwnEnvelope:
        """Return the signed envelope of a contribution."""
        vector = seat.held.seal(context.digest, self._blocks(seat, given), given.lanes(seat.plan))
        return envelopes.seal(self.identity, context, vector)

    # What a handler needs on its way.

    def _terms(self, request: MakeDeals | TakeDeal) -> tuple[Roster, planner.Plan, deal.EpochTerms]:
        agreed = self._agreement(request.run)
        roster = parse_roster(request.roster, self.pins)
        if self.identity.name not in roster.names or len(roster.names) < self.floor.min_members:
            raise Refused("deal.signature", "the roster leaves this member out or is smaller than its floor")
        plan = agreed.plan(len(roster.names))
        return roster, plan, deal.EpochTerms.of(agreed.offer.federation.name, request.epoch, roster, plan)

    def _agreement(self, run: str) -> Agreed:
        """Return what was agreed to for a run; after a restart it is made anew from the ledger's offer."""
        if run not in self._agreed:
            raw = self.ledger.agreement(run)
            if raw is None:
                raise Refused("envelope.context", "this member did not agree to that run")
            offer = guard.admit(raw, self.floor, self._schema_digest)
            self._agreed = {run: Agreed.to(offer, raw, self._learner_for(offer), self.kit.purposes)}
        return self._agreed[run]

    def _seat(self, request: Seal | Open) -> tuple[Agreed, Seated]:
        agreed = self._agreement(request.run)
        held = self.ledger.epoch(request.epoch)
        if held is None or held.run != request.run or not held.confirmed:
            raise Refused("envelope.epoch", f"this member holds no confirmed keys of epoch {request.epoch}")
        if request.epoch not in self._seated:
            self._seated = {request.epoch: Seated.at(agreed, held, self.identity, self.pins)}
        return agreed, self._seated[request.epoch]

    def _base(self, agreed: Agreed, seat: Seated, context: RoundContext, request: Seal) -> model_version.Version | None:
        """Return the base that came with a request, once it is proved; None where the purpose is about none.

        Raises:
            Refused: ``base.unproved``.
        """
        if not self.kit.known[context.purpose].based:
            return None
        remembered, quorum = map(parse_card, self.ledger.cards()), agreed.offer.crypto.open_quorum
        guard.check_base(context, request.proof, seat.roster, quorum, self.floor, self.kit.known, remembered)
        base = model_version.parse(request.model)
        if base.sha256 != context.base or base.layout != agreed.learner.layout:
            raise Refused("base.unproved", "the model that came is not the base that was announced")
        agreed.learner.prepare(base.manifest["scaling"])
        return base

    def _kept_base(self, purpose: Purpose, context: RoundContext) -> model_version.Version | None:
        """Return the base that this member trained from, where an opening needs it and the ledger still has it."""
        data = self.ledger.model(context.base) if purpose.trained else None
        return None if data is None else model_version.parse(data)

    def _round(
        self, agreed: Agreed, seat: Seated, context: RoundContext, base: model_version.Version | None
    ) -> MemberRound:
        """Return a round as its purpose sees it here."""
        return MemberRound(
            agreed.offer,
            agreed.learner,
            context,
            len(seat.roster.names),
            base,
            self.kit.steps,
            self.kit.optimiser,
            self.ledger.fact,
            self.ledger.metric,
        )

    def _opening_key(self, agreed: Agreed, context: RoundContext) -> str:
        """What rule 2 holds the set fixed for: the base, or the rows where the purpose is about no base."""
        return context.base if self.kit.known[context.purpose].based else agreed.learner.data_digest()

    def answer(self, request: type[Body], records: RecordDict) -> RecordDict:
        """Return the reply to a message: what was asked for, or a refusal that holds a code and nothing else."""
        handlers: dict[type[Body], Callable[[Any], Body]] = {
            Enrol: self.enrol,
            MakeDeals: self.make_deals,
            TakeDeal: self.take_deal,
            Confirm: self.confirm,
            Seal: self.seal,
            Open: self.open,
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
            except Exception as error:  # rule 12: whatever a task raises may hold a row; only a code may leave
                logger.warning("%s failed: %s", request.kind, type(error).__name__, extra={"code": "update.failed"})
                logger.debug("the failure in full", exc_info=error)
                reply = self._refusal(request, asked, "update.failed")
            self.witness.countersign(reply)
        return reply

    def _refusal(self, request: type[Body], asked: Body | None, code: str) -> RecordDict:
        """Return the refusal of a message, and note it in the journal; a journal that is full or broken stops nothing.

        Args:
            request: what the message should have been.
            asked: what it said, if it could be read.
            code: why it is refused.
        """
        about = {name: getattr(asked, name) for name in ("run", "epoch", "number", "purpose") if hasattr(asked, name)}
        try:
            self.ledger.remember_refusal(request.kind, code, **about)
        except Exception as error:
            logger.warning("the refusal is not in the journal: %s", type(error).__name__)
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
