"""From floats to exact integers in lanes, and from their opened sum back to a mean.

An update x (``float32[n]``) of a member with weight w = W / 2**32 becomes ``round(clip(x) * w / step)`` with
``step = clip / (2**(b-1) - 1)``. Sums of such integers are exact, so every opener gets the same sum, the same
mean and, elementwise in float64, the same candidate to the bit (rule 4). Error of the mean, per parameter:
at most ``|A| * step / 2 / sum(w)`` where nothing was clipped.

Counters (weights, row counts, tallies) travel before the values as limbs of ``value_bits`` bits, so that they add up
without loss below 2**48. Vectors are worked on in parts: none is held in float64 whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .planner import Plan

ONE = 1 << 32  # weight 1.0 in fixed point
COUNTER_LIMIT = 1 << 48
_HALF = 20  # bits of the lower part of an opened sum, when it is squared
CLIP_HEADROOM, CLIP_UP, CLIP_DOWN, CLIP_FLOOR = 32.0, 4.0, 16.0, 1e-9
BLOCK = 1 << 17  # values worked on at a time

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Update = NDArray[np.float32]


@dataclass(frozen=True)
class Contribution:
    """What a member adds to a sum.

    Attributes:
        counters: whole numbers in [0, 2**48).
        update: ``float32[n]``; n may be 0.
        weight: of the update, in units of 2**-32, 1 to 2**32.
        clip: bound on one parameter's update, > 0.
    """

    counters: tuple[int, ...]
    update: Update = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    weight: int = ONE
    clip: float = 1.0

    def __post_init__(self) -> None:
        if any(not 0 <= counter < COUNTER_LIMIT for counter in self.counters):
            raise ValueError("a counter lies outside 0..2**48-1")
        if not 0 < self.weight <= ONE:
            raise ValueError(f"weight {self.weight} is outside 1..2**32")
        if not np.isfinite(self.update).all():
            raise ValueError("update holds values that are not finite")

    def lanes(self, plan: Plan) -> int:
        """Lanes that this takes."""
        return len(self.counters) * plan.limbs + len(self.update)


def quantise(update: Update, weight: int, clip: float, value_bits: int) -> Ints:
    """Return an update (or part of one) as integers within ±(2**(b-1) - 1); arguments as in Contribution."""
    top = (1 << (value_bits - 1)) - 1
    scaled = np.clip(update.astype(np.float64), -clip, clip)
    scaled *= (weight / ONE) * (top / clip)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -top, top, out=scaled).astype(np.int64)


def lanes_of(given: Contribution, plan: Plan) -> Ints:
    """Return a contribution as lanes ``int64[m]``, each in [0, 2**value_bits): counters' limbs, then values."""
    head = len(given.counters) * plan.limbs
    out = np.empty(given.lanes(plan), dtype=np.int64)
    limbs = np.array(given.counters, dtype=np.int64)[:, None] >> _shifts(plan) & ((1 << plan.value_bits) - 1)
    out[:head] = limbs.reshape(-1)
    for start in range(0, len(given.update), BLOCK):
        part = quantise(given.update[start : start + BLOCK], given.weight, given.clip, plan.value_bits)
        np.add(part, plan.offset, out=out[head + start : head + start + len(part)])
    return out


def _shifts(plan: Plan) -> Ints:
    """Return by how much each limb of a counter is shifted."""
    return np.arange(plan.limbs, dtype=np.int64) * plan.value_bits


class OpenedSum:
    """The lane sums of an opened vector: counters at once, values block by block.

    Args:
        blocks: opened lane sums ``int64[k]``, in order.
        values: parameters of the update; 0 where only counters were summed.
        counters: how many.
        members: summands.
        plan: of the sum.

    Attributes:
        counters: their sums.
        in_range: False once a lane held what honest members cannot add up to; final when all values were read.
    """

    def __init__(self, blocks: Iterator[Ints], values: int, counters: int, members: int, plan: Plan) -> None:
        self._blocks, self._plan, self._values, self._members = blocks, plan, values, members
        self._limit = members * ((1 << plan.value_bits) - 1)
        self.in_range = True
        head = counters * plan.limbs
        found: list[Ints] = []
        while sum(map(len, found)) < head:
            found.append(next(blocks))
        lanes = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        limbs, self._rest = lanes[:head], lanes[head:]
        self._check(limbs)
        self.counters = tuple((limbs.reshape(counters, plan.limbs) << _shifts(plan)).sum(axis=1).tolist())

    def values(self) -> Iterator[tuple[int, Ints]]:
        """Yield (start, signed sums ``int64[k]``) of consecutive parts of the update; to be read to the end."""
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
        """Read what is left, for its range; return self."""
        for _ in self.values():
            pass
        return self

    def _check(self, lanes: Ints) -> None:
        self.in_range = self.in_range and bool((lanes <= self._limit).all())


def mean(sums: Ints, weight: int, clip: float, value_bits: int) -> Floats:
    """Return the weighted mean update ``float64[k]`` from opened sums and the opened total weight (2**-32)."""
    top = (1 << (value_bits - 1)) - 1
    return sums.astype(np.float64) * (clip / top) / (weight / ONE)


def squares(sums: Ints) -> int:
    """Return the exact sum of the squares of opened sums, ``|sum| < 2**40``."""
    high, low = sums >> _HALF, sums & ((1 << _HALF) - 1)
    parts = (int((high * high).sum()), int((high * low).sum()), int((low * low).sum()))
    return (parts[0] << (2 * _HALF)) + (parts[1] << (_HALF + 1)) + parts[2]


def mean_norm(total: int, weight: int, clip: float, value_bits: int) -> float:
    """Return the Euclidean norm of a mean update from the sum of squares of its opened sums: same bits everywhere."""
    top = (1 << (value_bits - 1)) - 1
    return math.sqrt(total) * (clip / top) / (weight / ONE)


def apply_mean(base: NDArray[np.float32], update: Floats) -> NDArray[np.float32]:
    """Return ``base + update``, elementwise in float64, rounded once to float32: same bytes everywhere."""
    with np.errstate(over="ignore"):  # a candidate that is not finite is for the gate to refuse
        return (base.astype(np.float64) + update).astype(np.float32)


def next_clip(clip: float, largest: float) -> float:
    """Return the next round's clip: 32 times the largest mean update, at most x4 up and /16 down (rule 6)."""
    return max(min(max(CLIP_HEADROOM * largest, clip / CLIP_DOWN), clip * CLIP_UP), CLIP_FLOOR)


def weight_of(rows: int, total: int) -> int:
    """Return rows / total in units of 2**-32, at least 1 (rule 5: weights are n_k / N)."""
    if not 0 < rows <= total:
        raise ValueError("a member's rows must lie within 1..total")
    return max(1, round(ONE * rows / total))


def norm(update: Floats) -> float:
    """Return the Euclidean norm of an update."""
    return math.sqrt(float(np.dot(update, update)))
