"""Quantisation: from floats to exact integers in lanes, and from their opened sum back to a mean.

An update x (``float32[n]``) of a member with the share r / N of all rows becomes
``round(clip(x) * share / step + coins)`` with ``step = clip / (2**(b-1) - 7)``, which leaves room for twelve coins.
Sums of such integers are exact. Every opener therefore gets the same sum, the same mean and, elementwise in float64,
the same candidate to the bit (rule 4). If nothing was clipped, the mean's error per parameter has mean 0 and a standard
deviation of ``1.05 * sqrt(n) * step``.

Clip and step are constants of the recipe for each group of tensors (rule 6), held in a :class:`Scale`. Counters (row
counts, tallies) travel as limbs of ``value_bits`` bits, so that they add up without loss below 2**48. Vectors are
worked on in parts, so no whole vector is held in float64.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..canonical import canonical
from .coins import MOST, Coins
from .planner import Plan

COUNTER_LIMIT = 1 << 48
_HALF = 20  # bits of the lower part of an opened sum, when it is squared
BLOCK = 1 << 17  # values worked on at a time

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Update = NDArray[np.float32]


@dataclass(frozen=True)
class Stretch:
    """Consecutive values of one group of tensors.

    Attributes:
        values: how many, at least 1.
        group: the group's name.
        clip: largest absolute value that travels, > 0.
        learnt: the values follow a gradient. If False, they are buffers, which may stay unchanged.
    """

    values: int
    group: str
    clip: float
    learnt: bool = True


@dataclass(frozen=True)
class Scale:
    """How the values of an update become whole numbers. It is a constant of the circle.

    Attributes:
        stretches: from the first value to the last. All stretches of a group have the same clip.
        value_bits: bits of one value, 8 to 24.
    """

    stretches: tuple[Stretch, ...]
    value_bits: int

    @property
    def size(self) -> int:
        """Number of values in an update."""
        return sum(stretch.values for stretch in self.stretches)

    @property
    def limit(self) -> int:
        """Steps of the largest value that travels, with room above it for coins."""
        return (1 << (self.value_bits - 1)) - 1 - int(MOST)

    @property
    def groups(self) -> dict[str, float]:
        """Group → its clip, in the order of the values."""
        return {stretch.group: stretch.clip for stretch in self.stretches}

    def step(self, group: str) -> float:
        """Return the size of one step of a group."""
        return self.groups[group] / self.limit

    def within(self, start: int, count: int) -> Iterator[tuple[slice, Stretch]]:
        """Yield the place of each stretch in a block of values, and the stretch.

        Args:
            start: of the block.
            count: of its values.
        """
        first = 0
        for stretch in self.stretches:
            low, high = max(first - start, 0), min(first + stretch.values - start, count)
            if low < high:
                yield slice(low, high), stretch
            first += stretch.values

    def clips(self, start: int, count: int) -> Floats:
        """Return the clip of each value of a block, ``float64[count]``."""
        out = np.empty(count)
        for where, stretch in self.within(start, count):
            out[where] = stretch.clip
        return out

    def steps(self, start: int, count: int) -> Floats:
        """Return the step of each value of a block, ``float64[count]``."""
        return self.clips(start, count) / self.limit

    def as_list(self) -> list[list[int | str | float]]:
        """Return the stretches as JSON-able values."""
        return [[stretch.values, stretch.group, stretch.clip] for stretch in self.stretches]


NOTHING = Scale((), 16)


@dataclass(frozen=True)
class Contribution:
    """What a member adds to a sum.

    Attributes:
        counters: whole numbers in [0, 2**48).
        update: ``float32[n]``; n may be 0.
        share: of the update in the mean: this member's rows over all members', in (0, 1].
        scale: of the update.
        secret: the node's own, from which the update's coins come; 32 bytes or more, empty if there is no update.
    """

    counters: tuple[int, ...] = ()
    update: Update = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    share: float = 1.0
    scale: Scale = NOTHING
    secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if any(not 0 <= counter < COUNTER_LIMIT for counter in self.counters):
            raise ValueError("a counter lies outside 0..2**48-1")
        if not 0 < self.share <= 1:
            raise ValueError(f"share {self.share} is outside (0, 1]")
        if len(self.update) != self.scale.size:
            raise ValueError(f"update of {len(self.update)} values; its scale is for {self.scale.size}")
        if not np.isfinite(self.update).all():
            raise ValueError("update holds values that are not finite")

    def lanes(self, plan: Plan) -> int:
        """Return how many lanes the contribution takes."""
        return len(self.counters) * plan.limbs + len(self.update)

    def integers(self) -> Iterator[tuple[int, Ints]]:
        """Yield (start, whole numbers ``int64[k]`` within ±(2**(b-1) - 1)) for consecutive parts of the update."""
        if not len(self.update):
            return
        about = hashlib.sha256(canonical([self.share, self.scale.value_bits, self.scale.as_list()]))
        about.update(np.ascontiguousarray(self.update, dtype="<f4").data)
        coins = Coins(self.secret, about.digest())
        for number, start in enumerate(range(0, len(self.update), BLOCK)):
            part = self.update[start : start + BLOCK]
            clips = self.scale.clips(start, len(part))
            yield start, quantise(part, self.share, clips, self.scale.limit, coins.block(number, len(part)))


def quantise(update: Update, share: float, clips: Floats, limit: int, coins: Floats) -> Ints:
    """Return a part of an update as whole numbers of steps, within ±(limit + 6).

    Args:
        update: ``float32[k]``.
        share: in (0, 1].
        clips: ``float64[k]``, > 0.
        limit: steps of the largest value.
        coins: ``float64[k]``, in steps.
    """
    scaled = np.clip(update.astype(np.float64), -clips, clips)
    scaled *= share
    scaled *= limit / clips
    np.clip(scaled, -limit, limit, out=scaled)
    scaled += coins
    return np.rint(scaled, out=scaled).astype(np.int64)


def lanes_of(contribution: Contribution, plan: Plan) -> Ints:
    """Return a contribution as lanes ``int64[m]``, each in [0, 2**value_bits): counters' limbs, then values."""
    head = len(contribution.counters) * plan.limbs
    out = np.empty(contribution.lanes(plan), dtype=np.int64)
    limbs = np.array(contribution.counters, dtype=np.int64)[:, None] >> _shifts(plan) & ((1 << plan.value_bits) - 1)
    out[:head] = limbs.reshape(-1)
    for start, part in contribution.integers():
        np.add(part, plan.offset, out=out[head + start : head + start + len(part)])
    return out


def _shifts(plan: Plan) -> Ints:
    """Return the shift in bits of each limb of a counter."""
    return np.arange(plan.limbs, dtype=np.int64) * plan.value_bits


class OpenedSum:
    """The lane sums of an opened vector. Counters are read at once, values block by block.

    Args:
        blocks: opened lane sums ``int64[k]``, in order.
        values: number of the update's parameters; 0 if only counters were summed.
        counters: number of counters.
        members: number of summands.
        plan: of the sum.

    Attributes:
        counters: the counters' sums.
        in_range: False once a lane held a sum that honest members cannot reach. Final when all values were read.
    """

    def __init__(self, blocks: Iterator[Ints], values: int, counters: int, members: int, plan: Plan) -> None:
        self._blocks, self._plan, self._values, self._members = blocks, plan, values, members
        self._limit = members * ((1 << plan.value_bits) - 1)
        self.in_range = True
        head = counters * plan.limbs
        taken: list[Ints] = []
        while sum(map(len, taken)) < head:
            taken.append(next(blocks))
        lanes = np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
        limbs, self._rest = lanes[:head], lanes[head:]
        self._check(limbs)
        self.counters = tuple((limbs.reshape(counters, plan.limbs) << _shifts(plan)).sum(axis=1).tolist())

    def values(self) -> Iterator[tuple[int, Ints]]:
        """Yield (start, signed sums ``int64[k]``) for consecutive parts of the update. Read it to the end."""
        start, block = 0, self._rest
        while True:
            part, beyond = block[: self._values - start], block[self._values - start :]
            self._check(part)
            self.in_range = self.in_range and not beyond.any()
            if len(part):
                yield start, part - self._members * self._plan.offset
                start += len(part)
            following = next(self._blocks, None)
            if following is None:
                return
            block = following

    def finish(self) -> OpenedSum:
        """Read the remaining values to check their range, and return self."""
        for _ in self.values():
            pass
        return self

    def _check(self, lanes: Ints) -> None:
        self.in_range = self.in_range and bool((lanes <= self._limit).all())


def squares(sums: Ints) -> int:
    """Return the exact sum of the squares of opened sums, ``|sum| < 2**40``."""
    high, low = sums >> _HALF, sums & ((1 << _HALF) - 1)
    parts = (int((high * high).sum()), int((high * low).sum()), int((low * low).sum()))
    return (parts[0] << (2 * _HALF)) + (parts[1] << (_HALF + 1)) + parts[2]


class Length:
    """The length of an opened mean, added up part by part from exact squares. It is the same everywhere, to the bit."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._squares = dict.fromkeys(scale.groups, 0)

    def add(self, start: int, sums: Ints) -> None:
        """Take the opened sums ``int64[k]`` of a part."""
        for where, stretch in self._scale.within(start, len(sums)):
            self._squares[stretch.group] += squares(sums[where])

    @property
    def value(self) -> float:
        """Length of the mean, with each group's values relative to its clip, in units of the smallest clip.

        With one clip, this is the Euclidean norm. With several clips, a running variance of thousands would otherwise
        hide what one parameter does.
        """
        unit = min(self._scale.groups.values(), default=0.0) / self._scale.limit
        return math.sqrt(sum(self._squares.values())) * unit

    def of_coins(self, members: int) -> float:
        """Return the sum's length relative to a sum of coins alone, for the learnt group where that is least.

        Args:
            members: number of summands.
        """
        counts: Counter[str] = Counter()
        for stretch in self._scale.stretches:
            counts[stretch.group] += stretch.values if stretch.learnt else 0
        return min(math.sqrt(self._squares[group] / (members * count)) for group, count in counts.items() if count)


def apply_mean(base: NDArray[np.float32], update: Floats) -> NDArray[np.float32]:
    """Return ``base + update``, elementwise in float64 and rounded once to float32: the same bytes everywhere."""
    with np.errstate(over="ignore"):  # the gate refuses a candidate that is not finite
        return (base.astype(np.float64) + update).astype(np.float32)
