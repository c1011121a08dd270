"""The steps between training and sealing: an ordered chain, in which each step turns an Update into an Update.

A step sees only one update and its round. Clipping is every member's last step. An update that does not fit the clip is
not sealed, because a sum of cut updates would not be a mean (rule 6). The member's own log says why, and which clip
would fit; the coordinator learns only a code.
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
"""Share of a group's values that may be cut, and the number of values that may always be cut."""


@dataclass(frozen=True)
class Update:
    """What training changed about a model.

    Attributes:
        vector: ``float32[n]``; a step may change it in place.
        scale: of the update on the wire.
        share: weight of the update in the mean.
    """

    vector: Vector
    scale: Scale
    share: float


class Step(Protocol):
    """One step of the chain."""

    def __call__(self, update: Update, context: RoundContext) -> Update:
        """Return the update for the next step.

        Raises:
            Refused: the update must not be sealed.
        """


def finite(update: Update, context: RoundContext) -> Update:
    """Return the update if all its values are finite.

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
    """Cut every value to its clip; the member's own log says how many are cut, or below half a step.

    Raises:
        Refused: ``update.failed``: more than one value in twenty of a group would be cut, and at least two.
    """
    counts = {group: _Counted() for group in update.scale.groups}
    for start in range(0, len(update.vector), BLOCK):
        part = update.vector[start : start + BLOCK]
        for where, stretch in update.scale.within(start, len(part)):
            _cut(part[where], stretch.clip, update.scale.step(stretch.group) / update.share / 2, counts[stretch.group])
    for group, count in counts.items():
        if count.cut > max(CUT_FEW, CUT_MOST * count.values):
            raise Refused(
                "update.failed",
                f"{count.cut / count.values:.0%} of the update's values in {group!r} are above the clip, "
                f"{update.scale.groups[group]:g}; the largest is {count.largest:.3g}; ask the proposer of the recipe "
                f"for crypto.clip = {rounded_up(count.largest):g} or more",
            )
    for group, count in counts.items():
        logger.info(
            "update, %s: %.1f %% cut, %.0f %% below half a step",
            group,
            100 * count.cut / count.values,
            100 * count.small / count.values,
        )
    return update


def _cut(part: Vector, most: float, half: float, count: _Counted) -> None:
    """Cut a part of an update in place, and count what was cut."""
    sizes = np.abs(part)
    count.values += len(part)
    count.cut += int((sizes > most).sum())
    count.small += int((sizes < half).sum())
    count.largest = max(count.largest, float(sizes.max()))
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
