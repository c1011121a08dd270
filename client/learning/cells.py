"""Cells of a batch as numbers, without a step of Python for each cell: the same bits as ``float(cell)``, but faster.

The rules are those of ``configs/columns.py``. Whatever is not plainly a number here goes there.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...configs.columns import MISSING

_PLAIN = r"^[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,2})?$"
"""Numbers that are read as in Python; others, such as those with digits of other scripts, are read in Python."""
_MISSING = pa.array(sorted(MISSING))


def numbers(cells: pa.Array, decimal: str = ".") -> NDArray[np.float64] | None:
    """Return cells as ``float64[n]``, NaN where one is missing; None if one is not plainly a number.

    Args:
        cells: of any type.
        decimal: mark in text: a point or a comma.
    """
    kind = cells.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _floats(pc.cast(cells, pa.float64(), safe=False))
    if pa.types.is_dictionary(kind):
        cells = cells.dictionary_decode()
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return None
    words = pc.utf8_trim_whitespace(cells)
    if decimal == ",":
        if pc.any(pc.match_substring(words, ".")).as_py():
            return None
        words = pc.replace_substring(words, ",", ".")
    plain = pc.match_substring_regex(words, _PLAIN)
    if not pc.all(plain).as_py():
        missing = pc.is_in(pc.utf8_lower(words), _MISSING)
        if not pc.all(pc.or_(plain, missing)).as_py():
            return None
        words = pc.if_else(missing, None, words)
    return _floats(pc.cast(words, pa.float64()))


def series(cells: pa.Array) -> pd.Series:
    """Return cells for pandas; text as categories, so that each word is looked at once."""
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        cells = pc.dictionary_encode(cells)
    made: pd.Series = cells.to_pandas()
    return made


def _floats(cells: pa.Array) -> NDArray[np.float64]:
    found: NDArray[np.float64] = cells.to_numpy(zero_copy_only=False)
    return found
