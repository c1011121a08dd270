"""Finds the clip and the longest step that a practice's config leaves open, from round 1 over all members' rows.

This needs the updates of all members, so it is for practice only. The values found are constants of the run, and the
report has the line for the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...configs.settings import AUTO, RunSettings
from ...crypto.quantise import BLOCK, Scale
from ..scales import patterns, scale_of
from .learner import Learner

CLIP_ROOM = 4.0
"""The clip is this many times the largest value of round 1."""
STEP_ROOM = 10.0
"""A practice's longest step is this many times the length of round 1's mean; a recipe's is three times the longest step
of a whole run."""
LEAST = 1e-6


def calibrated(settings: RunSettings, learners: Sequence[Learner]) -> RunSettings:
    """Return settings in which clip and longest step are numbers.

    Args:
        settings: of a practice.
        learners: of all members, with their own rows.
    """
    crypto, gate = settings.crypto, settings.gate
    if crypto.clip != AUTO and gate.max_step:
        return settings
    updates = _first_round(settings, learners)
    clip: Any = crypto.clip
    if clip == AUTO:
        largest = [np.max(np.abs([update[at] for update in updates]), initial=0.0) for at in _tensors(learners[0])]
        clip = _clips(learners[0], largest)
    crypto = crypto.model_copy(update={"clip": clip})
    length = _length(updates, [learner.rows for learner in learners], scale_of(learners[0], crypto))
    gate = gate.model_copy(update={"max_step": gate.max_step or rounded_up(STEP_ROOM * length)})
    return settings.model_copy(update={"crypto": crypto, "gate": gate})


def _first_round(settings: RunSettings, learners: Sequence[Learner]) -> list[np.ndarray[Any, Any]]:
    """Return every member's update of round 1, from version 0 with the scaling of all rows."""
    scaling = learners[0].scaling(np.sum([learner.summary() for learner in learners], axis=0).tolist())
    start, updates = learners[0].start(), []
    for learner in learners:
        learner.prepare(scaling)
        trained = learner.train(start, settings.training, 1).vector
        updates.append(np.nan_to_num(trained - start, nan=0.0, posinf=0.0, neginf=0.0))
    return updates


def _tensors(learner: Learner) -> list[slice]:
    """Return where each tensor lies in a vector."""
    ends = np.cumsum([spec.size for spec in learner.layout]).tolist()
    return [slice(end - spec.size, end) for end, spec in zip(ends, learner.layout, strict=True)]


def _clips(learner: Learner, largest: Sequence[float]) -> float | dict[str, float]:
    """Return a clip for each group of tensors, or one number if there is only one group."""
    largest_of: dict[str, float] = {}
    named = patterns(learner.layout, learner.buffers)
    for spec, most in zip(learner.layout, largest, strict=True):
        pattern = named[spec.name]
        largest_of[pattern] = max(largest_of.get(pattern, LEAST), float(most))
    clips = {pattern: rounded_up(CLIP_ROOM * most) for pattern, most in sorted(largest_of.items())}
    return clips["*"] if {*clips} == {"*"} else clips


def _length(updates: Sequence[np.ndarray[Any, Any]], rows: Sequence[int], scale: Scale) -> float:
    """Return the length of the mean of updates, by rows, as :class:`~moonflower.crypto.quantise.Length` measures it."""
    total, parts, unit = sum(rows), [], min(scale.groups.values())
    for start in range(0, len(updates[0]), BLOCK):
        block = [update[start : start + BLOCK].astype(np.float64) * n for update, n in zip(updates, rows, strict=True)]
        mean = np.sum(block, axis=0) / total * (unit / scale.clips(start, len(block[0])))
        parts.append(float((mean * mean).sum()))
    return max(math.sqrt(math.fsum(parts)), LEAST)


def rounded_up(value: float) -> float:
    """Return the smallest number with two significant digits that is not below ``value``.

    >>> rounded_up(0.0321), rounded_up(8.0), rounded_up(123.4)
    (0.033, 8.0, 130.0)
    """
    power = math.floor(math.log10(value)) - 1
    digits = math.ceil(value / 10.0**power - 1e-9)
    return float(f"{digits}e{power}")
