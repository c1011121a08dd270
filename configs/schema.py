"""The schema: columns, ranges and categories that all members agree on before any node reads a row.

The file is written by hand or by ``moonflower schema infer`` and is shared between members, so it holds
nothing that belongs to a single person: ranges are round and rare categories are left out. Its digest is part of
every signed context. Its dict travels in every model version, so that ``predict`` needs no file.

A categorical cell is compared as text, the same from CSV and Parquet: ``1``, ``1.0`` and ``"1"`` are "1",
``true`` and ``True`` are "True". Empty cells and the words in ``MISSING`` are missing, unless the schema
lists the word as a category.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import canonical
from ..errors import InputError, nearest
from .toml import read_toml

if TYPE_CHECKING:
    import pandas as pd

MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none", "<na>"})
_HEADER = """\
# All members of the federation share this file. It must not hold any row.
# A range is a limit for every value, not the extreme value of any person. List a number that means "not measured"
# in missing, as in missing = [0]. With other = true, values that are not listed count as missing.
"""
_MAX_COLUMNS, MAX_CATEGORIES, MAX_CLASSES = 4096, 1024, 1000


@dataclass(frozen=True)
class Numeric:
    """A column of numbers in ``[min, max]``; a value in ``missing`` means "not measured"."""

    name: str
    min: float
    max: float
    missing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _named(self.name)
        for key, value in (("min", self.min), ("max", self.max), *(("missing", v) for v in self.missing)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise _bad(f"column {self.name!r}: {key} holds {value!r}; expected a finite number")
        if self.min >= self.max:
            raise _bad(f"column {self.name!r}: min {self.min:g} is not below max {self.max:g}")
        object.__setattr__(self, "min", float(self.min))
        object.__setattr__(self, "max", float(self.max))
        object.__setattr__(self, "missing", tuple(map(float, self.missing)))

    def read(self, cells: pd.Series[Any], where: str) -> NDArray[np.float64]:
        """Return the numbers in ``cells`` as ``float64[n]``, NaN where one is missing.

        Raises:
            InputError: ``data.value``: not a number, or outside ``[min, max]``.
        """
        if cells.dtype.kind in "biuf":
            values: NDArray[np.float64] = cells.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            codes, uniques = cells.factorize()
            parsed = [self._number(str(cell).strip(), where) for cell in uniques]
            values = np.array([*parsed, math.nan])[codes]
        values = np.where(np.isin(values, self.missing), np.nan, values)
        outside = values[(values < self.min) | (values > self.max)]
        if outside.size:
            raise InputError(
                "data.value",
                f"{where}: column {self.name!r} holds {outside[0]:g}; "
                f"expected a number from {self.min:g} to {self.max:g}",
                hint="correct the cell, empty it, or agree with all members on a wider range in the schema",
            )
        return values

    def _number(self, cell: str, where: str) -> float:
        if cell.lower() in MISSING:
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
        _named(self.name)
        if not all(isinstance(category, str) for category in self.categories):
            raise _bad(f'column {self.name!r}: expected categories in quotes, such as ["0", "1"]')
        normal = tuple(text(category) for category in self.categories)
        if not 0 < len(set(normal)) == len(normal) <= MAX_CATEGORIES:
            raise _bad(
                f"column {self.name!r} lists {len(normal)} categories, {len(set(normal))} of them different; "
                f"expected 1 to {MAX_CATEGORIES}, each once"
            )
        if not isinstance(self.other, bool):
            raise _bad(f"column {self.name!r}: other = {self.other!r}; expected true or false")
        object.__setattr__(self, "categories", normal)

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


@dataclass(frozen=True)
class Label:
    """The column to predict. Of two classes, the second is the positive class."""

    name: str
    classes: tuple[int | str, ...]

    def __post_init__(self) -> None:
        _named(self.name)
        if any(isinstance(c, bool) or not isinstance(c, (int, str)) for c in self.classes):
            raise _bad(f"label {self.name!r}: expected whole numbers or strings as classes")
        if not 2 <= len({text(c) for c in self.classes}) == len(self.classes) <= MAX_CLASSES:
            raise _bad(f"label {self.name!r}: expected 2 to {MAX_CLASSES} different classes")

    def read(self, cells: pd.Series[Any], where: str) -> NDArray[np.int64]:
        """Return each cell's index in ``classes`` as ``int64[n]``.

        Raises:
            InputError: ``data.category``: an unknown class; ``data.value``: an empty cell.
        """
        column = Categorical(self.name, tuple(text(c) for c in self.classes))
        indices = column.read(cells, where)
        if np.isnan(indices).any():
            raise InputError(
                "data.value", f"{where}: label {self.name!r} has an empty cell; expected a class in every row"
            )
        return indices.astype(np.int64)


Column = Numeric | Categorical


@dataclass(frozen=True)
class Schema:
    """Columns in feature order, and the label. Two schemas with the same digest read data the same way."""

    columns: tuple[Column, ...]
    label: Label

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled or self.label.name in names:
            name = min(doubled or {self.label.name})
            raise _bad(f"column {name!r} is listed twice; expected every column, and the label, once")
        if len(names) > _MAX_COLUMNS:
            raise _bad(f"the schema lists {len(names)} columns; expected at most {_MAX_COLUMNS}")

    def digest(self) -> str:
        """Return the SHA-256 of the canonical dict as 64 hex digits."""
        return canonical.digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON-able lists and dicts, for a model version's manifest."""
        return {
            "label": {"name": self.label.name, "classes": list(self.label.classes)},
            "columns": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(column).items()}
                for column in self.columns
            ],
        }

    @classmethod
    def from_dict(cls, raw: Any, where: str = "schema") -> Schema:
        """Return the schema in ``raw``, the shape of :meth:`to_dict` and of the TOML file.

        Raises:
            InputError: ``config.schema``; it names ``where``, the key, what was found and what was expected.
        """
        try:
            table = _table(raw, {"label", "columns"}, set(), "the schema")
            label = _table(table["label"], {"name", "classes"}, set(), "label")
            return cls(
                tuple(_column(entry) for entry in _list(table["columns"], "columns")),
                Label(label["name"], tuple(_list(label["classes"], "classes"))),
            )
        except InputError as error:
            raise InputError(error.code, f"{where}: {error}", hint=error.hint) from None

    def dump(self) -> str:
        """Return the TOML file that :func:`load_schema` reads, with a comment for the people who share it."""
        label = f"label = {{name = {_toml(self.label.name)}, classes = {_toml(list(self.label.classes))}}}"
        lines = []
        for entry in self.to_dict()["columns"]:
            pairs = [f"{key} = {_toml(value)}" for key, value in entry.items() if value != [] and value is not False]
            lines.append(f"    {{{', '.join(pairs)}}},\n")
        return f"{_HEADER}{label}\ncolumns = [\n{''.join(lines)}]\n"


def load_schema(path: Path) -> Schema:
    """Return the schema in the TOML file ``path``.

    Raises:
        InputError: ``config.file``: unreadable; ``config.toml``: not TOML; ``config.schema``: wrong content.
    """
    return Schema.from_dict(read_toml(path, "schema"), where=f"schema {path}")


def text(cell: object) -> str:
    """Return a cell that is not missing as the text with which categories are compared.

    >>> [text(cell) for cell in (1, 1.0, "1.0", " n71 ", True, "TRUE", 0.5)]
    ['1', '1', '1', 'n71', 'True', 'True', '0.5']
    """
    word = str(cell).strip()
    if word.lower() in ("true", "false"):
        return word.capitalize()
    return re.sub(r"^(-?\d+)\.0+$", r"\1", word)


def _column(raw: Any) -> Column:
    if isinstance(raw, dict) and "categories" in raw:
        entry = _table(raw, {"name", "categories"}, {"other"}, f"column {raw.get('name')!r}")
        return Categorical(entry["name"], tuple(_list(entry["categories"], "categories")), entry.get("other", False))
    known = f"column {raw.get('name')!r}" if isinstance(raw, dict) else "columns"
    entry = _table(raw, {"name", "min", "max"}, {"missing", "categories", "other"}, known)
    if "other" in entry:
        raise _bad(f"{known} has other but no categories; other is for a column of categories")
    return Numeric(entry["name"], entry["min"], entry["max"], tuple(_list(entry.get("missing", []), "missing")))


def _table(raw: Any, needed: set[str], optional: set[str], what: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _bad(f"{what} holds {type(raw).__name__}; expected a table with {', '.join(sorted(needed))}")
    for key in raw:
        if key not in needed | optional:
            raise _bad(f"{what} has an unknown key {key!r}; {nearest(key, needed | optional)}")
    for key in sorted(needed):
        if key not in raw:
            raise _bad(f"{what} has no {key!r}; expected {', '.join(sorted(needed))}")
    return raw


def _list(raw: Any, what: str) -> list[Any]:
    if not isinstance(raw, list):
        raise _bad(f"{what} holds {raw!r}; expected a list")
    return raw


def _named(name: Any) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= 256:
        raise _bad(f"a column is called {name!r}; expected a name of 1 to 256 characters")


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, str):  # TOML has JSON's escapes, except for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _bad(message: str) -> InputError:
    return InputError("config.schema", message)
