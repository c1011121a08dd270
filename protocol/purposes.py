"""Purposes of sealed sums, as values that both sides hold. No other module compares a purpose's name.

The first three are here. A further purpose is a :class:`Purpose` here and, at members, what they do for it
(``client/purposes.py``). Neither needs a change anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..crypto.planner import Plan

When = Literal["start", "round", "report"]


@dataclass(frozen=True)
class Purpose:
    """A purpose of sealed sums.

    Attributes:
        name: in contexts, headers, statements and the log; a word in lower case.
        when: once at a run's start, in every round, or with every report.
        result: what a statement's digest names, in words.
        trained: members contribute what training changed in a model. If False, they contribute whole numbers.
        based: the sum is about a model version, which is sent to members. If False, it is about their rows alone.
        makes_version: a model version follows from the opened sum.
        voted: members vote on that version.
        measures: the sum's metrics are those of the version that it is about.
    """

    name: str
    when: When
    result: str
    trained: bool = False
    based: bool = True
    makes_version: bool = False
    voted: bool = False
    measures: bool = False

    def lanes(self, size: int, plan: Plan) -> int:
        """Return how many lanes a sum takes. ``size`` is the number of values, or of whole numbers."""
        return size if self.trained else size * plan.limbs


STATISTICS = Purpose("statistics", "start", "version 0", based=False, makes_version=True)
UPDATE = Purpose("update", "round", "candidate", trained=True, makes_version=True, voted=True)
TALLIES = Purpose("tallies", "report", "model measured", measures=True)
Purposes = Mapping[str, Purpose]


def by_name(purposes: Iterable[Purpose]) -> Purposes:
    """Return purposes by name.

    Raises:
        ValueError: two purposes share a name.
    """
    listed = list(purposes)
    named = {purpose.name: purpose for purpose in listed}
    if len(named) != len(listed):
        raise ValueError("two purposes share a name")
    return named


FIRST = by_name([STATISTICS, UPDATE, TALLIES])
"""The purposes of every run."""
