"""The gate: length before words, words by majority, and one member's word bounded by what it could say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.configs.settings import GateSettings
from moonflower.protocol import gate

SETTINGS = GateSettings(max_step=1.0, min_gain=0.01, max_regression=0.05)


def judged(*votes: str, norm: float | None = 0.5, norms: tuple[float, ...] = (), in_range: bool = True) -> str:
    said = {f"member-{at}": vote for at, vote in enumerate(votes)}
    verdict = gate.judge(said, norm, norms, in_range=in_range, settings=SETTINGS)
    return f"{verdict.status} {verdict.code}".strip()


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        (("better", "better", "same"), "promoted"),
        (("better", "better", "same", "same"), "kept"),
        (("better", "better", "worse"), "kept"),
        (("better",) * 6 + ("worse", "same"), "promoted"),
        (("better",) * 5 + ("worse", "same", "same"), "kept"),
        (("better", "better", "better", "worse"), "kept"),
        (("better", "same", "worse"), "kept"),
        (("worse", "worse", "better"), "refused gate.worse"),
        (("worse", "worse", "same", "better"), "kept"),
        (("worse", "worse", "worse", "better"), "refused gate.worse"),
        (("same", "same", "same"), "kept"),
        (("better", "better", "abstain", "abstain", "abstain"), "promoted"),
        (("better", "same", "abstain"), "kept"),
        (("better", "abstain", "abstain"), "promoted"),
        (("worse", "abstain", "abstain"), "refused gate.worse"),
        (("abstain", "abstain", "abstain"), "kept"),
        ((), "kept"),
    ],
)
def test_more_than_half_of_the_words_that_count_decide(votes: tuple[str, ...], verdict: str) -> None:
    assert judged(*votes) == verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"norm": 1.0}, "promoted"),
        ({"norm": 1.0001}, "refused gate.step"),
        ({"norm": None}, "refused gate.step"),
        ({"norm": float("nan")}, "refused gate.step"),
        ({"norm": float("inf")}, "refused gate.step"),
        ({"in_range": False}, "refused gate.step"),
        ({"norm": 0.3, "norms": (0.1,)}, "promoted"),
        ({"norm": 0.31, "norms": (0.1,)}, "refused gate.step"),
        ({"norm": 0.31, "norms": (0.2, 0.1, 0.1, 0.1, 0.1)}, "promoted"),
        ({"norm": 0.31, "norms": (0.2, 0.1, 0.1, 0.1, 0.1, 0.1)}, "refused gate.step"),
        ({"norm": 1.1, "norms": (0.9,)}, "refused gate.step"),
    ],
)
def test_length_is_judged_before_any_word(changes: dict[str, Any], verdict: str) -> None:
    assert judged("better", "better", "better", **changes) == verdict


@given(st.lists(st.sampled_from(gate.VOTES), min_size=1, max_size=7), st.sampled_from(gate.VOTES))
def test_no_word_of_one_member_is_worth_more_than_better_or_worse(others: list[str], word: str) -> None:
    """So abstaining, or saying the same, moves no candidate that ``better`` or ``worse`` would not."""
    order = ["refused gate.worse", "kept", "promoted"]
    low, own, high = (order.index(judged(*others, one)) for one in ("worse", word, "better"))
    assert low <= own <= high


@pytest.mark.parametrize(
    ("loss", "best", "word"),
    [
        (0.494, 0.5, "better"),
        (0.4951, 0.5, "same"),
        (0.5, 0.5, "same"),
        (0.525, 0.5, "same"),
        (0.5251, 0.5, "worse"),
        (None, 0.5, "worse"),
        (float("nan"), 0.5, "worse"),
        (float("inf"), 0.5, "worse"),
        (0.5, None, "same"),
        (0.5, float("inf"), "better"),
        (-1.02, -1.0, "better"),
        (-0.94, -1.0, "worse"),
    ],
)
def test_a_word_follows_from_two_losses(loss: float | None, best: float | None, word: str) -> None:
    assert gate.vote_on(loss, [best], SETTINGS) == word
    assert gate.vote_on(loss, [None, best], SETTINGS) == word


def test_a_member_that_loses_a_little_each_round_says_so_in_the_end() -> None:
    """By 4 % a round: beside the best version alone each of them is the same."""
    losses = [0.5 * 1.04**at for at in range(4)]
    words = [gate.vote_on(losses[at], losses[:at], SETTINGS) for at in (1, 2, 3)]
    assert words == ["same", "worse", "worse"]
    assert gate.vote_on(0.4, [0.5, 0.6], SETTINGS) == "better"
    assert gate.vote_on(0.53, [0.5, 0.6], SETTINGS) == "worse", "better than the last, and worse than it was"
    assert gate.vote_on(0.4, [], SETTINGS) == "same"
