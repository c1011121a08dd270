"""The ring against Python's integers and against SEAL, and the samplers against their distributions."""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto.planner import BOUND
from moonflower.crypto.primes import largest_prime
from moonflower.crypto.ring import CBD_COINS, Prime, Stream, expand, prime
from moonflower.crypto.seal import _Seal

N = 8192
WIRE = largest_prime(43, N)
OTHERS = (140737488273409, 140737488125953)  # the two largest of 47 bits that are 1 mod 2N
PRIMES = [largest_prime(30, 16), largest_prime(43, 16), largest_prime(47, 16)]


def negacyclic(a: list[int], b: list[int], p: int) -> list[int]:
    out = [0] * len(a)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            sign = 1 if i + j < len(a) else -1
            out[(i + j) % len(a)] = (out[(i + j) % len(a)] + sign * x * y) % p
    return out


# Arithmetic


@given(st.sampled_from(PRIMES), st.integers(0, 2**32))
@settings(max_examples=60)
def test_products_and_remainders_are_those_of_whole_numbers(modulus: int, seed: int) -> None:
    p, rng = Prime(modulus, 16), np.random.default_rng(seed)
    edges = [0, 1, modulus - 1, modulus // 2]
    a = np.concatenate([rng.integers(0, modulus, 96), [x for x in edges for _ in edges]])
    b = np.concatenate([rng.integers(0, modulus, 96), edges * len(edges)])
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    assert p.mul(a, b).tolist() == [x * y % modulus for x, y in pairs]
    assert p.mul(-a, b).tolist() == [-x * y % modulus for x, y in pairs]
    wide = rng.integers(-(2**53), 2**53, 100)
    assert p.reduce(wide).tolist() == [x % modulus for x in wide.tolist()]
    factor = int(rng.integers(0, 2**62))
    wide = np.concatenate([wide >> 3, np.array([2**50 - 1, 1 - 2**50, 0, modulus, -modulus])])
    assert p.scale(wide, factor).tolist() == [x * factor % modulus for x in wide.tolist()]
    assert p.scale(wide, -1).tolist() == [-x % modulus for x in wide.tolist()]


@given(st.sampled_from(PRIMES), st.integers(0, 2**32), st.integers(1, 3))
@settings(max_examples=30)
def test_products_of_transforms_are_products_of_polynomials(modulus: int, seed: int, width: int) -> None:
    p, rng = Prime(modulus, 16), np.random.default_rng(seed)
    a, b = rng.integers(0, modulus, (2, 16, width))
    back = p.intt(p.mul(p.ntt(a), p.ntt(b)))
    for k in range(width):
        assert back[:, k].tolist() == negacyclic(a[:, k].tolist(), b[:, k].tolist(), modulus)


@pytest.mark.parametrize("modulus", [WIRE, *OTHERS])
def test_a_transform_comes_back_at_the_largest_values(modulus: int) -> None:
    """Lazy values grow with every stage: all entries at p - 1, or at ±1.2 p, are the worst that comes."""
    p = prime(modulus, N)
    for start in (np.full((N, 2), modulus - 1), Stream(os.urandom(32)).uniform(2 * N, modulus).reshape(N, 2)):
        assert (p.intt(p.ntt(start)) == start).all()
    edge = np.where(Stream(os.urandom(32)).uniform(N, 2)[:, None] > 0, 1, -1) * np.int64(1.2 * modulus)
    assert (p.intt(edge.copy()) == p.intt(p.reduce(edge))).all()


def test_entry_i_of_a_transform_is_the_value_at_the_documented_root() -> None:
    p = prime(WIRE, N)
    x = np.zeros((N, 1), dtype=np.int64)
    x[1] = 1  # f(X) = X: the entries are the points
    points = p.ntt(x)[:, 0].tolist()
    psi = points[0]
    assert pow(psi, N, WIRE) == WIRE - 1
    assert all(psi <= pow(psi, k, WIRE) for k in range(1, 2 * N, 2)), "not the smallest root"
    assert points == [pow(psi, 2 * int(f"{i:013b}"[::-1], 2) + 1, WIRE) for i in range(N)]


@pytest.mark.parametrize("modulus", [12289, 2 * WIRE + 1, largest_prime(48, 16)])
def test_a_modulus_that_would_overflow_or_not_split_is_refused(modulus: int) -> None:
    with pytest.raises(ValueError, match="is not a modulus of a ring"):
        Prime(modulus, 16 if modulus > 12289 else 8192)


# SEAL


def test_seals_own_key_is_ternary_in_our_transform() -> None:
    """SEAL's secret key lies in its evaluation order: read back with our inverse transform it has to be small."""
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(N)
    parameters.set_coeff_modulus([seal.Modulus(p) for p in (WIRE, *OTHERS)])
    parameters.set_plain_modulus(1 << 20)
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set(), context.parameters_error_message()
    door: Any = _Seal.__new__(_Seal)
    raw = door.save(seal.KeyGenerator(context).secret_key())
    residues = np.frombuffer(raw, "<i8", 3 * N, len(raw) - 8 * 3 * N).reshape(3, N)
    key = prime(WIRE, N).intt(residues[0][:, None].copy())[:, 0]
    small = np.where(key > 1, key - WIRE, key)
    assert set(small.tolist()) == {-1, 0, 1}
    for p, evaluations in zip((WIRE, *OTHERS), residues, strict=True):
        ours = prime(p, N)
        assert (ours.ntt(ours.reduce(small)[:, None])[:, 0] == evaluations).all()


# Randomness


def chi_square(found: Any, expected: Any) -> float:
    from scipy import stats  # takes a second

    return float(stats.chisquare(found, np.asarray(expected) / np.sum(expected) * np.sum(found)).pvalue)


def passes(draw: Any) -> bool:
    """A right sampler fails one test in 1000; three in a row once in 1e9."""
    return any(draw(Stream(os.urandom(32))) > 1e-3 for _ in range(3))


def test_errors_are_centred_binomial_and_never_above_their_bound() -> None:
    assert CBD_COINS == BOUND == 21, "the plan's bound is another one"
    expected = [math.comb(2 * CBD_COINS, CBD_COINS + k) for k in range(-14, 15)]

    def draw(stream: Stream) -> float:
        values = stream.error((400, 1000))
        assert np.abs(values).max() <= CBD_COINS
        assert abs(values.std() / math.sqrt(CBD_COINS / 2) - 1) < 0.05
        counts = np.bincount(np.clip(values, -14, 14).reshape(-1) + 14, minlength=29)
        tails = expected.copy()
        tails[0] = tails[-1] = sum(math.comb(2 * CBD_COINS, CBD_COINS + k) for k in range(14, CBD_COINS + 1))
        return chi_square(counts, tails)

    assert passes(draw)


@pytest.mark.parametrize("modulus", [3 * 2**40 + 1, WIRE, (1 << 46) + 15])
def test_uniform_values_are_uniform_also_where_half_are_drawn_again(modulus: int) -> None:
    def draw(stream: Stream) -> float:
        values = stream.uniform(200_000, modulus)
        assert values.min() >= 0
        assert values.max() < modulus
        low = chi_square(np.bincount(values % 64, minlength=64), np.ones(64))
        return min(low, chi_square(np.bincount(values * 64 // modulus, minlength=64), np.ones(64)))

    assert passes(draw)


def test_streams_differ_by_key_and_start_and_repeat_otherwise() -> None:
    def words(key: bytes, start: int) -> bytes:
        return Stream(key, start).words(64).tobytes()

    a, b = bytes(32), b"b" * 32
    assert words(a, 5) == words(a, 5)
    assert len({words(a, 0), words(a, 1), words(b, 0), Stream(os.urandom(32)).words(64).tobytes()}) == 4
    p = prime(WIRE, N)
    assert (expand(b"x", p, range(3, 5))[1] == expand(b"x", p, range(4, 9))[0]).all(), "depends on the block"
    assert (expand(b"x", p, range(1)) != expand(b"y", p, range(1))).mean() > 0.99


def test_the_public_polynomial_has_known_values() -> None:
    """A change of these breaks federations whose members run different releases."""
    rows = expand(b"moonflower.public.v1\x00" + b"c" * 64, prime(WIRE, N), range(2))
    assert hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest() == EXPANDED


EXPANDED = "ac304175187c5bc379a19f3807771c7dcfdd7607f62c33a835f2304b1b93f55f"
