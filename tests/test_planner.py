"""Parameters: what fits, what is refused, and that the margins are real."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.planner import NOISE_SIGMAS, _batching_prime, _is_prime, plan
from moonflower.errors import InputError


def test_sixteen_members_with_sixteen_bits_take_two_lanes_of_twenty() -> None:
    found = plan(16, 16, 1_000_000)
    assert (found.degree, found.lanes, found.lane_bits, found.max_members) == (4096, 2, 20, 16)
    assert found.plain_modulus > 1 << 40
    assert found.packed_bytes(1_000_000) < 6.7e6


def test_sixty_four_members_get_another_set_or_fewer_bits() -> None:
    wide, narrow = plan(64, 16, 1_000_000), plan(64, 14, 1_000_000)
    assert wide.coeff_bits == (35, 35, 36)
    assert narrow.coeff_bits == (53, 53)
    assert min(wide.max_members, narrow.max_members) >= 64


def test_a_small_model_takes_the_smallest_ciphertext() -> None:
    assert plan(4, 16, 30).coeff_bits == (53, 53)
    assert plan(4, 16, 30).chunks(30) == 1


@given(st.integers(2, 1024), st.integers(4, 24), st.integers(1, 10**7))
def test_every_plan_holds_its_largest_sum(members: int, bits: int, values: int) -> None:
    found = plan(members, bits, values)
    assert found.max_members >= members
    assert members * ((1 << bits) - 1) < 1 << found.lane_bits, "a lane reaches its neighbour"
    assert 1 << (found.lanes * found.lane_bits) < found.plain_modulus < 1 << 60, "the lanes do not fit below t"
    assert (found.plain_modulus - 1) % (2 * found.degree) == 0, "SEAL cannot batch"
    assert sum(found.coeff_bits) <= 106, "more than eprint 2024/463 allows at N = 4096"
    sigma = math.sqrt(found.degree / 18)
    noise = NOISE_SIGMAS * sigma * math.sqrt(members)
    assert noise < 2 ** sum(found.coeff_bits[:-1]) / (2 * found.plain_modulus), "the noise reaches q / 2t"
    assert found.noise_margin_bits >= 0


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(InputError, match="at most 24 value bits for 1024 members") as refusal:
        plan(1024, 60, 10)
    assert refusal.value.code == "config.crypto"
    with pytest.raises(InputError, match="expected 'shared'"):
        plan(4, 16, 10, "ckks")


@given(st.integers(0, 20_000))
def test_primality_agrees_with_trial_division(n: int) -> None:
    assert _is_prime(n) == (n > 1 and all(n % p for p in range(2, math.isqrt(n) + 1)))


def test_the_batching_prime_of_the_default_set_is_the_known_one() -> None:
    assert _batching_prime(1 << 40, 4096) == 1099511799809
