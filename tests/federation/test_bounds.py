"""One hostile member against the model, each attack twice: against a copy without its bound, where it wins, and ours.

``bounds_model.py`` measures the same attacks on all folds; ``docs/attacks.md`` has the numbers.
"""

from __future__ import annotations

import pytest
from bounds_model import (
    FROM,
    HEART,
    HOSPITALS,
    NETWORK,
    Claims,
    ClaimsMost,
    Fills,
    FillsWithin,
    Lies,
    Traps,
    TrapsWithin,
    Turns,
    TurnsFiveTimes,
    any_candidate,
    any_length,
    any_statistics,
    any_word,
    played,
    rarest,
    rows_read,
)
from support.hostile import cosine

WHO = HOSPITALS[0]
FOUR, TEN = ("training.rounds=4",), ("training.rounds=10",)


def from_round(kind: str, first: int, last: int = 10) -> list[str]:
    return [f"{kind}@{number}:{WHO}" for number in range(first, last + 1)]


# Rows that nobody has, and sums that they do not have


def test_who_claims_all_rows_is_the_model_where_statistics_are_believed() -> None:
    with played(HEART, *FOUR, hostile=(WHO, Claims), weak=[any_statistics]) as run:
        assert run.done.error is None
        seen, learner = run.listener.seen[0], run.cast.learner(WHO, run.cast.splits[WHO])
        learner.prepare(run.version(run.start).manifest["scaling"])
        alone = learner.train(seen.base, run.cast.settings.training, 1).vector - seen.base
        assert cosine(seen.candidate - seen.base, alone) > 0.999
    with played(HEART, *FOUR, hostile=(WHO, Claims)) as run:
        assert (run.ended, run.statuses, run.result) == ("stats.impossible", [], "")


def test_who_claims_all_rows_and_trains_with_its_own_makes_the_model_stand_still() -> None:
    with played(HEART, *FOUR, drills=[f"rows@1:{WHO}"], weak=[any_statistics]) as run:
        assert all(entry.norm < 0.01 for entry in run.entries if entry.norm is not None)
    with played(HEART, *FOUR, drills=[f"rows@1:{WHO}"]) as run:
        assert (run.ended, run.statuses, run.result) == ("stats.impossible", [], "")


@pytest.mark.parametrize("lie", ["squares", "sums"])
def test_sums_that_cannot_be_are_refused(lie: str) -> None:
    kind = type("LiesOnce", (Lies,), {"lie": lie})
    with played(HEART, *FOUR, hostile=(WHO, kind), weak=[any_statistics]) as run:
        assert run.statuses, "rounds were played with a scaling that no rows have"
    with played(HEART, *FOUR, hostile=(WHO, kind)) as run:
        assert (run.ended, run.statuses, run.result) == ("stats.impossible", [], "")


def test_who_claims_as_many_rows_as_it_may_changes_little() -> None:
    who = "Switzerland"  # with the fewest
    with played(HEART, *TEN, without=who) as run:
        without = run.auc
    with played(HEART, *TEN, hostile=(who, ClaimsMost)) as run:
        assert run.ended == ""
        assert run.auc > without - 0.02


# One lane


def test_a_full_lane_drives_a_weight_up_where_nothing_bounds_it() -> None:
    with played(HEART, *FOUR, hostile=(WHO, Fills), weak=[any_candidate]) as run:
        lane = rarest(run.listener.at.learner)
        assert run.version(run.result).vector[lane] > 4 * 1.9
    with played(HEART, hostile=(WHO, Fills)) as run:
        assert (run.statuses, run.codes, run.ended) == (["refused"] * 3, {"gate.step"}, "run.patience")
        assert run.result == "", "nothing was promoted, so nothing is released"


def test_a_full_lane_from_a_round_on_ends_the_run_with_the_best_version() -> None:
    with played(HEART, *TEN, drills=from_round("rare", FROM)) as run:
        assert run.statuses == ["promoted"] * 4 + ["refused"] * 3
        assert (run.codes, run.ended) == ({"gate.step"}, "run.patience")
        assert run.result == run.promotions[4].sha256


def test_a_lane_within_bounds_moves_no_further_than_they_say() -> None:
    with played(HEART, *TEN, hostile=(WHO, FillsWithin)) as run:
        longest = run.cast.settings.gate.max_step
        assert all(entry.norm <= longest for entry in run.entries if entry.verdict in ("promoted", "kept"))
        assert "gate.step" not in run.codes
        assert run.codes == {"gate.worse"}, "it is the others' words that refuse it"


# Turned updates


@pytest.mark.parametrize("kind", [Turns, TurnsFiveTimes])
def test_turned_updates_are_promoted_where_words_do_not_count(kind: type[Turns]) -> None:
    with played(HEART, *TEN, hostile=(WHO, kind), weak=[any_word]) as run:
        assert run.without_progress() > 0
        weak = run.measured(run.result)["loss"]
    with played(HEART, *TEN, hostile=(WHO, kind)) as run:
        assert run.unsaid() == 0
        assert run.measured(run.result)["loss"] < weak


@pytest.mark.parametrize("kind", ["flip", "inner-product"])
def test_a_member_that_turns_its_updates_does_not_make_the_result_worse(kind: str) -> None:
    with played(HEART, *TEN, drills=from_round(kind, FROM)) as run:
        before, after = run.measured(run.promotions[FROM - 1].sha256), run.measured(run.result)
        assert run.unsaid() == 0
        assert after["loss"] <= before["loss"]


# Traps


def test_trap_weights_hold_rows_of_others_where_a_step_may_have_any_length() -> None:
    read = []
    for seed in (1, 2):
        with played(
            HEART, *TEN, *NETWORK, f"training.seed={seed}", hostile=(WHO, seeded(Traps, seed)), weak=[any_length]
        ) as run:
            read.append(rows_read(run))
    assert sum(read) > 0


@pytest.mark.parametrize("kind", [Traps, TrapsWithin])
def test_trap_weights_hold_no_row_of_others(kind: type[Traps]) -> None:
    with played(HEART, *TEN, *NETWORK, hostile=(WHO, seeded(kind, 1))) as run:
        assert (run.statuses[0], run.codes) == (("refused", {"gate.step"}) if kind is Traps else ("promoted", set()))
        assert rows_read(run) == 0


def seeded(kind: type[Traps], seed: int) -> type[Traps]:
    return type(kind.__name__, (kind,), {"seed": seed})
