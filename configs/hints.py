"""Hints: what a person should know about a table before training, from its facts (:mod:`.survey`).

Each function is pure and returns a hint, or None. No hint holds a value of fewer rows than ``min_count``; a hint may
name row numbers, so it stays on the machine of the person who has the table.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .facts import Facts
from .survey import Survey

COPY = 0.99  # AUC, purity or rank correlation of one column alone
FEWEST = 20  # rows from which all values that differ are worth a hint
_ID_NAME = re.compile(
    r"(?:^|[_\W])(?:ids?|zip|zip_?code|post_?code|postal|plz|phone|tel|telefon|telephone|mobile|mrn|ssn|uuid|guid|record|"
    r"iban|e_?mail|(?:patient|case|account|customer|record)_?(?:id|nr|no|number))(?:$|[_\W])"
)
_EVENT = re.compile(r"event|status|died|dead|death|censor|relapse|churn")
_TIME = re.compile(r"time|days|day|weeks|months|years|duration|survival|follow")


@dataclass(frozen=True)
class Hint:
    """A warning about one column.

    Attributes:
        code: what is wrong, as one word.
        column: its name.
        message: one sentence: what was found.
        todo: what to do about it.
    """

    code: str
    column: str
    message: str
    todo: str


def without_values(facts: Facts) -> Hint | None:
    """Return a hint if no cell of a column is filled."""
    if facts.cells:
        return None
    return Hint("empty", facts.name, "no cell is filled", "the column is left out")


def without_change(facts: Facts, min_count: int = 10) -> Hint | None:
    """Return a hint if all filled cells of a column hold the same; the value is named if enough rows share it."""
    words = facts.words or {}
    same = (facts.numbers == facts.cells and facts.low == facts.high) or (facts.words is not None and len(words) == 1)
    if not facts.cells or not same or (facts.numbers and facts.others):
        return None
    value = f"{facts.low:g}" if facts.numbers else next(iter(words))
    told = f" ({value})" if facts.cells >= min_count else ""
    return Hint("same", facts.name, f"all rows hold the same{told}", f"--drop {facts.name}, unless other sites differ")


def identity(facts: Facts, leading_zeros: bool = False) -> Hint | None:
    """Return a hint if a column looks like an id: all whole numbers or words differ, or its name says so.

    Args:
        facts: of the column.
        leading_zeros: whether some of its numbers begin with 0, as those of postcodes do.
    """
    keep = f"it is left out; --keep {facts.name} keeps it"
    words = facts.numbers < facts.cells
    if facts.differ and facts.cells >= FEWEST and (words or facts.whole):
        return Hint("id", facts.name, "all values differ: an id?", keep)
    many = facts.words is None or len(facts.words) > 20 if words else facts.values is None or len(facts.values) > 20
    if leading_zeros and many:
        return Hint("id", facts.name, "its numbers begin with 0: a code, such as a postcode?", keep)
    if named_as_id(facts.name) and many and (words or (facts.whole and facts.low >= 0)):
        return Hint("id", facts.name, "its name says that it is an id, a postcode or a phone number", keep)
    return None


def named_as_id(name: str) -> bool:
    """Return whether a column's name says that it is an id, a postcode or a phone number.

    >>> named_as_id("patientId"), named_as_id("width")
    (True, False)
    """
    return bool(_ID_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))


def in_one_site(facts: Facts) -> Hint | None:
    """Return a hint if only one of several sites fills a column."""
    filled = [site for site, count in (facts.filled or {}).items() if count]
    if facts.filled is None or len(facts.filled) < 2 or len(filled) != 1:
        return None
    return Hint("site", facts.name, "it is filled at one site only", f"--drop {facts.name}: it tells the site")


def spellings(facts: Facts, min_count: int = 10) -> Hint | None:
    """Return a hint if words of a column differ only in capital letters; those of enough rows are named."""
    groups: dict[str, list[str]] = defaultdict(list)
    for word in facts.words or ():
        groups[word.casefold()].append(word)
    doubled = [group for group in groups.values() if len(group) > 1]
    if not doubled:
        return None
    words = facts.words or {}
    common = sorted(word for group in doubled for word in group if words[word] >= min_count)
    told = f": {', '.join(map(repr, common[:6]))}" if common else ""
    return Hint("case", facts.name, f"words differ only in capital letters{told}", "write each word in one way")


def odd_cells(facts: Facts, named: Mapping[str, int]) -> Hint | None:
    """Return a hint about cells of a numeric column that are no numbers, but for the ``named`` words.

    Args:
        facts: of the column.
        named: words that count as missing, with their rows.
    """
    left = facts.others - sum(named.values())
    if left <= 0:
        return None
    rows = sorted(row for word, places in facts.odd.items() if word not in named for row in places)[:5]
    where = (
        f", in {'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows))}{', …' if left > len(rows) else ''}"
        if rows
        else ""
    )
    cells = "1 cell that is" if left == 1 else f"{left} cells that are"
    todo = 'correct or empty them, or let data.on_bad = "drop" leave their rows out'
    return Hint("odd", facts.name, f"{cells} no number{where}", todo)


def missing_label(facts: Facts) -> Hint | None:
    """Return a hint if rows have no label."""
    if not facts.missing:
        return None
    rows = "1 row has" if facts.missing == 1 else f"{facts.missing} rows have"
    return Hint("label", facts.name, f"{rows} no label", 'data.on_bad = "drop" leaves such rows out')


def rare_classes(name: str, counts: Mapping[str, int], min_count: int) -> Hint | None:
    """Return a hint if a class has fewer than ``min_count`` rows. The class is not named."""
    rare = [rows for rows in counts.values() if rows < min_count]
    if not rare:
        return None
    classes = "a class has" if len(rare) == 1 else f"{len(rare)} classes have"
    todo = "their metrics mean little; join classes, or find more rows"
    return Hint("rare", name, f"{classes} fewer than {min_count} rows: {sum(rare)} of {sum(counts.values())}", todo)


def event_beside(label: str, names: Sequence[str]) -> Hint | None:
    """Return a hint if the label is a time by its name, and another column says whether the event was seen."""
    event = next((name for name in names if name != label and _EVENT.search(name.lower())), None)
    if event is None or not _TIME.search(label.lower()):
        return None
    return Hint("event", label, f"column {event!r} may say whether the event was seen", f"--event {event}")


def late_date(facts: Facts, outcome: NDArray[np.float64], days: NDArray[np.float64]) -> Hint | None:
    """Return a hint if most days of a column, ``float64[n]``, lie after the day of the outcome, ``float64[n]``."""
    both = ~np.isnan(outcome) & ~np.isnan(days)
    if both.sum() < FEWEST or (days[both] > outcome[both]).mean() < 0.5:
        return None
    return Hint(
        "late", facts.name, "most of its dates are after the outcome", f"--drop {facts.name}: it is not known before"
    )


def copy_of_label(
    table: Survey, name: str, codes: NDArray[np.int64] | None, numbers: NDArray[np.float64] | None
) -> Hint | None:
    """Return a hint if one column alone tells the label nearly without fault, in the sample of the survey.

    Args:
        table: of the survey.
        name: of the column.
        codes: of each sampled row's class (:meth:`~.survey.Survey.codes`), ``int64[n]``; None without classes.
        numbers: that are predicted, ``float64[n]``; None without.
    """
    values = table.numbers(name)
    cells = None if np.isfinite(values).mean() > 0.5 else table.codes(name)
    if not tells_label(values, cells, codes, numbers):
        return None
    message = "it alone tells the label nearly without fault: a copy, or known only afterwards?"
    return Hint("copy", name, message, f"--drop {name}")


def tells_label(
    values: NDArray[np.float64],
    cells: NDArray[np.int64] | None,
    codes: NDArray[np.int64] | None,
    numbers: NDArray[np.float64] | None,
) -> bool:
    """Return whether a column alone tells the label nearly without fault.

    Args:
        values: of a column of numbers, ``float64[n]``, NaN where one is missing.
        cells: of a column of words, their index, ``int64[n]``, -1 where one is missing; None for numbers.
        codes: of each row's class, ``int64[n]``; None without classes.
        numbers: that are predicted, ``float64[n]``; None without.
    """
    known = np.isfinite(values)
    found = 0.0
    if codes is not None:
        if cells is not None:
            found = purity(cells, codes)
        else:
            if codes.max(initial=0) == 1:
                found = auc(values, codes)
            if len(np.unique(values[known][:1000])) <= 50:
                places = np.unique(values, return_inverse=True)[1]
                found = max(found, purity(np.where(known, places, -1), codes))
    if numbers is not None and cells is None:
        found = max(found, correlation(values, numbers))
    return found > COPY


def auc(values: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Return how well numbers separate the codes 0 and 1, .5 to 1; 0 with too few rows. NaN and -1 are left out.

    >>> auc(np.arange(40.0), np.repeat([1, 0], 20))
    1.0
    """
    rows = np.isfinite(values) & (codes >= 0)
    ranks, truth = _ranks(values[rows]), codes[rows] == 1
    positive, negative = int(truth.sum()), int((~truth).sum())
    if min(positive, negative) < 5:
        return 0.0
    area = (ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative)
    return float(max(area, 1 - area))


def purity(cells: NDArray[np.int64], codes: NDArray[np.int64]) -> float:
    """Return the share of rows whose code the cell tells; 0 if the most frequent code alone tells nearly as much.

    Cells of fewer than five rows tell nothing. Both are indices from 0, and -1 where one is missing.

    >>> purity(np.repeat([0, 1, 2], 20), np.repeat([0, 1, 1], 20))
    1.0
    """
    known = (cells >= 0) & (codes >= 0)
    if known.sum() < FEWEST:
        return 0.0
    width = int(codes.max()) + 1
    counts = np.bincount(cells[known] * width + codes[known], minlength=(int(cells.max()) + 1) * width)
    counts = counts.reshape(-1, width)
    common = counts.sum(axis=1) >= 5
    right = int(counts[common].max(axis=1).sum() + counts[~common].sum(axis=0).max())
    rows, most = int(counts.sum()), int(counts.sum(axis=0).max())
    return right / rows if rows - right <= 0.05 * (rows - most) and most < rows else 0.0


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the absolute rank correlation (Spearman) of two columns; 0 with too few rows, or without spread."""
    rows = np.isfinite(one) & np.isfinite(other)
    a, b = _ranks(one[rows]), _ranks(other[rows])
    if len(a) < FEWEST or not a.std() or not b.std():
        return 0.0
    return float(abs(np.corrcoef(a, b)[0, 1]))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; the same values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[group]
    return ranks
