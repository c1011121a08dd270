"""What happens to a member's update between training and sealing: an ordered chain of steps, each Update → Update.

A step sees one update and the round that it is for, and reaches back to nothing. Clipping is the last one of every
member; the drills ``nan``, ``scale``, ``flip`` and ``crash`` are steps of hostile members.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..errors import Refused
from ..protocol.context import RoundContext
from .learning.learner import Vector

BLOCK = 1 << 17  # values looked at together: a vector is never held twice


@dataclass(frozen=True)
class Update:
    """What training changed about a model.

    Attributes:
        vector: ``float32[n]``; a step may change it in place.
        clipped_share: share of the values that were cut, in [0, 1].
    """

    vector: Vector
    clipped_share: float = 0.0


class Step(Protocol):
    """One step of the chain."""

    def __call__(self, update: Update, context: RoundContext) -> Update:
        """Return the update as it goes on.

        Raises:
            Refused: it must not be sealed.
        """


def finite(update: Update, context: RoundContext) -> Update:
    """Let an update pass whose values are all finite.

    Raises:
        Refused: ``update.nonfinite``.
    """
    if not np.isfinite(update.vector).all():
        raise Refused("update.nonfinite", "training gave values that are not finite")
    return update


def clip(update: Update, context: RoundContext) -> Update:
    """Cut every value to the round's clip, the largest ``float32`` within it; tell how many were beyond."""
    vector = update.vector
    most = np.float32(context.clip)
    if float(most) > context.clip:
        most = np.nextafter(most, np.float32(0))
    cut = 0
    for start in range(0, len(vector), BLOCK):
        part = vector[start : start + BLOCK]
        cut += int((np.abs(part) > context.clip).sum())
        np.clip(part, -most, most, out=part)
    return replace(update, clipped_share=cut / len(vector) if len(vector) else 0.0)


STEPS: tuple[Step, ...] = (finite, clip)
"""The chain of an honest member."""


def walk(update: Update, steps: Iterable[Step], context: RoundContext) -> Update:
    """Return an update after all steps, in order."""
    for step in steps:
        update = step(update, context)
    return update
