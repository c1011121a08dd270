"""The facts about one column: counted while the batches of a table come in.

A batch is cast to numbers as a whole. Only batches for which that fails are looked at word by word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrow import are_numbers, are_text, as_floats, counted_words, empty_cells, number_of, parsed
from .columns import MISSING, text
from .dates import ORDERS, SHAPE, days_of

MOST_WORDS, MOST_VALUES = 20_000, 1000  # different ones that are counted in a column
_ENOUGH = 200_000  # cells that differ: no more are compared
_ROWS = 20  # first rows that are kept of a word in a column of numbers


@dataclass(frozen=True)
class Facts:
    """What is known about a column.

    Attributes:
        name: of the column.
        rows: of the table.
        missing: cells that are empty or hold a word of ``MISSING``.
        numbers: cells that are finite numbers.
        low, high: the extreme numbers; NaN if there are none.
        at_low, at_high: rows that share each.
        whole: all numbers are whole.
        values: number → rows; None if there are more than ``MOST_VALUES``.
        words: word → rows, of the cells that are no numbers, or of all cells (``exact``); None if there are too many.
        exact: ``words`` counts the numbers too.
        odd: word → its first rows, counted from 1, in a column of numbers.
        others: cells that are filled and no number.
        differ: all filled cells differ, as far as they were compared.
        days: order → the first and the last day as ordinals; of a column that is asked about as dates.
        filled: site → filled cells; None without a site column.
        table: False for cells such as lists, which no column of a schema holds.
    """

    name: str
    rows: int
    missing: int = 0
    numbers: int = 0
    low: float = math.nan
    high: float = math.nan
    at_low: int = 0
    at_high: int = 0
    whole: bool = False
    values: Mapping[float, int] | None = None
    words: Mapping[str, int] | None = None
    exact: bool = False
    odd: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    others: int = 0
    differ: bool = False
    days: Mapping[str, tuple[float, float]] | None = None
    filled: Mapping[str, int] | None = None
    table: bool = True

    @property
    def cells(self) -> int:
        """Filled cells."""
        return self.rows - self.missing

    @property
    def share(self) -> float:
        """Share of the filled cells that are numbers, from 0 to 1."""
        return self.numbers / self.cells if self.cells else 0.0


class Counting:
    """Counts of one column while batches come in."""

    def __init__(self, name: str, wordy: bool, dated: bool, sited: bool, decimal: str) -> None:
        self.name, self.sited, self.decimal = name, sited, decimal
        self.missing = self.numbers = self.others = self.at_low = self.at_high = 0
        self.low, self.high, self.whole = math.inf, -math.inf, True
        self.values: dict[float, int] | None = {}
        self.words: dict[str, int] | None = {}
        self.wordy = wordy or dated  # count words, also those of numbers
        self.known: dict[str, tuple[str | None, float | None]] = {}
        self.odd: dict[str, list[int]] = {}
        self.compared: list[Any] | None = []
        self.settled = self.begun = False
        never = (math.inf, -math.inf)
        self.days: dict[str, tuple[float, float]] | None = dict.fromkeys(("", *ORDERS), never) if dated else None
        self.table = True

    def add(self, cells: Any, start: int) -> NDArray[np.bool_]:
        """Count a batch whose first row is number ``start``; return where cells are missing."""
        import pyarrow as pa
        import pyarrow.types as kinds

        if kinds.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        if are_numbers(cells.type):
            values = as_floats(cells)
            self._numbers(values[~np.isnan(values)])
            if self.wordy and self.words is not None:
                self._count(counted_words(cells.filter(pa.array(~np.isnan(values)))))
            empty = np.isnan(values)
        elif are_text(cells.type):
            cells = cells.cast(pa.string())
            return self._text(cells, start)
        else:
            self.table = False
            empty = np.asarray(cells.is_null())
        self.missing += int(empty.sum())
        return empty

    def _text(self, cells: Any, start: int) -> NDArray[np.bool_]:
        """Count cells of text; return where they are missing."""
        import pyarrow as pa

        if not self.begun:
            self._begin(cells)
        if self.wordy and self.words is not None:
            counted = counted_words(cells)
            self._numbers(*self._count(counted))
            if len(counted) == len(cells) - cells.null_count:
                self._compare(cells.drop_null())
            else:
                self.compared = None
            return empty_cells(cells) if self.sited else np.zeros(0, dtype=bool)
        values, empty, bad = parsed(cells, self.decimal, likely=self.numbers > 0 or not self.others)
        self.missing += int(empty.sum())
        self._numbers(values[np.isfinite(values)])
        if bad.any() and (self.words is not None or self.days is not None):
            self._odd(cells.filter(pa.array(bad)).to_pylist(), np.flatnonzero(bad) + start + 1)
        else:
            self.others += int(bad.sum())
        return empty

    def _begin(self, cells: Any) -> None:
        """Find out from the first filled cells whether most are numbers."""
        import pyarrow as pa

        first = cells.filter(pa.array(~empty_cells(cells)))[:1000]
        if len(first):
            self.begun = True
            self.wordy = self.wordy or bool(np.isfinite(parsed(first, self.decimal)[0]).mean() < 0.5)

    def _odd(self, words: list[str], rows: NDArray[np.int64]) -> None:
        """Count words in a column of numbers, with their first rows."""
        for word, row in zip(map(text, words), rows.tolist(), strict=True):
            if word.lower() in MISSING:  # with blanks around it
                self.missing += 1
                continue
            self.others += 1
            if self.days is not None:
                self._day(word)
            if self.words is not None:
                self.words[word] = self.words.get(word, 0) + 1
                places = self.odd.setdefault(word, [])
                if len(places) < _ROWS:
                    places.append(row)
                if len(self.words) > MOST_WORDS:
                    self.words = None

    def _count(self, counted: list[tuple[str, int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Count words; return the numbers among them with their rows."""
        values, counts = [], []
        assert self.words is not None
        for cell, count in counted:
            if cell not in self.known:
                self._learn(cell)
            word, value = self.known[cell]
            if word is None:
                self.missing += count
                continue
            if value is None:
                self.others += count
            else:
                values.append(value)
                counts.append(count)
            self.words[word] = self.words.get(word, 0) + count
        if len(self.words) > MOST_WORDS:
            self.words = None
            self.known.clear()
        return np.array(values, dtype=np.float64), np.array(counts, dtype=np.int64)

    def _learn(self, cell: str) -> None:
        """Remember what a cell is: a word, None where it is missing, and its number."""
        word = text(cell)
        value = number_of(word, self.decimal)
        self.known[cell] = None if word.lower() in MISSING else word, value
        if value is None and self.days is not None:
            self._day(word)

    def _day(self, word: str) -> None:
        assert self.days is not None
        for order, (low, high) in list(self.days.items()):
            day = days_of(word, order)
            if day is not None:
                self.days[order] = (min(low, day), max(high, day))
            elif "/" in word and SHAPE.match(word):
                del self.days[order]

    def _numbers(self, values: NDArray[np.float64], counts: NDArray[np.int64] | None = None) -> None:
        """Count finite numbers, each with its rows; endless ones are other cells."""
        finite = np.isfinite(values)
        if not finite.all():
            endless = int((~finite).sum() if counts is None else counts[~finite].sum())
            self.others += endless
            values, counts = values[finite], counts[finite] if counts is not None else None
        if not len(values):
            return
        self.numbers += len(values) if counts is None else int(counts.sum())
        low, high = float(values.min()), float(values.max())
        at_low, at_high = (
            int((values == end).sum() if counts is None else counts[values == end].sum()) for end in (low, high)
        )
        self.at_low = (self.at_low if self.low <= low else 0) + (at_low if low <= self.low else 0)
        self.at_high = (self.at_high if self.high >= high else 0) + (at_high if high >= self.high else 0)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.whole = self.whole and bool((values == np.rint(values)).all())
        if self.values is not None:
            self._distinct(values, counts)
        if counts is None and self.compared is not None:
            self._compare(values if self.whole else None)

    def _distinct(self, values: NDArray[np.float64], counts: NDArray[np.int64] | None) -> None:
        assert self.values is not None
        if counts is None:
            if len(np.unique(values[: 4 * MOST_VALUES])) > MOST_VALUES:
                self.values = None
                return
            values, counts = np.unique(values, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.values[value] = self.values.get(value, 0) + count
        if len(self.values) > MOST_VALUES:
            self.values = None

    def _compare(self, cells: Any) -> None:
        """Keep cells that all differ; forget them when two are the same, or when enough were seen."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.settled or self.compared is None:
            return
        if cells is None:
            self.compared = None
            return
        self.compared.append(pa.array(cells) if isinstance(cells, np.ndarray) else cells)
        if len({part.type for part in self.compared}) > 1:
            self.compared = None
            return
        total = sum(map(len, self.compared))
        if len(self.compared[-1]) != pc.count_distinct(self.compared[-1]).as_py():
            self.compared = None
        elif total >= _ENOUGH:
            self.settled = True
            self.compared = self.compared if self._all_differ() else None

    def _all_differ(self) -> bool:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self.compared:
            return False
        together = pa.chunked_array(self.compared)
        return bool(pc.count_distinct(together).as_py() == len(together))

    def facts(self, rows: int, filled: Mapping[str, int] | None) -> Facts:
        """Return what was found in all ``rows``; rows of batches without the column are missing."""
        none = not self.numbers
        return Facts(
            self.name, rows, self.missing, self.numbers,
            math.nan if none else self.low, math.nan if none else self.high, self.at_low, self.at_high,
            self.whole and not none, self.values, self.words, self.wordy,
            {word: tuple(places) for word, places in self.odd.items()}, self.others,
            self.compared is not None and (self.settled or self._all_differ()),
            self.days, filled, self.table,
        )  # fmt: skip
