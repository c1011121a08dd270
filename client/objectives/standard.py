"""Exact sums of numbers in a range, and the mean and spread that follow; the same bits whoever holds which row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError

UNIT = 2**16
"""Steps of a range."""
SUMS = 4
"""Whole numbers of a column: count, sum, and sum of squares as upper and lower half."""


def sums_of(values: NDArray[np.float64], low: float, high: float) -> list[int]:
    """Return count, sum, and sum of squares (upper and lower half) of the values that are not NaN.

    A value x enters as the whole number k = 2^16 (x - low) / (high - low), rounded to even row by row, so that sums do
    not depend on who holds which row.
    """
    present = values[~np.isnan(values)]
    units = np.rint((present - low) / (high - low) * UNIT).astype(np.int64)
    squares = units * units
    return [len(units), int(units.sum()), int((squares >> 16).sum()), int((squares & 0xFFFF).sum())]


def standard(totals: Sequence[int], low: float, high: float) -> list[float]:
    """Return mean and spread from the summed numbers of :func:`sums_of`.

    Whole numbers up to one division and one square root, so the same bits everywhere. Without spread, the range is the
    spread; without values, the middle of the range is the mean. Both are rounded, the spread to 10 bits and the mean to
    1/64 of it: exact ones are fractions that give the number of rows away.
    """
    count, total, upper, lower = (int(number) for number in totals)
    width = (high - low) / UNIT
    deviation = count * ((upper << 16) + lower) - total * total  # count² times the variance, exactly
    fraction, exponent = math.frexp(math.sqrt(deviation) / count if deviation > 0 else UNIT)
    spread = math.ldexp(round(fraction * 1024) / 1024, exponent)
    grid = spread / 64
    mean = round((total / count if count else UNIT / 2) / grid) * grid
    return [low + mean * width, spread * width]


def possible(totals: Sequence[int], rows: int) -> bool:
    """Return whether there are at most ``rows`` numbers in [0, 2^16] with these sums.

    Each is at most 2^16, so the sum is at most 2^16 times the count, and the squares 2^16 times the sum; and sum² ≤
    count · squares. That bounds the spread by half the range.
    """
    count, total, upper, lower = (int(number) for number in totals)
    squares = (upper << 16) + lower
    if min(count, total, upper, lower) < 0 or count > rows:
        return False
    return total <= count * UNIT and squares <= total * UNIT and total * total <= count * squares


def pair_of(scaling: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return mean and spread of a column.

    Raises:
        InputError: ``data.model``: the scaling has no such pair.
    """
    pair = scaling.get(name)
    if (
        not isinstance(pair, (list, tuple))
        or len(pair) != 2
        or not all(isinstance(number, float) and math.isfinite(number) for number in pair)
        or pair[1] <= 0
    ):
        raise InputError("data.model", f"scaling of column {name!r} is not a mean and a spread; expected two numbers")
    return pair[0], pair[1]
