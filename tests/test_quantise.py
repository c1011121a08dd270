"""Integers in lanes: exact sums, stated error bounds, and that nonsense is noticed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.planner import Plan, plan
from moonflower.crypto.quantise import (
    BLOCK,
    CLIP_FLOOR,
    COUNTER_LIMIT,
    ONE,
    Contribution,
    Ints,
    OpenedSum,
    apply_mean,
    lanes_of,
    mean,
    next_clip,
    quantise,
    weight_of,
)

SETS = [(2, 16), (4, 16), (16, 16), (16, 9), (64, 14), (1024, 4), (3, 24)]


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
    given_ = [Contribution(tuple(t.tolist()), u, ONE // count, 2.0) for t, u in zip(tallies, updates, strict=True)]
    for one in given_:
        lanes = lanes_of(one, found)
        assert lanes.shape == (one.lanes(found),)
        assert lanes.dtype == np.int64
        assert (lanes >= 0).all()
        assert (lanes < 1 << bits).all()
    opened, sums = read(total(given_, found), values, counters, count, found)
    assert opened.in_range
    assert opened.counters == tuple(tallies.sum(axis=0).tolist())
    assert (sums == sum(quantise(u, ONE // count, 2.0, bits) for u in updates)).all()


def test_counters_come_first_as_limbs_then_values_with_their_offset() -> None:
    found = plan(4, 16, 10)
    lanes = lanes_of(Contribution((0x1234_5678_9ABC,), np.array([0.0, 1.0, -1.0], dtype=np.float32)), found)
    assert lanes.tolist() == [0x9ABC, 0x5678, 0x1234, 32768, 32768 + 32767, 32768 - 32767]


def test_a_vector_of_many_parts_comes_back_in_order() -> None:
    found, values = plan(4, 16, 10**6), 3 * BLOCK + 17
    update = np.linspace(-1, 1, values, dtype=np.float32)
    opened, sums = read(lanes_of(Contribution((5,), update, ONE, 1.0), found), values, 1, 1, found)
    assert opened.counters == (5,)
    assert (sums == quantise(update, ONE, 1.0, 16)).all()


@pytest.mark.parametrize("set_", SETS)
def test_the_largest_sum_of_all_members_stays_exact(set_: tuple[int, int]) -> None:
    members, bits = set_
    found, top = plan(members, bits, 5000), (1 << (bits - 1)) - 1
    for sign in (1, -1):
        update = np.full(5000, sign, dtype=np.float32)
        lanes = members * lanes_of(Contribution((2**38 - 1,), update), found)
        opened, sums = read(lanes, 5000, 1, members, found)
        assert opened.in_range
        assert (sums == members * sign * top).all()
        assert opened.counters == (members * (2**38 - 1),)


def test_lanes_beyond_their_range_are_noticed() -> None:
    found = plan(4, 16, 100)
    honest = total([Contribution((1,), np.zeros(100, dtype=np.float32))] * 3, found)
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
    st.integers(1, ONE),
    st.floats(1e-3, 10),
    st.integers(4, 24),
)
def test_quantising_errs_by_half_a_step_at_most(update: list[float], weight: int, clip: float, bits: int) -> None:
    vector = np.array(update, dtype=np.float32)
    values = quantise(vector, weight, clip, bits)
    top = (1 << (bits - 1)) - 1
    assert np.abs(values).max() <= top
    exact = np.clip(vector.astype(np.float64), -clip, clip) * weight / ONE
    assert np.abs(values * (clip / top) - exact).max() <= clip / top / 2 * (1 + 1e-6)


def test_a_mean_is_within_its_stated_bound_and_weighted() -> None:
    rng = np.random.default_rng(1)
    updates, rows = [rng.normal(0, 0.01, 1000).astype(np.float32) for _ in range(4)], [303, 294, 123, 200]
    weights = [weight_of(n, sum(rows)) for n in rows]
    clip = 0.32
    sums = sum(quantise(u, w, clip, 16) for u, w in zip(updates, weights, strict=True))
    exact = np.average(np.array(updates, dtype=np.float64), axis=0, weights=rows)
    assert np.abs(mean(sums, sum(weights), clip, 16) - exact).max() <= 4 * clip / 32767 / 2 * 1.001


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Contribution((1,), np.array([0.0, bad], dtype=np.float32))


@pytest.mark.parametrize("weight", [0, -1, ONE + 1])
def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="weight"):
        Contribution((1,), weight=weight)


@pytest.mark.parametrize("counter", [-1, COUNTER_LIMIT])
def test_a_counter_out_of_range_is_refused(counter: int) -> None:
    with pytest.raises(ValueError, match="counter"):
        Contribution((counter,))


def test_the_clip_follows_the_mean_within_its_limits() -> None:
    assert next_clip(8.0, 0.1) == pytest.approx(3.2)
    assert next_clip(8.0, 1e-6) == 0.5  # ÷16 at most
    assert next_clip(8.0, 100.0) == 32.0  # ×4 at most
    assert next_clip(CLIP_FLOOR, 0.0) == CLIP_FLOOR


def test_weights_are_shares_of_all_rows() -> None:
    assert weight_of(1, 4) == ONE // 4
    assert weight_of(1, 2**40) == 1
    with pytest.raises(ValueError, match="rows"):
        weight_of(5, 4)


def test_a_candidate_is_rounded_once() -> None:
    base = np.array([1.0, 3e38], dtype=np.float32)
    out = apply_mean(base, np.array([1e-9, 3e38]))
    assert out.dtype == np.float32
    assert out[0] == np.float32(1.0 + 1e-9)
    assert np.isinf(out[1])
