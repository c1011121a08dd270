"""Tables in files: one way to read a CSV or Parquet file, a folder of such files, or those that a pattern names.

Rows come in batches, so memory does not grow with the table. Cells of CSV stay text, to the letter; cells of Parquet
have their types. Files are read in the order of their names, and all have the same columns.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ...errors import InputError, RowFaults, nearest
from .formats import Format, check_names, header, refused, seen, unreadable

__all__ = ["READERS", "Format", "batches", "files_of", "look", "names_of", "pieces"]

READERS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""Endings of files that are read."""
BATCH_ROWS = 1 << 16
MOST_ROWS_TOLD = 10
"""Row numbers that an error keeps for a person, at most."""
_BLOCK = 1 << 22
_BUFFER = 1 << 20


def files_of(path: Path) -> list[Path]:
    """Return the files of a table in the order of their names: of a file, a folder, or a pattern such as ``a/*.csv``.

    Raises:
        InputError: ``data.file``: no such file, an unknown ending, or CSV and Parquet together.
    """
    if path.is_dir():
        files = [one for one in sorted(path.iterdir()) if one.is_file() and one.name[0] not in "._" and _known(one)]
        problem = f"data folder {path} has no tables; expected files that end in {', '.join(READERS)}"
    elif not path.exists() and glob.has_magic(str(path)):
        files = [one for one in map(Path, sorted(glob.glob(str(path), recursive=True))) if one.is_file()]
        problem = f"no file fits the pattern {path}; expected files that end in {', '.join(READERS)}"
    elif path.is_file():
        files, problem = [path], ""
    else:
        beside = [p.name for p in path.parent.iterdir() if _known(p)] if path.parent.is_dir() else []
        what = "is not a file" if path.exists() else "does not exist"
        raise InputError("data.file", f"data file {path} {what}; {nearest(path.name, beside)}")
    if not files:
        raise InputError("data.file", problem)
    for one in files:
        if not _known(one):
            raise refused(one, "has an unknown ending", ", ".join(READERS))
    if len({_parquet(one) for one in files}) > 1:
        raise InputError("data.file", f"data {path} names CSV and Parquet files; expected files of one kind")
    return files


def look(path: Path, given: Format = Format()) -> Format:  # noqa: B008
    """Return the whole format of a table in CSV, as its files show it; what is given stays as it is.

    A table in Parquet needs no format; its texts, if they hold numbers, have a decimal point unless it is given.

    Raises:
        InputError: as :func:`files_of`; ``data.file``: a file is not text, has no header, can be read in two ways, or
            differs from another one; ``data.column``: two columns have one name; ``data.empty``.
    """
    files = files_of(path)
    usual = Format(",", ".", "utf-8")
    if _parquet(files[0]):
        return Format(*(getattr(given, one.name) or getattr(usual, one.name) for one in fields(Format)))
    found: dict[str, tuple[str, Path]] = {}
    for file in files:
        one = seen(file, given)
        for key in (field.name for field in fields(Format)):
            value, (before, where) = getattr(one, key), found.get(key, ("", file))
            if value and before and value != before:
                raise refused(file, f"has another {key} than {where.name}", "the same in all files", f"[data] {key}")
            found[key] = (before, where) if before else (value, file)
    return Format(*(found[one.name][0] or getattr(usual, one.name) for one in fields(Format)))


def names_of(path: Path, fmt: Format = Format()) -> list[str]:  # noqa: B008
    """Return the names of a table's columns, in the order of its first file. They may be cells: show them to nobody.

    Raises:
        InputError: as :func:`look`.
    """
    return _names(files_of(path)[0], fmt if fmt.whole else look(path, fmt))


def batches(
    path: Path,
    fmt: Format = Format(),  # noqa: B008
    rows: int = BATCH_ROWS,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table in order, at most ``rows`` at a time.

    Args:
        path: as for :func:`files_of`.
        fmt: of CSV files; what it leaves open is found by :func:`look`.
        rows: of a batch at most.
        columns: that are read, in this order, all of which the table has; None for all.

    Returns:
        Batches with the same columns: of type ``string`` and without nulls for CSV, typed for Parquet.

    Raises:
        InputError: as :func:`look`; ``data.empty``: no row in all files; ``data.column``: the columns of two files
            differ. RowFaults: ``data.file``, after a file's other rows: rows with more or fewer cells than the header.
    """
    for _, batch in pieces(path, fmt, rows, columns):
        yield batch


def pieces(
    path: Path,
    fmt: Format = Format(),  # noqa: B008
    rows: int = BATCH_ROWS,
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[Path, pa.RecordBatch]]:
    """Yield what :func:`batches` yields, each batch with the file that it comes from."""
    files = files_of(path)
    fmt = fmt if fmt.whole else look(path, fmt)
    first, empty = _names(files[0], fmt), True
    for file in files:
        _check_same(file, _names(file, fmt), files[0], first)
        wanted = list(first if columns is None else columns)
        for batch in _parquet_rows(file, rows, wanted) if _parquet(file) else _csv_rows(file, fmt, rows, wanted):
            if batch.num_rows:
                empty = False
                yield file, batch
    if empty:
        raise InputError("data.empty", f"data file {path} has no rows; expected at least one")


def _known(file: Path) -> bool:
    return file.name.lower().endswith(READERS)


def _parquet(file: Path) -> bool:
    return file.name.lower().endswith(".parquet")


def _names(file: Path, fmt: Format) -> list[str]:
    if not _parquet(file):
        return header(file, fmt)
    try:
        names = [str(name) for name in pq.read_schema(file).names]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(file, error) from None
    check_names(file, names)
    return names


def _check_same(file: Path, names: Sequence[str], first: Path, expected: Sequence[str]) -> None:
    if {*names} == {*expected}:
        return
    at = next((at for at, name in enumerate(names, 1) if name not in expected), 0)
    what = f"column {at} of {file.name} is not a column of {first.name}"
    if not at:
        lacks = next(at for at, name in enumerate(expected, 1) if name not in names)
        what = f"{file.name} lacks column {lacks} of {first.name}"
    raise InputError("data.column", f"data {file.parent}: {what}; expected the same columns in every file")


def _parquet_rows(file: Path, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as table:
            for batch in table.iter_batches(rows, columns=columns, use_threads=False):
                yield batch.select(columns)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise unreadable(file, error) from None


def _csv_rows(file: Path, fmt: Format, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    width = len(header(file, fmt))
    uneven: dict[str, list[int]] = {"more": [], "fewer": []}

    def note(row: Any) -> str:
        uneven["more" if row.actual_columns > row.expected_columns else "fewer"].append((row.number or 1) - 1)
        return "skip"

    encoding = "utf8" if fmt.encoding.lower().replace("_", "-") in ("utf-8", "utf-8-sig", "utf8") else fmt.encoding
    try:
        with pacsv.open_csv(
            str(file),
            read_options=pacsv.ReadOptions(block_size=_BLOCK, use_threads=False, encoding=encoding),
            parse_options=pacsv.ParseOptions(
                delimiter=fmt.separator, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in columns}, include_columns=columns, strings_can_be_null=False
            ),
        ) as reader:
            for batch in reader:
                _check_quotes(file, batch, fmt.separator, width)
                yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))
    except pa.ArrowInvalid as error:
        if "straddling" in str(error):
            raise refused(file, "has a quote that is not closed, or a very long row", "a closing quote") from None
        if "UTF8" in str(error):
            raise unreadable(file, UnicodeError(), fmt.encoding) from None
        raise unreadable(file, error) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(file, error, fmt.encoding) from None
    if uneven["more"] or uneven["fewer"]:
        raise _uneven(file, width, uneven)


def _uneven(file: Path, width: int, found: dict[str, list[int]]) -> RowFaults:
    told = [f"{len(at)} row{'s'[: len(at) != 1]} with {kind} cells" for kind, at in found.items() if at]
    numbers = tuple(sorted([*found["more"], *found["fewer"]])[:MOST_ROWS_TOLD])
    return RowFaults(
        "data.file",
        f"data file {file} has {' and '.join(told)} than the header; expected {width} cells in every row",
        {file.name: numbers},
        hint="[data] separator says what is between the cells, if it is another mark",
    )


def _check_quotes(file: Path, batch: pa.RecordBatch, separator: str, width: int) -> None:
    """Check that no cell holds whole rows, as after a quote that is not closed.

    Raises:
        InputError: ``data.file``.
    """
    for column in batch.columns:
        broken = pc.match_substring(column, "\n")
        if not pc.any(broken).as_py():
            continue
        for cell in column.filter(broken).to_pylist():
            lines = cell.splitlines()[1:]
            if lines and lines[-1].count(separator) != width - 1:
                lines.pop()
            if len(lines) > (width < 3) and all(line.count(separator) == width - 1 for line in lines):
                raise refused(file, "has a quote that is not closed: a cell holds whole rows", "a closing quote")
