"""The threshold above which a score says "positive": chosen on validation rows, judged on test rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from .intervals import Scores, Truth, confusion, wilson

FEWEST = 10
"""Validation rows of a class below which no threshold is chosen."""
GAIN = 0.02
"""A chosen threshold has to raise sensitivity plus specificity by more than this on the validation rows."""


def chosen(scores: Scores, truth: Truth, now: float) -> float | None:
    """Return the threshold with the highest sensitivity plus specificity (Youden, Cancer 3, 1950), of two digits.

    None if there are few rows of a class, or if it gains little over the present one.

    Args:
        scores: ``float64[n]``, of validation rows.
        truth: ``bool[n]``, whether a row is positive.
        now: the present threshold.

    >>> scores = np.repeat([0.05, 0.2, 0.3], 20)
    >>> chosen(scores, scores > 0.1, 0.5), chosen(scores, scores > 0.1, 0.1)
    (0.12, None)
    """
    if min(int(truth.sum()), int((~truth).sum())) < FEWEST or not np.isfinite(scores).all():
        return None
    distinct, group = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(group[side], minlength=len(distinct)) for side in (truth, ~truth))
    above = 1 - np.cumsum(positive) / positive.sum()  # of the positive rows, those above each distinct score
    below = np.cumsum(negative) / negative.sum()
    best = int(np.argmax((above + below)[:-1])) if len(distinct) > 1 else 0
    middle = float(distinct[best] + distinct[min(best + 1, len(distinct) - 1)]) / 2
    found = min(max(float(f"{middle:.2g}"), 0.01), 0.99)
    return found if _sum(scores, truth, found) > _sum(scores, truth, now) + GAIN else None


def at(threshold: float, by: str, scores: Scores, truth: Truth) -> dict[str, Any]:
    """Return what a threshold does on test rows: counts and shares with intervals, JSON-able.

    Args:
        threshold: a score above it says "positive".
        by: how it was chosen.
        scores: ``float64[n]``.
        truth: ``bool[n]``, whether a row is positive.

    Returns:
        ``threshold``, ``by``, ``confusion``, and ``sensitivity``, ``specificity`` and ``precision``, each as value, low
        and high, or None without rows.
    """
    counts = confusion(scores, truth.astype(np.int64), 2, threshold)
    (right_no, false_yes), (false_no, right_yes) = counts
    return {
        "threshold": threshold,
        "by": by,
        "confusion": counts,
        "sensitivity": _share(right_yes, right_yes + false_no),
        "specificity": _share(right_no, right_no + false_yes),
        "precision": _share(right_yes, right_yes + false_yes),
    }


def _share(successes: int, rows: int) -> dict[str, float] | None:
    ends = wilson(successes, rows)
    return None if ends is None else {"value": successes / rows, "low": ends[0], "high": ends[1]}


def _sum(scores: Scores, truth: Truth, threshold: float) -> float:
    said = scores > threshold
    return float(said[truth].mean() + (~said[~truth]).mean())
