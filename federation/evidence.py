"""What a simulation's test rows say about its models, and how sure that is: counts, intervals and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..client.learning.cast import Cast
from . import intervals
from .baselines import Scores
from .intervals import Difference

BINS, ROWS_A_BIN = 10, 10
"""Most bins of the calibration curve, and the fewest rows of a bin."""
MOST_CLASSES = 50
"""Most classes of a confusion matrix."""
_SAME = 1e-3
"""Where the log-loss of the scores differs by more from the task's loss, the task's loss is another one."""


@dataclass(frozen=True)
class Judged:
    """All members' test rows, and what models say about them. The rows lie member by member, in the order of the names.

    Attributes:
        targets: ``int64[n]``, class indices.
        classes: names of the classes.
        of: member → where its rows lie.
        scores: way → member → the scores of that member's rows, for the ways that have any.
    """

    targets: NDArray[np.int64]
    classes: Sequence[str]
    of: Mapping[str, slice]
    scores: Mapping[str, Mapping[str, Scores]]

    @property
    def binary(self) -> bool:
        """Whether there are two classes, so that there is a positive one."""
        return len(self.classes) == 2

    def all_scores(self, way: str) -> Scores | None:
        """Return the scores of all rows; None if a member's are missing."""
        parts = self.scores.get(way, {})
        return np.concatenate([parts[name] for name in self.of]) if {*parts} == {*self.of} else None


def judged(cast: Cast, scores: Mapping[str, Mapping[str, Scores]]) -> Judged | None:
    """Return the test rows with their scores; None if there are none, or the scores are no chances of classes."""
    tests = {name: cast.splits[name].test.targets for name in cast.names}
    if any(part.ndim != 1 or part.is_floating_point() for part in tests.values()) or not any(map(len, tests.values())):
        return None
    ends = np.cumsum([len(part) for part in tests.values()]).tolist()
    of = {name: slice(end - len(part), end) for end, (name, part) in zip(ends, tests.items(), strict=True)}
    classes = [str(one) for one in cast.schema.label.classes]
    targets = np.concatenate([part.numpy() for part in tests.values()]).astype(np.int64)
    shape = () if len(classes) == 2 else (len(classes),)
    parts = [(tests[name], part) for way in scores.values() for name, part in way.items() if len(tests[name])]
    good = all(part.shape == (len(rows), *shape) and _chances(part) for rows, part in parts)
    return Judged(targets, classes, of, scores) if good and 0 <= targets.min() <= targets.max() < len(classes) else None


def _chances(scores: Scores) -> bool:
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        return False
    return scores.ndim == 1 or bool(np.allclose(scores.sum(axis=1), 1, atol=1e-4))


def evidence(rows: Judged, members: Sequence[Mapping[str, Any]], overall: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts, confidence intervals and curves, JSON-able: ``evidence`` of result.json.

    Args:
        rows: the test rows and their scores.
        members: the result's members, with the metrics of each way.
        overall: the result's metrics over all members' test rows.
    """
    federated = rows.all_scores("federated")
    curves: dict[str, Any] = {"roc": None, "calibration": None, "confusion": None}
    if federated is not None:
        if len(rows.classes) <= MOST_CLASSES:
            curves["confusion"] = intervals.confusion(federated, rows.targets, len(rows.classes))
        truth = rows.targets == 1
        if rows.binary:
            bins = min(BINS, len(truth) // ROWS_A_BIN)
            curves["calibration"] = intervals.calibration(federated, truth, bins) if bins > 1 else None
            curves["roc"] = intervals.roc(federated, truth) if 0 < truth.sum() < len(truth) else None
    return {
        "confidence": intervals.CONFIDENCE,
        "classes": [*rows.classes],
        "positive": rows.classes[1] if rows.binary else None,
        "members": [{"name": one["name"], **_member(rows, one)} for one in members],
        "overall": _counts(rows, slice(None))
        | {"intervals": {way: _intervals(rows, way, None, overall.get(way)) for way in ("federated", "pooled")}},
        **curves,
    }


def _member(rows: Judged, member: Mapping[str, Any]) -> dict[str, Any]:
    name = str(member["name"])
    ways = ("alone", "federated", "personalised", "pooled")
    ends = {way: _intervals(rows, way, name, member.get(way)) for way in ways}
    return {**_counts(rows, rows.of[name]), "intervals": ends, "difference": _differences(rows, member)}


def _counts(rows: Judged, where: slice) -> dict[str, Any]:
    counts = np.bincount(rows.targets[where], minlength=len(rows.classes))
    return {"rows": int(counts.sum()), "per_class": [int(count) for count in counts]}


def _intervals(rows: Judged, way: str, name: str | None, metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the intervals of a model's accuracy and AUC; None where there is none."""
    where = slice(None) if name is None else rows.of[name]
    scores = rows.all_scores(way) if name is None else rows.scores.get(way, {}).get(name)
    count, share = len(rows.targets[where]), (metrics or {}).get("accuracy")
    right = None if share is None else share * count
    whole = right is not None and abs(right - round(right)) < 0.02  # overall, it was rounded to four decimals
    known = rows.binary and scores is not None and (metrics or {}).get("auc") is not None
    area = intervals.auc(scores, rows.targets[where] == 1) if known and scores is not None else None
    return {
        "accuracy": list(intervals.wilson(round(right), count) or ()) or None if whole and right is not None else None,
        "auc": list(area) if area else None,
    }


def _differences(rows: Judged, member: Mapping[str, Any]) -> dict[str, Any]:
    """Return federated minus alone of a member's loss and AUC, on the same test rows."""
    name = str(member["name"])
    pair = [rows.scores.get(way, {}).get(name) for way in ("federated", "alone")]
    targets = rows.targets[rows.of[name]]
    federated, alone = pair
    if federated is None or alone is None or not len(targets):
        return {"loss": None, "auc": None}
    rows_losses = [intervals.losses(scores, targets) for scores in (federated, alone)]
    told = [(member.get(way) or {}).get("loss") for way in ("federated", "alone")]
    same = all(
        value is not None and abs(value - each.mean()) <= _SAME * max(1, abs(value))
        for value, each in zip(told, rows_losses, strict=True)
    )
    loss = intervals.mean_difference(rows_losses[0] - rows_losses[1]) if same else None
    area = intervals.auc_difference(federated, alone, targets == 1) if rows.binary else None
    return {"loss": _dict(loss), "auc": _dict(area)}


def _dict(difference: Difference | None) -> dict[str, float] | None:
    return difference.as_dict() if difference else None
