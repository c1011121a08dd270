"""Infer a schema that fits a table and reveals no person's own value: a draft that people read before they share it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from .columns import MAX_CATEGORIES, MISSING, Categorical, Column, Numeric, text
from .schema import Schema
from .targets import MAX_CLASSES, Label

if TYPE_CHECKING:
    import pandas as pd


def infer(
    frame: pd.DataFrame, label: str, site: str | None = None, drop: Iterable[str] = (), min_count: int = 10
) -> Schema:
    """Return a schema that fits ``frame`` and reveals no person's own value.

    An extreme that fewer than ``min_count`` rows share is moved outwards to a round number. A category with
    fewer rows is left out, and its column then gets ``other = true``.

    Args:
        frame: table as :func:`moonflower.client.learning.rows.read_table` returns it.
        label: column to predict.
        site: column that names the member; not a feature.
        drop: other columns that are not features.
        min_count: fewest rows that a value needs to be named.

    Raises:
        InputError: ``data.column``: a named column is not there, or a column cannot be described.
    """
    known = [str(name) for name in frame.columns]
    for name in (label, *((site,) if site else ()), *drop):
        if name not in known:
            raise InputError("data.column", f"the table has no column {name!r}; {nearest(name, known)}")
    skipped = {label, site, *drop}
    columns = tuple(_infer(frame[name], name, min_count) for name in known if name not in skipped)
    counts = _count(frame[label])
    if not 2 <= len(counts) <= MAX_CLASSES:
        raise InputError(
            "data.column", f"label {label!r} has {len(counts)} different values; expected 2 to {MAX_CLASSES}"
        )
    whole = all(re.fullmatch(r"0|-?[1-9]\d*", word) for word in counts)
    classes = tuple(sorted(map(int, counts))) if whole else tuple(sorted(counts))
    return Schema(columns, Label(label, classes))


def _infer(cells: pd.Series[Any], name: str, min_count: int) -> Column:
    counts = _count(cells)
    if not counts:
        raise InputError("data.column", f"column {name!r} is empty; expected values, or --drop {name}")
    numbers = {_as_number(word): count for word, count in counts.items()}
    if None not in numbers:
        values = {value: count for value, count in numbers.items() if value is not None}
        return Numeric(name, *_widen(values, min_count))
    common = sorted(word for word, count in counts.items() if count >= min_count)
    if not 0 < len(common) <= MAX_CATEGORIES:
        raise InputError(
            "data.column",
            f"column {name!r} has {len(common)} values with {min_count} or more rows; "
            f"expected 1 to {MAX_CATEGORIES}, or --drop {name}",
        )
    return Categorical(name, tuple(common), other=len(common) < len(counts))


def _count(cells: pd.Series[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for cell, count in cells.value_counts().items():
        word = text(cell)
        if word.lower() not in MISSING:
            counts[word] = counts.get(word, 0) + int(count)
    return counts


def _as_number(word: str) -> float | None:
    try:
        value = float(word) if "_" not in word else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _widen(counts: Mapping[float, int], min_count: int) -> tuple[float, float]:
    low, high = min(counts), max(counts)
    size = max(abs(low), abs(high)) or 1.0
    tenth = Decimal(max(high - low if high > low else size, size * 1e-6, 1e-30)) / 10
    step = next(s for s in (Decimal(m).scaleb(tenth.adjusted()) for m in (1, 2, 5, 10)) if s >= tenth)
    below = float(((Decimal(repr(low)) / step).to_integral_value(ROUND_CEILING) - 1) * step)
    above = float(((Decimal(repr(high)) / step).to_integral_value(ROUND_FLOOR) + 1) * step)
    if low >= 0:
        below = max(below, 0.0)  # a count or an amount; 0 reveals nothing about the smallest value
    common = [counts[extreme] >= min_count for extreme in (low, high)]
    return low if common[0] else below, high if common[1] and low < high else above
