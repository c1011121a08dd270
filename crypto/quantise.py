"""From floats to exact integers in lanes, and from their opened sum back to a mean.

An update x (``float32[n]``) of a member with weight w = W / 2**32 becomes ``round(clip(x) * w / step)`` with
``step = clip / (2**(b-1) - 1)``. Sums of such integers are exact, so every opener gets the same sum, the same
mean and, elementwise in float64, the same candidate to the bit (rule 4). Error of the mean, per parameter:
at most ``|A| * step / 2 / sum(w)`` where nothing was clipped.

Counters (weights, row counts, tallies) travel before the values as limbs of ``value_bits`` bits, so that they add up
without loss below 2**48. Everything works in blocks of ciphertexts: a vector is never held as integers whole.
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
CLIP_HEADROOM, CLIP_UP, CLIP_DOWN, CLIP_FLOOR = 32.0, 4.0, 16.0, 1e-9
BLOCK_LANES = 1 << 17  # lanes worked on at a time

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


def slot_blocks(given: Contribution, plan: Plan) -> Iterator[Ints]:
    """Yield a contribution as plaintext rows ``int64[k, N]`` in [0, t), a block of ciphertexts at a time."""
    shifts = np.arange(plan.limbs, dtype=np.int64) * plan.value_bits
    limbs = np.array(given.counters, dtype=np.int64)[:, None] >> shifts & ((1 << plan.value_bits) - 1)
    head = limbs.reshape(-1)
    for lanes in _spans(given.lanes(plan), plan):
        block = np.zeros(lanes.stop - lanes.start, dtype=np.int64)
        front = head[lanes.start : lanes.stop]
        block[: len(front)] = front
        part = given.update[max(lanes.start - len(head), 0) : max(lanes.stop - len(head), 0)]
        values = quantise(part, given.weight, given.clip, plan.value_bits)
        block[len(front) : len(front) + len(values)] = values + plan.offset
        yield rows_of(block, plan)


def rows_of(lanes: Ints, plan: Plan) -> Ints:
    """Return lanes' contents (whole ciphertexts) as plaintext rows ``int64[k, N]``; no range check."""
    cube = lanes.reshape(-1, plan.lanes, plan.degree)
    rows = cube[:, 0].copy()
    for lane in range(1, plan.lanes):
        rows += cube[:, lane] << (plan.lane_bits * lane)
    return rows


def lanes_of(rows: Ints, plan: Plan) -> Ints:
    """Return the lanes' contents of plaintext rows ``int64[k, N]``."""
    mask = (1 << plan.lane_bits) - 1
    cube = np.empty((len(rows), plan.lanes, plan.degree), dtype=np.int64)
    for lane in range(plan.lanes):
        cube[:, lane] = rows >> (plan.lane_bits * lane) & mask
    return cube.reshape(-1)


class OpenedSum:
    """The lane sums of an opened vector: counters at once, values block by block.

    Args:
        rows: opened plaintext rows ``int64[k, N]``, blocks in order.
        values: parameters of the update; 0 where only counters were summed.
        counters: how many.
        members: summands.
        plan: the epoch's parameters.

    Attributes:
        counters: their sums.
        in_range: False once a lane or the padding held what honest members cannot add up to; final when all
            values were read.
    """

    def __init__(self, rows: Iterator[Ints], values: int, counters: int, members: int, plan: Plan) -> None:
        self._rows, self._plan, self._values, self._members = rows, plan, values, members
        self._limit = members * ((1 << plan.value_bits) - 1)
        self.in_range = True
        head = counters * plan.limbs
        found: list[Ints] = []
        while sum(map(len, found)) < head:
            found.append(lanes_of(next(rows), plan))
        lanes = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        limbs, self._rest = lanes[:head], lanes[head:]
        self._check(limbs)
        shifts = np.arange(plan.limbs, dtype=np.int64) * plan.value_bits
        self.counters = tuple((limbs.reshape(counters, plan.limbs) << shifts).sum(axis=1).tolist())

    def values(self) -> Iterator[tuple[int, Ints]]:
        """Yield (start, signed sums ``int64[k]``) of consecutive parts of the update; to be read to the end."""
        start, block = 0, self._rest
        while True:
            wanted = self._values - start
            part, padding = block[:wanted], block[wanted:]
            self._check(part)
            self.in_range = self.in_range and not padding.any()
            if len(part):
                yield start, part - self._members * self._plan.offset
                start += len(part)
            following = next(self._rows, None)
            if following is None:
                return
            block = lanes_of(following, self._plan)

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


def _spans(lanes: int, plan: Plan) -> Iterator[slice]:
    """Yield the lanes of each block of whole ciphertexts; the last one is padded."""
    chunk = plan.lanes * plan.degree
    step = max(1, BLOCK_LANES // chunk) * chunk
    whole = plan.chunks(lanes) * chunk
    for start in range(0, whole, step):
        yield slice(start, min(start + step, whole))


def norm(update: Floats) -> float:
    """Return the Euclidean norm of an update."""
    return math.sqrt(float(np.dot(update, update)))
