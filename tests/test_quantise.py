"""Integers in lanes: exact sums, stated error bounds, and that nonsense is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.planner import plan
from moonflower.crypto.quantise import (
    CLIP_FLOOR,
    COUNTER_LIMIT,
    ONE,
    apply_mean,
    mean,
    next_clip,
    pack,
    pack_lanes,
    quantise,
    unpack,
    weight_of,
)

SETS = [(2, 16), (4, 16), (16, 16), (16, 9), (64, 14), (1024, 4), (3, 24)]


@given(st.sampled_from(SETS), st.integers(0, 2**32), st.integers(1, 9000), st.integers(0, 40))
def test_opened_lanes_are_the_integer_sums(set_: tuple[int, int], seed: int, values: int, counters: int) -> None:
    members, bits = set_
    rng, found = np.random.default_rng(seed), plan(members, bits, values)
    top, count = (1 << (bits - 1)) - 1, min(members, 5)
    vectors = [rng.integers(-top, top + 1, values) for _ in range(count)]
    tallies = [rng.integers(0, COUNTER_LIMIT // 1024, counters) for _ in range(count)]
    slots = sum(pack(v, t.tolist(), found) for v, t in zip(vectors, tallies, strict=True))
    assert (slots < found.plain_modulus).all()
    sums = unpack(slots, values, counters, count, found)
    assert sums.in_range
    assert (sums.values == sum(vectors)).all()
    assert sums.counters == tuple(sum(tallies).tolist() if counters else [])


@pytest.mark.parametrize("set_", SETS)
def test_the_largest_sum_of_all_members_stays_exact(set_: tuple[int, int]) -> None:
    members, bits = set_
    found, top = plan(members, bits, 5000), (1 << (bits - 1)) - 1
    for value in (top, -top):
        sums = unpack(members * pack(np.full(5000, value), [2**38 - 1], found), 5000, 1, members, found)
        assert sums.in_range
        assert (sums.values == members * value).all()
        assert sums.counters == (members * (2**38 - 1),)


def test_lanes_beyond_their_range_are_noticed() -> None:
    found = plan(4, 16, 100)
    honest = 3 * pack(np.zeros(100, dtype=np.int64), [1], found)
    hostile = pack_lanes(np.full(100 + found.limbs, 1 << (found.lane_bits - 1)), found)
    assert not unpack(honest + 2 * hostile, 100, 1, 4, found).in_range
    padding = np.zeros_like(honest)
    padding[0, -1] = 1
    assert not unpack(honest + padding, 100, 1, 4, found).in_range


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50),
    st.integers(1, ONE),
    st.floats(1e-3, 10),
    st.integers(4, 24),
)
def test_quantising_errs_by_half_a_step_at_most(update: list[float], weight: int, clip: float, bits: int) -> None:
    vector = np.array(update)
    values, share = quantise(vector, weight, clip, bits)
    top = (1 << (bits - 1)) - 1
    assert np.abs(values).max() <= top
    assert share == np.mean(np.abs(vector) > clip)
    exact = np.clip(vector, -clip, clip) * weight / ONE
    assert np.abs(values * (clip / top) - exact).max() <= clip / top / 2 * (1 + 1e-6)


def test_a_mean_is_within_its_stated_bound_and_weighted() -> None:
    rng = np.random.default_rng(1)
    updates, rows = [rng.normal(0, 0.01, 1000) for _ in range(4)], [303, 294, 123, 200]
    weights = [weight_of(n, sum(rows)) for n in rows]
    clip = 0.32
    sums = sum(quantise(u, w, clip, 16)[0] for u, w in zip(updates, weights, strict=True))
    found = mean(sums, sum(weights), clip, 16)
    exact = np.average(updates, axis=0, weights=rows)
    assert np.abs(found - exact).max() <= 4 * clip / 32767 / 2 * 1.001


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantise(np.array([0.0, bad]), ONE, 1.0, 16)


@pytest.mark.parametrize("weight", [0, -1, ONE + 1])
def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="weight"):
        quantise(np.zeros(1), weight, 1.0, 16)


def test_packing_refuses_what_no_lane_holds() -> None:
    found = plan(4, 16, 10)
    with pytest.raises(ValueError, match="outside"):
        pack(np.array([1 << 15]), [], found)
    for counter in (-1, COUNTER_LIMIT):
        with pytest.raises(ValueError, match="counter"):
            pack(np.zeros(1, dtype=np.int64), [counter], found)


def test_the_clip_follows_the_mean_within_its_limits() -> None:
    assert next_clip(8.0, np.array([0.1, -0.05])) == pytest.approx(3.2)
    assert next_clip(8.0, np.array([1e-6])) == 0.5  # ÷16 at most
    assert next_clip(8.0, np.array([100.0])) == 32.0  # ×4 at most
    assert next_clip(CLIP_FLOOR, np.zeros(3)) == CLIP_FLOOR


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
