"""Every fault of a table under a schema, in one run: column, count, what was expected, and the first rows.

No fault holds a cell. Row numbers count from 1, the first row below the header.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError, nearest
from .columns import Categorical, Column, Numeric, near_name, text
from .dates import Date, days_of, round_days
from .ranges import widen
from .schema import Schema
from .targets import CountTarget, Label, NumberTarget, TimeTarget

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST = 5  # rows that are named
_LONGEST = 1e15  # time


@dataclass(frozen=True)
class Finding:
    """What is wrong with a column.

    Attributes:
        column: its name.
        problem: what its cells are, in the plural: "are no number".
        count: cells.
        expected: what the schema admits.
        rows: numbers of the first rows.
        would_work: the nearest thing that would work.
    """

    column: str
    problem: str
    count: int
    expected: str
    rows: tuple[int, ...]
    would_work: str


def faults(batches: Iterable[pa.RecordBatch], schema: Schema, decimal: str = ".") -> tuple[int, list[Finding]]:
    """Return how many rows a table has, and all its faults under a schema: the label's, then in the schema's order.

    Args:
        batches: rows of the table, text or typed.
        schema: that they are read with.
        decimal: mark of a decimal in cells of text, "." or ",".
    """
    parts = [*_label_parts(schema), *(_Part(column) for column in schema.columns)]
    for part in parts:
        part.decimal = decimal
    rows = 0
    for batch in batches:
        for part in parts:
            part.add(batch, rows)
        rows += batch.num_rows
    return rows, [fault for part in parts for fault in part.faults(rows)]


def _label_parts(schema: Schema) -> Iterator[_Part]:
    """What the columns of the label are read as; a label has no missing cells."""
    label = schema.label
    if isinstance(label, Label):
        yield _Part(Categorical(label.name, tuple(text(word) for word in label.classes)), filled="a class")
    elif isinstance(label, NumberTarget):
        yield _Part(Numeric(label.name, label.min, label.max), filled="a number")
    elif isinstance(label, CountTarget):
        yield _Part(Numeric(label.name, 0, label.max), filled="a count", whole=True)
    elif isinstance(label, TimeTarget):
        yield _Part(Numeric(label.name, 0, _LONGEST), filled="a time")
        yield _Events(label)


class _Part:
    """One column of a schema, and the faults of the cells that it has seen."""

    def __init__(self, column: Column, filled: str = "", whole: bool = False) -> None:
        self.column, self.filled, self.whole = column, filled, whole
        self.found: dict[str, tuple[int, list[int]]] = {}
        self.near: dict[str, int] = {}
        self.ends: list[float] = []
        self.absent: list[str] | None = None
        self.decimal = "."

    def add(self, batch: Any, start: int) -> None:
        """Look at one batch, whose first row is number ``start`` (from 0)."""
        name = self.column.name
        if name not in batch.schema.names:
            self.absent = batch.schema.names
            return
        cells = batch.column(name).to_pandas()
        if self.decimal != "." and isinstance(self.column, Numeric) and cells.dtype.kind not in "biufM":
            cells = cells.str.replace(self.decimal, ".", regex=False)
        try:
            values = self.column.read(cells, "")
        except InputError:
            values = self._each(cells, start)
        if self.filled:
            self._note("are empty", np.isnan(values), start)
        if self.whole:
            self._note("are no whole number", np.isfinite(values) & (values != np.rint(values)), start)

    def _each(self, cells: pd.Series[Any], start: int) -> np.ndarray[Any, Any]:
        """Read cell by cell, each different one once; return 0 for a cell with a fault, so that it is noted once."""
        codes, uniques = cells.factorize()
        read, problems = np.full(len(uniques) + 1, np.nan), np.full(len(uniques) + 1, "", dtype=object)
        for at, cell in enumerate(uniques):
            one = pd.Series([cell]) if cells.dtype.kind in "biuf" else pd.Series([cell], dtype=object)
            try:
                read[at] = self.column.read(one, "")[0]
            except InputError:
                read[at], problems[at] = 0.0, self._problem(cell)
        told = problems[codes]
        for problem in sorted(set(problems) - {""}):
            self._note(problem, told == problem, start)
        values: np.ndarray[Any, Any] = read[codes]
        return values

    def _problem(self, cell: Any) -> str:
        """Say what is wrong with a cell, and remember what would work; the cell is not kept."""
        word = text(cell)
        if isinstance(self.column, Categorical):
            close = nearest(word, self.column.categories)
            if close.startswith("did you mean "):
                known = close.removeprefix("did you mean ").partition("? ")[0]
                self.near[known] = self.near.get(known, 0) + 1
            return "are not listed"
        number: float | None
        if isinstance(self.column, Date):
            number = days_of(str(cell).strip(), self.column.order)
        else:
            try:
                number = float(word)
            except ValueError:
                number = None
        if number is None or not np.isfinite(number):
            return "are no date" if isinstance(self.column, Date) else "are no number"
        self.ends = [min([number, *self.ends]), max([number, *self.ends])]
        return "are outside the range"

    def _note(self, problem: str, where: np.ndarray[Any, Any], start: int) -> None:
        places = np.flatnonzero(where)
        if len(places):
            count, rows = self.found.get(problem, (0, []))
            rows = [*rows, *(int(at) + start + 1 for at in places[:_FIRST])][:_FIRST]
            self.found[problem] = count + len(places), rows

    def faults(self, total: int) -> list[Finding]:
        """Return what was found in ``total`` rows."""
        name = self.column.name
        if self.absent is not None:
            return [
                Finding(name, "are not in the table", total, "a column of this name", (), near_name(name, self.absent))
            ]
        return [
            Finding(name, problem, count, self._expected(problem), tuple(rows), self._would_work(problem))
            for problem, (count, rows) in self.found.items()
        ]

    def _expected(self, problem: str) -> str:
        column = self.column
        if problem in ("are empty", "are no whole number"):
            return f"{self.filled} in every row"
        if isinstance(column, Categorical):
            listed = column.categories
            return f"one of: {', '.join(listed[:10])}{', …' if len(listed) > 10 else ''}"
        if isinstance(column, Date):
            return f"a day from {column.first} to {column.last}, or an empty cell"
        return f"a number from {column.min:g} to {column.max:g}{'' if self.filled else ', or an empty cell'}"

    def _would_work(self, problem: str) -> str:
        column = self.column
        nearest_word = f"the nearest is {max(self.near, key=lambda word: self.near[word])}; " if self.near else ""
        if problem == "are no whole number":
            return 'kind = "number" in the schema'
        if problem == "are outside the range":
            return self._range()
        if self.filled:
            return f'{nearest_word}data.on_bad = "drop" leaves such rows out'
        if problem == "are not listed":
            return f"{nearest_word}other = true counts them as missing"
        if isinstance(column, Date) and not column.order:
            return 'empty cells, their word in missing, or order = "dmy" or "mdy" if they have slashes'
        return "empty cells, or their word in missing"

    def _range(self) -> str:
        low, high = self.ends
        if isinstance(self.column, Date):
            first, last = round_days(low, high)
            return f"a range from {min(first, self.column.first)} to {max(last, self.column.last)}"
        assert isinstance(self.column, Numeric)
        below, above = widen(min(low, self.column.min), max(high, self.column.max), 1, 1, 2)
        return (
            f"a range from {below if low < self.column.min else self.column.min:g} "
            f"to {above if high > self.column.max else self.column.max:g}"
        )


class _Events(_Part):
    """The column that says whether the event was seen: a word for yes, and one other."""

    def __init__(self, label: TimeTarget) -> None:
        super().__init__(Categorical(label.event, (label.happened,), other=True), filled="yes or no")
        self.happened, self.no = label.happened, ""

    def add(self, batch: Any, start: int) -> None:
        name = self.column.name
        if name not in batch.schema.names:
            self.absent = batch.schema.names
            return
        words = (
            batch.column(name).to_pandas().map(lambda cell: "" if pd.isna(cell) else text(cell)).to_numpy(dtype=object)
        )
        self._note("are empty", words == "", start)
        others = [word for word in pd.unique(words) if word not in ("", self.happened)]
        self.no = self.no or (others[0] if others else "")
        self._note("are a third value", ~np.isin(words, ["", self.happened, self.no]), start)

    def _expected(self, problem: str) -> str:
        return f"{self.happened}, or one other word, in every row"

    def _would_work(self, problem: str) -> str:
        return 'data.on_bad = "drop" leaves such rows out' if problem == "are empty" else "two words only"
