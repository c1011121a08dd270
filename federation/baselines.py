"""The baselines of a simulation: each member alone, and all rows in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..client.learning.cast import Cast
from ..client.learning.splits import join


@dataclass(frozen=True)
class Baselines:
    """How good models are without federation. A metric that is undefined is None.

    Attributes:
        alone: member → metrics of its own model, trained on its own rows only, on its own test rows.
        pooled: member → metrics of one model, trained on all members' rows in one place, on its own test rows.
        overall_alone: mean metrics of the members' own models on all members' test rows, weighted by training rows.
        overall_pooled: metrics of the pooled model on all members' test rows.
    """

    alone: Mapping[str, Mapping[str, Any] | None]
    pooled: Mapping[str, Mapping[str, Any] | None]
    overall_alone: Mapping[str, Any] | None
    overall_pooled: Mapping[str, Any] | None


def baselines(cast: Cast) -> Baselines:
    """Train a model for each member alone and one on all rows, with the same rounds × epochs, and evaluate them.

    An epoch of the pooled model takes as many steps as the epochs of all members together, so that each step sees as
    many rows as a step of a member.
    """
    training = cast.settings.training
    steps = training.model_copy(update={"parts": training.parts * len(cast.names)})
    everyone = join([cast.splits[name] for name in cast.names])
    together = cast.learner("pooled", everyone)
    pooled, own = together.fit(steps)
    alone, others, weights = {}, [], []
    for name in cast.names:
        learner = cast.learner(name, cast.splits[name])
        vector, private = learner.fit(training)
        alone[name] = clean(learner.evaluate(vector, "test", private))
        others.append(learner.evaluate(vector, everyone.test, private))
        weights.append(learner.rows)
    return Baselines(
        alone,
        {name: clean(together.evaluate(pooled, cast.splits[name].test, own)) for name in cast.names},
        _weighted(others, weights),
        clean(together.evaluate(pooled, "test", own)),
    )


def _weighted(metrics: list[dict[str, float | None]], weights: list[int]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in metrics[0]:
        values = [m[name] for m in metrics]
        known = [value for value in values if value is not None]
        out[name] = float(np.average(known, weights=weights)) if len(known) == len(values) else None
    return clean(out) or {}


def clean(metrics: Mapping[str, float | None] | None) -> dict[str, float | None] | None:
    """Return metrics with None for undefined and infinite numbers, because JSON has no NaN."""
    if metrics is None:
        return None
    return {name: value if value is not None and np.isfinite(value) else None for name, value in metrics.items()}
