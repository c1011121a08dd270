"""How well scores put rows in order: AUC, average precision, and the C-index of times to an event."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2048
"""Rows that are compared with each other at once."""


def ranking(positives: NDArray[Any], negatives: NDArray[Any]) -> tuple[float | None, float | None]:
    """Return AUC and average precision from the counts at each distinct score, lowest score first.

    Whole numbers up to the last division, so that the same counts give the same bits. Scores that are equal
    count as half in order (Mann and Whitney); average precision is the step sum that scikit-learn reports.

    Args:
        positives: ``int[k]``, rows of the positive class at each score.
        negatives: ``int[k]``, the others.

    >>> ranking(np.array([0, 1, 1]), np.array([1, 1, 0]))
    (0.875, 0.8333333333333333)
    """
    all_positive, all_negative = int(positives.sum()), int(negatives.sum())
    if not (all_positive and all_negative):
        return None, None
    below = np.cumsum(negatives) - negatives
    pairs = int((positives * (2 * below + negatives)).sum())
    found, false = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    hits = positives[::-1] > 0
    precision = (found[hits] / (found + false)[hits]).astype(np.float64)
    average = math.fsum(precision * positives[::-1][hits]) / all_positive
    return pairs / (2 * all_positive * all_negative), average


def concordance(times: NDArray[np.float64], seen: NDArray[np.bool_], risks: NDArray[np.float64]) -> float | None:
    """Return Harrell's C-index: how often, of two rows, the one whose event comes first has the higher risk.

    A pair counts if the earlier time is that of a seen event; at equal times, only one with an event and one without
    do. Equal risks count as half. None without such a pair. Harrell et al., "Evaluating the yield of medical tests",
    JAMA 247 (1982).

    Args:
        times: ``float64[n]``, of the event or of the last observation.
        seen: ``bool[n]``, whether the event was seen.
        risks: ``float64[n]``, higher for an earlier event.

    >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([True, True, False]), np.array([3.0, 1.0, 2.0]))
    0.6666666666666666
    """
    order = np.lexsort((seen, -times))  # later rows first; at equal times those without an event first
    times, seen, risks = times[order], seen[order], risks[order]
    later = np.zeros(0)  # sorted risks of the rows that come later than the one in question
    pairs, half_points = 0, 0
    start = 0
    while start < len(times):
        block = slice(start, start + _BLOCK)
        here_times, here_seen, here_risks = times[block], seen[block], risks[block]
        events = here_risks[here_seen]
        half_points += int(np.searchsorted(later, events, "left").sum() + np.searchsorted(later, events, "right").sum())
        pairs += len(events) * len(later)
        after = (here_times[None, :] > here_times[:, None]) | (
            (here_times[None, :] == here_times[:, None]) & ~here_seen[None, :]
        )
        counted = after & here_seen[:, None]
        pairs += int(counted.sum())
        half_points += int(2 * (counted & (here_risks[:, None] > here_risks[None, :])).sum())
        half_points += int((counted & (here_risks[:, None] == here_risks[None, :])).sum())
        # an event of this block may be at the time of an earlier block's last event: that pair does not count
        edge = times[start - 1] if start else None
        tied = risks[:start][(times[:start] == edge) & seen[:start]] if start else later
        same = here_risks[here_seen & (here_times == edge)] if start else tied
        if start and len(same) and len(tied):
            tied = np.sort(tied)
            pairs -= len(same) * len(tied)
            half_points -= int(np.searchsorted(tied, same, "left").sum() + np.searchsorted(tied, same, "right").sum())
        later = np.sort(np.concatenate([later, here_risks]))
        start += _BLOCK
    return half_points / (2 * pairs) if pairs else None


def concordance_of_counts(events: NDArray[Any], others: NDArray[Any]) -> float | None:
    """Return the C-index from counts of rows by group of times (rows) and bin of risks (columns), lowest first.

    Pairs within a group of times do not count; bins that are equal count as half.

    >>> concordance_of_counts(np.array([[0, 2], [1, 0]]), np.array([[0, 0], [3, 0]]))
    1.0
    """
    pairs, half_points = 0, 0
    whole = events + others
    for at in range(len(events) - 1):
        later = whole[at + 1 :].sum(axis=0)
        below = np.cumsum(later) - later
        pairs += int(events[at].sum()) * int(later.sum())
        half_points += int((events[at] * (2 * below + later)).sum())
    return half_points / (2 * pairs) if pairs else None
