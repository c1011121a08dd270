"""Columns of the schema: numbers in a range, and words from a list; how a table's cells become numbers.

A categorical cell is compared as text, the same from CSV and Parquet: ``1``, ``1.0`` and ``"1"`` are "1",
``true`` and ``True`` are "True". Empty cells and the words in ``MISSING`` are missing, unless the schema
lists the word as a category.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, nearest
from .faults import Fault, refuse

if TYPE_CHECKING:
    import pandas as pd

MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none", "<na>"})
MAX_CATEGORIES = 1024
Checked = tuple[NDArray[Any], list[Fault]]
"""What cells are as numbers, one for each row, and what is wrong with them."""


@dataclass(frozen=True)
class Numeric:
    """A column of numbers in ``[min, max]``.

    Attributes:
        missing: numbers and words that mean "not measured", such as ``(0, ".", "unknown")``. A word is compared
            without blanks around it, and without regard to case.
    """

    name: str
    min: float
    max: float
    missing: tuple[float | str, ...] = ()

    def __post_init__(self) -> None:
        named(self.name)
        numbers = [value for value in self.missing if not isinstance(value, str)]
        for key, value in (("min", self.min), ("max", self.max), *(("missing", v) for v in numbers)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise bad(f"column {self.name!r}: {key} holds {value!r}; expected a finite number")
        if self.min >= self.max:
            raise bad(f"column {self.name!r}: min {self.min:g} is not below max {self.max:g}")
        object.__setattr__(self, "min", float(self.min))
        object.__setattr__(self, "max", float(self.max))
        missing = (value.strip() if isinstance(value, str) else float(value) for value in self.missing)
        object.__setattr__(self, "missing", tuple(missing))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as in the TOML file."""
        return {"name": self.name, "min": self.min, "max": self.max, "missing": list(self.missing)}

    @property
    def empty_words(self) -> frozenset[str]:
        """Words that count as an empty cell, in small letters."""
        return MISSING | {value.casefold() for value in self.missing if isinstance(value, str)}

    def read(self, cells: pd.Series[Any], where: str, decimal: str = ".") -> NDArray[np.float64]:
        """Return the numbers in ``cells`` as ``float64[n]``, NaN where one is missing.

        Raises:
            RowFaults: ``data.value``: not a number, or outside ``[min, max]``.
        """
        values, faults = self.check(cells, decimal)
        refuse(where, faults)
        return values

    def check(self, cells: pd.Series[Any], decimal: str = ".") -> Checked:
        """Return the numbers in ``cells`` as ``float64[n]``, NaN where one is missing or at fault; and the faults.

        Args:
            cells: numbers, or text.
            decimal: mark in text: a point or a comma.
        """
        wrong = np.zeros(len(cells), dtype=np.bool_)
        near, empty = 0, self.empty_words
        if cells.dtype.kind in "biuf":
            values: NDArray[np.float64] = cells.to_numpy(dtype=np.float64, na_value=np.nan)
            for endless in (math.inf, -math.inf) if empty > MISSING else ():
                values = np.where((values == endless) & (str(endless) in empty), np.nan, values)
        else:
            codes, uniques = cells.factorize()
            parsed = [math.nan if str(cell).strip().casefold() in empty else number(cell, decimal) for cell in uniques]
            wrong = np.array([*(value is None for value in parsed), False])[codes]
            values = np.array([*(math.nan if value is None else value for value in parsed), math.nan])[codes]
            if wrong.any():
                other = "." if decimal == "," else ","
                fit = [
                    value is None and number(cell, other) is not None
                    for cell, value in zip(uniques, parsed, strict=True)
                ]
                near = int(np.array([*fit, False])[codes].sum())
        if self.missing:
            numbers = [value for value in self.missing if not isinstance(value, str)]
            values = np.where(np.isin(values, numbers), np.nan, values)
        outside = (values < self.min) | (values > self.max)
        span = f"from {self.min:g} to {self.max:g}"
        faults = []
        if wrong.any():
            but = f"with [data] decimal = {json.dumps('.' if decimal == ',' else ',')}"
            faults.append(
                Fault(self.name, "data.value", "without a number", f"numbers {span}, or empty cells", wrong, near, but)
            )
        if outside.any():
            values = np.where(outside, np.nan, values)
            faults.append(Fault(self.name, "data.value", "outside the range", f"numbers {span}", outside))
        return values, faults


@dataclass(frozen=True)
class Categorical:
    """A column of words. With ``other``, a word that is not listed counts as missing; otherwise it is refused."""

    name: str
    categories: tuple[str, ...]
    other: bool = False

    def __post_init__(self) -> None:
        named(self.name)
        if not all(isinstance(category, str) for category in self.categories):
            raise bad(f'column {self.name!r}: expected categories in quotes, such as ["0", "1"]')
        normal = tuple(text(category) for category in self.categories)
        if not 0 < len(set(normal)) == len(normal) <= MAX_CATEGORIES:
            raise bad(
                f"column {self.name!r} lists {len(normal)} categories, {len(set(normal))} of them different; "
                f"expected 1 to {MAX_CATEGORIES}, each once"
            )
        if not isinstance(self.other, bool):
            raise bad(f"column {self.name!r}: other = {self.other!r}; expected true or false")
        object.__setattr__(self, "categories", normal)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as in the TOML file."""
        return {"name": self.name, "categories": list(self.categories), "other": self.other}

    def read(self, cells: pd.Series[Any], where: str, decimal: str = ".") -> NDArray[np.float64]:
        """Return each cell's index in ``categories`` as ``float64[n]``, NaN where the cell is missing.

        Raises:
            RowFaults: ``data.category``: a word that the schema does not list.
        """
        values, faults = self.check(cells, decimal)
        refuse(where, faults)
        return values

    def check(self, cells: pd.Series[Any], decimal: str = ".") -> Checked:
        """Return each cell's index in ``categories`` as ``float64[n]``, NaN where it is missing; and the faults.

        A word is a word, whatever the decimal mark of numbers is.
        """
        codes, uniques = cells.factorize()
        positions = {category: float(i) for i, category in enumerate(self.categories)}
        words = [text(cell) for cell in uniques]
        encoded: NDArray[np.float64] = np.array([*(positions.get(word, math.nan) for word in words), math.nan])[codes]
        if self.other:
            return encoded, []
        unknown = [word not in positions and word.lower() not in MISSING for word in words]
        if not any(unknown):
            return encoded, []
        folded = {category.casefold() for category in self.categories}
        near = [odd and word.casefold() in folded for odd, word in zip(unknown, words, strict=True)]
        fault = Fault(
            self.name,
            "data.category",
            "with words that the schema does not list",
            nearest("", self.categories).removeprefix("expected "),
            np.array([*unknown, False])[codes],
            int(np.array([*near, False])[codes].sum()),
            "but for capital letters",
        )
        return encoded, [fault] if fault.at.any() else []


def number(cell: object, decimal: str = ".") -> float | None:
    """Return the number in a cell, NaN if the cell is missing, or None if it is no number.

    >>> number(" 1.5 "), number("1,5", ","), number("1.5", ","), number("1_0"), number("NA")
    (1.5, 1.5, None, None, nan)
    """
    word = str(cell).strip()
    if word.lower() in MISSING:
        return math.nan
    if decimal == "," and isinstance(cell, str):
        if "." in word:
            return None
        word = word.replace(",", ".")
    try:
        return None if "_" in word else float(word)  # 1_000 is Python's own way to write it
    except ValueError:
        return None


def text(cell: object) -> str:
    """Return a cell that is not missing as the text with which categories are compared.

    >>> [text(cell) for cell in (1, 1.0, "1.0", " n71 ", True, "TRUE", 0.5)]
    ['1', '1', '1', 'n71', 'True', 'True', '0.5']
    """
    word = str(cell).strip()
    if word.lower() in ("true", "false"):
        return word.capitalize()
    return re.sub(r"^(-?\d+)\.0+$", r"\1", word)


def named(name: Any) -> None:
    """Check a column's name."""
    if not isinstance(name, str) or not 0 < len(name) <= 256:
        raise bad(f"a column is called {name!r}; expected a name of 1 to 256 characters")


def near_name(name: str, names: Iterable[str]) -> str:
    """Return a phrase with the one name that is much like ``name``; the others may be cells of a table without header.

    >>> near_name("agee", ["age", "y"]), near_name("x", ["age", "y"])
    ("did you mean 'age'?", 'expected the name of one of its 2 columns')
    """
    known = {one.casefold(): one for one in names}
    close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.6)
    return f"did you mean {known[close[0]]!r}?" if close else f"expected the name of one of its {len(known)} columns"


def bad(message: str) -> InputError:
    """Return the error of a schema with wrong content."""
    return InputError("config.schema", message)


Column = Numeric | Categorical
