"""What an opener of the statistics believes: what it holds itself is in them, and they can be true (rule 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from moonflower.client.purposes import Conclusion, Statistics
from moonflower.configs.training import TrainingSettings
from support.learners import learner
from support.protocol import context

MEMBERS = ("anna", "bert", "cleo")
HEADERS = {name: f"{at:064}" for at, name in enumerate(MEMBERS)}


@dataclass
class Opened:
    """An opened sum."""

    counters: tuple[int, ...]
    in_range: bool = True

    def finish(self) -> Opened:
        return self


@dataclass
class At:
    """A round as the statistics see it, at a member with 40 rows of one numeric column."""

    own: list[int] | None
    max_rows: int
    learner: Any = field(default_factory=learner)
    base: None = None
    counted: str = "circle"

    def __post_init__(self) -> None:
        self.context = context()
        self.fact: Callable[[str], Any] = {f"counted:{self.counted}": self.own}.get
        self.optimiser = SimpleNamespace(state=())
        training, crypto = TrainingSettings(max_rows=self.max_rows), SimpleNamespace(clip=8.0)
        self.offer = SimpleNamespace(start="", training=training, crypto=crypto)


OWN = [40, *learner().tested().tolist(), *learner().summary().tolist()]


def conclude(*counters: int, own: list[int] | None = OWN, max_rows: int = 50, in_range: bool = True) -> Conclusion:
    at: Any = At(own, max_rows)
    sums: Any = Opened(counters, in_range)
    return Statistics().conclude(at, HEADERS, sums)


def test_version_0_follows_from_statistics_that_can_be_true() -> None:
    found = conclude(*(3 * number for number in OWN))
    assert found.result is not None
    assert (found.statement.sha256, found.statement.in_range) == (found.result.sha256, True)
    assert list(found.facts.values()) == [3 * 40, [3 * OWN[1], 3 * OWN[2]], [3 * number for number in OWN]]
    assert conclude(*OWN).result is not None, "others may have next to nothing"
    assert conclude(*OWN, own=None).result is not None
    assert conclude(1000 * 40, *(1000 * n for n in OWN[1:]), max_rows=0).result is not None, "practice has no bound"
    assert conclude(150, *OWN[1:]).result is not None, "as many as three members may have"


def test_what_was_opened_first_in_a_circle_is_what_is_opened_again() -> None:
    """Else a member that claims other rows in each run moves everybody's share, and by it the coins of one update."""
    at: Any = At(OWN, 50)
    sums: Any = Opened(tuple(3 * number for number in OWN))
    found = Statistics().conclude(at, HEADERS, sums)
    kept = {f"counted:{at.counted}": OWN, **found.facts}
    at.fact = kept.get
    assert Statistics().conclude(at, HEADERS, sums).statement == found.statement
    other: Any = Opened((3 * OWN[0] + 1, *sums.counters[1:]))
    assert Statistics().conclude(at, HEADERS, other).result is None
    at.context = replace(at.context, circle="0" * 64)
    assert Statistics().conclude(at, HEADERS, other).result is not None, "in another circle, which all signed"


@pytest.mark.parametrize(
    ("counters", "more"),
    [
        ((151, *OWN[1:]), {}),
        ((0,) * len(OWN), {"own": None}),
        ((39, *OWN[1:]), {}),
        ((36, *OWN[1:]), {"own": None}),
        ((40, OWN[1] - 1, *OWN[2:]), {}),
        ((*OWN[:2], OWN[2] - 1, *OWN[3:]), {}),
        ((*OWN[:3], OWN[3] - 1, *OWN[4:]), {}),
        ((*OWN[:4], OWN[4] - 1, *OWN[5:]), {}),
        ((*OWN[:5], OWN[5] - 1, OWN[6]), {}),
        ((*OWN[:4], 40 * 2**16 + 1, *OWN[5:]), {"own": None}),
        (tuple(3 * number for number in OWN), {"in_range": False}),
    ],
)
def test_nothing_follows_from_statistics_that_cannot(counters: tuple[int, ...], more: dict[str, Any]) -> None:
    """More rows than so many members may have, none, or less than this member's own part of them."""
    found = conclude(*counters, **more)
    assert (found.result, found.facts) == (None, {})
    assert (found.statement.sha256, found.statement.in_range, found.statement.metrics) == ("", False, {})
