"""The gate: each reason for a refusal, at its limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
from moonflower.configs.settings import GateSettings
from moonflower.protocol.gate import NORM_FACTOR, Verdict, judge
from moonflower.server.records.models import Entry, best


def verdict(
    votes: dict[str, float | None], norm: float | None = 1.0, norms: tuple[float, ...] = (), **more: Any
) -> Verdict:
    settings = GateSettings(max_regression=0.05)
    return judge(votes, norm, norms, **{"in_range": True, "min_members": 3, "settings": settings, **more})


GOOD: dict[str, float | None] = {"a": -0.1, "b": 0.0, "c": -0.2}


def test_an_improvement_is_accepted() -> None:
    assert verdict(GOOD) == Verdict("", -0.1, ())


def test_the_median_decides_and_the_minority_is_named() -> None:
    assert verdict({"a": 0.05, "b": 0.05, "c": 1.0}) == Verdict("", 0.05, ("c",))
    assert verdict({"a": 0.0501, "b": 0.0501, "c": -1.0}).code == "gate.regression"


def test_fewer_votes_than_members_needed_decide_nothing() -> None:
    assert verdict({"a": -0.1, "b": -0.1, "c": None}) == Verdict("gate.votes", None, ())


@pytest.mark.parametrize("norm", [None, math.inf, math.nan])
def test_a_candidate_that_is_not_finite_is_refused(norm: float | None) -> None:
    assert verdict(GOOD, norm).code == "gate.nonfinite"
    assert verdict(GOOD, norm, in_range=False).code == "gate.norm", "of a sum out of range no candidate was made"


def test_a_norm_out_of_the_band_of_history_is_refused() -> None:
    assert verdict(GOOD, 1e9).code == "", "no history yet"
    assert verdict(GOOD, 2 * NORM_FACTOR, (1.0, 2.0)).code == ""
    assert verdict(GOOD, 2 * NORM_FACTOR * 1.001, (1.0, 2.0)).code == "gate.norm"
    assert verdict(GOOD, 50.0, (9.0, 1.0, 1.0, 1.0, 1.0, 1.0)).code == "gate.norm", "the band forgets"


def test_a_sum_out_of_range_is_refused_whatever_the_votes() -> None:
    assert verdict(GOOD, in_range=False).code == "gate.norm"


def entry(version: int | None, median: float | None) -> Entry:
    verdict = "refused" if version is None else "promoted"
    return Entry(f"{version}", version, verdict, "", "r", 1, "", (), {}, 1.0, 1.0, median, None, "")


def test_the_best_version_is_the_last_that_improved_on_the_best() -> None:
    """Judging against the last good one would let 5 % a round compound."""
    entries = [
        entry(0, None),
        entry(1, -0.2),
        entry(2, 0.04),
        entry(None, 0.5),
        entry(3, 0.05),
        entry(4, None),
    ]
    assert best(entries).version == 1
    assert best([*entries, entry(5, -0.01)]).version == 5
    assert best(entries[:1]).version == 0
