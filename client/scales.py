"""The clip of each tensor of a model, and the lower bounds of a candidate's values (rule 6).

The recipe's clip is one number, or one for each pattern of tensor names. If several patterns fit a name, the longest
counts; of equally long patterns, the first in alphabetical order, because a recipe's bytes keep no other order. Buffers
have no gradient. They are in groups apart from parameters, even under one pattern, so that the rounding of a group
is measured over like values.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping

import numpy as np

from ..configs.settings import AUTO, CryptoSettings
from ..crypto.quantise import BLOCK, Scale, Stretch
from ..errors import InputError
from ..protocol.model_version import Layout
from .learning.learner import Learner, Vector

_ANY = "*"
_KEPT = 1 / 16
"""Least share of the distance to its lower bound that a value keeps in a round."""


def scale_of(learner: Learner, crypto: CryptoSettings) -> Scale:
    """Return the scale of a model's updates.

    Raises:
        InputError: ``config.value``: a tensor that no pattern of ``crypto.clip`` fits, or a pattern that fits none.
    """
    clip = 1.0 if crypto.clip == AUTO else crypto.clip
    clips = clip if isinstance(clip, dict) else {_ANY: float(clip)}
    return stretched(learner.layout, learner.buffers, clips, crypto.value_bits)


def stretched(layout: Layout, buffers: Collection[str], clips: Mapping[str, float], value_bits: int) -> Scale:
    """Return a scale from a clip for each pattern.

    Args:
        layout: the tensors that travel.
        buffers: names of the tensors that are not parameters.
        clips: pattern → clip.
        value_bits: of one value.

    Raises:
        InputError: ``config.value``: a tensor that no pattern fits, or a pattern that fits no tensor.
    """
    stretches: list[Stretch] = []
    used: set[str] = set()
    for spec in layout:
        pattern = _pattern(spec.name, clips)
        used.add(pattern)
        group = f"{pattern} (buffers)" if spec.name in buffers else pattern
        values = spec.size
        if stretches and stretches[-1].group == group:
            values += stretches.pop().values
        stretches.append(Stretch(values, group, clips[pattern], spec.name not in buffers))
    spare = sorted({*clips} - used - {_ANY})
    if spare:
        names = ", ".join(spec.name for spec in layout[:8])
        raise InputError("config.value", f"crypto.clip: no tensor matches {spare[0]!r}; the model has {names}")
    return Scale(tuple(stretches), value_bits)


def _pattern(name: str, clips: Mapping[str, float]) -> str:
    fitting = sorted(
        (pattern for pattern in clips if fnmatch.fnmatchcase(name, pattern)),
        key=lambda pattern: (-len(pattern), pattern),
    )
    if not fitting:
        raise InputError("config.value", f'crypto.clip has no pattern for tensor {name!r}; expected one such as "*"')
    return fitting[0]


def patterns(layout: Layout, buffers: Collection[str]) -> dict[str, str]:
    """Return the patterns by which a clip is found for a model: tensor → pattern.

    Parameters share one pattern. Each buffer has its own, because the running variances of two layers can be a thousand
    times apart.
    """
    return {spec.name: spec.name if spec.name in buffers else _ANY for spec in layout}


class Floors:
    """Lower bounds of a candidate's values.

    A running variance (``running_var`` of BatchNorm) makes no sense below 0, but rounding could carry it there. In a
    round, such a value keeps at least a sixteenth of its distance to the bound: elementwise, with the same bits at
    every opener.

    Args:
        learner: has the model's layout, and lower bounds by tensor.
    """

    def __init__(self, learner: Learner) -> None:
        self._bounds: list[tuple[int, int, float]] = []
        start = 0
        for spec in learner.layout:
            if spec.name in learner.floors:
                self._bounds.append((start, start + spec.size, learner.floors[spec.name]))
            start += spec.size

    def keep(self, base: Vector, candidate: Vector) -> None:
        """Raise values that fell too low, in place.

        Args:
            base: ``float32[n]``.
            candidate: ``float32[n]``.
        """
        for first, end, bound in self._bounds:
            for start in range(first, end, BLOCK):
                where = slice(start, min(start + BLOCK, end))
                least = bound + (base[where].astype(np.float64) - bound) * _KEPT
                np.maximum(candidate[where], least.astype(np.float32), out=candidate[where])
