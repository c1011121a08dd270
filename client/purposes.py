"""What a member does for a purpose: what it contributes to a sealed sum, and what follows from the opened sum.

Pure functions over a :class:`MemberRound`: every opener computes the same bytes from the same sum (rule 4). Sums that
depend only on rows are counted once in a circle, and the same counts are given again later (rule 8). Totals of rows
stay here: only means, spreads, the candidate and metrics are signed or sent."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..canonical import digest
from ..configs.settings import Offer
from ..configs.training import TrainingSettings
from ..crypto.quantise import Contribution, Length, OpenedSum, Scale, apply_mean
from ..errors import Refused
from ..protocol import gate, model_version
from ..protocol.context import RoundContext
from ..protocol.purposes import STATISTICS, TALLIES, UPDATE, Purpose, Purposes, by_name
from ..protocol.statement import Statement
from .learning.learner import NOTHING, Learner, Personal, Trained
from .optimisers import Optimiser, optimiser_of, rate_of
from .scales import Floors
from .steps import STEPS, Step, Update, walk

logger = logging.getLogger(__name__)
MANIFEST_FORMAT = 1
METRIC_DECIMALS = 4  # exact shares would give away the federation's test rows at once; many reports still narrow them
SIGNAL_DECIMALS = 3
_WIDER = "a larger training.lr, a smaller crypto.clip or more crypto.value_bits would help"
Measured = dict[str, float | None]
"""Version → this member's own validation loss; None if its rows leave it undefined."""


@dataclass(frozen=True)
class MemberRound:
    """One round as a purpose sees it at this member.

    Attributes:
        offer: what the run carries.
        learner: with the node's own rows.
        context: of the round.
        counted: the key under which row counts are opened once.
        scale: of updates on the wire.
        floors: lower bounds of a candidate's values.
        secret: the node's own, from which an update's coins come.
        base: the version that the round is about, or from which the run starts; None if there is none.
        steps: between training and sealing.
        optimiser: makes candidates.
        own: returns this member's own tensors of a version, by its identity.
        once: trains, or returns what was trained under the same key, where training cannot be repeated.
        fact: returns what the ledger remembers under a name, or None.
        metric: this member's own validation loss of a version, if it was measured.
    """

    offer: Offer
    learner: Learner
    context: RoundContext
    counted: str
    scale: Scale
    floors: Floors
    secret: bytes = field(repr=False)
    base: model_version.Version | None
    steps: tuple[Step, ...]
    optimiser: Optimiser
    own: Callable[[str], Personal]
    once: Callable[[str, Callable[[], Trained]], Trained]
    fact: Callable[[str], Any]
    metric: Callable[[str], float | None]

    def known_base(self) -> model_version.Version:
        """Return the base.

        Raises:
            Refused: ``base.unknown``: this member does not have it.
        """
        if self.base is None:
            raise Refused("base.unknown", "this member no longer has the base")
        return self.base

    def personal(self, model: model_version.Version) -> Personal:
        """Return this member's own tensors of a version; empty if the recipe leaves it none."""
        keeps = self.learner.personal or self.offer.training.ditto
        return self.own(model.identity) if keeps else NOTHING

    def measured(self, model: model_version.Version) -> float | None:
        """Return this member's validation loss of a version."""
        known = self.metric(model.sha256)
        if known is not None:
            return known
        self.learner.prepare(model.manifest["scaling"])  # a member that was restarted opens what it sealed before
        loss = self.learner.evaluate(model.vector, "validation", self.personal(model)).get("loss")
        return loss if loss is not None and math.isfinite(loss) else None


@dataclass(frozen=True)
class Given:
    """What a member seals.

    Attributes:
        contribution: to the sum.
        measured: this member's validation losses that were measured along the way.
        facts: for this member's ledger alone, by name.
        personal: this member's own tensors after the round, for its ledger alone.
    """

    contribution: Contribution
    measured: Measured = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    personal: Personal = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True)
class Conclusion:
    """What follows from an opened sum.

    Attributes:
        statement: to sign.
        result: the resulting version, or None.
        facts: for this member's ledger alone, by name.
    """

    statement: Statement
    result: model_version.Version | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class MemberPurpose(Protocol):
    """A purpose at a member."""

    @property
    def purpose(self) -> Purpose:
        """What both sides know of it."""

    def size(self, learner: Learner) -> int:
        """Return how many whole numbers, or values of an update, a member contributes; the same at every member."""

    def contribute(self, at: MemberRound) -> Given:
        """Return what this member adds to the sum.

        Raises:
            Refused: it has nothing to add.
        """

    def conclude(self, at: MemberRound, headers: Mapping[str, str], sums: OpenedSum) -> Conclusion:
        """Return what follows from the opened sum.

        Args:
            at: the round.
            headers: member → digest of its envelope's header, of all in the sum.
            sums: opened; to be read to its end.

        Raises:
            Refused: this member cannot tell.
        """


class Statistics:
    """Counts and sums of training rows, and counts of test rows; version 0 follows, with the scaling of all rows."""

    purpose = STATISTICS

    def size(self, learner: Learner) -> int:
        """Training rows, test rows of each kind, and the task's own sums."""
        return 1 + len(learner.tested()) + len(learner.summary())

    def contribute(self, at: MemberRound) -> Given:
        """Give the number of rows and their sums, as they were counted first."""
        counts = at.fact(_counted(at))
        if counts is None:
            counts = [at.learner.rows, *at.learner.tested().tolist(), *at.learner.summary().tolist()]
        if len(counts) != self.size(at.learner):
            raise Refused("circle.differs", "the row counts carried over are from another task")
        return Given(Contribution(tuple(counts)), facts={_counted(at): counts})

    def conclude(self, at: MemberRound, headers: Mapping[str, str], sums: OpenedSum) -> Conclusion:
        """Make version 0; the total of rows is a fact of the run, and gives each update its share.

        If the run starts from a version, version 0 has the numbers and the scaling of that version. No version follows
        from statistics that cannot be true, or that differ from those opened first in this circle. Otherwise a member
        that claims other rows in each run would move everybody's share and scaling (rule 5).
        """
        learner, context, kinds = at.learner, at.context, len(at.learner.tested())
        rows, *totals = opened = list(sums.finish().counters)
        tested, totals = totals[:kinds], totals[kinds:]
        first = at.fact(_opened(context))
        possible = self._possible(at, len(headers), rows, [*tested, *totals]) and first in (None, opened)
        if not (sums.in_range and possible):
            return Conclusion(Statement.of(context, headers, sha256="", in_range=False))
        start = at.known_base() if at.offer.start else None
        manifest = {
            "format": MANIFEST_FORMAT,
            "federation": context.federation,
            "task": context.task,
            "schema": learner.schema.to_dict(),
            "scaling": learner.scaling(totals) if start is None else start.manifest["scaling"],
            "package": context.package,
            **({"personal": list(learner.personal)} if learner.personal else {}),
        }
        vector = learner.start() if start is None else start.vector
        state = {name: np.zeros_like(vector) for name in at.optimiser.state}
        version = model_version.build(learner.layout, vector, manifest, state, frozen=learner.frozen)
        statement = Statement.of(context, headers, sha256=version.sha256, in_range=True)
        return Conclusion(
            statement, version, {_total_rows(context): rows, _tested(context): tested, _opened(context): opened}
        )

    def _possible(self, at: MemberRound, members: int, rows: int, totals: list[int]) -> bool:
        """Return whether opened statistics are possible for this number of members, including this one."""
        own, most = at.fact(_counted(at)) or (), at.offer.training.max_rows
        within = all(mine <= whole for mine, whole in zip(own, (rows, *totals), strict=False))
        bounded = rows > 0 and (not most or rows <= members * most)
        return within and bounded and at.learner.possible(totals[len(at.learner.tested()) :], rows)


class Updates:
    """Changes that training made to a base; a candidate follows."""

    purpose = UPDATE

    def size(self, learner: Learner) -> int:
        """Values of the model's vector."""
        return sum(spec.size for spec in learner.layout)

    def contribute(self, at: MemberRound) -> Given:
        """Train from the base, and pass the update through the steps."""
        base = at.known_base()
        measured = {base.sha256: at.measured(base)}
        trained = self._trained(at, base)
        vector = trained.vector - base.vector
        update = walk(Update(vector, at.scale, self._share(at)), at.steps, at.context)
        given = Contribution((), update.vector, update.share, update.scale, at.secret)
        return Given(given, measured, personal=trained.personal)

    def _trained(self, at: MemberRound, base: model_version.Version) -> Trained:
        """Train from the base; where that would not give the same bits again, at most once in a round."""
        training, round_ = at.offer.training, at.context.round

        def train() -> Trained:
            return at.learner.train(base.vector, training, round_, at.personal(base))

        if at.learner.repeats:
            return train()
        return at.once(digest([at.context.run, round_, at.context.purpose, base.identity]), train)

    def _share(self, at: MemberRound) -> float:
        """Return this member's rows divided by all members' rows, as they were counted (rule 5)."""
        total, counted = at.fact(_total_rows(at.context)), at.fact(_counted(at))
        if total is None or counted is None:
            raise Refused("update.failed", "this member took no part in opening the run's statistics")
        return int(counted[0]) / int(total)

    def conclude(self, at: MemberRound, headers: Mapping[str, str], sums: OpenedSum) -> Conclusion:
        """Make the candidate from base, state and opened mean; there is no candidate if the sum is out of range."""
        base, context, scale = at.known_base(), at.context, at.scale
        vector, length = np.empty_like(base.vector), Length(scale)
        rate = rate_of(at.offer.training, context.round)
        state = {name: np.zeros_like(base.vector) for name in base.state}
        for start, values in sums.values():
            length.add(start, values)
            mean = values * scale.steps(start, len(values))
            for where, stretch in scale.within(start, len(values)):
                part = slice(start + where.start, start + where.stop)
                if not stretch.learnt:  # a buffer is no step of an optimiser: it is averaged
                    vector[part] = apply_mean(base.vector[part], mean[where])
                    continue
                before = {name: numbers[part] for name, numbers in base.state.items()}
                vector[part], after = at.optimiser.step(base.vector[part], before, mean[where], rate)
                for name in state:
                    state[name][part] = after[name]
        if not sums.in_range:
            return Conclusion(Statement.of(context, headers, sha256=base.sha256, in_range=False))
        at.floors.keep(base.vector, vector)
        candidate = model_version.candidate(base, vector, state)
        norm = length.value if np.isfinite(vector).all() else None
        signal = round(length.of_coins(len(headers)), SIGNAL_DECIMALS)
        if signal <= gate.SWALLOWED:
            logger.warning("the sum is not longer than its coins: rounding swallows what was learnt; %s", _WIDER)
        statement = Statement.of(context, headers, sha256=candidate.sha256, norm=norm, signal=signal, in_range=True)
        return Conclusion(statement, candidate)


class Tallies:
    """Counts of test rows; metrics over all members' rows follow (rule 10).

    A version is tallied once in a circle, and later requests get the same counts. Scores are counted into bins whose
    edges are in the recipe, and into fewer bins if there are not ten test rows of each kind per bin.
    """

    purpose = TALLIES

    def size(self, learner: Learner) -> int:
        """Whole numbers of the task's tally."""
        return len(learner.tally(learner.start(), 1))

    def contribute(self, at: MemberRound) -> Given:
        """Count the base's scores on this member's test rows, once; give zeros if the federation has too few."""
        base, bins = at.known_base(), self._bins(at)
        counts, own = at.fact(_tallied(at.context)), at.personal(base)
        if counts is None:
            counts = at.learner.tally(base.vector, bins, own).tolist() if bins else [0] * self.size(at.learner)
        facts, name = {_tallied(at.context): counts}, private_of_version(base)
        if at.fact(name) is None and (private := at.learner.private(base.vector, own)) is not None:
            facts[name] = private
        return Given(Contribution(tuple(counts)), facts=facts)

    def conclude(self, at: MemberRound, headers: Mapping[str, str], sums: OpenedSum) -> Conclusion:
        """Return the metrics; the counts themselves stay here."""
        good, bins = sums.finish().in_range, self._bins(at)
        exact = at.learner.overall(list(sums.counters), bins) if good and bins else {}
        metrics = {
            name: None if value is None else round(float(value), METRIC_DECIMALS) for name, value in exact.items()
        }
        context = at.context
        statement = Statement.of(context, headers, sha256=context.base, in_range=good, metrics=metrics)
        return Conclusion(statement)

    def _bins(self, at: MemberRound) -> int:
        """Return into how many bins scores are counted; 0 if there are not ten test rows of each kind."""
        tested = at.fact(_tested(at.context))
        if tested is None:
            raise Refused("update.failed", "this member took no part in opening the run's statistics")
        return at.learner.bins([int(count) for count in tested])


def vote(at: MemberRound, candidate: model_version.Version, good: Sequence[str]) -> tuple[gate.Vote, Measured]:
    """Return this member's vote on a candidate against the run's good versions, and what was measured (rule 7)."""
    if not at.learner.judges:
        return "abstain", {}
    losses = [at.metric(sha256) for sha256 in good]
    if not losses or losses[-1] is None:
        return "same", {}
    loss = at.measured(candidate) if np.isfinite(candidate.vector).all() else None
    return gate.vote_on(loss, losses, at.offer.gate), {candidate.sha256: loss}


def private_of_version(version: model_version.Version) -> str:
    """Return under which name a ledger has the part that the task fitted for a version."""
    return f"private:{version.identity}"


def _total_rows(context: RoundContext) -> str:
    return f"rows:{context.run}"


def _tested(context: RoundContext) -> str:
    return f"tested:{context.run}"


def _opened(context: RoundContext) -> str:
    return f"opened:{context.circle}"


def _tallied(context: RoundContext) -> str:
    return f"tally:{context.circle}:{context.base}"


def _counted(at: MemberRound) -> str:
    return f"counted:{at.counted}"


@dataclass(frozen=True)
class Kit:
    """Purposes, steps and optimiser; the same at every member of a run.

    Attributes:
        purposes: of its sums.
        steps: between training and sealing, in order.
        optimiser_of: returns what makes candidates under a recipe.
    """

    purposes: tuple[MemberPurpose, ...] = (Statistics(), Updates(), Tallies())
    steps: tuple[Step, ...] = STEPS
    optimiser_of: Callable[[TrainingSettings], Optimiser] = optimiser_of

    @property
    def known(self) -> Purposes:
        """Its purposes as both sides know them, by name."""
        return by_name(purpose.purpose for purpose in self.purposes)

    def of(self, name: str) -> MemberPurpose:
        """Return a purpose by its name, which must be in :attr:`known`."""
        return next(purpose for purpose in self.purposes if purpose.purpose.name == name)

    def with_steps(self, first: Iterable[Step]) -> Kit:
        """Return a kit whose chain begins with additional steps, for drills."""
        return Kit(self.purposes, (*first, *self.steps), self.optimiser_of)
