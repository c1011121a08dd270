"""Sources of rows: a :class:`Source` reads rows and says when they changed. The first one is a table in files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd
import pyarrow as pa

from ...configs.settings import DataSettings
from ...errors import InputError
from .rows import need
from .tables import Format, batches, files_of, look


class Source(Protocol):
    """Rows in a file, a folder or a database."""

    def frame(self) -> pd.DataFrame:
        """Return all rows as a table.

        Raises:
            InputError: ``data.file``, ``data.empty``.
        """

    def stamp(self) -> tuple[int, ...]:
        """Return numbers that change when the rows change; () if that is not known."""


@dataclass(frozen=True)
class TableFile:
    """A table in CSV (also .gz) or Parquet: a file, a folder, or a pattern of files' names."""

    path: Path
    format: Format = field(default_factory=Format)

    def frame(self) -> pd.DataFrame:
        """Return the table; CSV cells stay text."""
        return read_table(self.path, self.format)

    def stamp(self) -> tuple[int, ...]:
        """Return size and time of change of each file."""
        try:
            states = [os.stat(file) for file in files_of(self.path)]
        except (OSError, InputError):
            return ()
        return tuple(number for state in states for number in (state.st_size, state.st_mtime_ns))


def source_of(settings: DataSettings) -> Source:
    """Return the source that ``[data]`` names.

    Raises:
        InputError: ``data.file``: it names no source.
    """
    if settings.path is None:
        raise InputError("data.file", "[data] path is missing; expected a CSV or Parquet file")
    return TableFile(settings.path, Format(settings.separator, settings.decimal, settings.encoding))


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


def load_frame(settings: DataSettings) -> pd.DataFrame:
    """Return the table that ``[data]`` names, with its label, site and test columns in place.

    Raises:
        InputError: ``data.file``, ``data.empty``, ``data.column``: a column named in ``[data]`` is missing.
    """
    frame = source_of(settings).frame()
    named = [settings.label, settings.site, settings.test_column, *settings.drop]
    where = settings.path.name if settings.path else "data"
    need(list(map(str, frame.columns)), [name for name in named if name], where, "[data] names")
    return frame
