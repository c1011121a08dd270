"""What a simulation proposes for the recipe: constants that live members cannot find together, as lines of a config.

The clip and the longest step bound what one member can do. The edges lie between equally full bins of the last model's
scores. Only someone who has all members' rows can find these values. A recipe states them, and no run changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..client.learning.calibrate import FirstRound, calibrated, rounded_up
from ..client.learning.cast import Cast
from ..client.learning.learner import Learner, Vector
from ..client.steps import Update
from ..configs.settings import AUTO, RunSettings
from ..configs.targets import CLASSES, TIME
from ..protocol.context import RoundContext

STEP_ROOM = 3.0
"""The proposed longest step is this many times the longest mean that the run did not refuse."""


class RoundOne:
    """The first step of every simulated member: it sees the updates of round 1.

    Args:
        cast: the simulation's members.
    """

    def __init__(self, cast: Cast) -> None:
        self._cast = cast
        self._number = 0
        self._first: FirstRound | None = None

    def __call__(self, update: Update, context: RoundContext) -> Update:
        """Count an update of round 1; a number that is repeated counts anew."""
        if context.round == 1:
            if self._first is None or context.number != self._number:
                self._first, self._number = FirstRound(self._learner.layout), context.number
            self._first.add(update.vector, update.share)
        return update

    @cached_property
    def _learner(self) -> Learner:
        name = self._cast.names[0]
        return self._cast.learner(name, self._cast.splits[name])

    def calibrated(self, settings: RunSettings) -> RunSettings:
        """Return settings in which clip and longest step are numbers, from the run's round 1, or from a new one."""
        first = self._first
        if first is None or first.members < len(self._cast.names):
            first = self._cast.rehearsed().first
        return calibrated(settings, self._learner, first)


def proposal(
    cast: Cast,
    watch: RoundOne,
    longest: float,
    vector: Vector | None,
    scaling: Mapping[str, Any],
    threshold: float | None = None,
) -> dict[str, Any]:
    """Return what the recipe should say, by table and key.

    Args:
        cast: the simulation's members.
        watch: on their round 1.
        longest: Euclidean norm of the longest mean that was not refused; 0 if there is none. In that case the longest
            step comes from round 1. It also does if the proposed clips group the tensors differently from the run's,
            because lengths are then in other units.
        vector: the last version, ``float32[n]``; None if there is none.
        scaling: the scaling of that version.
        threshold: of two classes, if another than the present one is better.
    """
    left = {
        "crypto": cast.settings.crypto.model_copy(update={"clip": AUTO}),
        "gate": cast.settings.gate.model_copy(update={"max_step": 0.0}),
    }
    measured = watch.calibrated(cast.settings.model_copy(update=left))
    own, alike = cast.settings.crypto.clip, measured.crypto.clip
    one_unit = alike == own or not (
        isinstance(own, dict) or isinstance(alike, dict)
    )  # lengths are relative to the clips
    tables: dict[str, dict[str, Any]] = {
        "training": {"max_rows": cast.settings.training.max_rows},
        "crypto": {"clip": measured.crypto.clip},
        "gate": {"max_step": rounded_up(STEP_ROOM * longest) if longest and one_unit else measured.gate.max_step},
    }
    task: dict[str, Any] = {}
    if threshold is not None and "threshold" in signature(type(cast.task)).parameters:
        task["threshold"] = threshold
    edges = _edges(cast, vector, scaling) if vector is not None and "edges" in vars(cast.task) else []
    task |= {"edges": edges} if edges else {}
    return {**tables, "task": task} if task else tables


def _edges(cast: Cast, vector: Vector, scaling: Mapping[str, Any]) -> list[float]:
    """Return the edges between equally full bins of all members' test rows; empty if there are too few rows."""
    together = cast.everyone()
    together.prepare(scaling)
    bins = together.bins(together.tested().tolist())
    scores = _binned(cast.schema.label.kind, together.scores(vector, "test")) if bins > 1 else np.zeros(0)
    at = np.quantile(scores, np.arange(1, bins) / bins) if scores.size else np.zeros(0)
    return sorted({float(f"{score:.2g}") for score in at} - {0.0, 1.0})


def _binned(kind: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores that a tally counts in bins: chances of classes, or risks of times; none of other kinds."""
    if kind == CLASSES:
        return scores.reshape(-1)
    return 1 - scores.mean(axis=1) if kind == TIME else np.zeros(0)
