"""Measure what one hostile member does to the model, with each bound off and on: ``python tools/bounds_model.py``.

One of two presets alone: ``python tools/bounds_model.py heart``, or ``sba``.

Everybody else is a shipped member in a simulated federation. The hostile one differs in what it gives to a sum, and it
says *better* of every candidate. A bound is off where a copy without it runs at every member and at the coordinator.
AUC and loss are those of the *others'* rows, on folds of the bundled data, so that they compare with a run without it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moonflower.client.app import Member
from moonflower.client.learning import cast as casting
from moonflower.client.learning.cast import Cast
from moonflower.client.learning.splits import join
from moonflower.client.purposes import Conclusion, Given, Kit, MemberRound, Statistics, Tallies, Updates
from moonflower.crypto.quantise import Ints
from moonflower.federation import simulate as simulation
from moonflower.federation.baselines import Baselines
from moonflower.federation.simulate import Simulation
from moonflower.protocol import gate, model_version
from moonflower.protocol.purposes import STATISTICS, UPDATE
from support import CONFIGS

HEART, SBA = CONFIGS / "heart.toml", CONFIGS / "sba.toml"
HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
CLAIMED = 2**38
FROM = 5  # the round from which updates are turned
HIDDEN = 32
NETWORK = ("task.hidden=[32]", "crypto.clip=2.4", "gate.max_step=1.2")  # as `simulate` proposes for it
ALWAYS = (slice(1, 3), slice(3, 7))  # inputs of sex and chest pain: one of each is 1 in every row
UNIT = 2**16  # of a numeric column's range, in statistics
Weaken = Callable[[pytest.MonkeyPatch], None]


# A bound that is off


def any_statistics(patch: pytest.MonkeyPatch) -> None:
    """Believe every count and sum."""
    patch.setattr(Statistics, "_possible", lambda *_: True)


def any_length(patch: pytest.MonkeyPatch) -> None:
    """Let every finite mean pass: no max_step, and no three times the longest of the last five."""
    patch.setattr(gate, "_longest", lambda *_: math.inf)


def any_candidate(patch: pytest.MonkeyPatch) -> None:
    """Promote everything: neither length nor words."""
    patch.setattr(gate, "judge", lambda *_, **__: gate.Verdict("promoted"))


def any_word(patch: pytest.MonkeyPatch) -> None:
    """Promote what is not refused."""
    real = gate.judge

    def judge(*given: Any, **more: Any) -> gate.Verdict:
        found = real(*given, **more)
        return replace(found, status="promoted") if found.status == "kept" else found

    patch.setattr(gate, "judge", judge)


# Hostile members


@dataclass
class Seen:
    """What a member sees of a sum that it opened.

    Attributes:
        round: planned.
        sha256: of the candidate.
        base, candidate: vectors.
        norm: of the opened mean.
    """

    round: int
    sha256: str
    base: Any
    candidate: Any
    norm: float


class Listening(Updates):
    """A purpose that keeps what it opened."""

    def __init__(self, seen: list[Seen]) -> None:
        self._seen = seen

    def conclude(self, at: MemberRound, headers: Any, sums: Any) -> Conclusion:
        found = super().conclude(at, headers, sums)
        if found.result is not None and at.base is not None:
            norm = math.inf if found.statement.norm is None else found.statement.norm
            self._seen.append(Seen(at.context.round, found.result.sha256, at.base.vector, found.result.vector, norm))
        return found


class Hostile(Member):
    """A member that gives what it likes to a sum, and says *better* of everything. As it stands, it gives what is due.

    Attributes:
        seen: what it opened.
        parts: round → its own part of the opened mean.
    """

    at: MemberRound
    share = 1.0
    asked_best = ""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.seen: list[Seen] = []
        self.parts: dict[int, Any] = {}
        self.kit = Kit((Statistics(), Listening(self.seen), Tallies()))

    def open(self, request: Any) -> Any:
        self.asked_best = request.best
        return super().open(request)

    def _round(self, *given: Any) -> MemberRound:
        return replace(super()._round(*given), metric=lambda sha256: 2.0 if sha256 == self.asked_best else 1.0)

    def _give(self, at: MemberRound) -> Given:
        self.at = at
        given = super()._give(at)
        if at.context.purpose == STATISTICS.name:
            counters = self.statistics(list(given.contribution.counters))
            contribution = replace(given.contribution, counters=tuple(counters))
            return replace(given, contribution=contribution, facts=dict.fromkeys(given.facts, counters))
        if at.context.purpose == UPDATE.name:
            made = self.update(given.contribution.update)
            return replace(given, contribution=replace(given.contribution, update=made))
        return given

    def _lanes(self, seat: Any, given: Any) -> Ints:
        lanes = super()._lanes(seat, given)
        if self.at.context.purpose != UPDATE.name:
            return lanes
        self.share, steps = given.share, self.at.scale.steps(0, len(lanes))
        whole = np.rint(self.part((lanes - seat.plan.offset) * steps) / steps)
        least, most = -seat.plan.offset, seat.plan.offset - 1
        given_whole = np.clip(whole, least, most)
        self.parts[self.at.context.round] = given_whole * steps
        return given_whole.astype(np.int64) + seat.plan.offset

    def statistics(self, counters: list[int]) -> list[int]:
        """Return the counters that it gives: training rows, test rows of each class, four sums a numeric column."""
        return counters

    def update(self, honest: Any) -> Any:
        """Return the update that it gives, before its share and the clip."""
        return honest

    def part(self, honest: Any) -> Any:
        """Return its part of the opened mean, in units of the model: its lanes bound it, its share does not."""
        return honest

    @property
    def kinds(self) -> int:
        return len(self.at.learner.tested())

    @property
    def norms(self) -> list[float]:
        """Lengths that were not refused for their length, as it can tell."""
        longest = self.at.offer.gate.max_step
        return [one.norm for one in self.seen if one.norm <= longest]


class Claims(Hostile):
    """Claims rows that it does not have."""

    rows = CLAIMED

    def statistics(self, counters: list[int]) -> list[int]:
        return [self.rows or self.at.offer.training.max_rows, *counters[1:]]


class ClaimsMost(Claims):
    """Claims as many rows as a member may have."""

    rows = 0


class Lies(Hostile):
    """Gives sums that its rows do not have, of as many rows as a member may have."""

    lie = ""

    def statistics(self, counters: list[int]) -> list[int]:
        rows, tested, sums = counters[0], counters[1 : 1 + self.kinds], counters[1 + self.kinds :]
        most = self.at.offer.training.max_rows if self.lie not in ("squares", "sums") else rows
        made: list[int] = []
        for count, total, upper, lower in np.array(sums).reshape(-1, 4).tolist():
            made += self._column(most, count, total, upper, lower)
        return [most, *tested, *made]

    def _column(self, rows: int, count: int, total: int, upper: int, lower: int) -> list[int]:
        if self.lie == "squares":
            return [count, total, CLAIMED >> 1, lower]
        if self.lie == "sums":
            return [count, total + (CLAIMED >> 4), upper, lower]
        middle = total // max(count, 1)
        where = {"low": [0], "high": [UNIT], "wide": [0, UNIT], "narrow": [middle]}[self.lie]
        values = np.resize(np.array(where, dtype=np.int64), rows)
        squares = values * values
        return [rows, int(values.sum()), int((squares >> 16).sum()), int((squares & 0xFFFF).sum())]


class Fills(Hostile):
    """Fills one lane to its end in every round, the weight of the rarest column among its own rows."""

    def part(self, honest: Any) -> Any:
        made = honest.copy()
        made[self.lane()] = math.copysign(self.size(), self.sign)
        return made

    sign = 1

    def size(self) -> float:
        return 1e9

    def lane(self) -> int:
        return rarest(self.at.learner)


class FillsFirst(Fills):
    """Fills the first lane, which every row has."""

    def lane(self) -> int:
        return 0


class FillsWithin(Fills):
    """Fills the rarest lane as far as the longest step and three times the last ones allow, and no further."""

    def size(self) -> float:
        settings, norms = self.at.offer.gate, self.norms
        if not norms:
            return 0.5 * settings.max_step
        bound = min(settings.max_step, 3 * max(norms[-5:]))
        return 0.9 * math.sqrt(max(bound**2 - (self.rest() * 1.1) ** 2, 0.0))

    def rest(self) -> float:
        """How long the mean was in all other lanes."""
        last = self.seen[-1]
        mean = np.delete(last.candidate - last.base, self.lane())
        return float(np.linalg.norm(mean))


class FillsFirstWithin(FillsWithin, FillsFirst):
    """Fills the first lane, as far as the bounds allow."""


def rarest(learner: Any) -> int:
    """Return the input that fewest of a learner's training rows have, two at least."""
    inputs = learner._part("train").inputs.numpy()
    counts = (inputs != 0).sum(axis=0)
    return int(np.argmin(np.where(counts < 2, len(inputs) + 1, counts)))


class Turns(Hostile):
    """From a round on, its update is turned, and longer."""

    factor, first = -1.0, FROM

    def update(self, honest: Any) -> Any:
        return honest * np.float32(self.factor) if self.at.context.round >= self.first else honest


class TurnsFiveTimes(Turns):
    """The inner-product attack."""

    factor = -5.0


class FillsWhilePromoted(FillsWithin):
    """Fills the rarest lane as far as the others' words go along: half as far after a round that was not promoted."""

    share_of_bound = 1.0

    def size(self) -> float:
        context = self.at.context
        if self.seen and self.ledger.good(context.run, context.base)[-1:] != [self.seen[-1].sha256]:
            self.share_of_bound /= 2
        return self.share_of_bound * super().size()


class Traps(Hostile):
    """Sends an imprint in round 1: weights by which single rows stand out in what is summed later.

    Hidden units measure the same direction, with thresholds that rise by as much as one row, going by its own. Output
    weights alternate in sign, so that these units say next to nothing, and the loss is about what it was. Of two such
    units the gradients differ by just the rows that lie between their thresholds.
    """

    units, until, seed = HIDDEN // 2, 1, 0
    weight, output = 0.7, 2.0
    within = False

    def part(self, honest: Any) -> Any:
        if self.at.context.round > self.until:
            return honest
        assert self.at.base is not None
        target, meant = self.target()
        rest = honest * (1 - self.share) / self.share  # what others add, as far as its own update tells
        gap = np.where(meant, target - self.at.base.vector, honest / self.share)
        if self.within:
            gap = self._fitting(gap, meant)
        return np.where(meant, gap - rest, honest)

    def _fitting(self, gap: Any, meant: Any) -> Any:
        """Shorten what it wants, so that the mean is no longer than may be."""
        most = self.at.offer.gate.max_step
        bound = 0.9 * min([most, *([3 * max(self.norms[-5:])] if self.norms else [])])
        room = math.sqrt(max(bound**2 - float(np.linalg.norm(gap[~meant])) ** 2, 0.0))
        return np.where(meant, gap * min(1.0, room / float(np.linalg.norm(gap[meant]))), gap)

    def target(self) -> tuple[Any, Any]:
        """Return the weights that it wants, and which of all they are."""
        inputs = self.at.learner._part("train").inputs.numpy().astype(np.float64)
        size, draw = inputs.shape[1], np.random.default_rng(self.seed)
        direction = draw.choice([-1.0, 1.0], size) * self.weight
        for one_of in ALWAYS:
            direction[one_of] -= 2.0 * self.weight
        heights = np.sort(inputs @ direction)
        ranks = len(heights) - 1 - np.arange(self.units)[::-1] * self.share
        thresholds = np.interp(ranks, np.arange(len(heights)), heights) - 1e-3
        target, meant = np.zeros((3, HIDDEN, size)), np.zeros((3, HIDDEN, size), dtype=bool)
        target[0, : self.units], meant[0, : self.units] = direction, True
        target[1, : self.units, 0], meant[1, : self.units, 0] = -thresholds, True
        target[2, : self.units, 0], meant[2, : self.units, 0] = self.output * (-1.0) ** np.arange(self.units), True

        def flat(table: Any) -> Any:
            return np.concatenate([table[0].reshape(-1), table[1, :, 0], table[2, :, 0], np.zeros(1, table.dtype)])

        return flat(target), flat(meant)


class TrapsWithin(Traps):
    """Sends an imprint of two units, as far as the longest step lets it, in round 1 alone."""

    units, within = 2, True


class TrapsSlowly(TrapsWithin):
    """Bends the model towards an imprint of four units, over as many rounds as that takes."""

    units, until = 4, 14


def rows_read(found: Played, first: int = 2) -> int:
    """Return how many training rows of others stand in what was opened from a round on.

    Every pair of units is tried, over every round and over some together: the quotient of what their weights and what
    their thresholds changed by, each as its output weight counts. Its own part is taken out. A row is read where a
    quotient is it, to 5 % of its length or to a cosine of .99.
    """
    seen = [one for one in found.listener.seen if one.round >= first]
    learner = found.learner
    learner.prepare(found.version(found.start).manifest["scaling"])
    rows = learner._part("train").inputs.numpy().astype(np.float64)
    size, read = rows.shape[1], set[int]()
    for span in (1, 4, len(seen)):
        for at in range(0, len(seen) - span + 1, max(span // 2, 1)):
            some, base = seen[at : at + span], seen[at].base
            moved = sum(one.candidate.astype(np.float64) - one.base - found.listener.parts[one.round] for one in some)
            weights = moved[: HIDDEN * size].reshape(HIDDEN, size)
            out = base[HIDDEN * (size + 1) : -1].astype(np.float64)[:, None]
            table = np.concatenate([weights, moved[HIDDEN * size : HIDDEN * (size + 1), None]], axis=1) / out
            one, other = np.triu_indices(HIDDEN, 1)
            pairs = table[one] - table[other]
            pairs = pairs[np.abs(pairs[:, -1]) > 1e-9]
            quotients = pairs[:, :-1] / pairs[:, -1:]
            read |= _matches(quotients, rows)
    return len(read)


def _matches(quotients: Any, rows: Any) -> set[int]:
    lengths, sizes = np.linalg.norm(rows, axis=1), np.linalg.norm(quotients, axis=1)
    products = quotients @ rows.T
    errors = np.sqrt(np.maximum(sizes[:, None] ** 2 - 2 * products + lengths**2, 0.0)) / lengths
    cosines = products / (sizes[:, None] * lengths)
    nearest = np.argmin(errors, axis=1)
    where = np.arange(len(quotients))
    good = (errors[where, nearest] < 0.05) | (cosines[where, nearest] >= 0.99)
    return set(nearest[good].tolist())


# Runs


@dataclass
class Played:
    """A run and what it is measured by.

    Attributes:
        done: the simulation.
        cast: everybody's rows.
        others: who is not hostile.
        members: who took part, as objects.
        entries: versions of the run, oldest first.
    """

    done: Simulation
    cast: Cast
    others: tuple[str, ...]
    members: dict[str, Any]
    entries: list[Any]
    _learners: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def learner(self) -> Any:
        """All others' rows together."""
        return self.cast.learner("others", join([self.cast.splits[name] for name in self.others]))

    def version(self, sha256: str) -> Any:
        return model_version.parse((self.done.out / "models" / f"{sha256}.safetensors").read_bytes())

    def measured(self, sha256: str, part: str = "test") -> dict[str, float]:
        version = self.version(sha256)
        self.learner.prepare(version.manifest["scaling"])
        found: dict[str, float] = self.learner.evaluate(version.vector, part)
        return found

    def _learner(self, name: str) -> Any:
        if name not in self._learners:
            self._learners[name] = self.cast.learner(name, self.cast.splits[name])
        return self._learners[name]

    def own(self, name: str, sha256: str) -> float:
        """One member's loss of a version on its own validation rows, by which it says its word."""
        version, learner = self.version(sha256), self._learner(name)
        learner.prepare(version.manifest["scaling"])
        return float(learner.evaluate(version.vector, "validation")["loss"])

    @property
    def result(self) -> str:
        """The version that the run ends with; "" for none."""
        return str((self.done.result["model"] or {}).get("sha256") or "")

    @property
    def start(self) -> str:
        """The version before all rounds."""
        return str(self.promotions[0].sha256)

    @property
    def listener(self) -> Any:
        """The hostile member."""
        return next(one for one in self.members.values() if isinstance(one, Hostile))

    @property
    def auc(self) -> float:
        """Over the others' test rows; nan where the run has no version."""
        return self.measured(self.result)["auc"] if self.result else math.nan

    @property
    def ended(self) -> str:
        """The code that the run ended with; "" where it came to its planned end, or converged."""
        return self.done.error.code if self.done.error else ""

    @property
    def statuses(self) -> list[str]:
        return [one["status"] for one in self.done.result["rounds"]]

    @property
    def codes(self) -> set[str]:
        return {one["code"] for one in self.done.result["rounds"]} - {""}

    @property
    def version_no(self) -> int:
        return int((self.done.result["model"] or {}).get("version") or 0)

    @property
    def promotions(self) -> list[Any]:
        """Versions that were promoted, the one before all rounds among them, oldest first."""
        return [one for one in self.entries if one.version is not None]

    def without_progress(self) -> int:
        """How many promotions did not lower the others' pooled validation loss below that of the best before."""
        losses = [self.measured(one.sha256, "validation")["loss"] for one in self.promotions]
        return sum(loss >= min(losses[:at]) for at, loss in enumerate(losses) if at)

    def unsaid(self) -> int:
        """How many promotions no more than half of the others found better than the best before, by their own rows."""
        gain = self.cast.settings.gate.min_gain
        found = 0
        for before, after in itertools.pairwise(self.promotions):
            pairs = [(self.own(name, before.sha256), self.own(name, after.sha256)) for name in self.others]
            found += 2 * sum(new < old * (1 - gain) for old, new in pairs) <= len(self.others)
        return found


@contextmanager
def played(
    config: Path,
    *overrides: str,
    hostile: tuple[str, type[Hostile]] | None = None,
    without: str = "",
    drills: Iterable[str] = (),
    weak: Sequence[Weaken] = (),
) -> Iterator[Played]:
    """Carry a run out.

    Args:
        config: of a preset.
        overrides: of it.
        hostile: who, and what it does.
        without: who is not in the federation at all.
        drills: as ``simulate`` takes them.
        weak: bounds that are off.
    """
    who = hostile[0] if hostile else ""
    members: dict[str, Any] = {}

    def seated(circles: Any, *rest: Any, **more: Any) -> Member:
        kind = hostile[1] if hostile and circles.name == who else Member
        members[circles.name] = kind(circles, *rest, **more)
        return members[circles.name]

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        real, kept = casting.partition, []
        patch.setattr(casting, "partition", lambda *of: {n: r for n, r in real(*of).items() if n != without})
        patch.setattr(simulation, "baselines", lambda it: kept.append(it) or Baselines(*_none(it), None, None))
        patch.setattr(simulation, "proposal", lambda *_: {})
        patch.setattr(simulation, "Member", seated)
        entries: list[Any] = []
        listed = simulation._entries
        patch.setattr(simulation, "_entries", lambda *of: entries.extend(listed(*of)) or list(entries))
        for one in weak:
            one(patch)
        said = ("training.report_every=0", *overrides)
        done = simulation.simulate(config, out=Path(folder) / "run", overrides=said, drills=drills)
        bad = who or next((text.rpartition(":")[2] for text in drills), "") or without
        others = tuple(name for name in kept[0].names if name != bad)
        yield Played(done, kept[0], others, members, sorted(entries, key=lambda one: one.number))


def _none(cast: Cast) -> list[dict[str, None]]:
    return [dict.fromkeys(cast.names), dict.fromkeys(cast.names)]


# The table


@dataclass
class Measured:
    """Means over the folds of one attack.

    Attributes:
        auc, loss: of the run's last promoted version, over the others' test rows; nan where there is none.
        promoted: rounds that were.
        idle: of these, how many did not lower the others' pooled validation loss.
        unsaid: of these, how many no more than half of the others found better.
        before: loss and AUC of the version before the first hostile round, if asked for.
        weight: the largest of the result.
        ends: what runs ended with.
        codes: what rounds were refused for.
        read: rows of others, of each run.
    """

    auc: float = math.nan
    loss: float = math.nan
    promoted: float = 0.0
    idle: float = 0.0
    unsaid: float = 0.0
    before: tuple[float, float] = (math.nan, math.nan)
    weight: float = math.nan
    ends: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    read: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        """As a cell of the table."""
        said = [f"rows read: {', '.join(map(str, self.read))}"] if self.read else []
        if not math.isnan(self.auc):
            said += [f"AUC {self.auc:.3f}, loss {self.loss:.3f}", f"{self.promoted:.1f} rounds promoted"]
            if self.idle or self.unsaid:
                said += [f"{self.idle:.1f} of them without a lower loss, {self.unsaid:.1f} without most of the others"]
            said += [f"largest weight {self.weight:.1f}"]
        return "; ".join([*said, *(f"`{code}`" for code in sorted(self.codes | self.ends - {""}))]) or "no version"


def measure(
    config: Path,
    who: str,
    kind: type[Hostile] | None,
    *overrides: str,
    weak: Sequence[Weaken] = (),
    drills: Sequence[str] = (),
    folds: Iterable[int] = range(5),
    traps: bool = False,
) -> Measured:
    """Carry one attack out on every fold; without ``kind`` and drills, ``who`` is not in the federation."""
    found: list[Measured] = []
    for fold in folds:
        of = (f"training.seed={fold + 1}",) if traps else ("data.test_column=fold", f"data.test_value={fold}")
        if kind is not None:
            kind = type(kind.__name__, (kind,), {"seed": fold + 1})
        hostile = None if kind is None else (who, kind)
        without = "" if kind or drills else who
        with played(config, *of, *overrides, hostile=hostile, without=without, weak=weak, drills=drills) as run:
            found.append(_of(run, traps))
        said = "off" if weak else "on"
        what = kind.__name__ if kind else next(iter(drills), "without")
        print(f"{config.stem} {fold} {what} {who} {said}: {vars(found[-1])}", file=sys.stderr, flush=True)

    def mean(name: str) -> float:
        known = [getattr(one, name) for one in found if not math.isnan(getattr(one, name))]
        return float(np.mean(known)) if known else math.nan

    return Measured(
        *(mean(name) for name in ("auc", "loss", "promoted", "idle", "unsaid")),
        (float(np.nanmean([one.before[0] for one in found])), float(np.nanmean([one.before[1] for one in found]))),
        mean("weight"),
        set().union(*(one.ends for one in found)),
        set().union(*(one.codes for one in found)),
        [count for one in found for count in one.read],
    )


@dataclass(frozen=True)
class Attack:
    """A row of the table.

    Attributes:
        name: in words.
        who: is hostile.
        kind: what it does, or
        drill: the drill that it carries out from :data:`FROM` on.
        weak: the bounds that are off on one side; none where the attack keeps within ours.
        network: whether it is on hidden units, over seeds and not over folds.
        folds: how many it is tried on.
    """

    name: str
    who: str
    kind: type[Hostile] | None = None
    drill: str = ""
    weak: tuple[Weaken, ...] = ()
    network: bool = False
    folds: int = 5


def lying(lie: str) -> type[Lies]:
    """Return a member that lies in one way."""
    return type("Lies" + lie.title(), (Lies,), {"lie": lie})


CLEVELAND, BANK, LARGEST = HOSPITALS[0], "COMPASS BANK", "WELLS FARGO BANK NATL ASSOC"
ON_HEART = (
    Attack("claims 2^38 rows, and its update is the model", "Switzerland", Claims, weak=(any_statistics,)),
    *(Attack("claims `max_rows` rows", who, ClaimsMost) for who in HOSPITALS),
    Attack("gives squares that no rows have", CLEVELAND, lying("squares"), weak=(any_statistics,), folds=3),
    Attack("gives sums that no rows have", CLEVELAND, lying("sums"), weak=(any_statistics,), folds=3),
    Attack("claims `max_rows` rows, every number at the lower end of its range", CLEVELAND, lying("low"), folds=3),
    Attack("the same, at the upper end", CLEVELAND, lying("high"), folds=3),
    Attack("the same, half at either end", CLEVELAND, lying("wide"), folds=3),
    Attack("the same, all at its own mean", CLEVELAND, lying("narrow"), folds=3),
    Attack("one lane full in every round, of a rare column", CLEVELAND, Fills, weak=(any_candidate,), folds=3),
    Attack("the same, of a column that every row has", CLEVELAND, FillsFirst, weak=(any_candidate,), folds=3),
    Attack("the rare lane, as far as lengths allow", CLEVELAND, FillsWithin),
    Attack("the rare lane, as far as lengths and the others' words allow", CLEVELAND, FillsWhilePromoted),
    Attack("its update turned, from round 5 on", CLEVELAND, Turns, weak=(any_word,)),
    Attack("turned and five times as long, from round 5 on", CLEVELAND, TurnsFiveTimes, weak=(any_word,)),
    Attack("the drill `flip`, from round 5 on", CLEVELAND, drill="flip", weak=(any_word,), folds=3),
    Attack("the drill `inner-product`, from round 5 on", CLEVELAND, drill="inner-product", weak=(any_word,), folds=3),
    Attack("nothing, to compare with: what is read by chance", CLEVELAND, Hostile, network=True),
    Attack("a trap of 16 units in round 1", CLEVELAND, Traps, weak=(any_length,), network=True),
    Attack("a trap of two units in round 1, as long as may be", CLEVELAND, TrapsWithin, network=True),
    Attack("a trap of four units, over 12 rounds", CLEVELAND, TrapsSlowly, network=True),
)
ON_SBA = (
    Attack("claims 2^38 rows, and its update is the model", BANK, Claims, weak=(any_statistics,), folds=3),
    Attack("claims `max_rows` rows", BANK, ClaimsMost, folds=3),
    Attack("one lane full in every round, of a rare column", BANK, Fills, weak=(any_candidate,), folds=3),
    Attack("the rare lane, as far as lengths allow", BANK, FillsWithin, folds=3),
    Attack("the rare lane, as far as lengths and the others' words allow", BANK, FillsWhilePromoted, folds=3),
    Attack("its update turned, from round 5 on", LARGEST, Turns, weak=(any_word,), folds=3),
    Attack("turned and five times as long, from round 5 on", LARGEST, TurnsFiveTimes, weak=(any_word,), folds=3),
)


def table(config: Path, attacks: Sequence[Attack], *overrides: str) -> None:
    """Print the attacks on one preset as a table."""
    without = functools.cache(lambda who, folds: measure(config, who, None, *overrides, folds=range(folds)))
    print(f"\n**{config.stem}**\n")
    print("| one member | who | folds | bound off | bound on | beside |\n|---|---|---|---|---|---|")
    for one in attacks:
        drills = [f"{one.drill}@{at}:{one.who}" for at in range(FROM, 21)] if one.drill else []
        more = (*overrides, *(NETWORK if one.network else ()))
        measured = [
            measure(
                config, one.who, one.kind, *more, weak=weak, drills=drills, folds=range(one.folds), traps=one.network
            )
            for weak in ([one.weak, ()] if one.weak else [()])
        ]
        if one.network:
            beside = "–"
        elif any_word in one.weak:
            beside = "before round 5: AUC {1:.3f}, loss {0:.3f}".format(*measured[-1].before)
        else:
            beside = "without it: AUC {0.auc:.3f}, loss {0.loss:.3f}".format(without(one.who, one.folds))
        off = str(measured[0]) if one.weak else "–"
        print(f"| {one.name} | {one.who} | {one.folds} | {off} | {measured[-1]} | {beside} |", flush=True)


def main() -> None:
    """Print the tables."""
    logging.disable(logging.WARNING)  # what a hostile member does is warned of in every round
    if "sba" not in sys.argv[1:]:
        table(HEART, ON_HEART)
    if "heart" not in sys.argv[1:]:
        table(SBA, ON_SBA, "training.rounds=12")


def _of(run: Played, traps: bool) -> Measured:
    """Return what one run is measured by."""
    ends, read = {run.ended}, [rows_read(run)] if traps else []
    promoted = max(len(run.promotions) - 1, 0)
    if not run.result:
        return Measured(promoted=promoted, ends=ends, codes=run.codes, read=read)
    last = run.measured(run.result)
    early = [one for one in run.promotions if one.number < FROM]
    first = run.measured(early[-1].sha256)
    return Measured(
        last["auc"],
        last["loss"],
        promoted,
        run.without_progress(),
        run.unsaid(),
        (first["loss"], first["auc"]),
        float(np.abs(run.version(run.result).vector).max()),
        ends,
        run.codes,
        read,
    )


if __name__ == "__main__":
    main()
