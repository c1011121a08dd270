"""What sums, words and tallies give away: each weakened copy falls, ours holds. ``leaks.py`` prints the numbers."""

from __future__ import annotations

from typing import Any

import leaks
import numpy as np
import pytest
from leaks import HEART_EDGES, Tallied
from leaky import UNKNOWN, cosine, guess, world


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_rules_allow_tells_the_last_two_apart(seed: int) -> None:
    """Seeds, starts, rounds, repeated numbers, words, other members' rows: hardly more than the sum itself tells."""
    every, own = leaks.update_ours(seed)
    assert every < own + 0.05


def test_the_measure_sees_what_separates_them() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 400))
    assert guess(first, [first + second]) < 0.8 < 0.999 < guess(first, [first + second, 2 * first + second])


def test_weights_and_rates_that_a_run_chooses_would() -> None:
    assert leaks.update_two_weightings() > 0.99
    assert leaks.update_free_rates() > 0.95
    assert leaks.asked(training__lr="0.2", crypto__clip="1.0") == ("training.lr", "crypto.clip")


def test_a_row_would_be_found_by_settings_that_a_run_chooses() -> None:
    assert leaks.row_batch_size(10) > 0.8
    assert leaks.row_test_fraction() > 0.7
    assert leaks.asked(training__parts="5", data__test_fraction="0.25") == ("data.test_fraction", "training.parts")


def test_two_numbers_of_parts_find_a_row_more_often_than_chance() -> None:
    """So they are a constant, although no row counts for more than another."""
    assert leaks.row_parts(25) > 0.05


def test_two_rows_of_a_short_batch_are_found_and_those_of_a_part_are_not() -> None:
    assert leaks.short_batch(False, 60) > 0.9
    assert leaks.short_batch(True, 60) < 0.2, "chance is .06"
    assert leaks.left_out(60) > 0.9


def test_running_means_tell_a_short_batch_and_nothing_of_a_part() -> None:
    """The rows of a round count the same in a running mean, whichever part they are in."""
    assert leaks.buffers(False, 60)[0] > 0.9
    both, each = leaks.buffers(True, 60)
    assert both < 0.2, "chance is .06"
    assert 0.45 < each < 0.55


def test_one_coin_tells_by_the_variance_how_a_sum_splits_and_twelve_do_not() -> None:
    one, twelve = (np.mean([leaks.variance(n, begin=1000 * at) for at in range(4)], axis=0) for n in (1, 12))
    assert one[0] > 0.95
    assert twelve[0] < twelve[1] + 0.1, "no more than a variance that says nothing"


def test_words_tell_little_of_a_gradient_where_nobody_shapes_candidates() -> None:
    words = [abs(one) for _, one in leaks.votes().values()]
    assert max(words) < 0.55
    assert sorted(words)[2] < 0.3
    numbers = [one for _, one in leaks.votes(numbers=True).values()]
    assert max(numbers) > 0.6
    assert np.mean(numbers) > np.mean(words) + 0.1


def test_a_member_that_shapes_candidates_reads_gradients_from_words() -> None:
    """A stated limit: SECURITY.md and docs/attacks.md say so."""
    assert min(one for _, one in leaks.votes(noise=0.3).values()) > 0.6


def test_a_clip_that_a_run_chooses_gives_signs_and_values() -> None:
    assert min(leaks.signs()) > 0.9
    assert min(leaks.turned_clip()) > 0.95


def test_rates_against_rounding_give_values_and_against_twelve_coins_do_not() -> None:
    assert leaks.rates(0) > 0.99
    assert leaks.rates(12) < 0.8


@pytest.fixture(scope="module")
def last() -> Any:
    """The last versions of 60 runs, of few rounds."""
    return leaks.models(60, 4)[:, -1]


def test_a_row_counts_in_a_tally_as_the_members_task_counts_it() -> None:
    w = world()
    made = Tallied(w, [w.base], HEART_EDGES, sums=False)
    name = UNKNOWN[0]
    learner = w.learners[name]
    counts = learner.tally(w.base, 8)[3:]
    sizes = [len(w.rows(name, part)) for part in ("train", "validation", "test")]
    test = made.own[0][sizes[0] + sizes[1] : sum(sizes)]
    assert (np.bincount(test, minlength=16) == counts).all()


def test_many_tallies_in_few_bins_do_not_tell_a_test_row(last: Any) -> None:
    w = world()
    ours = Tallied(w, last, HEART_EDGES)
    assert ours.known_rows() < 0.15
    assert ours.known_patient(halves=1) < 0.1
    assert ours.empty_bins()[1] > 0.9
    fine = Tallied(w, last[:30], tuple(np.arange(1, 2048) / 2048), sums=False)
    assert fine.known_rows() > 0.9
    assert fine.empty_bins()[1] < 0.2, "N7: a patient whose bin is empty once is not there"


def test_a_repeated_round_is_the_same_sum() -> None:
    """Seed and number alone move an update: the same ones give the same whole numbers, others others."""
    w = world()
    first, again, other = (w.both(w.base, seed, 1)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert 0.9 < cosine(first, other) < 1
