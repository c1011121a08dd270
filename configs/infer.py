"""Infer a schema that fits a table and reveals no person's own value: a draft that people read before they share it.

Nothing is guessed. What can be read in two ways is refused, with the options that say which, all columns at once. What
is likely no feature (dates, ids, free text) is left out, and the option that keeps it is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import hints
from .arrow import number_of
from .columns import MAX_CATEGORIES, Categorical, Column, Numeric, near_name
from .dates import Date, days_of, order_of, round_days
from .facts import Facts
from .hints import Hint
from .labels import Proposal, propose
from .ranges import widen
from .schema import Schema
from .survey import Survey
from .targets import Label, Target, TimeTarget

MOST, LEAST = 0.9, 0.1
"""Share of numbers from which a column is numeric, and up to which it is words; nothing is guessed in between."""
_ZEROS = 0.01  # share of cells that begin with 0


@dataclass(frozen=True)
class Wanted:
    """What a person says about a table.

    Attributes:
        label: column to predict.
        site: column that names the member; not a feature.
        drop: columns that are not features.
        keep: features, although they look like an id, or hold the same everywhere.
        numeric, category, date: columns of that kind, whatever they look like.
        positive: the positive class.
        kind: of the label.
        event: column that says whether the event was seen at the time in the label.
        order: of dates such as 12/31/2020: "dmy", "mdy", or "" to find it.
        min_count: fewest rows that a value needs to be named.
    """

    label: str
    site: str | None = None
    drop: Sequence[str] = ()
    keep: Sequence[str] = ()
    numeric: Sequence[str] = ()
    category: Sequence[str] = ()
    date: Sequence[str] = ()
    positive: str | None = None
    kind: str | None = None
    event: str | None = None
    order: str = ""
    min_count: int = 10

    @property
    def exact(self) -> set[str]:
        """Columns whose words are counted, numbers too."""
        return {self.label, *self.category, *([self.event] if self.event else [])}

    def check(self, names: Sequence[str]) -> None:
        """Check the options against the names of a table's columns.

        Raises:
            InputError: ``data.column``: a named column is not there, or is named twice.
        """
        told = [name for name in (self.label, self.site, self.event) if name]
        kinds = [*self.drop, *self.numeric, *self.category, *self.date]
        for name in (*told, *kinds, *self.keep):
            if name not in names:
                raise InputError("data.column", f"the table has no column {name!r}; {near_name(name, names)}")
        for name in (*told, *kinds):
            if [*told, *kinds].count(name) > 1:
                raise InputError("data.column", f"column {name!r} is named by two options; expected one")


@dataclass(frozen=True)
class Described:
    """A column of the table, as a person is told about it.

    Attributes:
        name: of the column.
        said: its kind: ``number``, ``category``, ``date``, or why it is left out.
        column: for the schema; None if it is left out.
        missing: empty cells, and cells with words that count as missing.
        hints: warnings.
    """

    name: str
    said: str
    column: Column | None
    missing: int
    hints: tuple[Hint, ...] = ()


@dataclass(frozen=True)
class Inferred:
    """A schema, and how it came about: what each column is, and what the label is."""

    schema: Schema
    columns: tuple[Described, ...]
    label: Proposal
    rows: int

    @property
    def hints(self) -> list[Hint]:
        """All warnings: of the label first."""
        return [*self.label.hints, *(hint for column in self.columns for hint in column.hints)]


def infer(table: Survey, wanted: Wanted) -> Inferred:
    """Return a schema that fits a table and reveals no person's own value.

    An extreme that fewer than ``min_count`` rows share is moved outwards to a round number. A category with
    fewer rows is left out, and its column then gets ``other = true``.

    Raises:
        InputError: ``data.column``: a named column is not there; a column or the label can be read in two ways, or in
            none. All such columns are named at once.
    """
    wanted.check([*table.facts])
    label = propose(
        table, wanted.label, kind=wanted.kind, event=wanted.event, positive=wanted.positive, min_count=wanted.min_count
    )
    skipped = {wanted.site, *label.target.columns}
    truth = _truth(table, label.target)
    found: list[Described] = []
    problems: list[InputError] = []
    for name, facts in table.facts.items():
        if name in skipped:
            continue
        try:
            found.append(_describe(table, facts, wanted, truth))
        except InputError as error:
            problems.append(error)
    if problems:
        told = "; ".join(map(str, problems[:5])) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InputError("data.column", told, hint=problems[0].hint)
    columns = tuple(one.column for one in found if one.column is not None)
    if not columns:
        raise InputError("data.column", "no column is left as a feature; expected one, or --keep COLUMN")
    return Inferred(Schema(columns, label.target), tuple(found), label, table.rows)


def _truth(table: Survey, target: Target) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
    """Return the sample's codes of classes or of the event, and its numbers or times."""
    if isinstance(target, Label):
        return table.codes(target.name), None
    codes = table.codes(target.event) if isinstance(target, TimeTarget) else None
    return codes, table.numbers(target.name)


def _describe(
    table: Survey, facts: Facts, wanted: Wanted, truth: tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]
) -> Described:
    name = facts.name
    if name in wanted.drop:
        return Described(name, "left out: --drop", None, facts.missing)
    column, said, told = _column(table, facts, wanted)
    missing = facts.missing
    if isinstance(column, Numeric):
        missing += sum((facts.words or {}).get(word, 0) for word in column.missing if isinstance(word, str))
    if column is not None:
        told += [
            hints.without_change(facts, wanted.min_count),
            hints.in_one_site(facts),
            hints.copy_of_label(table, name, *truth),
            hints.spellings(facts, wanted.min_count) if isinstance(column, Categorical) else None,
        ]
    return Described(name, said, column, missing, tuple(hint for hint in told if hint))


def _column(table: Survey, facts: Facts, wanted: Wanted) -> tuple[Column | None, str, list[Hint | None]]:
    """Return a column for the schema, or None; its kind, or why it is left out; and hints."""
    name = facts.name
    if not facts.table:
        return (
            None,
            "left out: lists or bytes",
            [Hint("table", name, "its cells are no text and no number", "it is left out")],
        )
    if empty := hints.without_values(facts):
        return None, "left out: empty", [empty]
    if name in wanted.date:
        return _date(table, facts, wanted), "date", []
    if name in wanted.category:
        return _category(facts, wanted), "category", []
    if name in wanted.numeric:
        return _numeric(table, facts, wanted)
    if facts.share < MOST and table.days(name) >= MOST:
        todo = f"it is left out; --date {name} turns it into a number of days"
        return None, "left out: dates", [Hint("date", name, "it holds dates", todo)]
    if name not in wanted.keep and (found := hints.identity(facts, facts.whole and table.leading_zeros(name) > _ZEROS)):
        return None, "left out: an id?", [found]
    if facts.share >= MOST:
        return _numeric(table, facts, wanted)
    if facts.share > LEAST:
        raise InputError(
            "data.column",
            f"column {name!r} holds numbers in {facts.share:.0%} of its filled cells and words in the others; "
            f"expected --numeric {name}, --category {name} or --drop {name}",
        )
    words = facts.words
    common = [word for word, rows in (words or {}).items() if rows >= wanted.min_count]
    if not 0 < len(common) <= MAX_CATEGORIES and name not in wanted.keep:
        what = f"{len(common)} words have {wanted.min_count} or more rows: free text?"
        return None, "left out: words", [Hint("text", name, what, f"it is left out; expected 1 to {MAX_CATEGORIES}")]
    return _category(facts, wanted), "category", []


def _numeric(table: Survey, facts: Facts, wanted: Wanted) -> tuple[Column | None, str, list[Hint | None]]:
    name = facts.name
    if not facts.numbers:
        raise InputError("data.column", f"column {name!r} holds no number; expected numbers, or --category {name}")
    words = {word: rows for word, rows in (facts.words or {}).items() if number_of(word, table.decimal) is None}
    named = {word: rows for word, rows in words.items() if rows >= wanted.min_count}
    low, high = widen(facts.low, facts.high, facts.at_low, facts.at_high, wanted.min_count)
    column = Numeric(name, low, high, tuple(_folded(named)))
    told: list[Hint | None] = [hints.odd_cells(facts, named)]
    if named:
        each = ", ".join(f"{word!r} ({rows} rows)" for word, rows in sorted(named.items()))
        told.insert(0, Hint("missing", name, f"words among numbers: {each}", "the schema counts them as missing"))
    return column, "number", told


def _category(facts: Facts, wanted: Wanted) -> Categorical:
    words = facts.words or {}
    common = sorted(word for word, rows in words.items() if rows >= wanted.min_count)
    if not 0 < len(common) <= MAX_CATEGORIES:
        raise InputError(
            "data.column",
            f"column {facts.name!r} has {len(common)} values with {wanted.min_count} or more rows; "
            f"expected 1 to {MAX_CATEGORIES}, or --drop {facts.name}",
        )
    return Categorical(facts.name, tuple(common), other=len(common) < len(words))


def _date(table: Survey, facts: Facts, wanted: Wanted) -> Date:
    name = facts.name
    order = order_of(table.words(name)) if not wanted.order else wanted.order
    if order is None:
        raise InputError(
            "data.column",
            f"column {name!r} holds dates such as 01/02/2020, which are two days; "
            "expected --date-order dmy or --date-order mdy",
        )
    low, high = (facts.days or {}).get(order, (float("inf"), 0.0))
    if low > high:
        raise InputError(
            "data.column",
            f"column {name!r} holds no dates, or dates of two orders; "
            "expected 2020-12-31, 31.12.2020, or 12/31/2020 with --date-order",
        )
    common = {word: rows for word, rows in (facts.words or {}).items() if rows >= wanted.min_count}
    words = {word: rows for word, rows in common.items() if days_of(word, order) is None}
    return Date.between(name, *round_days(low, high), tuple(_folded(words)), order)


def _folded(words: dict[str, int]) -> list[str]:
    """Return words in order, each once whatever its capital letters."""
    return sorted({word.casefold(): word for word in sorted(words)}.values())
