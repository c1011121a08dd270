"""How good a simulation's model is beside models without federation. Only a process with all rows knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..client.learning.cast import Cast
from ..client.learning.learner import Personal, Vector
from ..client.learning.torch import TorchLearner
from ..client.tasks import Metrics
from ..configs.schema import Label
from ..protocol.model_version import Version
from .baselines import Baselines, Scores, attempt, clean, scores_on_test
from .curves import Curve
from .evidence import evidence, judged

Told = dict[str, Any]


def comparison(
    cast: Cast,
    version: Version | None,
    learners: Mapping[str, TorchLearner],
    compared: Baselines,
    curve: Curve,
    *,
    own: Mapping[str, Personal],
    tallied: Metrics | None,
) -> Told:
    """Return ``members``, ``overall``, ``evidence`` and ``problems`` of result.json.

    Args:
        cast: the simulation's members.
        version: the run's model; None if it promoted no version.
        learners: member → its learner, prepared with the version's scaling; empty without a version.
        compared: the baselines.
        curve: the loss over the rounds.
        own: member → its own tensors of the version.
        tallied: the run's own metrics of the version over all members' test rows.
    """
    failures, together = [*compared.failures], curve.everyone
    vector = None if version is None else version.vector
    if version is not None:
        together.prepare(version.manifest["scaling"])

    def judge(whose: str, call: Callable[..., Metrics | None], *about: Any) -> dict[str, float | None] | None:
        return clean(attempt(f"judging the model on the test rows of {whose}", partial(call, *about), failures))

    members = [
        {
            "name": name,
            "rows": sum(len(part) for part in (rows.train, rows.validation, rows.test)),
            "alone": compared.alone[name],
            "federated": None if vector is None else judge(name, learners[name].evaluate, vector, "test", own[name]),
            "personalised": None if vector is None else judge(name, learners[name].personalised, vector, own[name]),
            "pooled": compared.pooled[name],
        }
        for name, rows in sorted(cast.splits.items())
    ]
    if vector is None or together.personal:  # only members can judge with their own tensors, and they did
        federated = clean(tallied)
    else:
        federated = judge("all members", together.evaluate, vector, "test")
    overall = {"alone": compared.overall_alone, "federated": federated, "pooled": compared.overall_pooled}
    by_way = {"alone": compared.alone_scores, **_dealt(cast, {"pooled": compared.pooled_scores})}
    by_way["federated"] = {} if vector is None else _federated(cast, vector, learners, own, failures)
    scaling = {} if version is None else version.manifest["scaling"]
    seen = None if vector is None else _on_validation(cast, vector, learners, own, failures)
    rows = attempt("looking at test rows", partial(judged, cast, scaling, by_way, seen), failures)
    told = (attempt("judging test rows", partial(evidence, rows, members, overall), failures) if rows else None) or {}
    validation = {
        "rows": sum(len(split.validation) for split in cast.splits.values()),
        "loss": None if version is None or vector is None else curve.loss(vector, version),
        "by_round": [list(point) for point in curve.points],
    }
    found = {**told, "validation": validation}
    problems = [*dict.fromkeys((*failures, *curve.failures))]
    return {"members": members, "overall": overall, "evidence": found, "problems": problems}


def _federated(
    cast: Cast,
    vector: Vector,
    learners: Mapping[str, TorchLearner],
    own: Mapping[str, Personal],
    failures: list[str],
) -> dict[str, Scores]:
    """Return member → the scores of its test rows by the run's model; without those that the task cannot give."""
    found = {
        name: scores_on_test(learners[name], vector, len(split.test), failures, own[name])
        for name, split in sorted(cast.splits.items())
    }
    return {name: scores for name, scores in found.items() if scores is not None}


def _on_validation(
    cast: Cast,
    vector: Vector,
    learners: Mapping[str, TorchLearner],
    own: Mapping[str, Personal],
    failures: list[str],
) -> tuple[Scores, NDArray[np.bool_]] | None:
    """Return scores of all validation rows, and which of them are positive; None unless there are two classes."""
    label = cast.schema.label
    if not isinstance(label, Label) or len(label.classes) != 2:
        return None
    names = [name for name in cast.names if len(cast.splits[name].validation)]
    found = [
        attempt("scoring validation rows", partial(learners[name].scores, vector, "validation", own[name]), failures)
        for name in names
    ]
    scores = [one for one in found if one is not None and one.ndim == 1]
    truth = np.concatenate([cast.splits[name].validation.targets.numpy() == 1 for name in names])
    return (np.concatenate(scores), truth) if len(scores) == len(names) else None


def _dealt(cast: Cast, scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return way → member → scores, from the scores of all members' test rows."""
    out: dict[str, dict[str, Any]] = {}
    for way, all_of_them in scores.items():
        start, out[way] = 0, {}
        for name in cast.names if all_of_them is not None else ():
            rows = len(cast.splits[name].test)
            out[way][name] = all_of_them[start : start + rows]
            start += rows
    return out
