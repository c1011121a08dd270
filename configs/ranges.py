"""Ranges that give no person's value away: extremes of few rows are moved outwards to round numbers."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


def widen(low: float, high: float, at_low: int, at_high: int, min_count: int) -> tuple[float, float]:
    """Return a range around ``[low, high]``. An extreme that at least ``min_count`` rows share stays.

    Args:
        low: smallest number.
        high: largest number.
        at_low: rows that hold the smallest.
        at_high: rows that hold the largest.
        min_count: fewest rows that share an extreme for it to be named.

    >>> widen(31, 73, 1, 1, 10), widen(0, 1, 400, 500, 10), widen(-1.234, 0.5, 1, 1, 10)
    ((30.0, 75.0), (0, 1), (-1.4, 0.6))
    """
    size = max(abs(low), abs(high)) or 1.0
    tenth = Decimal(max(high - low if high > low else size, size * 1e-6, 1e-30)) / 10
    step = next(s for s in (Decimal(m).scaleb(tenth.adjusted()) for m in (1, 2, 5, 10)) if s >= tenth)
    below = float(((Decimal(repr(float(low))) / step).to_integral_value(ROUND_CEILING) - 1) * step)
    above = float(((Decimal(repr(float(high))) / step).to_integral_value(ROUND_FLOOR) + 1) * step)
    if low >= 0:
        below = max(below, 0.0)  # a count or an amount; 0 reveals nothing about the smallest value
    return low if at_low >= min_count else below, high if at_high >= min_count and low < high else above


def round_step(width: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least ``width``.

    >>> round_step(0.3), round_step(21), round_step(50)
    (0.5, 50.0, 50.0)
    """
    found = Decimal(repr(width))
    return float(next(s for s in (Decimal(m).scaleb(found.adjusted()) for m in (1, 2, 5, 10)) if s >= found))
