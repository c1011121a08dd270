"""Dates: a column of the schema whose cells are dates, read as days since the first day of its range.

Three shapes are read: ``2020-12-31`` (also with a time), ``31.12.2020``, and ``12/31/2020``. The last one has the day
or the month first, as ``order`` of the column says. Without ``order`` such a cell is refused, because 01/02/2020 is
two days.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .columns import Checked, Numeric, bad
from .faults import Fault

if TYPE_CHECKING:
    import pandas as pd

DATE = "date"
ORDERS = DAY_FIRST, MONTH_FIRST = "dmy", "mdy"
DAY_S = 86400.0
ISO = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
DOTS = r"\d{1,2}\.\d{1,2}\.\d{4}"
SLASHES = r"\d{1,2}/\d{1,2}/\d{4}"
SHAPE = re.compile(rf"^(?:{ISO}|{DOTS}|{SLASHES})$")
_SHAPES = "dates such as 2020-12-31, 31.12.2020 or 12/31/2020, or empty cells"


@dataclass(frozen=True)
class Date(Numeric):
    """A column of dates. It is a column of numbers for a task: days since ``first``, from 0 to ``max``.

    Attributes:
        first: the first day, as ``2020-12-31``; ``min`` is 0.
        order: for cells such as 12/31/2020: "dmy" or "mdy"; "": there are none.
    """

    first: str = "1970-01-01"
    order: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not isinstance(value, str) for value in self.missing):
            raise bad(f"column {self.name!r}: missing of a date holds words, such as {'0000-00-00'!r}")
        if self.order not in ("", *ORDERS):
            raise bad(f'column {self.name!r}: order = {self.order!r}; expected "dmy" or "mdy"')

    @classmethod
    def between(cls, name: str, first: Any, last: Any, missing: tuple[str, ...] = (), order: str = "") -> Date:
        """Return a column for the days from ``first`` to ``last``, both as ``2020-12-31`` and both included.

        Raises:
            InputError: ``config.schema``: one is not a day, or the last is not after the first.
        """
        days = []
        for key, value in (("min", first), ("max", last)):
            try:
                days.append(value if type(value) is date else date.fromisoformat(value))
            except (TypeError, ValueError):
                raise bad(f"column {name!r}: {key} holds {value!r}; expected a day such as 2020-12-31") from None
        if days[0] >= days[1]:
            raise bad(f"column {name!r}: min {days[0]} is not before max {days[1]}")
        return cls(name, 0.0, float((days[1] - days[0]).days), missing, days[0].isoformat(), order)

    @property
    def last(self) -> str:
        """The last day, as ``2020-12-31``."""
        return (date.fromisoformat(self.first) + timedelta(days=self.max)).isoformat()

    @property
    def middle(self) -> str:
        """The day in the middle of the range."""
        return (date.fromisoformat(self.first) + timedelta(days=self.max // 2)).isoformat()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as in the TOML file."""
        return {
            "name": self.name, "kind": DATE, "min": self.first, "max": self.last,
            "missing": list(self.missing), "order": self.order,
        }  # fmt: skip

    def check(self, cells: pd.Series[Any], decimal: str = ".") -> Checked:
        """Return the days since ``first``, ``float64[n]``, NaN where one is missing or at fault; and the faults.

        A time is a part of a day.
        """
        codes, uniques = cells.factorize()
        empty, start = self.empty_words, float(date.fromisoformat(self.first).toordinal())
        words = [str(cell).strip() for cell in uniques]
        days = [math.nan if word.casefold() in empty else days_of(word, self.order) for word in words]
        values: NDArray[np.float64] = np.array([*(math.nan if d is None else d - start for d in days), math.nan])[codes]
        faults = []
        wrong = np.array([*(day is None for day in days), False])[codes]
        if wrong.any():
            unsure = [day is None and "/" in word and not self.order for day, word in zip(days, words, strict=True)]
            near = int(np.array([*unsure, False])[codes].sum())
            but = 'with order = "dmy" or "mdy" in the schema'
            faults.append(Fault(self.name, "data.value", "without a date", _SHAPES, wrong, near, but))
        outside = (values < 0) | (values >= self.max + 1)
        if outside.any():
            span = f"days from {self.first} to {self.last}"
            faults.append(Fault(self.name, "data.value", "outside the range", span, outside))
            values = np.where(outside, np.nan, values)
        return np.minimum(values, self.max), faults  # the last day, with a time


def days_of(cell: str, order: str = "") -> float | None:
    """Return the day of a cell, as a proleptic ordinal with the part of the day behind the point; None: no date.

    A time with an offset from UTC is the day in UTC.

    >>> days_of("2020-01-02") - days_of("31.12.2019"), days_of("02/01/2020", "dmy") - days_of("2020-01-01T12:00")
    (2.0, 0.5)
    >>> days_of("02/01/2020"), days_of("31.02.2020")
    (None, None)
    """
    if not SHAPE.match(cell):
        return None
    try:
        if "-" in cell[:5]:
            moment = datetime.fromisoformat(cell)
            moment = moment.astimezone(UTC) if moment.tzinfo else moment
            seconds = moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6
            return moment.toordinal() + seconds / DAY_S
        one, two, year = map(int, re.split(r"[./]", cell))
        if "/" in cell and not order:
            return None
        day, month = (two, one) if "/" in cell and order == MONTH_FIRST else (one, two)
        return float(date(year, month, day).toordinal())
    except (ValueError, OverflowError):
        return None


def order_of(cells: list[str]) -> str | None:
    """Return how cells such as 12/31/2020 are written: "dmy", "mdy", "" if there are none, None if nothing tells."""
    pairs = [tuple(map(int, cell.split("/")[:2])) for cell in cells if re.match(rf"^{SLASHES}$", cell)]
    day_first = any(first > 12 for first, _ in pairs)
    month_first = any(second > 12 for _, second in pairs)
    if not pairs:
        return ""
    return None if day_first == month_first else DAY_FIRST if day_first else MONTH_FIRST


def round_days(low: float, high: float) -> tuple[str, str]:
    """Return a first and a last day around the ordinals of days: whole years, or whole months in less than two years.

    Both lie outside, so neither is the day of a person. The last day of all is 9999-12-31.

    >>> round_days(date(2019, 3, 4).toordinal(), date(2024, 12, 31).toordinal())
    ('2019-01-01', '2025-12-31')
    >>> round_days(date(2024, 3, 1).toordinal(), date(2024, 5, 9).toordinal())
    ('2024-02-01', '2024-05-31')
    """
    before = date.fromordinal(max(int(low) - 1, 1))
    after = date.fromordinal(min(int(high) + 1, date.max.toordinal() - 31))
    if high - low >= 730:
        return date(before.year, 1, 1).isoformat(), date(after.year, 12, 31).isoformat()
    following = date(after.year + after.month // 12, after.month % 12 + 1, 1)
    return before.replace(day=1).isoformat(), (following - timedelta(days=1)).isoformat()
