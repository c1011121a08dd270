"""Integers in lanes: exact sums, stated error bounds, and that nonsense is noticed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.planner import Plan, plan
from moonflower.crypto.quantise import (
    BLOCK_LANES,
    CLIP_FLOOR,
    COUNTER_LIMIT,
    ONE,
    Contribution,
    Ints,
    OpenedSum,
    apply_mean,
    mean,
    next_clip,
    quantise,
    rows_of,
    slot_blocks,
    weight_of,
)

SETS = [(2, 16), (4, 16), (16, 16), (16, 9), (64, 14), (1024, 4), (3, 24)]


def total(given_: Sequence[Contribution], found: Plan) -> list[Ints]:
    return [sum(blocks) for blocks in zip(*(slot_blocks(one, found) for one in given_), strict=True)]


def read(rows: list[Ints], values: int, counters: int, members: int, found: Plan) -> tuple[OpenedSum, Ints]:
    opened = OpenedSum(iter(rows), values, counters, members, found)
    parts = [part for _, part in opened.values()]
    return opened, np.concatenate([np.zeros(0, dtype=np.int64), *parts])


@given(st.sampled_from(SETS), st.integers(0, 2**32), st.integers(0, 9000), st.integers(1, 40))
def test_opened_lanes_are_the_integer_sums(set_: tuple[int, int], seed: int, values: int, counters: int) -> None:
    members, bits = set_
    rng, found = np.random.default_rng(seed), plan(members, bits, values + 1)
    count = min(members, 5)
    tallies = rng.integers(0, COUNTER_LIMIT // 1024, (count, counters))
    updates = rng.normal(0, 1, (count, values)).astype(np.float32)
    given_ = [Contribution(tuple(t.tolist()), u, ONE // count, 2.0) for t, u in zip(tallies, updates, strict=True)]
    rows = total(given_, found)
    assert all((block >= 0).all() and (block < found.plain_modulus).all() for block in rows)
    opened, sums = read(rows, values, counters, count, found)
    assert opened.in_range
    assert opened.counters == tuple(tallies.sum(axis=0).tolist())
    assert (sums == sum(quantise(u, ONE // count, 2.0, bits) for u in updates)).all()


def test_a_vector_of_many_blocks_comes_back_in_order() -> None:
    found, values = plan(4, 16, 10**6), 3 * BLOCK_LANES + 17
    update = np.linspace(-1, 1, values, dtype=np.float32)
    rows = list(slot_blocks(Contribution((5,), update, ONE, 1.0), found))
    assert len(rows) > 3
    opened, sums = read(rows, values, 1, 1, found)
    assert opened.counters == (5,)
    assert (sums == quantise(update, ONE, 1.0, 16)).all()


@pytest.mark.parametrize("set_", SETS)
def test_the_largest_sum_of_all_members_stays_exact(set_: tuple[int, int]) -> None:
    members, bits = set_
    found, top = plan(members, bits, 5000), (1 << (bits - 1)) - 1
    for sign in (1, -1):
        update = np.full(5000, sign, dtype=np.float32)
        rows = [found.max_members * block for block in slot_blocks(Contribution((2**38 - 1,), update), found)]
        opened, sums = read(rows, 5000, 1, found.max_members, found)
        assert opened.in_range
        assert (sums == found.max_members * sign * top).all()
        assert opened.counters == (found.max_members * (2**38 - 1),)


def test_lanes_beyond_their_range_are_noticed() -> None:
    found = plan(4, 16, 100)
    honest = total([Contribution((1,), np.zeros(100, dtype=np.float32))] * 3, found)
    full = np.full(honest[0].size * found.lanes, 1 << (found.lane_bits - 1), dtype=np.int64)
    hostile = [honest[0] + rows_of(full, found)]
    assert not read(hostile, 100, 1, 4, found)[0].in_range
    padding = [honest[0].copy()]
    padding[0][0, -1] += 1
    assert not read(padding, 100, 1, 3, found)[0].in_range
    assert read(honest, 100, 1, 3, found)[0].in_range


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
