"""Parameters: what fits, what is refused, and that the margins are real."""

from __future__ import annotations

import math

import pytest
import tenseal.sealapi as seal
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.planner import FRESH_NOISE, MAX_LOG_Q, plan
from moonflower.crypto.primes import is_prime, largest_prime
from moonflower.errors import InputError


def test_sixteen_members_with_sixteen_bits_take_two_lanes_of_twenty() -> None:
    found = plan(16, 16, 1_000_000)
    assert (found.lanes, found.lane_bits, found.modulus_bits, found.max_members) == (2, 20, 50, 16)
    assert found.body_bytes(1_000_000) < 3.2e6


def test_a_small_model_takes_a_small_ring() -> None:
    found = plan(4, 16, 30)
    assert (found.degree, found.modulus_bits) == (1024, 26)
    assert found.body_bytes(30) == 64 + 1024 * 26 // 8


def test_within_a_hundredth_fewer_ciphertexts_win() -> None:
    assert plan(16, 16, 1_000_000).degree == 4096


@given(st.integers(2, 1024), st.integers(4, 24), st.integers(1, 10**7))
def test_every_plan_holds_its_largest_sum(members: int, bits: int, values: int) -> None:
    found = plan(members, bits, values)
    assert found.max_members >= members
    assert found.max_members * ((1 << bits) - 1) < 1 << found.lane_bits, "a lane reaches its neighbour"
    assert found.plain_modulus == 1 << (found.lanes * found.lane_bits) < 1 << 60, "SEAL holds t in 60 bits"
    assert is_prime(found.modulus)
    assert found.modulus % (2 * found.degree) == 1, "the ring does not split"
    assert found.modulus_bits <= min(60, MAX_LOG_Q[found.degree]), "more than eprint 2024/463 allows"
    assert (2 * FRESH_NOISE + 1) * found.max_members * found.plain_modulus < found.modulus, "a sum may decrypt wrongly"
    assert found.noise_margin > 1
    assert found.mac_points * found.mac_word_bits >= 96
    assert 1 << found.mac_word_bits <= found.modulus, "two MAC coefficients are the same mod q"


@pytest.mark.parametrize("set_", [(4, 16, 30), (4, 16, 10**6), (16, 16, 10**6), (64, 16, 10**6), (16, 9, 10**6)])
def test_seal_takes_the_plans_parameters_and_the_same_prime(set_: tuple[int, int, int]) -> None:
    found = plan(*set_)
    assert seal.CoeffModulus.Create(found.degree, [found.modulus_bits])[0].value() == found.modulus
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(found.degree)
    parameters.set_coeff_modulus([seal.Modulus(found.modulus)])
    parameters.set_plain_modulus(found.plain_modulus)
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set(), context.parameters_error_message()


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(InputError, match=r"at most \d+ value bits for 1024 members") as refusal:
        plan(1024, 60, 10)
    assert refusal.value.code == "config.crypto"
    with pytest.raises(InputError, match="expected 'shared'"):
        plan(4, 16, 10, "ckks")


@given(st.integers(0, 20_000))
def test_primality_agrees_with_trial_division(n: int) -> None:
    assert is_prime(n) == (n > 1 and all(n % p for p in range(2, math.isqrt(n) + 1)))


def test_the_prime_of_the_default_set_is_the_known_one() -> None:
    assert largest_prime(53, 4096) == 0x1FFFFFFFFB4001
