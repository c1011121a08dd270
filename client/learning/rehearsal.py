"""A rehearsal: round 1 of all simulated members, from which a practice finds the constants that its config leaves open.

The run's own round 1 begins at the same version, under the same settings. What was trained in the rehearsal is not
trained again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ... import canonical
from ...configs.training import TrainingSettings
from .calibrate import FirstRound
from .learner import NOTHING, Personal, Trained, Vector
from .torch import TorchLearner


class RehearsedLearner(TorchLearner):
    """A learner that may know the result of one training."""

    known: tuple[str, Trained] | None = None

    def train(self, base: Vector, training: TrainingSettings, number: int, personal: Personal = NOTHING) -> Trained:
        """Return the vector after a round, as every learner does; a training that was rehearsed only once."""
        known, self.known = self.known, None
        if known is not None and not personal and known[0] == self.key(base, training, number):
            return known[1]
        return super().train(base, training, number, personal)

    def key(self, base: Vector, training: TrainingSettings, number: int) -> str:
        """Return the digest of everything on which a member's first training depends."""
        bytes_of = hashlib.sha256(base.tobytes()).hexdigest()
        return canonical.digest([bytes_of, training.model_dump(mode="json"), number, self.scaled])


@dataclass(frozen=True)
class Rehearsal:
    """Round 1 of all members.

    Attributes:
        first: what the updates say together.
        known: member → what it trained, for :attr:`RehearsedLearner.known`.
    """

    first: FirstRound
    known: dict[str, tuple[str, Trained]] = field(default_factory=dict)


def rehearse(training: TrainingSettings, learners: Mapping[str, RehearsedLearner]) -> Rehearsal:
    """Train round 1 of all members, from version 0 with the scaling of all rows.

    Args:
        training: of the run.
        learners: member → its learner.
    """
    one = next(iter(learners.values()))
    totals: Any = np.sum([learner.summary() for learner in learners.values()], axis=0)
    scaling, start, rehearsal = one.scaling(totals.tolist()), one.start(), Rehearsal(FirstRound(one.layout))
    for name, learner in learners.items():
        learner.prepare(scaling)
        trained = learner.train(start, training, 1)
        rehearsal.known[name] = (learner.key(start, training, 1), trained)
        rehearsal.first.add(trained.vector - start, learner.rows)
    return rehearsal
