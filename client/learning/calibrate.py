"""Finds the clip and the longest step that a practice's config leaves open, from round 1 over all members' rows.

This needs the updates of all members, so it is for practice only. The values found are constants of the run, and the
report has the line for the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...configs.settings import AUTO, RunSettings
from ...crypto.quantise import BLOCK, Scale
from ...protocol.model_version import Layout
from ..scales import patterns, scale_of
from .learner import Learner, Vector

CLIP_ROOM = 4.0
"""The clip is this many times the largest value of round 1."""
STEP_ROOM = 10.0
"""A practice's longest step is this many times the length of round 1's mean; a recipe's is three times the longest step
of a whole run."""
LEAST = 1e-6


class FirstRound:
    """What all members' updates of round 1 say together: each tensor's largest value, and the mean.

    Args:
        layout: of the updates.
    """

    def __init__(self, layout: Layout) -> None:
        ends = np.cumsum([spec.size for spec in layout]).tolist()
        self._tensors = [slice(end - spec.size, end) for end, spec in zip(ends, layout, strict=True)]
        self._total = np.zeros(ends[-1])
        self._weight = 0.0
        self.largest = np.zeros(len(layout))
        self.members = 0

    def add(self, update: Vector, weight: float) -> None:
        """Count a member's update, ``float32[n]``, with a weight in the mean. Values that are not finite count as 0."""
        finite = np.isfinite(update).all()
        good = update if finite else np.nan_to_num(update, nan=0.0, posinf=0.0, neginf=0.0)
        most = [max(np.max(good[at], initial=0.0), -np.min(good[at], initial=0.0)) for at in self._tensors]
        self.largest = np.maximum(self.largest, most)
        self._total += good * float(weight)
        self._weight += weight
        self.members += 1

    def length(self, scale: Scale) -> float:
        """Return the length of the mean, as :class:`~moonflower.crypto.quantise.Length` measures it."""
        parts, unit = [], min(scale.groups.values())
        for start in range(0, len(self._total), BLOCK):
            block = self._total[start : start + BLOCK]
            mean = block / self._weight * (unit / scale.clips(start, len(block)))
            parts.append(float((mean * mean).sum()))
        return max(math.sqrt(math.fsum(parts)), LEAST)


def calibrated(settings: RunSettings, learner: Learner, first: FirstRound) -> RunSettings:
    """Return settings in which clip and longest step are numbers.

    Args:
        settings: of a practice.
        learner: of any member.
        first: round 1 of all members.
    """
    crypto, gate = settings.crypto, settings.gate
    clip = _clips(learner, first.largest.tolist()) if crypto.clip == AUTO else crypto.clip
    crypto = crypto.model_copy(update={"clip": clip})
    step = gate.max_step or rounded_up(STEP_ROOM * first.length(scale_of(learner, crypto)))
    return settings.model_copy(update={"crypto": crypto, "gate": gate.model_copy(update={"max_step": step})})


def _clips(learner: Learner, largest: Sequence[float]) -> float | dict[str, float]:
    """Return a clip for each group of tensors, or one number if there is only one group."""
    largest_of: dict[str, float] = {}
    named = patterns(learner.layout, learner.buffers)
    for spec, most in zip(learner.layout, largest, strict=True):
        pattern = named[spec.name]
        largest_of[pattern] = max(largest_of.get(pattern, LEAST), float(most))
    clips = {pattern: rounded_up(CLIP_ROOM * most) for pattern, most in sorted(largest_of.items())}
    return clips["*"] if {*clips} == {"*"} else clips


def rounded_up(value: float) -> float:
    """Return the smallest number with two significant digits that is not below ``value``.

    >>> rounded_up(0.0321), rounded_up(8.0), rounded_up(123.4)
    (0.033, 8.0, 130.0)
    """
    power = math.floor(math.log10(value)) - 1
    digits = math.ceil(value / 10.0**power - 1e-9)
    return float(f"{digits}e{power}")
