"""How good a simulation's model is beside models without federation. Only a process with all rows knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..client.learning.cast import Cast
from ..client.learning.learner import Learner
from ..client.tasks import Metrics
from ..protocol.model_version import Version
from .baselines import Baselines, attempt, clean, scores_on_test
from .curves import Curve
from .evidence import evidence, judged

Told = dict[str, Any]


def comparison(
    cast: Cast, version: Version | None, learners: Mapping[str, Learner], compared: Baselines, curve: Curve
) -> Told:
    """Return ``members``, ``overall``, ``evidence`` and ``problems`` of result.json.

    Args:
        cast: the simulation's members.
        version: the run's model; None if it promoted no version.
        learners: member → its learner, prepared with the version's scaling; empty without a version.
        compared: the baselines.
        curve: the loss over the rounds.
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
            "federated": None if vector is None else judge(name, learners[name].evaluate, vector, "test"),
            "personalised": None if vector is None else judge(name, learners[name].personalised, vector),
            "pooled": compared.pooled[name],
        }
        for name, rows in sorted(cast.splits.items())
    ]
    federated = None if vector is None else judge("all members", together.evaluate, vector, "test")
    overall = {"alone": compared.overall_alone, "federated": federated, "pooled": compared.overall_pooled}
    rows = sum(len(split.test) for split in cast.splits.values())
    scores = None if vector is None else scores_on_test(together, vector, rows, failures)
    by_way = {"alone": compared.alone_scores, **_dealt(cast, {"federated": scores, "pooled": compared.pooled_scores})}
    told = attempt("looking at test rows", partial(_evidence, cast, by_way, members, overall), failures) or {}
    validation = {
        "rows": sum(len(split.validation) for split in cast.splits.values()),
        "loss": None if version is None or vector is None else curve.loss(vector, version),
        "by_round": [list(point) for point in curve.points],
    }
    found = {**told, "validation": validation}
    problems = [*dict.fromkeys((*failures, *curve.failures))]
    return {"members": members, "overall": overall, "evidence": found, "problems": problems}


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


def _evidence(
    cast: Cast, scores: Mapping[str, Mapping[str, Any]], members: Sequence[Told], overall: Mapping[str, Any]
) -> Told:
    rows = judged(cast, scores)
    return {} if rows is None else evidence(rows, members, overall)
