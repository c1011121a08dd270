"""The baselines of a simulation: each member alone, and all rows in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..client.learning.cast import Cast
from ..client.learning.learner import NOTHING, Personal, Vector
from ..client.learning.rows import Rows
from ..client.learning.splits import join
from ..client.learning.torch import TorchLearner
from ..client.tasks import Metrics

T = TypeVar("T")
Scores = NDArray[np.float64]
_LONGEST = 300  # letters of a task's message that are shown


@dataclass(frozen=True)
class Baselines:
    """How good models are without federation. A metric that is undefined is None, and so is what was not trained.

    Attributes:
        alone: member → metrics of its own model, trained on its own rows only, on its own test rows.
        pooled: member → metrics of one model, trained on all members' rows in one place, on its own test rows.
        overall_alone: mean metrics of the members' own models on all members' test rows, weighted by training rows.
        overall_pooled: metrics of the pooled model on all members' test rows.
        alone_scores: member → scores of its own model on its own test rows.
        pooled_scores: scores of the pooled model on all members' test rows, member by member.
        failures: what could not be trained or judged, and why.
    """

    alone: Mapping[str, Mapping[str, Any] | None]
    pooled: Mapping[str, Mapping[str, Any] | None]
    overall_alone: Mapping[str, Any] | None
    overall_pooled: Mapping[str, Any] | None
    alone_scores: Mapping[str, Scores] = field(default_factory=dict)
    pooled_scores: Scores | None = None
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Alone:
    own: Mapping[str, Any] | None
    elsewhere: Metrics
    scores: Scores | None
    rows: int


@dataclass(frozen=True)
class _Pooled:
    of: Mapping[str, Mapping[str, Any] | None]
    overall: Mapping[str, Any] | None
    scores: Scores | None


def baselines(cast: Cast) -> Baselines:
    """Train a model for each member alone and one on all rows, with the same rounds × epochs, and evaluate them.

    An epoch of the pooled model takes as many steps as the epochs of all members together, so that each step sees as
    many rows as a step of a member. A task that raises an exception costs only the model that it raised at.
    """
    failures: list[str] = []
    tests = join([cast.splits[name] for name in cast.names]).test
    common = attempt("adding all members' statistics", partial(_scaling, cast), failures) or {}
    pooled = attempt("training on all members' rows in one place", partial(_pooled, cast, failures), failures)
    tried = {
        name: attempt(f"training {name} alone", partial(_alone, cast, name, tests, common, failures), failures)
        for name in cast.names
    }
    known = [one for one in tried.values() if one is not None]
    return Baselines(
        {name: one.own if one else None for name, one in tried.items()},
        pooled.of if pooled else dict.fromkeys(cast.names),
        _weighted([one.elsewhere for one in known], [one.rows for one in known]) if len(known) == len(tried) else None,
        pooled.overall if pooled else None,
        {name: one.scores for name, one in tried.items() if one and one.scores is not None},
        pooled.scores if pooled else None,
        tuple(failures),
    )


def without(cast: Cast) -> Baselines:
    """Return the baselines of a simulation that trains none."""
    return Baselines(dict.fromkeys(cast.names), dict.fromkeys(cast.names), None, None)


def attempt(what: str, call: Callable[[], T], failures: list[str]) -> T | None:
    """Return what ``call`` returns. If it raises an exception, return None and add a sentence to ``failures``.

    A task is anybody's code and may raise anything. What comes after a run must not lose the run's result.
    """
    try:
        return call()
    except Exception as error:
        lines = str(error).strip().splitlines()
        failures.append(f"{what} raised {type(error).__name__}: {lines[0] if lines else ''}"[:_LONGEST])
        return None


def scores_on_test(
    learner: TorchLearner, vector: Vector, rows: int, failures: list[str], own: Personal = NOTHING
) -> Scores | None:
    """Return the scores of a learner's test rows, which are ``rows``; None if the task raises an exception."""
    if not rows:
        return np.zeros(0)
    return attempt("scoring test rows", partial(learner.scores, vector, "test", own), failures)


def _pooled(cast: Cast, failures: list[str]) -> _Pooled:
    training = cast.settings.training
    steps = training.model_copy(update={"parts": training.parts * len(cast.names)})
    together = cast.everyone()
    vector, personal = together.fit(steps)
    of = {name: clean(together.evaluate(vector, cast.splits[name].test, personal)) for name in cast.names}
    rows = sum(len(split.test) for split in cast.splits.values())
    scores = scores_on_test(together, vector, rows, failures, personal)
    return _Pooled(of, clean(together.evaluate(vector, "test", personal)), scores)


def _scaling(cast: Cast) -> dict[str, Any]:
    """Return the scaling of all members' rows together, which is that of the run."""
    together = cast.everyone()
    return together.scaling(together.summary().tolist())


def _alone(cast: Cast, name: str, tests: Rows, common: Mapping[str, Any], failures: list[str]) -> _Alone:
    learner = cast.learner(name, cast.splits[name])
    vector, personal = learner.fit(cast.settings.training, common)
    own = clean(learner.evaluate(vector, "test", personal))
    scores = scores_on_test(learner, vector, len(cast.splits[name].test), failures, personal)
    return _Alone(own, learner.evaluate(vector, tests, personal), scores, learner.rows)


def _weighted(metrics: list[Metrics], weights: list[int]) -> dict[str, float | None]:
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
