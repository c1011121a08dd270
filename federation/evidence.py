"""What a simulation's test rows say about its models, and how sure that is: counts, intervals and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..client.learning.cast import Cast
from ..client.tasks import Task
from ..configs.schema import Label, Target, TimeTarget
from ..configs.targets import COUNT, NUMBER
from . import intervals, thresholds
from .baselines import Scores
from .intervals import Difference, Interval

BINS, ROWS_A_BIN = 10, 10
"""Most bins of the calibration curve, and the fewest rows of a bin."""
MOST_CLASSES = 50
"""Most classes of a confusion matrix."""
_SAME = 1e-3
"""Where what follows from scores differs by more from what the task says, the task means something else by it."""


@dataclass(frozen=True)
class Judged:
    """All members' test rows, and what models say about them. The rows lie member by member, in the order of the names.

    Attributes:
        targets: ``int64[n]``, class indices; ``float64[n]`` of numbers and counts; ``float64[n, 2]`` of times.
        label: what is predicted.
        of: member → where its rows lie.
        scores: way → member → the scores of that member's rows, for the ways that have any.
        task: bound to the run's scaling; it knows the threshold and each row's loss.
        validation: scores of the federated model on validation rows, and which of these are positive; or None.
    """

    targets: NDArray[Any]
    label: Target
    of: Mapping[str, slice]
    scores: Mapping[str, Mapping[str, Scores]]
    task: Task = field(default_factory=Task)
    validation: tuple[Scores, NDArray[np.bool_]] | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes; none for other kinds of label."""
        return [str(one) for one in self.label.classes] if isinstance(self.label, Label) else []

    @property
    def binary(self) -> bool:
        """Whether there are two classes, so that there is a positive one."""
        return len(self.classes) == 2

    def all_scores(self, way: str) -> Scores | None:
        """Return the scores of all rows; None if a member's are missing."""
        parts = self.scores.get(way, {})
        return np.concatenate([parts[name] for name in self.of]) if {*parts} == {*self.of} else None

    def losses(self, scores: Scores, where: slice) -> Scores | None:
        """Return the loss of each of some rows; None if the task does not say."""
        targets = self.targets[where]
        found = self.task.row_losses(scores, torch.from_numpy(targets))
        return intervals.losses(scores, targets) if found is None and self.classes else found


def judged(
    cast: Cast,
    scaling: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Scores]],
    validation: tuple[Scores, NDArray[np.bool_]] | None = None,
) -> Judged | None:
    """Return the test rows with their scores; None if there are none, or if they do not fit the kind of label.

    Args:
        cast: the simulation's members.
        scaling: of the run's model; empty without one.
        scores: way → member → scores of its test rows.
        validation: as in :class:`Judged`.
    """
    tests = {name: cast.splits[name].test.targets for name in cast.names}
    if not any(map(len, tests.values())):
        return None
    ends = np.cumsum([len(part) for part in tests.values()]).tolist()
    of = {name: slice(end - len(part), end) for end, (name, part) in zip(ends, tests.items(), strict=True)}
    targets, label = np.concatenate([part.numpy() for part in tests.values()]), cast.schema.label
    found = Judged(targets, label, of, scores, cast.task.bound(cast.schema, scaling), validation)
    if targets.ndim != (2 if isinstance(label, TimeTarget) else 1):
        return None
    if isinstance(label, Label):
        whole = np.issubdtype(targets.dtype, np.integer)
        if not whole or not 0 <= targets.min() <= targets.max() < len(label.classes):
            return None
    width = len(label.grid) if isinstance(label, TimeTarget) else len(found.classes) if len(found.classes) > 2 else 0
    shape = (width,) if width else ()
    parts = [(len(tests[name]), part) for way in scores.values() for name, part in way.items() if len(tests[name])]
    good = all(part.shape == (rows, *shape) and (not found.classes or _chances(part)) for rows, part in parts)
    return found if good else None


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
    return {
        "confidence": intervals.CONFIDENCE,
        "kind": rows.label.kind,
        "classes": rows.classes,
        "positive": rows.classes[1] if rows.binary else None,
        "members": [{"name": one["name"], **_member(rows, one)} for one in members],
        "overall": _counts(rows, slice(None))
        | {"intervals": {way: _intervals(rows, way, None, overall.get(way)) for way in ("federated", "pooled")}},
        **_curves(rows),
    }


def _curves(rows: Judged) -> dict[str, Any]:
    """Return what the federated model's scores show of all rows; None where there is nothing to show."""
    found: dict[str, Any] = {"roc": None, "calibration": None, "confusion": None, "thresholds": []}
    federated = rows.all_scores("federated")
    if federated is None or len(rows.classes) > MOST_CLASSES:
        return found
    bins = min(BINS, len(federated) // ROWS_A_BIN)
    if not rows.classes:
        found["calibration"] = _calibration(rows, federated, bins) if bins > 1 else None
        return found
    found["confusion"] = intervals.confusion(federated, rows.targets, len(rows.classes), rows.task.threshold)
    if rows.binary:
        truth = rows.targets == 1
        found["calibration"] = intervals.calibration(federated, truth, bins) if bins > 1 else None
        found["roc"] = intervals.roc(federated, truth) if 0 < truth.sum() < len(truth) else None
        found["thresholds"] = [thresholds.at(rows.task.threshold, "in use", federated, truth)]
        better = thresholds.chosen(*rows.validation, rows.task.threshold) if rows.validation else None
        if better is not None:
            found["thresholds"].append(thresholds.at(better, "validation rows", federated, truth))
    return found


def _calibration(rows: Judged, scores: Scores, bins: int) -> list[dict[str, Any]]:
    """Return what rows are beside what the model says of them; of times, which share lives past the grid's middle."""
    if not isinstance(rows.label, TimeTarget):
        return intervals.calibration_of_numbers(scores, rows.targets.astype(np.float64), bins)
    middle = len(rows.label.grid) // 2
    times, seen = rows.targets[:, 0], rows.targets[:, 1] > 0
    found = intervals.calibration_of_times(scores[:, middle], times, seen, rows.label.grid[middle], bins)
    return [{**one, "at": rows.label.grid[middle]} for one in found]


def _member(rows: Judged, member: Mapping[str, Any]) -> dict[str, Any]:
    name = str(member["name"])
    ways = ("alone", "federated", "personalised", "pooled")
    ends = {way: _intervals(rows, way, name, member.get(way)) for way in ways}
    return {**_counts(rows, rows.of[name]), "intervals": ends, "difference": _differences(rows, member)}


def _counts(rows: Judged, where: slice) -> dict[str, Any]:
    targets = rows.targets[where]
    found: dict[str, Any] = {"rows": len(targets), "per_class": []}
    if rows.classes:
        found["per_class"] = [int(count) for count in np.bincount(targets, minlength=len(rows.classes))]
    if isinstance(rows.label, TimeTarget):
        found["events"] = int((targets[:, 1] > 0).sum())
    return found


def _intervals(
    rows: Judged, way: str, name: str | None, metrics: Mapping[str, Any] | None
) -> dict[str, list[float] | None]:
    """Return the intervals of a model's metrics; None where there is none."""
    where = slice(None) if name is None else rows.of[name]
    scores = rows.all_scores(way) if name is None else rows.scores.get(way, {}).get(name)
    told, targets = metrics or {}, rows.targets[where]
    if rows.classes:
        found = _of_classes(rows, scores, targets, told)
    elif isinstance(rows.label, TimeTarget):
        found = {"c_index": None if scores is None or not told else _of_times(rows.label, scores, targets)}
    elif scores is None or not told:
        found = dict.fromkeys((_EXPLAINED[rows.label.kind], "rmse", "mae"))
    else:
        found = _of_numbers(rows, scores, where)
    return {metric: list(ends) if ends else None for metric, ends in found.items()}


_EXPLAINED = {NUMBER: "r2", COUNT: "d2"}


def _of_classes(
    rows: Judged, scores: Scores | None, targets: NDArray[Any], told: Mapping[str, Any]
) -> dict[str, Interval | None]:
    share, average = told.get("accuracy"), told.get("average_precision")
    right = None if share is None else share * len(targets)
    whole = right is not None and abs(right - round(right)) < 0.02  # overall, it was rounded to four decimals
    found = {"accuracy": intervals.wilson(round(right), len(targets)) if right is not None and whole else None}
    known = rows.binary and scores is not None and told.get("auc") is not None
    found["auc"] = intervals.auc(scores, targets == 1) if known and scores is not None else None
    if rows.binary:
        positives = int((targets == 1).sum())
        found["average_precision"] = None if average is None else intervals.average_precision(average, positives)
    return found


def _of_numbers(rows: Judged, scores: Scores, where: slice) -> dict[str, Interval | None]:
    targets = rows.targets[where].astype(np.float64)
    apart = scores - targets
    square = intervals.mean(apart**2)
    middle = np.full(len(targets), targets.mean() if len(targets) else 0.0)
    if rows.label.kind == COUNT:
        losses, null = rows.losses(scores, where), rows.losses(middle, where) if middle.any() else None
    else:
        losses, null = apart**2, (targets - middle) ** 2
    share = None if losses is None or null is None else intervals.explained(losses, null)
    return {
        _EXPLAINED[rows.label.kind]: share,
        "rmse": None if square is None else (float(np.sqrt(square[0])), float(np.sqrt(square[1]))),
        "mae": intervals.mean(np.abs(apart)),
    }


def _of_times(label: TimeTarget, scores: Scores, targets: NDArray[Any]) -> Interval | None:
    last = label.grid[-1]  # what is beyond the grid's end was not seen
    seen = (targets[:, 1] > 0) & (targets[:, 0] <= last)
    return intervals.concordance(np.minimum(targets[:, 0], last), seen, (1 - scores).sum(axis=1))


def _differences(rows: Judged, member: Mapping[str, Any]) -> dict[str, Any]:
    """Return federated minus alone of a member's loss and AUC, on the same test rows."""
    name = str(member["name"])
    federated, alone = (rows.scores.get(way, {}).get(name) for way in ("federated", "alone"))
    where = rows.of[name]
    targets = rows.targets[where]
    if federated is None or alone is None or not len(targets):
        return {"loss": None, "auc": None}
    area = intervals.auc_difference(federated, alone, targets == 1) if rows.binary else None
    first, second = (rows.losses(scores, where) for scores in (federated, alone))
    loss = None
    if first is not None and second is not None:
        told = [(member.get(way) or {}).get("loss") for way in ("federated", "alone")]
        same = all(
            value is not None and abs(value - each.mean()) <= _SAME * max(1, abs(value))
            for value, each in zip(told, (first, second), strict=True)
        )
        loss = intervals.mean_difference(first - second) if same else None
    return {"loss": _dict(loss), "auc": _dict(area)}


def _dict(difference: Difference | None) -> dict[str, float] | None:
    return difference.as_dict() if difference else None
