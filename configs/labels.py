"""What a label is: its kind, its classes and which of two is positive, or the range or grid of its numbers; and why.

What is said on the way names no class of fewer rows than ``min_count``, but for words that are public (:mod:`.yes_no`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, nearest
from .facts import Facts
from .hints import Hint, event_beside, missing_label, rare_classes
from .ranges import round_step, widen
from .survey import Survey
from .targets import (
    CLASSES,
    COUNT,
    KINDS,
    MAX_CLASSES,
    NUMBER,
    TIME,
    CountTarget,
    Label,
    NumberTarget,
    Target,
    TimeTarget,
)
from .yes_no import is_known, positive_of

FEW = 20  # different values that are classes
_INTERVALS = 15
_TALL = 0.5  # skewness from which a column has a long tail


@dataclass(frozen=True)
class Proposal:
    """A target, and what to say about it.

    Attributes:
        target: for the schema.
        why: one sentence: why it is of this kind.
        classes: class → rows, of those that are named; of a time: what was seen → rows.
        positive: the positive class, or the word for an event that was seen; "" if there is none.
        why_positive: why it is that one.
        hints: warnings.
    """

    target: Target
    why: str
    classes: Mapping[str, int]
    positive: str = ""
    why_positive: str = ""
    hints: tuple[Hint, ...] = ()


def propose(
    table: Survey, label: str, *, kind: str | None, event: str | None, positive: str | None, min_count: int
) -> Proposal:
    """Return the target of a column.

    Args:
        table: facts, with all words of the label and of the event counted.
        label: column to predict.
        kind: of :data:`~.targets.KINDS`, or None to find it.
        event: column that says whether the event was seen at a time, or None.
        positive: the positive class, or the event's word for yes; None to find it.
        min_count: fewest rows of a class that is named.

    Raises:
        InputError: ``data.column``: the column cannot be predicted, or the options do not fit it.
    """
    facts = table.facts[label]
    if kind is not None and kind not in KINDS:
        raise InputError("data.column", f"--kind {kind} is unknown; {nearest(kind, KINDS)}")
    if not facts.cells or not facts.table:
        raise _cannot(label, "has no values", "a value in every row")
    if kind == TIME or (kind is None and event):
        found = _time(table, facts, event, positive, min_count)
    else:
        if event:
            raise _cannot(label, f"is to be of kind {kind}, and has --event", "--kind time, or no --event")
        kind, why = (kind, f"--kind {kind}") if kind else _kind(table, facts)
        if kind == CLASSES:
            found = _classes(facts, why, positive, min_count)
        elif positive is not None:
            raise _cannot(label, f"is of kind {kind}, and has --positive", "--positive for two classes only")
        else:
            found = _number(facts, kind, why, min_count)
    hints = [*found.hints, missing_label(facts), None if event else event_beside(label, [*table.facts])]
    return Proposal(
        found.target, found.why, found.classes, found.positive, found.why_positive, tuple(h for h in hints if h)
    )


def _kind(table: Survey, facts: Facts) -> tuple[str, str]:
    """Return the kind of a column, and why."""
    different = len(facts.words) if facts.words is not None else math.inf
    numeric = facts.share >= 0.9
    values = table.numbers(facts.name)
    if different == 1:
        raise _cannot(facts.name, "holds the same in all rows", "two classes or more, or numbers that differ")
    if not numeric and table.days(facts.name) >= 0.9:
        hint = "a column of the days from a start to the event can be predicted, with --event"
        raise InputError("data.column", f"label {facts.name!r} holds dates; expected classes or numbers", hint=hint)
    counts = facts.share == 1 and facts.whole and facts.low >= 0 and skewness(values) > _TALL
    if counts and _thins_out(facts):
        return COUNT, "whole numbers from 0 with a long tail"
    if different <= FEW and (not numeric or facts.whole or different == 2):
        return CLASSES, f"{different} different values"
    if counts and different > FEW:
        return COUNT, "many different whole numbers from 0 with a long tail"
    if numeric:
        return NUMBER, "many different numbers"
    told = "more" if math.isinf(different) else f"{different}"
    raise InputError(
        "data.column",
        f"label {facts.name!r} has {told} different words; expected at most {FEW}, or numbers",
        hint=f"--kind classes takes up to {MAX_CLASSES} classes",
    )


def skewness(values: NDArray[np.float64]) -> float:
    """Return how much longer the upper tail of numbers is than the lower one (third standardised moment).

    >>> skewness(np.array([0.0, 1, 2])), skewness(np.array([0.0, 0, 0, 9])) > 1
    (0.0, True)
    """
    known = values[np.isfinite(values)]
    spread = known.std() if len(known) else 0.0
    return float((((known - known.mean()) / spread) ** 3).mean()) if spread else 0.0


def _thins_out(facts: Facts) -> bool:
    """Whether numbers begin at 0 or 1, are 6 or more, and the largest is rare: counts rather than classes."""
    values = facts.values
    if values is None or len(values) < 6 or facts.low > 1:
        return False
    return values[facts.high] < 0.05 * facts.cells


def _classes(facts: Facts, why: str, positive: str | None, min_count: int) -> Proposal:
    words = facts.words
    if words is None:
        raise _cannot(facts.name, "has too many different values for classes", f"at most {MAX_CLASSES}")
    listed = {word: rows for word, rows in words.items() if rows >= min_count or (is_known(word) and len(words) == 2)}
    if len(words) == 1:
        raise _cannot(facts.name, "holds the same in all rows", "two classes or more")
    if not 2 <= len(listed) <= MAX_CLASSES:
        raise InputError(
            "data.column",
            f"label {facts.name!r} has {len(listed)} classes with {min_count} or more rows, of {len(words)} in all; "
            f"expected 2 to {MAX_CLASSES}",
            hint=f"--min-count {max(1, sorted(words.values())[-2])} names rarer classes, if their names may be shared",
        )
    hints = [rare_classes(facts.name, words, min_count)]
    if len(listed) < len(words):
        rows, left = sum(words.values()) - sum(listed.values()), len(words) - len(listed)
        classes_have = "1 class has" if left == 1 else f"{left} classes have"
        todo = 'not named in the schema: data.on_bad = "drop" leaves their rows out, a smaller --min-count names them'
        hints = [Hint("rare", facts.name, f"{classes_have} fewer than {min_count} rows, {rows} in all", todo)]
    order = sorted(listed, key=lambda word: (int(word), word) if _whole(word) else (0, word))
    chosen, reason = "", ""
    if len(listed) == 2:
        chosen, reason = _positive(listed, positive)
        order = [*(word for word in order if word != chosen), chosen]
    elif positive is not None:
        raise _cannot(facts.name, f"has {len(listed)} classes, and --positive", "--positive for two classes only")
    classes: Sequence[Any] = [int(word) for word in order] if all(map(_whole, order)) else order
    counts = {word: listed[word] for word in order}
    return Proposal(Label(facts.name, tuple(classes)), why, counts, chosen, reason, tuple(h for h in hints if h))


def _whole(word: str) -> bool:
    return re.fullmatch(r"0|-?[1-9]\d{0,14}", word) is not None


def _positive(counts: Mapping[str, int], asked: str | None) -> tuple[str, str]:
    """Return which of two words is positive, and why."""
    if asked is not None:
        match = [word for word in counts if word.casefold() == asked.strip().casefold()]
        if len(match) != 1:
            raise InputError("data.column", f"--positive {asked} is no class; {nearest(asked, counts)}")
        return match[0], "--positive"
    one, other = sorted(counts)
    known = positive_of(one, other)
    if known is not None:
        return known, "by the meaning of the words"
    if counts[one] == counts[other]:
        return other, "the later one in the alphabet: both have as many rows; --positive says otherwise"
    return min(counts, key=lambda word: counts[word]), "the rarer one: the words do not tell; --positive says otherwise"


def _number(facts: Facts, kind: str, why: str, min_count: int) -> Proposal:
    if facts.share < 0.9:
        raise _cannot(facts.name, f"holds numbers in {facts.share:.0%} of its filled cells", "numbers")
    hints = []
    if facts.others:
        cells = "1 cell that is" if facts.others == 1 else f"{facts.others} cells that are"
        hints = [Hint("odd", facts.name, f"{cells} no number", 'data.on_bad = "drop" leaves such rows out')]
    low, high = widen(facts.low, facts.high, facts.at_low, facts.at_high, min_count)
    if kind == NUMBER:
        return Proposal(NumberTarget(facts.name, low, high), why, {}, hints=tuple(hints))
    if facts.low < 0 or not facts.whole:
        raise _cannot(facts.name, "has numbers below 0 or with a fraction", "whole numbers from 0, for a count")
    return Proposal(CountTarget(facts.name, max(1, math.ceil(high))), why, {}, hints=tuple(hints))


def _time(table: Survey, facts: Facts, event: str | None, positive: str | None, min_count: int) -> Proposal:
    if event is None:
        raise _cannot(facts.name, "is a time without --event", "--event COLUMN: whether the event was seen")
    seen = table.facts[event]
    if facts.share < 0.9 or facts.low < 0:
        raise _cannot(facts.name, "is no time: it has words, or numbers below 0", "numbers from 0")
    if seen.words is None or len(seen.words) != 2:
        many = "too many" if seen.words is None else len(seen.words)
        raise InputError("data.column", f"column {event!r} has {many} different values; expected two, for yes and no")
    if any(rows < min_count and not is_known(word) for word, rows in seen.words.items()):
        problem = f"column {event!r} has a value of fewer than {min_count} rows"
        raise InputError("data.column", f"{problem}; expected two common ones, such as 0 and 1")
    happened, reason = _positive(seen.words, positive)
    times = table.numbers(facts.name)
    known = np.isfinite(times) & (times > 0)
    with_event = known & (np.array(table.words(event)) == happened)
    target = TimeTarget(
        facts.name, event, grid_of(times[with_event if with_event.sum() > 100 else known], facts, min_count), happened
    )
    hints = [rare_classes(event, seen.words, min_count)]
    if seen.missing:
        hints.append(
            Hint("label", event, f"{seen.missing} cells are empty", 'data.on_bad = "drop" leaves such rows out')
        )
    why = f"times, and column {event!r} says whether the event was seen"
    return Proposal(target, why, dict(seen.words), happened, reason, tuple(h for h in hints if h))


def grid_of(times: NDArray[np.float64], facts: Facts, min_count: int) -> tuple[float, ...]:
    """Return ends of 10 to 20 intervals at round numbers, which hold about as many of the times each.

    The last end covers all times. With few different times there are fewer intervals, at least two.

    Args:
        times: in the sample, above 0, ``float64[n]``.
        facts: of the column.
        min_count: fewest rows that share an extreme for it to be an end.
    """
    last = widen(0.0, max(facts.high, 1e-9), min_count, facts.at_high, min_count)[1]
    wanted = np.quantile(times, np.arange(1, _INTERVALS) / _INTERVALS) if len(times) else np.array([last / 2])
    ends: list[float] = []
    for parts in (50, 100, 200, 500, 1000):
        step = round_step(last / parts)
        if facts.whole:
            step = max(step, 1.0)
        found = {round(math.ceil(float(time) / step) * step, 12) for time in wanted}
        ends = sorted(end for end in found if 0 < end < last)
        if len(ends) >= 9:
            break
    ends = ends or [last / 2]
    assert all(a < b for a, b in itertools.pairwise([0.0, *ends, last]))
    return (*ends, last)


def _cannot(label: str, found: str, expected: str) -> InputError:
    return InputError("data.column", f"label {label!r} {found}; expected {expected}")
