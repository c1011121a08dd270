"""What a sealed sum is for, as a value that both sides hold: no other module asks for a purpose by its name.

The first three are here. A further one is a :class:`Purpose` and, at members, what they do for it
(``client/purposes.py``); neither needs a change anywhere else.
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
        name: in contexts, headers, statements and the log: a word in lower case.
        when: in the life of a run: once at its start, in every round, or with every report.
        result: what a statement's digest names, in words.
        trained: members contribute what training changed about a model; else whole numbers.
        based: it is about a model version, which members are sent; else about their rows alone.
        makes_version: a model version follows from the opened sum.
        voted: members vote on that version.
        measures: its metrics are those of the version that it is about.
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
        """Return how many lanes a sum takes; ``size`` is the number of values, or of whole numbers."""
        return size if self.trained else size * plan.limbs


STATISTICS = Purpose("statistics", "start", "version 0", based=False, makes_version=True)
UPDATE = Purpose("update", "round", "candidate", trained=True, makes_version=True, voted=True)
TALLIES = Purpose("tallies", "report", "model measured", measures=True)
Purposes = Mapping[str, Purpose]


def by_name(purposes: Iterable[Purpose]) -> Purposes:
    """Return purposes by their names.

    Raises:
        ValueError: two share a name.
    """
    listed = list(purposes)
    found = {one.name: one for one in listed}
    if len(found) != len(listed):
        raise ValueError("two purposes share a name")
    return found


FIRST = by_name([STATISTICS, UPDATE, TALLIES])
"""The purposes of every run."""
