"""Cells of a table's column as numbers and words, a whole batch at a time (Arrow arrays)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import MISSING, number

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_EMPTY = sorted({form for word in MISSING for form in (word, word.upper(), word.capitalize(), word.title())} | {"NaN"})


def are_numbers(kind: Any) -> bool:
    """Return whether cells of an Arrow type are numbers."""
    import pyarrow.types as kinds

    return bool(kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind))


def are_text(kind: Any) -> bool:
    """Return whether cells of an Arrow type can be read as text: words, truth values, dates and times."""
    import pyarrow.types as kinds

    simple = (kinds.is_string, kinds.is_large_string, kinds.is_boolean, kinds.is_temporal, kinds.is_null)
    return any(check(kind) for check in simple) and not kinds.is_duration(kind)


def as_floats(cells: Any) -> NDArray[np.float64]:
    """Return cells as ``float64[n]``, NaN where one is null; pyarrow.ArrowInvalid: a text is no number."""
    import pyarrow as pa

    floats: NDArray[np.float64] = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return floats


def empty_cells(cells: Any) -> NDArray[np.bool_]:
    """Return where cells of text are missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.or_kleene(pc.is_null(cells), pc.is_in(cells, pa.array(_EMPTY, cells.type)))
    return np.asarray(found)


def parsed(
    cells: Any, decimal: str, *, likely: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return cells of text as numbers, NaN where one is none; where it is missing; where it is filled and no number.

    Args:
        cells: Arrow array of text.
        decimal: mark of a decimal, "." or ",".
        likely: try to cast all at once. A cast that fails costs more than looking for numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pa.scalar(None, cells.type)
    if decimal != ".":
        cells = pc.replace_substring(pc.replace_substring(cells, ".", "_"), decimal, ".")  # 1.5 is no number then
    blank = pc.equal(cells, "")
    if pc.any(blank).as_py():
        cells = pc.if_else(blank, nothing, cells)
    try:
        if likely:
            values = as_floats(cells)
            return np.where(np.isinf(values), math.nan, values), np.isnan(values), np.isinf(values)
    except pa.ArrowInvalid:
        pass
    empty = empty_cells(cells)
    cells = pc.utf8_trim_whitespace(pc.if_else(pa.array(empty), nothing, cells))
    good = pc.fill_null(pc.match_substring_regex(cells, _NUMBER), False)
    values = as_floats(pc.if_else(good, cells, nothing))
    bad = ~np.isfinite(values) & ~empty
    return np.where(bad, math.nan, values), empty, bad


def counted_words(cells: Any) -> list[tuple[str, int]]:
    """Return each different cell as text, and its rows."""
    found = cells.value_counts()
    return [
        (str(word), count) for word, count in zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)
    ]


def number_of(word: str, decimal: str = ".") -> float | None:
    """Return a word as a finite number, or None."""
    value = number(word, decimal)
    return value if value is not None and math.isfinite(value) else None
