"""A table in files: all of it for pandas, and whether it changed. Training reads it in pieces (``intake.py``)."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...errors import InputError
from .tables import Format, batches, files_of, look


def stamp(path: Path) -> tuple[int, ...]:
    """Return size and time of change of each file of a table: numbers that change when its rows do; () if unknown."""
    try:
        states = [os.stat(file) for file in files_of(path)]
    except (OSError, InputError):
        return ()
    return tuple(number for state in states for number in (state.st_size, state.st_mtime_ns))


def read_table(path: Path, given: Format = Format()) -> pd.DataFrame:  # noqa: B008
    """Return a whole table for pandas; CSV cells stay text, and the table remembers their decimal mark.

    Args:
        path: a CSV (also .gz) or Parquet file, a folder of such files, or a pattern of their names.
        given: format of CSV files; what it leaves open is found by looking at them.

    Raises:
        InputError: as :func:`moonflower.client.learning.tables.batches`.
    """
    fmt = look(path, given)
    try:
        table = pa.concat_tables(
            (pa.Table.from_batches([batch]) for batch in batches(path, fmt)), promote_options="permissive"
        )
        frame: pd.DataFrame = table.to_pandas()
    except pa.ArrowException as error:
        raise InputError(
            "data.file",
            f"data {path} has a column of several types ({type(error).__name__}); expected one in all files",
        ) from None
    frame.attrs["decimal"] = fmt.decimal
    return frame
