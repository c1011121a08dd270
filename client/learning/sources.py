"""Sources of rows: a :class:`Source` reads rows and says when they changed. The first one is a table in a file."""

from __future__ import annotations

import csv
import gzip
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from ...configs.settings import DataSettings
from ...errors import InputError, nearest
from .rows import need

_READERS = (".csv", ".csv.gz", ".parquet")
_BROKEN = {
    "BadGzipFile": "is not compressed as its name says",
    "EOFError": "is cut off",
    "ParserError": "has a row with more cells than the header",
    "ParserWarning": "has a row with more cells than the header",
    "UnicodeDecodeError": "is not text in UTF-8",
}


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
    """A CSV (also .gz) or Parquet file."""

    path: Path

    def frame(self) -> pd.DataFrame:
        """Return the table; CSV cells stay text."""
        return read_table(self.path)

    def stamp(self) -> tuple[int, ...]:
        """Return the file's size and time of change."""
        try:
            status = os.stat(self.path)
        except OSError:
            return ()
        return status.st_size, status.st_mtime_ns


def source_of(settings: DataSettings) -> Source:
    """Return the source that ``[data]`` names.

    Raises:
        InputError: ``data.file``: it names no source.
    """
    if settings.path is None:
        raise InputError("data.file", "[data] path is missing; expected a CSV or Parquet file")
    return TableFile(settings.path)


def read_table(path: Path) -> pd.DataFrame:
    """Return the table in a CSV (also .gz) or Parquet file; CSV cells stay text.

    Raises:
        InputError: ``data.file``: missing, unreadable or of an unknown kind; ``data.empty``: no rows.
    """
    if not path.is_file():
        beside = (
            [p.name for p in path.parent.iterdir() if p.is_file() and p.name.lower().endswith(_READERS)]
            if path.parent.is_dir()
            else []
        )
        problem = "is not a file" if path.exists() else "does not exist"
        raise InputError("data.file", f"data file {path} {problem}; {nearest(path.name, beside)}")
    if not path.name.lower().endswith(_READERS):
        raise InputError("data.file", f"data file {path} has an unknown ending; expected {', '.join(_READERS)}")
    try:
        parquet = path.name.lower().endswith(".parquet")
        frame = pd.read_parquet(path) if parquet else _read_csv(path)
    except pd.errors.EmptyDataError:
        raise InputError("data.empty", f"data file {path} is empty; expected a header and rows") from None
    except ImportError:
        raise InputError(
            "data.file",
            f"data file {path} is Parquet, and pyarrow is not installed; expected pyarrow, or a CSV file",
            hint='pip install "moonflower[parquet]"',
        ) from None
    except (OSError, ValueError, EOFError, csv.Error, zlib.error, pd.errors.ParserWarning) as error:
        reason = _BROKEN.get(type(error).__name__, f"cannot be read ({type(error).__name__})")
        raise InputError("data.file", f"data file {path} {reason}; expected a whole table") from None
    if frame.empty:
        raise InputError("data.empty", f"data file {path} has no rows; expected at least one")
    return frame


def load_frame(settings: DataSettings) -> pd.DataFrame:
    """Return the table that ``[data]`` names, with its label, site and test columns in place.

    Raises:
        InputError: ``data.file``, ``data.empty``, ``data.column``: a column named in ``[data]`` is missing.
    """
    frame = source_of(settings).frame()
    named = [settings.label, settings.site, settings.test_column, *settings.drop]
    need(frame, [name for name in named if name], settings.path.name if settings.path else "data")
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    names = [str(name) for name in header.iloc[0]]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:  # pandas would silently rename the second one
        raise InputError("data.column", f"data file {path} has two columns called {doubled[0]!r}; expected one")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        if any(0 < len(row) < len(names) for row in csv.reader(file)):  # pandas would silently fill it up
            raise InputError(
                "data.file", f"data file {path} has a row with fewer cells than the header; expected a whole table"
            )
    return frame
