"""The baselines of a simulation: each member alone, and all rows in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..client.learning.cast import Cast
from ..client.learning.learner import Vector
from ..client.learning.splits import join


@dataclass(frozen=True)
class Baselines:
    """Metrics by member, and overall: trained on its own rows alone, and on all members' rows in one place."""

    alone: Mapping[str, Mapping[str, Any] | None]
    pooled: Mapping[str, Mapping[str, Any] | None]
    overall_alone: Mapping[str, Any] | None
    overall_pooled: Mapping[str, Any] | None


def baselines(cast: Cast) -> Baselines:
    """Train each member alone and all data pooled, with the same rounds × epochs; judge as result.json says.

    Pooled, an epoch takes as many steps as those of all members together, so that a step sees as many rows.
    """
    training = cast.settings.training
    steps = training.model_copy(update={"parts": training.parts * len(cast.names)})
    everyone = join([cast.splits[name] for name in cast.names])
    together = cast.learner("pooled", everyone)
    pooled = together.fit(steps)
    alone, others, weights = {}, [], []
    for name in cast.names:
        learner = cast.learner(name, cast.splits[name])
        vector: Vector = learner.fit(training)
        alone[name] = clean(learner.evaluate(vector, "test"))
        others.append(learner.evaluate(vector, everyone.test))
        weights.append(learner.rows)
    return Baselines(
        alone,
        {name: clean(together.evaluate(pooled, cast.splits[name].test)) for name in cast.names},
        _weighted(others, weights),
        clean(together.evaluate(pooled, "test")),
    )


def _weighted(metrics: list[dict[str, float | None]], weights: list[int]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in metrics[0]:
        values = [m[name] for m in metrics]
        known = [value for value in values if value is not None]
        out[name] = float(np.average(known, weights=weights)) if len(known) == len(values) else None
    return clean(out) or {}


def clean(metrics: Mapping[str, float | None] | None) -> dict[str, float | None] | None:
    """Return metrics with undefined and infinite numbers as None: JSON has no NaN."""
    if metrics is None:
        return None
    return {name: value if value is not None and np.isfinite(value) else None for name, value in metrics.items()}
