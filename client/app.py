"""The member's half of a round, as a Flower ClientApp. Read this file, then ``server/app.py``: that is the round.

Each handler goes one way: the guard checks the request, the ledger remembers, then the member acts. What a handler
needs of earlier requests stands in the ledger, so a member may be killed and started again between any two, and asked
again what it was asked before. Whatever goes wrong leaves the member as a code and nothing else (rule 12); the reason
stays in the member's own log.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from .. import logs
from ..canonical import digest
from ..configs.settings import FloorSettings, Offer
from ..crypto import envelope as envelopes
from ..crypto import keys, planner, quantise, statement, version
from ..crypto.context import RoundContext
from ..crypto.identity import Identity, Roster, parse_card, parse_roster
from ..crypto.quantise import Contribution, OpenedSum
from ..errors import MoonflowerError, Refused
from ..messages import (
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
from . import epochs, guard, outcome
from .guard import Remembered
from .ledger import Epoch, Ledger
from .seat import Agreed, Seated
from .train import Learner
from .witness import LogWitness

logger = logging.getLogger(__name__)
SHARE_STEP = 0.05  # the clipped share is reported in steps, so that it says little about the update
VOTE_DECIMALS = 4
COARSE_VOTE_DECIMALS = 2  # for metrics that are fractions of small whole numbers: an exact one shows a member's count


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
    ) -> None:
        self.identity, self.floor, self.pins, self.ledger = identity, floor, pins, ledger
        self.witness = LogWitness(identity, ledger, floor.log_key, clock)
        self._learner_for, self._schema_digest = learner_for, schema_digest
        self._agreed: dict[str, Agreed] = {}  # of the newest run and epoch; the ledger has what makes them anew
        self._seated: dict[int, Seated] = {}
        self._measured: dict[str, float | None] = {}  # own metrics that go into the ledger with the next transition

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
        return DealAnswer(**keys.sign_answer(self.identity, key))

    def confirm(self, request: Confirm) -> Done:
        """Compare all members' answers; only then may this epoch's keys seal."""
        held = self.ledger.epoch(request.epoch)
        if held is None or held.run != request.run:
            raise Refused("deal.epoch", f"no keys were dealt here for epoch {request.epoch}")
        keys.confirm(held.key, parse_roster(held.roster, self.pins), request.answers)
        self.ledger.confirm_epoch(request.epoch)
        return Done()

    def seal(self, request: Seal) -> Sealed:
        """Return this member's envelope: statistics, an update trained from a proved base, or tallies."""
        agreed, seat = self._seat(request)
        context = guard.round_context(seat.template, request)
        guard.check_witnessed(request, self.ledger.has_witnessed(request.checkpoint))
        kept = self.ledger.sealed(context)
        guard.check_seal(context, kept)
        seconds = 0.0
        if kept is None:
            base = self._base(agreed, seat, context, request)
            contribution = self._contribution(agreed, seat, context, base)
            began = time.perf_counter()
            raw = self._sealed(seat, context, contribution)
            seconds = time.perf_counter() - began
            header, _ = envelopes.split(raw)
            share = round(contribution.clipped_share / SHARE_STEP) * SHARE_STEP
            del contribution  # the ledger copies what it writes, and a model may be large
            kept = Remembered(context.digest, header.digest, min(share, 1.0), raw.data)
            self.ledger.remember_sealed(context, kept, base.data if base else None, self._measured)
            self._measured = {}
        assert kept.envelope is not None
        return Sealed(
            envelope=envelopes.RawEnvelope(kept.envelope),
            clipped_share=kept.clipped_share,
            seal_s=seconds,
        )

    def open(self, request: Open) -> Opened:
        """Open a sum that the guard allows, compute what follows from it, sign that, and vote (rules 4, 13)."""
        agreed, seat = self._seat(request)
        context = guard.round_context(seat.template, request)
        own = self.ledger.sealed(context, envelope=False)
        key = self._opening_key(agreed, context)
        opened_before = self.ledger.opened(context.purpose, key)
        chosen = guard.check_opening(context, request, own, opened_before, seat.roster, self.pins, self.floor)
        values, counters = self._shape(agreed, context)
        lanes = self._lanes(agreed, seat, context)
        began = time.perf_counter()
        seat.held.check_total(context.digest, chosen.tags, request.total, lanes)
        self.ledger.remember_opening(context, key, request.members)
        rows = seat.held.open(request, lanes)
        sums = OpenedSum(rows, values, counters, len(request.members), seat.plan)
        found, total = self._outcome(agreed, context, chosen.digests, sums)
        seconds = time.perf_counter() - began
        said, result = found.statement, found.result
        judging = result is not None and context.purpose == "update"
        vote = self._vote(agreed, result, request.best) if result and judging else None
        self.ledger.remember_opened(
            context,
            {"sha256": said.sha256, "in_range": said.in_range, "members": list(said.members)},
            rows=total,
            vote={"sha256": said.sha256, "best": request.best, "vote": vote} if judging else None,
            metrics=self._measured,
        )
        self._measured = {}
        encoded = said.encode()
        return Opened(
            statement=encoded,
            signature=statement.sign_statement(self.identity, said),
            vote=vote,
            vote_signature=self.identity.sign("vote", statement.vote_bytes(encoded, request.best, vote)),
            result=result.data if result and request.upload else b"",
            open_s=seconds,
        )

    # The steps of sealing and opening. The drills replace one of them at a time.

    def _train(self, agreed: Agreed, context: RoundContext, base: version.Version) -> quantise.Update:
        """Return the update ``float32[n]``: what training changed about the base."""
        trained = agreed.learner.train(base.vector, agreed.offer.training, context.round)
        trained -= base.vector
        return trained

    def _blocks(self, seat: Seated, given: Contribution) -> Iterator[quantise.Ints]:
        """Yield the contribution as plaintext rows."""
        return quantise.slot_blocks(given, seat.plan)

    def _sealed(self, seat: Seated, context: RoundContext, given: Contribution) -> envelopes.RawEnvelope:
        """Return the signed envelope of a contribution."""
        vector = seat.held.seal(context.digest, self._blocks(seat, given), given.lanes(seat.plan))
        return envelopes.seal(self.identity, context, vector)

    # What a handler needs on its way.

    def _terms(self, request: MakeDeals | TakeDeal) -> tuple[Roster, planner.Plan, keys.EpochTerms]:
        agreed = self._agreement(request.run)
        roster = parse_roster(request.roster, self.pins)
        if self.identity.name not in roster.names or len(roster.names) < self.floor.min_members:
            raise Refused("deal.signature", "the roster leaves this member out or is smaller than its floor")
        plan = agreed.plan(len(roster.names))
        return roster, plan, keys.EpochTerms.of(agreed.offer.federation.name, request.epoch, roster, plan)

    def _agreement(self, run: str) -> Agreed:
        """Return what was agreed to for a run; after a restart it is made anew from the ledger's offer."""
        if run not in self._agreed:
            raw = self.ledger.agreement(run)
            if raw is None:
                raise Refused("envelope.context", "this member did not agree to that run")
            offer = guard.admit(raw, self.floor, self._schema_digest)
            self._agreed = {run: Agreed.to(offer, raw, self._learner_for(offer))}
        return self._agreed[run]

    def _seat(self, request: Seal | Open) -> tuple[Agreed, Seated]:
        agreed = self._agreement(request.run)
        held = self.ledger.epoch(request.epoch)
        if held is None or held.run != request.run or not held.confirmed:
            raise Refused("envelope.epoch", f"this member holds no confirmed keys of epoch {request.epoch}")
        if request.epoch not in self._seated:
            self._seated = {request.epoch: Seated.at(agreed, held, self.identity, self.pins)}
        return agreed, self._seated[request.epoch]

    def _base(self, agreed: Agreed, seat: Seated, context: RoundContext, request: Seal) -> version.Version | None:
        if context.purpose == "statistics":
            return None
        remembered = map(parse_card, self.ledger.cards())
        guard.check_base(context, request.proof, seat.roster, agreed.offer.crypto.open_quorum, self.floor, remembered)
        base = version.parse(request.model)
        if base.sha256 != context.base or base.layout != agreed.learner.layout:
            raise Refused("base.unproved", "the model that came is not the base that was announced")
        agreed.learner.prepare(base.manifest["scaling"])
        return base

    def _contribution(
        self, agreed: Agreed, seat: Seated, context: RoundContext, base: version.Version | None
    ) -> Contribution:
        learner = agreed.learner
        if base is None:
            return Contribution((learner.rows, *learner.summary().tolist()))
        if context.purpose == "tallies":
            return Contribution(tuple(learner.tally(base.vector).tolist()))
        self._measure(agreed, base)
        update = self._train(agreed, context, base)
        if not np.isfinite(update).all():
            raise Refused("update.nonfinite", "training gave values that are not finite")
        if agreed.offer.training.weights == "equal":
            weight = quantise.weight_of(1, len(seat.roster.names))
        else:
            total = self.ledger.fact(f"rows:{context.run}")
            if total is None:
                raise Refused("update.failed", "this member took no part in opening the run's statistics")
            weight = quantise.weight_of(learner.rows, int(total))
        return Contribution((weight,), update, weight, context.clip)

    def _opening_key(self, agreed: Agreed, context: RoundContext) -> str:
        """What rule 2 holds the set fixed for: the base, or the statistics' own data."""
        if context.purpose == "statistics":
            return agreed.learner.data_digest()
        return context.base

    def _shape(self, agreed: Agreed, context: RoundContext) -> tuple[int, int]:
        """Return how many values and counters a sum of this purpose holds."""
        if context.purpose == "update":
            return agreed.sizes["update"], 1
        return 0, agreed.sizes[context.purpose]

    def _lanes(self, agreed: Agreed, seat: Seated, context: RoundContext) -> int:
        """Return how many lanes a sum of this purpose takes."""
        values, counters = self._shape(agreed, context)
        return values + counters * seat.plan.limbs

    def _outcome(
        self, agreed: Agreed, context: RoundContext, headers: Mapping[str, str], sums: OpenedSum
    ) -> tuple[outcome.Outcome, int | None]:
        """Return what follows from a sum; from statistics, also the total of rows, which stays here."""
        if context.purpose == "tallies":
            return outcome.report(agreed.learner, context, headers, sums), None
        if context.purpose == "statistics":
            return outcome.start(agreed.offer, agreed.learner, context, headers, sums)
        data = self.ledger.model(context.base)
        if data is None:
            raise Refused("base.unproved", "this member no longer has the base")
        return outcome.candidate(agreed.offer, version.parse(data), context, headers, sums), None

    def _measure(self, agreed: Agreed, model: version.Version) -> float | None:
        """Return this member's validation metric of a version, measured once and kept."""
        metric = self._metric(model.sha256)
        if metric is None:
            agreed.learner.prepare(model.manifest["scaling"])  # a member that was restarted opens what it sealed before
            measured = agreed.learner.evaluate(model.vector, "validation").get(agreed.offer.gate.metric)
            metric = measured if measured is not None and math.isfinite(measured) else None
            self._measured[model.sha256] = metric
        return metric

    def _metric(self, sha256: str) -> float | None:
        """Return this member's validation metric of a version, if it was measured."""
        return self._measured[sha256] if sha256 in self._measured else self.ledger.metric(sha256)

    def _vote(self, agreed: Agreed, candidate: version.Version, best: str) -> float | None:
        """Return the relative worsening against the best version in [-1, 1]; None without both metrics (rule 10)."""
        reference = self._metric(best)
        if reference is None:
            return None
        if not np.isfinite(candidate.vector).all():
            return 1.0
        metric = self._measure(agreed, candidate)
        if metric is None:
            return 1.0
        worse = metric - reference if agreed.offer.gate.metric == "loss" else reference - metric
        decimals = VOTE_DECIMALS if agreed.offer.gate.metric == "loss" else COARSE_VOTE_DECIMALS
        return round(min(max(worse / max(abs(reference), 1e-9), -1.0), 1.0), decimals)

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
                asked = request.from_records(records)
                logs.now_about(run=getattr(asked, "run", ""), round=getattr(asked, "number", 0))
                reply = handlers[request](asked).to_records()
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
        return Refusal(code=code).to_records()


ROUTES: dict[str, type[Body]] = {
    "query.enrol": Enrol,
    "query.make_deals": MakeDeals,
    "query.take_deal": TakeDeal,
    "query.confirm": Confirm,
    "train.seal": Seal,
    "evaluate.open": Open,
}


def client_app(member_of: Callable[[Context], Member]) -> ClientApp:
    """Return the Flower ClientApp that answers for the member of a node's context."""
    app = ClientApp()
    register = {"query": app.query, "train": app.train, "evaluate": app.evaluate}
    for route, request in ROUTES.items():
        category, _, action = route.partition(".")

        def handle(message: Message, context: Context, request: type[Body] = request) -> Message:
            return Message(member_of(context).answer(request, message.content), reply_to=message)

        register[category](action)(handle)
    return app
