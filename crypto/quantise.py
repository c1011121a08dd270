"""From floats to exact integers in lanes, and from their opened sum back to a mean.

An update x (``float64[n]``) of a member with weight w = W / 2**32 becomes ``round(clip(x) * w / step)`` with
``step = clip / (2**(b-1) - 1)``. Sums of such integers are exact, so every opener gets the same sum, the same
mean and, elementwise in float64, the same candidate to the bit (rule 4). Error of the mean, per parameter:
at most ``|A| * step / 2 / sum(w)`` where nothing was clipped.

Counters (weights, row counts, tallies) travel beside the values as limbs of ``value_bits`` bits, so that they
add up without loss below 2**48.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .planner import Plan

ONE = 1 << 32  # weight 1.0 in fixed point
COUNTER_LIMIT = 1 << 48
CLIP_HEADROOM, CLIP_UP, CLIP_DOWN, CLIP_FLOOR = 32.0, 4.0, 16.0, 1e-9

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LaneSums:
    """Opened sums of the lanes.

    Attributes:
        values: ``int64[n]``, signed sums of the quantised values.
        counters: summed counters.
        in_range: False when a lane or the padding holds what honest members cannot add up to.
    """

    values: Ints
    counters: tuple[int, ...]
    in_range: bool


def quantise(update: Floats, weight: int, clip: float, value_bits: int) -> tuple[Ints, float]:
    """Return the update as integers, and the share of its parameters that was clipped.

    Args:
        update: ``float64[n]``, finite.
        weight: in units of 2**-32, 1 to 2**32.
        clip: bound on one parameter's update, > 0.
        value_bits: b; results lie within ±(2**(b-1) - 1).

    Raises:
        ValueError: a value is not finite, or the weight is out of range.
    """
    if not np.isfinite(update).all():
        raise ValueError("update holds values that are not finite")
    if not 0 < weight <= ONE:
        raise ValueError(f"weight {weight} is outside 1..2**32")
    top = (1 << (value_bits - 1)) - 1
    clipped = float(np.mean(np.abs(update) > clip)) if update.size else 0.0
    scaled = np.clip(update, -clip, clip) * (weight / ONE) * (top / clip)
    return np.clip(np.rint(scaled), -top, top).astype(np.int64), clipped


def mean(sums: Ints, weight: int, clip: float, value_bits: int) -> Floats:
    """Return the weighted mean update ``float64[n]`` from opened sums and the opened total weight (2**-32)."""
    top = (1 << (value_bits - 1)) - 1
    return sums.astype(np.float64) * (clip / top) / (weight / ONE)


def apply_mean(base: NDArray[np.float32], update: Floats) -> NDArray[np.float32]:
    """Return ``base + update``, elementwise in float64, rounded once to float32: same bytes everywhere."""
    with np.errstate(over="ignore"):  # a candidate that is not finite is for the gate to refuse
        return (base.astype(np.float64) + update).astype(np.float32)


def next_clip(clip: float, update: Floats) -> float:
    """Return the next round's clip: 32 times the largest mean update, at most x4 up and /16 down (rule 6)."""
    wanted = CLIP_HEADROOM * float(np.max(np.abs(update), initial=0.0))
    return max(min(max(wanted, clip / CLIP_DOWN), clip * CLIP_UP), CLIP_FLOOR)


def pack(values: Ints, counters: Sequence[int], plan: Plan) -> NDArray[np.int64]:
    """Return slots ``int64[chunks, N]`` in [0, t) that hold signed values and then the counters' limbs.

    Raises:
        ValueError: a value does not fit ``value_bits`` or a counter is outside [0, 2**48).
    """
    top = plan.offset - 1
    if values.size and (values.min() < -top or values.max() > top):
        raise ValueError(f"a value lies outside ±{top}")
    if any(not 0 <= counter < COUNTER_LIMIT for counter in counters):
        raise ValueError("a counter lies outside 0..2**48-1")
    shifts = np.arange(plan.limbs, dtype=np.int64) * plan.value_bits
    limbs = np.array(counters, dtype=np.int64)[:, None] >> shifts & ((1 << plan.value_bits) - 1)
    return pack_lanes(np.concatenate([values + plan.offset, limbs.reshape(-1)]), plan)


def pack_lanes(lanes: Ints, plan: Plan) -> NDArray[np.int64]:
    """Return slots ``int64[chunks, N]`` from lanes' contents ``int64[m]``, zero-padded; no range check."""
    padded = np.zeros(plan.chunks(len(lanes)) * plan.lanes * plan.degree, dtype=np.int64)
    padded[: len(lanes)] = lanes
    cube = padded.reshape(-1, plan.lanes, plan.degree)
    slots = np.zeros((len(cube), plan.degree), dtype=np.int64)
    for lane in range(plan.lanes):
        slots += cube[:, lane] << (plan.lane_bits * lane)
    return slots


def unpack(slots: NDArray[np.int64], values: int, counters: int, members: int, plan: Plan) -> LaneSums:
    """Return the lane sums in opened slots ``int64[chunks, N]`` (each in [0, t)) of ``members`` summands."""
    mask = (1 << plan.lane_bits) - 1
    cube = np.stack([slots >> (plan.lane_bits * lane) & mask for lane in range(plan.lanes)], axis=1)
    lanes = cube.reshape(-1)
    used = values + counters * plan.limbs
    in_range = bool(
        (lanes[:used] <= members * ((1 << plan.value_bits) - 1)).all()
        and (lanes[used:] == 0).all()
        and (slots >> (plan.lane_bits * plan.lanes) == 0).all()
    )
    shifts = np.arange(plan.limbs, dtype=np.int64) * plan.value_bits
    totals = (lanes[values:used].reshape(counters, plan.limbs) << shifts).sum(axis=1)
    return LaneSums(lanes[:values] - members * plan.offset, tuple(totals.tolist()), in_range)


def weight_of(rows: int, total: int) -> int:
    """Return rows / total in units of 2**-32, at least 1 (rule 5: weights are n_k / N)."""
    if not 0 < rows <= total:
        raise ValueError("a member's rows must lie within 1..total")
    return max(1, round(ONE * rows / total))


def norm(update: Floats) -> float:
    """Return the Euclidean norm of an update."""
    return math.sqrt(float(np.dot(update, update)))
