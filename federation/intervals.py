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


def losses(scores: Scores, targets: NDArray[np.int64]) -> Scores:
    """Return each row's log-loss in nats.

    Args:
        scores: ``float64[n]`` of the second class, or ``float64[n, classes]``.
        targets: ``int64[n]``, class indices.
    """
    chances = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    return np.asarray(-np.log(np.maximum(chances[np.arange(len(targets)), targets], 1e-300)))


def confusion(scores: Scores, targets: NDArray[np.int64], classes: int) -> list[list[int]]:
    """Return how many rows of each class (outer list) are taken for which class (inner list), at a score of 0.5."""
    said = (scores > 0.5).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
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
