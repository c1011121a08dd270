"""The column to predict, in its four kinds: classes, a number, a count, or the time to an event.

TOML: ``label = {name = "y", classes = [0, 1]}``, ``{name = "cost", kind = "number", min = 0, max = 50000}``,
``{name = "visits", kind = "count", max = 100}``, ``{name = "days", kind = "time", event = "died", grid = [30, 60]}``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .columns import Categorical, Checked, Numeric, bad, named, text
from .faults import CORRECT, Fault, refuse

if TYPE_CHECKING:
    import pandas as pd

MAX_CLASSES, MAX_INTERVALS = 1000, 64
CLASSES, NUMBER, COUNT, TIME = KINDS = ("classes", "number", "count", "time")


@dataclass(frozen=True)
class Label:
    """A column of classes. Of two classes, the second is the positive class."""

    name: str
    classes: tuple[int | str, ...]

    kind = CLASSES

    def __post_init__(self) -> None:
        named(self.name)
        if any(isinstance(c, bool) or not isinstance(c, (int, str)) for c in self.classes):
            raise bad(f"label {self.name!r}: expected whole numbers or strings as classes")
        if not 2 <= len({text(c) for c in self.classes}) == len(self.classes) <= MAX_CLASSES:
            raise bad(f"label {self.name!r}: expected 2 to {MAX_CLASSES} different classes")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the table's columns that hold it."""
        return (self.name,)

    def read(self, frame: pd.DataFrame, where: str, decimal: str = ".") -> NDArray[Any]:
        """Return each row's index in ``classes``, ``int64[n]``.

        Raises:
            RowFaults: ``data.category``: an unknown class; ``data.value``: an empty cell.
        """
        return _sound(self.check(frame, decimal), where).astype(np.int64)

    def check(self, frame: pd.DataFrame, decimal: str = ".") -> Checked:
        """Return each row's index in ``classes``, ``float64[n]``, NaN where it is at fault; and the faults."""
        column = Categorical(self.name, tuple(text(c) for c in self.classes))
        return _full(column.check(frame[self.name]), self.name, "a class")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as in the TOML file."""
        return {"name": self.name, "classes": list(self.classes)}


@dataclass(frozen=True)
class NumberTarget:
    """A column of numbers in ``[min, max]``, for regression."""

    name: str
    min: float
    max: float

    kind = NUMBER

    def __post_init__(self) -> None:
        column = Numeric(self.name, self.min, self.max)
        object.__setattr__(self, "min", column.min)
        object.__setattr__(self, "max", column.max)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the table's columns that hold it."""
        return (self.name,)

    @property
    def classes(self) -> tuple[int | str, ...]:
        """None."""
        return ()

    def read(self, frame: pd.DataFrame, where: str, decimal: str = ".") -> NDArray[Any]:
        """Return each row's number, ``float64[n]``.

        Raises:
            RowFaults: ``data.value``: not a number, outside the range, or an empty cell.
        """
        return _sound(self.check(frame, decimal), where)

    def check(self, frame: pd.DataFrame, decimal: str = ".") -> Checked:
        """Return each row's number, ``float64[n]``, NaN where it is at fault; and the faults."""
        found = Numeric(self.name, self.min, self.max).check(frame[self.name], decimal)
        return _full(found, self.name, "a number")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as in the TOML file."""
        return {"name": self.name, "kind": NUMBER, "min": self.min, "max": self.max}


@dataclass(frozen=True)
class CountTarget:
    """A column of whole numbers from 0 to ``max``, such as visits or claims."""

    name: str
    max: int

    kind = COUNT

    def __post_init__(self) -> None:
        named(self.name)
        if isinstance(self.max, bool) or not isinstance(self.max, int) or not 1 <= self.max <= 10**9:
            raise bad(f"label {self.name!r}: max = {self.max!r}; expected a whole number from 1 to 1000000000")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the table's columns that hold it."""
        return (self.name,)

    @property
    def classes(self) -> tuple[int | str, ...]:
        """None."""
        return ()

    def read(self, frame: pd.DataFrame, where: str, decimal: str = ".") -> NDArray[Any]:
        """Return each row's count, ``float64[n]`` of whole numbers.

        Raises:
            RowFaults: ``data.value``: not a whole number, outside the range, or an empty cell.
        """
        return _sound(self.check(frame, decimal), where, 'kind = "number" takes numbers that are not whole')

    def check(self, frame: pd.DataFrame, decimal: str = ".") -> Checked:
        """Return each row's count, ``float64[n]``, NaN where it is at fault; and the faults."""
        values, faults = _full(Numeric(self.name, 0, self.max).check(frame[self.name], decimal), self.name, "a count")
        broken = values != np.rint(values)
        broken &= ~np.isnan(values)
        if broken.any():
            faults.append(Fault(self.name, "data.value", "without a whole number", "counts", broken))
        return values, faults

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as in the TOML file."""
        return {"name": self.name, "kind": COUNT, "max": self.max}


@dataclass(frozen=True)
class TimeTarget:
    """The time until an event, or until a row was last observed (right-censored), on a public grid of times.

    Attributes:
        name: column of times, 0 or more.
        event: column that says whether the event was seen at that time.
        grid: ends of the intervals, rising; what happens later counts as not seen until the last one.
        happened: the value of ``event`` that says yes, as text.
    """

    name: str
    event: str
    grid: tuple[float, ...]
    happened: str = "1"

    kind = TIME

    def __post_init__(self) -> None:
        named(self.name)
        named(self.event)
        if self.event == self.name:
            raise bad(f"label {self.name!r}: event names the same column; expected the column of the event")
        if not isinstance(self.happened, (int, str)) or isinstance(self.happened, bool):
            raise bad(f"label {self.name!r}: happened = {self.happened!r}; expected the value that says yes")
        good = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in self.grid)
        if not good or not 2 <= len(self.grid) <= MAX_INTERVALS or not _rising(self.grid):
            raise bad(
                f"label {self.name!r}: grid = {list(self.grid)!r}; expected 2 to {MAX_INTERVALS} rising times above 0"
            )
        object.__setattr__(self, "grid", tuple(map(float, self.grid)))
        object.__setattr__(self, "happened", text(self.happened))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the table's columns that hold it."""
        return self.name, self.event

    @property
    def classes(self) -> tuple[int | str, ...]:
        """None."""
        return ()

    def read(self, frame: pd.DataFrame, where: str, decimal: str = ".") -> NDArray[Any]:
        """Return each row's time and whether the event was seen then (1 or 0), ``float64[n, 2]``.

        Raises:
            InputError: ``data.category``: a third kind of event. RowFaults: ``data.value``: not a number, below 0, or
                an empty cell.
        """
        values = _sound(self.check(frame, decimal), where)
        self.check_events(self.others(frame), where)
        return values

    def check(self, frame: pd.DataFrame, decimal: str = ".") -> Checked:
        """Return each row's time and event, ``float64[n, 2]``; and the faults, among them no third kind of event."""
        times, faults = _full(Numeric(self.name, 0, 1e15).check(frame[self.name], decimal), self.name, "a time")
        codes, uniques = frame[self.event].factorize()
        words = [text(cell) for cell in uniques]
        missing = np.array([*(word == "" for word in words), True])[codes]
        if missing.any():
            faults.append(Fault(self.event, "data.value", "empty", "yes or no in every row", missing))
        happened = np.array([*(float(word == self.happened) for word in words), 0.0])[codes]
        return np.column_stack([times, happened]), faults

    def others(self, frame: pd.DataFrame) -> set[str]:
        """Return the words in the column of the event that do not say yes."""
        return {text(cell) for cell in frame[self.event].dropna().unique()} - {self.happened, ""}

    def check_events(self, others: set[str], where: str) -> None:
        """Check that one word at most says that the event was not seen.

        Raises:
            InputError: ``data.category``.
        """
        if len(others) > 1:
            raise InputError(
                "data.category",
                f"{where}: column {self.event!r} has {len(others) + 1} different values; "
                f"expected {self.happened!r} and one other",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as in the TOML file."""
        return {
            "name": self.name, "kind": TIME, "event": self.event, "grid": list(self.grid), "happened": self.happened
        }  # fmt: skip


Target = Label | NumberTarget | CountTarget | TimeTarget


def target_from(table: dict[str, Any]) -> Target:
    """Return the target that a table describes, whose keys were checked (:data:`KEYS`)."""
    kind = table.get("kind", CLASSES)
    if kind == NUMBER:
        return NumberTarget(table["name"], table["min"], table["max"])
    if kind == COUNT:
        return CountTarget(table["name"], table["max"])
    if kind == TIME:
        return TimeTarget(table["name"], table["event"], tuple(table["grid"]), table.get("happened", "1"))
    return Label(table["name"], tuple(table["classes"]))


KEYS: dict[str, tuple[set[str], set[str]]] = {
    CLASSES: ({"name", "classes"}, {"kind"}),
    NUMBER: ({"name", "kind", "min", "max"}, set()),
    COUNT: ({"name", "kind", "max"}, set()),
    TIME: ({"name", "kind", "event", "grid"}, {"happened"}),
}
"""Kind → the keys that its table must have and may have."""


def _full(found: Checked, name: str, expected: str) -> Checked:
    """Return what was found, with a fault more where a cell is empty."""
    values, faults = found
    empty = np.isnan(values)
    for fault in faults:
        empty &= ~fault.at
    if empty.any():
        faults.append(Fault(name, "data.value", "empty", f"{expected} in every row", empty))
    return values, faults


def _sound(found: Checked, where: str, hint: str = "") -> NDArray[Any]:
    values, faults = found
    refuse(where, faults, hint or CORRECT)
    return values.copy()  # what a table gives is for reading only


def _rising(grid: tuple[float, ...]) -> bool:
    ends = [0.0, *grid]
    return all(math.isfinite(end) for end in ends) and all(a < b for a, b in itertools.pairwise(ends))
