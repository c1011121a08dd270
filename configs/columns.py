"""Columns of the schema: numbers in a range, and words from a list; how a table's cells become numbers.

A categorical cell is compared as text, the same from CSV and Parquet: ``1``, ``1.0`` and ``"1"`` are "1",
``true`` and ``True`` are "True". Empty cells and the words in ``MISSING`` are missing, unless the schema
lists the word as a category.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd

MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none", "<na>"})
MAX_CATEGORIES = 1024


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

    def read(self, cells: pd.Series[Any], where: str) -> NDArray[np.float64]:
        """Return the numbers in ``cells`` as ``float64[n]``, NaN where one is missing.

        Raises:
            InputError: ``data.value``: not a number, or outside ``[min, max]``.
        """
        if cells.dtype.kind in "biuf":
            values: NDArray[np.float64] = cells.to_numpy(dtype=np.float64, na_value=np.nan)
            if any(isinstance(value, str) for value in self.missing):
                for endless in (math.inf, -math.inf):
                    values = np.where((values == endless) & (str(endless) in self.empty_words), np.nan, values)
        else:
            codes, uniques = cells.factorize()
            empty = self.empty_words
            parsed = [self._number(str(cell).strip(), empty, where) for cell in uniques]
            values = np.array([*parsed, math.nan])[codes]
        numbers = [value for value in self.missing if not isinstance(value, str)]
        values = np.where(np.isin(values, numbers), np.nan, values)
        outside = values[(values < self.min) | (values > self.max)]
        if outside.size:
            raise InputError(
                "data.value",
                f"{where}: column {self.name!r} holds {outside[0]:g}; "
                f"expected a number from {self.min:g} to {self.max:g}",
                hint="correct the cell, empty it, or agree with all members on a wider range in the schema",
            )
        return values

    def _number(self, cell: str, empty: frozenset[str], where: str) -> float:
        if cell.casefold() in empty:
            return math.nan
        try:
            if "_" in cell:  # Python's own way to write 1_000
                raise ValueError
            return float(cell)
        except ValueError:
            raise InputError(
                "data.value",
                f"{where}: column {self.name!r} holds {cell!r}; "
                f"expected a number from {self.min:g} to {self.max:g}, or an empty cell",
            ) from None


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

    def read(self, cells: pd.Series[Any], where: str) -> NDArray[np.float64]:
        """Return each cell's index in ``categories`` as ``float64[n]``, NaN where the cell is missing.

        Raises:
            InputError: ``data.category``: a word that the schema does not list.
        """
        codes, uniques = cells.factorize()
        positions = {category: float(i) for i, category in enumerate(self.categories)}
        indices = [positions.get(text(cell), math.nan) for cell in uniques]
        for cell, index in zip(uniques, indices, strict=True):
            if math.isnan(index) and not self.other and text(cell).lower() not in MISSING:
                raise InputError(
                    "data.category",
                    f"{where}: column {self.name!r} holds {text(cell)!r}, which the schema does not list; "
                    f"{nearest(text(cell), self.categories)}",
                    hint="correct the cell, empty it, or agree with all members on a new schema",
                )
        encoded: NDArray[np.float64] = np.array([*indices, math.nan])[codes]
        return encoded


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
