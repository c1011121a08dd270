"""Confidence intervals of what test rows say: pure functions of scores, classes and losses.

All intervals are two-sided, at :data:`CONFIDENCE`. Each takes the test rows as drawn by chance and the model as given.
So none of them covers that another seed would train another model. An interval that the rows leave undefined is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
RESAMPLES = 2000
_CELLS = 1 << 22
"""Draws of the bootstrap that are made at once, which bounds its memory."""

MOST_PAIRED = 10_000
"""Most rows whose pairs are compared for a C-index's interval."""

Interval = tuple[float, float]
Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]


def wilson(successes: int, rows: int) -> Interval | None:
    """Return the interval of a share: Wilson's score interval, within [0, 1]; None without rows.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Unlike the usual
    interval it holds for few rows and for shares near 0 and 1.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not rows:
        return None
    share, weight = successes / rows, _Z * _Z / rows
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / rows + weight / (4 * rows)) / (1 + weight)
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True)
class Difference:
    """A difference of two models on the same rows.

    Attributes:
        value: of the first minus the second.
        low, high: the interval's ends.
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """JSON-able."""
        return dict(vars(self))


def auc(scores: Scores, truth: Truth) -> Interval | None:
    """Return the interval of an AUC, within [0, 1]; None with fewer than two rows of a class or without a spread.

    The variance is that of DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988). The interval is made on the logit
    scale and then carried back, so that it stays within [0, 1] (Pepe, "The statistical evaluation of medical tests for
    classification and prediction", 2003, chapter 5). An AUC of exactly 0 or 1 has no spread in these rows.

    Args:
        scores: ``float64[n]``, higher for the positive class.
        truth: ``bool[n]``, whether a row is positive.
    """
    placed = _placements(scores, truth)
    if placed is None:
        return None
    value, variance = float(placed[0].mean()), _covariance(placed, placed)
    if not (0 < value < 1 and variance > 0):
        return None
    logit, half = math.log(value / (1 - value)), _Z * math.sqrt(variance) / (value * (1 - value))
    return _expit(logit - half), _expit(logit + half)


def average_precision(value: float, positives: int) -> Interval | None:
    """Return the interval of an average precision, within [0, 1]; None at 0 or 1, or without positive rows.

    Boyd, Eng and Page, "Area under the precision-recall curve", ECML PKDD 2013: on the logit scale, from the number of
    positive rows.

    >>> [round(end, 3) for end in average_precision(0.6, 50)]
    [0.46, 0.725]
    """
    if not (0 < value < 1 and positives > 0):
        return None
    logit, half = math.log(value / (1 - value)), _Z / math.sqrt(positives * value * (1 - value))
    return _expit(logit - half), _expit(logit + half)


def mean(values: Scores) -> Interval | None:
    """Return the interval of the mean of values that are not negative, by the normal distribution; None below two."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    middle, half = float(values.mean()), _Z * float(values.std(ddof=1)) / math.sqrt(len(values))
    return max(middle - half, 0.0), middle + half


def explained(losses: Scores, null: Scores) -> Interval | None:
    """Return the interval of the explained share 1 - Σ losses / Σ null, as R² and D² are; None below two rows.

    By the delta method. The null model says the mean of the rows, which has the least loss of all constants, so that
    the mean's own error does not count.

    Args:
        losses: ``float64[n]``, of the model.
        null: ``float64[n]``, of the model that says the mean.
    """
    rows, whole = len(losses), float(null.mean()) if len(null) else 0.0
    if rows < 2 or whole <= 0 or not np.isfinite(losses).all():
        return None
    share = float(losses.mean()) / whole
    half = _Z * float(((losses - share * null) / whole).std(ddof=1)) / math.sqrt(rows)
    return 1 - share - half, min(1 - share + half, 1.0)


def concordance(times: Scores, seen: Truth, risks: Scores) -> Interval | None:
    """Return the interval of Harrell's C-index, within [0, 1], on the logit scale; None without a spread.

    Its variance is that of a ratio of two sums over pairs: Pencina and D'Agostino, Statistics in Medicine 23 (2004).

    Args:
        times: ``float64[n]``, of the event or of the last observation.
        seen: ``bool[n]``, whether the event was seen.
        risks: ``float64[n]``, higher for an earlier event.
    """
    if len(times) > MOST_PAIRED or not np.isfinite(risks).all():
        return None
    points, pairs = np.zeros(len(times)), np.zeros(len(times))
    for one in np.flatnonzero(seen):
        later = (times > times[one]) | ((times == times[one]) & ~seen)
        right = later * ((risks[one] > risks) + 0.5 * (risks[one] == risks))
        points += right
        pairs += later
        points[one] += right.sum()
        pairs[one] += later.sum()
    if not pairs.sum():
        return None
    value = points.sum() / pairs.sum()
    variance = 4 * float(((points - value * pairs) ** 2).sum()) / float(pairs.sum()) ** 2
    if not (0 < value < 1 and variance > 0):
        return None
    logit, half = math.log(value / (1 - value)), _Z * math.sqrt(variance) / (value * (1 - value))
    return _expit(logit - half), _expit(logit + half)


def auc_difference(first: Scores, second: Scores, truth: Truth) -> Difference | None:
    """Return the difference of two models' AUC on the same rows, by DeLong's covariance; None as for :func:`auc`.

    Args:
        first, second: ``float64[n]``, the models' scores of the same rows.
        truth: ``bool[n]``, whether a row is positive.
    """
    one, other = _placements(first, truth), _placements(second, truth)
    if one is None or other is None:
        return None
    variance = _covariance(one, one) + _covariance(other, other) - 2 * _covariance(one, other)
    value = float(one[0].mean() - other[0].mean())
    if variance <= 1e-15:
        return None
    half = _Z * math.sqrt(variance)
    return Difference(value, max(value - half, -1.0), min(value + half, 1.0))


def mean_difference(differences: Scores, seed: int = 0) -> Difference | None:
    """Return the mean of differences that belong to rows, by a paired bootstrap over the rows; None below two rows.

    The interval's ends are percentiles of the means of :data:`RESAMPLES` samples with replacement (Efron and
    Tibshirani, "An introduction to the bootstrap", 1993, chapter 13). The same rows and seed give the same interval.

    Args:
        differences: ``float64[n]``, first model minus second, one for each row.
        seed: of the samples.
    """
    rows = len(differences)
    if rows < 2 or not np.isfinite(differences).all():
        return None
    draws, means, step = np.random.default_rng(seed), np.empty(RESAMPLES), max(1, _CELLS // rows)
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        means[start : start + count] = differences[draws.integers(rows, size=(count, rows))].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(differences.mean()), float(low), float(high))


def roc(scores: Scores, truth: Truth, points: int = 101) -> list[list[float]]:
    """Return the ROC curve as ``[false positive rate, true positive rate]`` pairs from (0, 0) to (1, 1).

    Args:
        scores: ``float64[n]``, higher for the positive class.
        truth: ``bool[n]``, whether a row is positive; both classes have a row.
        points: most points; where there are more, evenly spaced ones are left out.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last row of each distinct score
    found = np.cumsum(truth[order])[ends]
    false = ends + 1 - found
    x, y = np.append(0.0, false / false[-1]), np.append(0.0, found / found[-1])
    kept = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    return [[round(float(x[at]), 5), round(float(y[at]), 5)] for at in kept]


def calibration(scores: Scores, truth: Truth, bins: int) -> list[dict[str, Any]]:
    """Return how often rows are positive, by bins of about equally many rows, lowest scores first.

    Returns:
        For each bin ``rows``, ``score`` (the mean), ``share`` (of positive rows), and ``low`` and ``high`` by
        :func:`wilson`.
    """
    out = []
    for part in np.array_split(np.argsort(scores, kind="stable"), bins):
        ends = wilson(int(truth[part].sum()), len(part))
        if ends is not None:
            means = {"score": round(float(scores[part].mean()), 5), "share": round(float(truth[part].mean()), 5)}
            out.append({"rows": len(part), **means, "low": ends[0], "high": ends[1]})
    return out


def calibration_of_numbers(said: Scores, truth: Scores, bins: int) -> list[dict[str, Any]]:
    """Return what rows are on average, by bins of about equally many rows, those of which the model says least first.

    Returns:
        For each bin of two rows or more ``rows``, ``score`` (the mean of what the model says), ``share`` (the mean of
        the rows), and ``low`` and ``high`` of the latter, by the normal distribution.
    """
    out = []
    for part in np.array_split(np.argsort(said, kind="stable"), bins):
        if len(part) > 1:
            middle, half = float(truth[part].mean()), _Z * float(truth[part].std(ddof=1)) / math.sqrt(len(part))
            ends = {"share": middle, "low": middle - half, "high": middle + half}
            out.append({"rows": len(part), "score": float(said[part].mean()), **ends})
    return out


def calibration_of_times(alive: Scores, times: Scores, seen: Truth, at: float, bins: int) -> list[dict[str, Any]]:
    """Return which share of rows lives past a time, by bins of about equally many rows, lowest chances first.

    Args:
        alive: ``float64[n]``, the model's chances that the event comes after ``at``.
        times: ``float64[n]``, of the event or of the last observation.
        seen: ``bool[n]``, whether the event was seen.
        at: the time.
        bins: number of bins.

    Returns:
        For each bin ``rows``, ``score`` (the mean chance), ``share`` by Kaplan and Meier, and ``low`` and ``high`` by
        Greenwood's variance. Bins in which nobody was observed for so long are left out.
    """
    out = []
    for part in np.array_split(np.argsort(alive, kind="stable"), bins):
        share, variance = 1.0, 0.0
        for moment in np.unique(times[part][seen[part] & (times[part] <= at)]):
            risk, events = int((times[part] >= moment).sum()), int((seen[part] & (times[part] == moment)).sum())
            share *= 1 - events / risk
            variance += events / (risk * (risk - events)) if risk > events else 0.0
        if len(part) and times[part].max() >= at:
            half = _Z * share * math.sqrt(variance)
            ends = {"share": share, "low": max(share - half, 0.0), "high": min(share + half, 1.0)}
            out.append({"rows": len(part), "score": float(alive[part].mean()), **ends})
    return out


def losses(scores: Scores, targets: NDArray[np.int64]) -> Scores:
    """Return each row's log-loss in nats.

    Args:
        scores: ``float64[n]`` of the second class, or ``float64[n, classes]``.
        targets: ``int64[n]``, class indices.
    """
    chances = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    return np.asarray(-np.log(np.maximum(chances[np.arange(len(targets)), targets], 1e-300)))


def confusion(scores: Scores, targets: NDArray[np.int64], classes: int, threshold: float = 0.5) -> list[list[int]]:
    """Return how many rows of each class (outer list) are taken for which class (inner list).

    A score above ``threshold`` says the second of two classes; of more, the highest score says the class.
    """
    said = (scores > threshold).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
    counts = np.bincount(targets * classes + said, minlength=classes * classes)
    return [[int(count) for count in row] for row in counts.reshape(classes, classes)]


def _placements(scores: Scores, truth: Truth) -> tuple[Scores, Scores] | None:
    """Return each positive row's share of negative rows below it, and each negative row's share of positive ones above.

    Equal scores count as half. The mean of either is the AUC.
    """
    positive, negative = np.sort(scores[truth]), np.sort(scores[~truth])
    if min(len(positive), len(negative)) < 2 or not np.isfinite(scores).all():
        return None
    return (
        (_below(negative, scores[truth])) / len(negative),
        1 - _below(positive, scores[~truth]) / len(positive),
    )


def _below(ordered: Scores, values: Scores) -> Scores:
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2


def _covariance(one: Sequence[Scores], other: Sequence[Scores]) -> float:
    """Return the covariance of two AUC from the placements of their rows."""
    return sum(float(np.cov(a, b)[0, 1]) / len(a) for a, b in zip(one, other, strict=True))


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
