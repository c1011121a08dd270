"""Parameters of a sum: what fits, what is refused, and that the promises hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.planner import MAX_LOG_Q, most_zeros, plan, zeros
from moonflower.crypto.primes import is_prime, largest_prime
from moonflower.errors import InputError


@pytest.mark.parametrize("members", [2, 3, 4, 5, 8, 16, 17, 64, 256, 1024])
@pytest.mark.parametrize("value_bits", [4, 9, 16, 24])
def test_every_plan_keeps_its_three_promises(members: int, value_bits: int) -> None:
    for lanes in (1, 27, 10_000, 1_000_000):
        found = plan(members, value_bits, lanes)
        assert found.modulus >= (42 * members + 1) << found.plain_bits  # exact
        spread = math.log2(84 * members + 1)
        free = math.log2(found.modulus) - spread
        assert found.zeros * free >= found.degree * spread + 192  # one opening
        smallest = min(found.primes)
        assert found.zeros <= found.degree - found.degree * math.log2(42 * members * found.degree**0.5) / math.log2(
            smallest
        )
        assert found.modulus.bit_length() <= MAX_LOG_Q[found.degree]  # 128 bits
        assert len(set(found.primes)) == len(found.primes)
        assert all(is_prime(p) and p % (2 * found.degree) == 1 and p < 1 << 47 for p in found.primes)
        assert found.lane_bits == value_bits + (members - 1).bit_length()
        assert 1 << found.key_bits >= 42 * members + 1
        room = found.chunks(lanes) * found.degree
        assert found.coefficients(lanes) + found.zeros <= found.travelling(lanes) <= room


def test_what_a_million_parameters_cost() -> None:
    """N = 8192 with four primes; N = 4096 with two took 2.505, 2.819 and 3.592."""
    per_parameter = {n: plan(n, 16, 1_000_003).body_bytes(1_000_003) / 1e6 for n in (4, 16, 256)}
    assert per_parameter == {
        4: pytest.approx(2.359, abs=1e-3),
        16: pytest.approx(2.668, abs=1e-3),
        256: pytest.approx(3.266, abs=1e-3),
    }


@pytest.mark.parametrize(("members", "value_bits"), [(1, 16), (1025, 16), (4, 3), (4, 25)])
def test_what_no_plan_holds(members: int, value_bits: int) -> None:
    with pytest.raises(InputError) as refused:
        plan(members, value_bits, 100)
    assert refused.value.code == "config.crypto"


def test_fewer_zeros_than_the_inequality_asks_for_are_not_enough() -> None:
    found = plan(4, 16, 300)
    assert zeros(found.degree, found.modulus, 4) == found.zeros
    free, spread = math.log2(found.modulus) - math.log2(337), math.log2(337)
    assert (found.zeros - 1) * free < found.degree * spread + 192
    assert most_zeros(found.degree, min(found.primes), 4) >= found.zeros


@given(st.integers(2, 1024), st.integers(4, 24), st.integers(1, 10**7))
def test_a_lane_holds_its_largest_sum(members: int, bits: int, values: int) -> None:
    found = plan(members, bits, values)
    assert members * ((1 << bits) - 1) < 1 << found.lane_bits, "a lane reaches its neighbour"
    assert found.lanes * found.lane_bits == found.plain_bits < found.modulus.bit_length()
    assert found.limbs * bits >= 48
    assert found.as_dict()["primes"] == list(found.primes)


def test_a_large_ring_is_for_long_vectors() -> None:
    """Its answers are twice as long: below some length two primes send less."""
    long, short = plan(16, 16, 1_000_000), plan(16, 16, 20_000)
    assert (long.degree, long.lanes, long.lane_bits, len(long.primes)) == (8192, 8, 20, 4)
    assert (short.degree, short.lanes, short.lane_bits, len(short.primes)) == (4096, 4, 20, 2)


def test_a_small_model_takes_a_small_ring() -> None:
    found = plan(4, 16, 30)
    assert (found.degree, found.modulus.bit_length(), len(found.primes)) == (1024, 26, 1)


@given(st.integers(0, 20_000))
def test_primality_agrees_with_trial_division(n: int) -> None:
    assert is_prime(n) == (n > 1 and all(n % p for p in range(2, math.isqrt(n) + 1)))


def test_the_prime_of_fifty_three_bits_is_the_known_one() -> None:
    assert largest_prime(53, 4096) == 0x1FFFFFFFFB4001
