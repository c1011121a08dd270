"""What happens to a member's update between training and sealing: an ordered chain of steps, each Update → Update.

A step sees one update and the round that it is for, and reaches back to nothing. Clipping is the last one of every
member, and what does not fit is not sealed: a sum of cut updates would be no mean (rule 6). The reason, and which clip
would do, stand in the member's own log; the coordinator learns a code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..crypto.quantise import BLOCK, Scale
from ..errors import Refused
from ..protocol.context import RoundContext
from .learning.calibrate import rounded_up
from .learning.learner import Vector

logger = logging.getLogger(__name__)
CUT_MOST, CUT_FEW = 0.05, 1
"""Share of a group's values that may be cut, and how many may always be."""


@dataclass(frozen=True)
class Update:
    """What training changed about a model.

    Attributes:
        vector: ``float32[n]``; a step may change it in place.
        scale: by which it travels.
        share: of it in the mean.
    """

    vector: Vector
    scale: Scale
    share: float


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
        Refused: ``update.failed``.
    """
    if not np.isfinite(update.vector).all():
        raise Refused("update.failed", "training gave values that are not finite; a lower training.lr may help")
    return update


@dataclass
class _Counted:
    """What the clip does to a group: its values, those beyond the clip, those below half a step, and the largest."""

    values: int = 0
    cut: int = 0
    small: int = 0
    largest: float = 0.0


def clip(update: Update, context: RoundContext) -> Update:
    """Cut every value to its clip, and say in the own log what is cut, or is rounded to chance.

    Raises:
        Refused: ``update.failed``: more than one value of twenty of a group would be cut, and two at least.
    """
    counts = {group: _Counted() for group in update.scale.groups}
    for start in range(0, len(update.vector), BLOCK):
        part = update.vector[start : start + BLOCK]
        for where, stretch in update.scale.within(start, len(part)):
            _cut(part[where], stretch.clip, update.scale.step(stretch.group) / update.share / 2, counts[stretch.group])
    for group, found in counts.items():
        if found.cut > max(CUT_FEW, CUT_MOST * found.values):
            raise Refused(
                "update.failed",
                f"{found.cut / found.values:.0%} of the update's values in {group!r} are above the clip, "
                f"{update.scale.groups[group]:g}; the largest is {found.largest:.3g}; ask the proposer of the recipe "
                f"for crypto.clip = {rounded_up(found.largest):g} or more",
            )
    for group, found in counts.items():
        logger.info(
            "update, %s: %.1f %% cut, %.0f %% below half a step",
            group,
            100 * found.cut / found.values,
            100 * found.small / found.values,
        )
    return update


def _cut(part: Vector, most: float, half: float, found: _Counted) -> None:
    """Cut a part of an update in place, and count."""
    sizes = np.abs(part)
    found.values += len(part)
    found.cut += int((sizes > most).sum())
    found.small += int((sizes < half).sum())
    found.largest = max(found.largest, float(sizes.max()))
    bound = np.float32(most)
    if float(bound) > most:
        bound = np.nextafter(bound, np.float32(0))
    np.clip(part, -bound, bound, out=part)


STEPS: tuple[Step, ...] = (finite, clip)
"""The chain of an honest member."""


def walk(update: Update, steps: Iterable[Step], context: RoundContext) -> Update:
    """Return an update after all steps, in order."""
    for step in steps:
        update = step(update, context)
    return update
