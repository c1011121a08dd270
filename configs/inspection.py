"""Every fault of a table under a schema, in one run: column, count, what was expected, and the first rows.

No finding holds a cell. Row numbers count from 1, the first row below the header.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import nearest
from .arrow import are_text, parsed
from .columns import Categorical, Column, Numeric, near_name, number, text
from .dates import Date, days_of, round_days
from .faults import Fault
from .ranges import widen
from .schema import Schema
from .targets import CountTarget, Label, NumberTarget, TimeTarget

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST = 5  # rows that are named
_OUTSIDE = "outside the range"
_UNLISTED = "with words that the schema does not list"


@dataclass(frozen=True)
class Finding:
    """What is wrong with a column.

    Attributes:
        column: its name.
        problem: what its cells are, after "3 cells".
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


@dataclass
class _Sum:
    """Faults of one kind in one column, added over batches."""

    fault: Fault
    count: int = 0
    near: int = 0
    rows: tuple[int, ...] = ()


def inspect(batches: Iterable[pa.RecordBatch], schema: Schema, decimal: str = ".") -> tuple[int, list[Finding]]:
    """Return how many rows a table has, and all that is wrong: with the label first, then in the schema's order.

    Args:
        batches: rows of the table, text or typed.
        schema: that they are read with.
        decimal: mark of a decimal in cells of text, "." or ",".
    """
    found = _Inspection(schema, decimal)
    for batch in batches:
        found.add(batch)
    return found.rows, found.findings()


class _Inspection:
    """Faults of a table that comes in batches."""

    def __init__(self, schema: Schema, decimal: str) -> None:
        self.schema, self.decimal, self.rows = schema, decimal, 0
        self.names: list[str] = []
        self.sums: dict[tuple[str, str], _Sum] = {}
        self.ends: dict[str, tuple[float, float]] = {}
        self.words: dict[str, dict[str, int]] = {}
        self.events: set[str] = set()
        label = schema.label
        self.columns: dict[str, Column] = {column.name: column for column in schema.columns}
        if isinstance(label, Label):
            self.columns[label.name] = Categorical(label.name, tuple(map(text, label.classes)))
        elif isinstance(label, NumberTarget):
            self.columns[label.name] = Numeric(label.name, label.min, label.max)
        else:
            self.columns[label.name] = Numeric(label.name, 0, label.max if isinstance(label, CountTarget) else 1e15)

    def add(self, batch: Any) -> None:
        """Look at one batch."""
        self.names = batch.schema.names
        label = self.schema.label
        wanted = [name for name in self.names if name in {*self.columns, *label.columns}]
        frame = pd.DataFrame({name: self._cells(name, batch.column(name)) for name in wanted}, copy=False)
        if all(name in frame for name in label.columns):
            self._note(frame, label.check(frame, self.decimal)[1])
            if isinstance(label, TimeTarget):
                self._events(frame, label)
        for column in self.schema.columns:
            if column.name in frame:
                self._note(frame, column.check(frame[column.name], self.decimal)[1])
        self.rows += batch.num_rows

    def _cells(self, name: str, cells: Any) -> pd.Series[Any]:
        """Return cells for pandas: as numbers where all of them are, and each different word once."""
        made: pd.Series[Any]
        if are_text(cells.type) and type(self.columns.get(name)) is Numeric:
            values, _, bad = parsed(cells.cast("string"), self.decimal)
            if not bad.any():
                return pd.Series(values)
        if str(cells.type) in ("string", "large_string"):
            cells = cells.dictionary_encode()
        made = cells.to_pandas()
        return made

    def _note(self, frame: pd.DataFrame, faults: list[Fault]) -> None:
        for fault in faults:
            found = self.sums.setdefault((fault.column, fault.what), _Sum(fault))
            places = np.flatnonzero(fault.at)
            found.count += len(places)
            found.near += fault.near
            found.rows = (*found.rows, *(self.rows + 1 + int(at) for at in places[:_FIRST]))[:_FIRST]
            if fault.what in (_OUTSIDE, _UNLISTED):
                self._look(fault, frame[fault.column][fault.at])

    def _look(self, fault: Fault, cells: pd.Series[Any]) -> None:
        """Remember what would admit cells: their extremes, or the listed words that are nearest."""
        column = self.columns[fault.column]
        for cell, count in cells.astype(object).value_counts().items():
            if isinstance(column, Categorical):
                close = nearest(text(cell), column.categories)
                if close.startswith("did you mean "):
                    near = self.words.setdefault(fault.column, {})
                    listed = close.removeprefix("did you mean ").partition("? ")[0]
                    near[listed] = near.get(listed, 0) + int(count)
                continue
            value = days_of(str(cell).strip(), column.order) if isinstance(column, Date) else number(cell, self.decimal)
            if value is not None and np.isfinite(value):
                low, high = self.ends.get(fault.column, (value, value))
                self.ends[fault.column] = min(low, value), max(high, value)

    def _events(self, frame: pd.DataFrame, label: TimeTarget) -> None:
        """Note words of the event beyond two: yes, and the first other one."""
        others = [word for word in map(text, frame[label.event].dropna().unique()) if word not in ("", label.happened)]
        if not self.events and others:
            self.events = {others[0]}
        known = {"", label.happened, *self.events}
        third = np.array([not pd.isna(cell) and text(cell) not in known for cell in frame[label.event]], dtype=np.bool_)
        if third.any():
            expected = f"{label.happened}, or one other word"
            self._note(frame, [Fault(label.event, "data.category", "with a third value", expected, third)])

    def findings(self) -> list[Finding]:
        """Return what was found."""
        order = [*self.schema.label.columns, *(column.name for column in self.schema.columns)]
        found = [
            Finding(name, "not in the table", self.rows, "a column of this name", (), near_name(name, self.names))
            for name in order
            if name not in self.names
        ]
        for (name, what), one in self.sums.items():
            found.append(Finding(name, what, one.count, one.fault.expected, one.rows, self._would_work(one)))
        return sorted(found, key=lambda finding: order.index(finding.column))

    def _would_work(self, one: _Sum) -> str:
        name, what = one.fault.column, one.fault.what
        if one.near:
            return f"{'all' if one.near == one.count else one.near} of them {one.fault.but}"
        if what == _OUTSIDE and name in self.ends:
            return self._range(self.columns[name], *self.ends[name])
        words = self.words.get(name, {})
        near = f"the nearest is {max(words, key=lambda word: words[word])}; " if words else ""
        if name in self.schema.label.columns:
            return f'{near}data.on_bad = "drop" leaves such rows out'
        if what == _UNLISTED:
            return f"{near}other = true counts them as missing"
        return "empty cells, or their word in missing"

    def _range(self, column: Column, low: float, high: float) -> str:
        """Return a round range that would admit the extremes."""
        if isinstance(column, Date):
            first, last = round_days(low, high)
            return f"a range from {min(first, column.first)} to {max(last, column.last)}"
        assert isinstance(column, Numeric)
        below, above = widen(min(low, column.min), max(high, column.max), 1, 1, 2)
        return (
            f"a range from {below if low < column.min else column.min:g} "
            f"to {above if high > column.max else column.max:g}"
        )
