"""Integers in lanes: exact sums, stated error bounds, and that nonsense is noticed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.planner import Plan, plan
from moonflower.crypto.quantise import (
    BLOCK,
    COUNTER_LIMIT,
    Contribution,
    Ints,
    Length,
    OpenedSum,
    Scale,
    Stretch,
    Update,
    apply_mean,
    lanes_of,
    quantise,
)

SETS = [(2, 16), (4, 16), (16, 16), (16, 9), (64, 14), (1024, 8), (3, 24)]
SECRET = bytes(range(32))


def one_clip(values: int, clip: float = 1.0, bits: int = 16) -> Scale:
    return Scale((Stretch(values, "*", clip),), bits)


def given_of(update: Update, share: float = 1.0, clip: float = 1.0, bits: int = 16, **more: Any) -> Contribution:
    return Contribution(**{"update": update, "share": share, "scale": one_clip(len(update), clip, bits), **more})


def integers(one: Contribution) -> Ints:
    return np.concatenate([part for _, part in one.integers()])


def total(given_: Sequence[Contribution], found: Plan) -> Ints:
    return np.sum([lanes_of(one, found) for one in given_], axis=0)


def read(lanes: Ints, values: int, counters: int, members: int, found: Plan) -> tuple[OpenedSum, Ints]:
    """In blocks of a size that fits nothing, as an opening yields them."""
    blocks = (lanes[start : start + 1000] for start in range(0, len(lanes), 1000))
    opened = OpenedSum(blocks, values, counters, members, found)
    found_ = np.zeros(values, dtype=np.int64)
    end = 0
    for start, part in opened.values():
        assert start == end, "out of order"
        end = start + len(part)
        found_[start:end] = part
    assert end == values or not opened.in_range
    return opened, found_


@given(st.sampled_from(SETS), st.integers(0, 2**32), st.integers(0, 9000), st.integers(1, 40))
def test_opened_lanes_are_the_integer_sums(set_: tuple[int, int], seed: int, values: int, counters: int) -> None:
    members, bits = set_
    rng, found = np.random.default_rng(seed), plan(members, bits, values + 1)
    count = min(members, 5)
    tallies = rng.integers(0, COUNTER_LIMIT // 1024, (count, counters))
    updates = rng.normal(0, 1, (count, values)).astype(np.float32)
    given_ = [
        given_of(update, 1 / count, 2.0, bits, counters=tuple(own.tolist()), secret=SECRET)
        for own, update in zip(tallies, updates, strict=True)
    ]
    for one in given_:
        lanes = lanes_of(one, found)
        assert lanes.shape == (one.lanes(found),)
        assert lanes.dtype == np.int64
        assert (lanes >= 0).all()
        assert (lanes < 1 << bits).all()
    opened, sums = read(total(given_, found), values, counters, count, found)
    assert opened.in_range
    assert opened.counters == tuple(tallies.sum(axis=0).tolist())
    assert not values or (sums == sum(integers(one) for one in given_)).all()


def test_counters_come_first_as_limbs_then_values_with_their_offset() -> None:
    found = plan(4, 16, 10)
    given_ = given_of(np.array([0.0, 1.0, -1.0], dtype=np.float32), counters=(0x1234_5678_9ABC,), secret=SECRET)
    lanes = lanes_of(given_, found)
    assert lanes[:3].tolist() == [0x9ABC, 0x5678, 0x1234]
    assert (lanes[3:] - 32768 == integers(given_)).all()
    assert (np.abs(lanes[3:] - 32768 - [0, 32761, -32761]) <= 6).all()


def test_a_vector_of_many_parts_comes_back_in_order() -> None:
    found, values = plan(4, 16, 10**6), 3 * BLOCK + 17
    update = np.linspace(-1, 1, values, dtype=np.float32)
    given_ = given_of(update, counters=(5,), secret=SECRET)
    opened, sums = read(lanes_of(given_, found), values, 1, 1, found)
    assert opened.counters == (5,)
    assert (sums == integers(given_)).all()


@pytest.mark.parametrize("set_", SETS)
def test_the_largest_sum_of_all_members_stays_exact(set_: tuple[int, int]) -> None:
    members, bits = set_
    found, top = plan(members, bits, 5000), (1 << (bits - 1)) - 1
    for sign in (1, -1):
        update = np.full(5000, sign, dtype=np.float32)
        given_ = given_of(update, bits=bits, counters=(2**38 - 1,), secret=SECRET)
        lanes = members * lanes_of(given_, found)
        opened, sums = read(lanes, 5000, 1, members, found)
        assert opened.in_range
        assert (sums == members * integers(given_)).all()
        assert np.abs(sums).max() <= members * top
        assert opened.counters == (members * (2**38 - 1),)


def test_lanes_beyond_their_range_are_noticed() -> None:
    found = plan(4, 16, 100)
    honest = total([given_of(np.zeros(100, dtype=np.float32), counters=(1,), secret=SECRET)] * 3, found)
    assert read(honest, 100, 1, 3, found)[0].in_range
    for at in (0, 50, len(honest) - 1):
        hostile = honest.copy()
        hostile[at] = 3 * 65535 + 1
        assert not read(hostile, 100, 1, 3, found)[0].in_range
    assert not read(np.append(honest, 1), 100, 1, 3, found)[0].in_range, "more than was summed"
    assert read(honest, 100, 1, 3, found)[0].finish().in_range


def test_a_sum_of_counters_alone_has_no_values() -> None:
    found = plan(4, 16, 6)
    opened, sums = read(total([Contribution((7, 1 << 40))] * 4, found), 0, 2, 4, found)
    assert (opened.in_range, opened.counters, len(sums)) == (True, (28, 1 << 42), 0)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50),
    st.floats(1e-6, 1),
    st.floats(1e-3, 10),
    st.integers(8, 24),
    st.integers(0, 2**32),
)
def test_a_value_is_rounded_with_its_coins_and_stays_in_its_lane(
    update: list[float], share: float, clip: float, bits: int, seed: int
) -> None:
    vector, scale = np.array(update, dtype=np.float32), one_clip(len(update), clip, bits)
    coins = np.random.default_rng(seed).uniform(-5.98, 5.98, len(update))
    values = quantise(vector, share, scale.clips(0, len(vector)), scale.limit, coins)
    assert np.abs(values).max() <= (1 << (bits - 1)) - 1
    exact = np.clip(vector.astype(np.float64), -clip, clip) * share / scale.step("*") + coins
    assert np.abs(values - exact).max() <= 0.5 + 1e-6


def test_a_mean_is_right_on_average_and_as_far_off_as_is_said() -> None:
    rng, clip = np.random.default_rng(1), 0.32
    rows = np.array([303, 294, 123, 200])
    updates = rng.normal(0, 0.01, (4, 200_000)).astype(np.float32)
    sums = sum(
        integers(given_of(one, n / rows.sum(), clip, secret=bytes([at]) * 32))
        for at, (one, n) in enumerate(zip(updates, rows, strict=True))
    )
    scale = one_clip(200_000, clip)
    exact = np.average(updates.astype(np.float64), axis=0, weights=rows)
    errors = (sums * scale.steps(0, 200_000) - exact) / scale.step("*")
    assert abs(errors.mean()) < 5 * errors.std() / math.sqrt(len(errors))
    assert errors.std() == pytest.approx(math.sqrt(4 * (1 + 1 / 12)), rel=0.01)


def test_small_updates_are_not_swallowed() -> None:
    """A hundredth of a step, a thousand times over: rounding to the nearest alone would give 0 each time."""
    scale = one_clip(20, 1.0, 8)
    small = np.full(20, scale.step("*") / 100, dtype=np.float32)
    rounds = [small * np.float32(1 + at * 1e-6) for at in range(1000)]  # any other update has other coins
    sums = sum(integers(given_of(one, bits=8, secret=SECRET)) for one in rounds)
    assert sums.sum() == pytest.approx(200, abs=5 * math.sqrt(20_000 * 13 / 12))
    assert np.abs(np.rint(small / scale.step("*"))).sum() == 0


def test_the_same_update_has_the_same_integers_and_another_share_or_clip_has_others() -> None:
    update = np.linspace(-1, 1, 500, dtype=np.float32)
    once = integers(given_of(update, 0.5, secret=SECRET))
    assert (once == integers(given_of(update, 0.5, secret=SECRET))).all()
    other = integers(given_of(update, 0.5, secret=bytes(32)))
    assert (once != other).mean() > 0.5
    shifted = update.copy()
    shifted[-1] = np.nextafter(shifted[-1], np.float32(0))
    assert (once != integers(given_of(shifted, 0.5, secret=SECRET))).mean() > 0.5


def test_groups_have_their_own_steps_wherever_they_stand() -> None:
    scale = Scale((Stretch(3, "a", 1.0), Stretch(2, "b", 100.0), Stretch(4, "a", 1.0)), 16)
    assert (scale.size, scale.groups) == (9, {"a": 1.0, "b": 100.0})
    assert scale.clips(2, 5).tolist() == [1.0, 100.0, 100.0, 1.0, 1.0]
    assert (scale.steps(0, 9) == scale.clips(0, 9) / 32761).all()
    assert [(where.start, where.stop, one.group) for where, one in scale.within(4, 3)] == [(0, 1, "b"), (1, 3, "a")]
    update = np.array([1, 1, 1, 100, -100, 1, 1, 1, 1], dtype=np.float32)
    found = integers(Contribution(update=update, scale=scale, secret=SECRET))
    assert (np.abs(np.abs(found) - 32761) <= 6).all()


@given(st.integers(0, 2**32), st.integers(1, 400))
def test_a_length_is_that_of_the_mean_however_it_comes_in_parts(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    scale = Scale((Stretch(300, "a", 1.0), Stretch(100, "b", 50.0)), 16)
    sums, whole, parts = rng.integers(-(2**20), 2**20, 400), Length(scale), Length(scale)
    whole.add(0, sums)
    parts.add(0, sums[:cut])
    parts.add(cut, sums[cut:])
    plain = np.linalg.norm(sums * scale.steps(0, 400) / np.repeat([1.0, 50.0], [300, 100]))
    assert whole.value == parts.value == pytest.approx(plain), "in units of the smallest clip"
    lengths = [np.linalg.norm(sums[:300]) / math.sqrt(900), np.linalg.norm(sums[300:]) / math.sqrt(300)]
    assert whole.of_coins(3) == parts.of_coins(3) == pytest.approx(min(lengths))


def test_a_sum_of_coins_alone_is_about_as_long_as_one() -> None:
    scale, members = one_clip(5000), 4
    sums = sum(integers(given_of(np.zeros(5000, dtype=np.float32), secret=bytes([at]) * 32)) for at in range(members))
    length = Length(scale)
    length.add(0, np.asarray(sums))
    assert length.of_coins(members) == pytest.approx(math.sqrt(13 / 12), abs=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        given_of(np.array([0.0, bad], dtype=np.float32))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.001, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Contribution((1,), share=share)


def test_an_update_without_a_scale_or_a_secret_goes_nowhere() -> None:
    update = np.ones(3, dtype=np.float32)
    with pytest.raises(ValueError, match="3 values; its scale is for 0"):
        Contribution(update=update)
    with pytest.raises(ValueError, match="secret"):
        integers(given_of(update))


@pytest.mark.parametrize("counter", [-1, COUNTER_LIMIT])
def test_a_counter_out_of_range_is_refused(counter: int) -> None:
    with pytest.raises(ValueError, match="counter"):
        Contribution((counter,))


def test_a_candidate_is_rounded_once() -> None:
    base = np.array([1.0, 3e38], dtype=np.float32)
    out = apply_mean(base, np.array([1e-9, 3e38]))
    assert out.dtype == np.float32
    assert out[0] == np.float32(1.0 + 1e-9)
    assert np.isinf(out[1])
