"""Sealing under one-time keys: exact sums, one opening, and what becomes of lies (protocol version 2, in work)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import onetime, pairs, tau
from moonflower.crypto.answers import AnswerKey, plan_of
from moonflower.crypto.onetime import Secrets, Sum, open_total, residues_of, seal
from moonflower.crypto.onetime_plan import BOUND, MAX_LOG_Q, OneTimePlan, most_zeros, plan, zeros
from moonflower.crypto.planner import SEED_BYTES
from moonflower.crypto.primes import is_prime
from moonflower.crypto.ring import expand, prime
from moonflower.crypto.schemes.secret import generate
from moonflower.errors import InputError, Refused
from moonflower.server.aggregate import RunningSum

CONTEXT, OTHER = "ab" * 32, "cd" * 32
SIZES = [(2, 16, 30), (4, 16, 30), (4, 9, 1000), (5, 24, 5000), (3, 4, 1), (16, 16, 20_000), (64, 9, 3000)]


def code(function: Any, *arguments: Any) -> str:
    def read() -> None:
        given = function(*arguments)
        if isinstance(given, Iterator):  # it checks when it is read
            list(given)

    with pytest.raises(Refused) as refused:
        read()
    return refused.value.code


class Round:
    """Members that sealed, and what a coordinator and an opener have then."""

    def __init__(self, members: int, value_bits: int, lanes: int, vectors: Sequence[Any] | None = None) -> None:
        self.plan, self.lanes = plan(members, value_bits, lanes), lanes
        rng = np.random.default_rng(members * lanes + value_bits)
        drawn = [rng.integers(0, 1 << value_bits, lanes) for _ in range(members)]
        self.vectors = [np.asarray(one, dtype=np.int64) for one in vectors or drawn]
        self.secrets = [self.fresh(at, one) for at, one in enumerate(self.vectors)]
        pairs_ = zip(self.secrets, self.vectors, strict=True)
        self.bodies = [seal(self.plan, CONTEXT, secret, one) for secret, one in pairs_]
        self.keys = [secret.key(self.plan) for secret in self.secrets]
        self.key = np.sum(self.keys, axis=0)
        self.total = self.added(self.bodies)

    @staticmethod
    def fresh(at: int, vector: Any) -> Secrets:
        random = hashlib.sha256(bytes([at])).digest()
        return Secrets.fresh(random, bytes(32), CONTEXT, onetime.digest_of(vector))

    def added(self, bodies: Sequence[bytes]) -> bytes:
        running = Sum(self.plan, self.lanes)
        for body in bodies:
            running.add(body)
        return running.dump()

    def opened(self, key: Any = None, total: bytes | None = None, context: str = CONTEXT) -> Any:
        key = self.key if key is None else key
        found = list(open_total(self.plan, context, key, self.total if total is None else total, self.lanes))
        return np.concatenate(found)


@lru_cache
def four() -> Round:
    return Round(4, 16, 300)


# Parameters


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
    """facts/onetime.md, section 1: N = 4096, two primes."""
    per_parameter = {n: plan(n, 16, 1_000_003).body_bytes(1_000_003) / 1e6 for n in (4, 16, 256)}
    assert per_parameter == {
        4: pytest.approx(2.505, abs=1e-3),
        16: pytest.approx(2.819, abs=1e-3),
        256: pytest.approx(3.592, abs=1e-3),
    }


@pytest.mark.parametrize(("members", "value_bits"), [(1, 16), (1025, 16), (4, 3), (4, 25)])
def test_what_no_plan_holds(members: int, value_bits: int) -> None:
    with pytest.raises(InputError) as refused:
        plan(members, value_bits, 100)
    assert refused.value.code == "config.crypto"


def test_fewer_zeros_than_the_inequality_asks_for_are_not_enough() -> None:
    found = four().plan
    assert zeros(found.degree, found.modulus, 4) == found.zeros
    free, spread = math.log2(found.modulus) - math.log2(337), math.log2(337)
    assert (found.zeros - 1) * free < found.degree * spread + 192
    assert most_zeros(found.degree, min(found.primes), 4) >= found.zeros


# Exact sums


@pytest.mark.parametrize(("members", "value_bits", "lanes"), SIZES)
def test_sums_open_exactly(members: int, value_bits: int, lanes: int) -> None:
    done = Round(members, value_bits, lanes)
    assert (done.opened() == np.sum(done.vectors, axis=0)).all()
    assert all(len(body) == done.plan.body_bytes(lanes) for body in done.bodies)


@pytest.mark.parametrize("value", [0, (1 << 16) - 1])
def test_sums_open_exactly_at_the_ends_of_the_range(value: int) -> None:
    done = Round(4, 16, 3000, [np.full(3000, value)] * 4)
    assert (done.opened() == 4 * value).all()


@pytest.mark.parametrize("error", [-BOUND, BOUND])
def test_sums_open_exactly_with_all_errors_at_their_bound(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def worst(self: Secrets, plan: OneTimePlan, chunks: range) -> Any:
        return np.full((len(chunks), plan.degree), error)

    monkeypatch.setattr(Secrets, "errors", worst)
    done = Round(16, 16, 500, [np.full(500, (1 << 16) - 1)] * 16)
    assert (done.opened() == 16 * ((1 << 16) - 1)).all()


@settings(max_examples=15)
@given(st.integers(2, 9), st.integers(4, 24), st.integers(1, 9000))
def test_any_sum_opens_exactly(members: int, value_bits: int, lanes: int) -> None:
    done = Round(members, value_bits, lanes)
    assert (done.opened() == np.sum(done.vectors, axis=0)).all()


def test_a_sealed_vector_is_what_the_algebra_says() -> None:
    """c - A k - m = t e mod q, with schoolbook products, |e| <= 21, and e and k those of the secrets."""
    done = four()
    (modulus,), degree = done.plan.primes, done.plan.degree
    p = prime(modulus, degree)
    label = bytes.fromhex(CONTEXT)
    public = p.intt(np.ascontiguousarray(expand(label, p, range(1)).T)).T[0]
    full = np.convolve(public, done.keys[0])  # below 2**26 * 21 * 2**10
    product = full[:degree].copy()
    product[: degree - 1] -= full[degree:]
    sealed = residues_of(done.plan, done.bodies[0], done.lanes)[0].astype(np.int64)
    data = done.plan.coefficients(done.lanes)
    places = [*range(data), *range(degree - len(sealed) + data, degree)]
    message = np.zeros(len(sealed), dtype=np.int64)
    message[:data] = done.vectors[0]
    rest = (sealed - product[places] - message) % modulus
    noise = rest * pow(2, -done.plan.plain_bits, modulus) % modulus
    noise = np.where(noise > modulus // 2, noise - modulus, noise)
    assert np.abs(noise).max() <= BOUND
    assert (noise == done.secrets[0].errors(done.plan, range(1))[0][places]).all()


def test_known_answers() -> None:
    """What is sealed must not change by itself: old bodies could not be opened."""
    small = Round(4, 16, 300, [np.arange(300) + at for at in range(4)])
    large = Round(3, 24, 20_000, [np.arange(20_000) * (at + 1) for at in range(3)])
    assert [hashlib.sha256(one).hexdigest()[:16] for one in (small.bodies[0], small.total, large.total)] == KNOWN


KNOWN = ["10dd108fa2895ccc", "fdde78dc30d1b106", "ce33e48be4b7a63a"]


def test_a_lane_that_does_not_fit_is_not_sealed() -> None:
    for value in (-1, 1 << 16):
        with pytest.raises(ValueError, match="lane"):
            seal(four().plan, CONTEXT, four().secrets[0], np.array([value]))


# One opening


@pytest.mark.parametrize("place", [0, 500, 1023])
def test_another_key_opens_nothing(place: int) -> None:
    for by in (1, -1):
        key = four().key.copy()
        key[place] += by
        assert code(four().opened, key) == "open.key"


def test_a_key_larger_than_so_many_keys_can_make_it_is_refused() -> None:
    key = four().key.copy()
    key[7] = 21 * 4 + 1
    assert code(four().opened, key) == "open.key"
    assert code(four().opened, key[:-1]) == "open.key"


def test_a_sum_over_others_does_not_open() -> None:
    done = four()
    assert code(done.opened, None, done.added(done.bodies[:3])) == "open.key"
    assert code(done.opened, None, done.added([*done.bodies[:3], done.bodies[0]])) == "open.key"
    assert code(done.opened, done.key - done.keys[3]) == "open.key"
    assert code(done.opened, None, None, OTHER) == "open.key"


def test_a_total_that_was_shifted_is_not_found_here_but_by_tau() -> None:
    """Whoever knows what to add can add to a sum under any additive encryption: the functionals are for that."""
    done = four()
    residues = residues_of(done.plan, done.total, done.lanes)
    shifted = [one.copy() for one in residues]
    shifted[0][0] = (int(shifted[0][0]) + 1) % done.plan.primes[0]
    assert tau.functionals(done.plan, "l", "t", residues) != tau.functionals(done.plan, "l", "t", shifted)


def test_data_where_zeros_must_be_is_refused() -> None:
    done = four()
    residues = residues_of(done.plan, done.total, done.lanes)
    residues[0][-1] = (int(residues[0][-1]) + 1) % done.plan.primes[0]
    assert code(done.opened, None, onetime._packed(done.plan, residues)) == "open.key"


def test_bodies_of_another_form() -> None:
    done, running = four(), Sum(four().plan, 300)
    assert code(running.add, done.bodies[0][:-1]) == "envelope.malformed"
    assert code(running.add, b"\xff" * len(done.bodies[0])) == "envelope.malformed"
    assert running.count == 0
    for body in done.bodies:
        running.add(body)
    assert code(running.add, done.bodies[0]) == "envelope.params"


# Secrets


def test_secrets_differ_in_whatever_differs() -> None:
    random, node, vector = bytes(32), bytes(32), bytes(32)
    given_ = [
        (random, node, CONTEXT, vector),
        (bytes([1]) * 32, node, CONTEXT, vector),
        (random, bytes([1]) * 32, CONTEXT, vector),
        (random, node, OTHER, vector),
        (random, node, CONTEXT, bytes([1]) * 32),
        (random + bytes(1), node, CONTEXT, vector),
    ]
    made = [Secrets.fresh(*one) for one in given_]
    assert len({one.seed for one in made}) == len(made)
    assert made[0] == Secrets.fresh(*given_[0])
    assert len({one.mask_key for one in made} | {one.seed for one in made}) == 2 * len(made)
    assert "seed" not in repr(made[0])
    for at in range(2):
        short = [list(given_[0])][0]
        short[at] = bytes(31)
        with pytest.raises(ValueError, match="expected 32"):
            Secrets.fresh(*short)


def test_keys_and_errors_are_centred_binomial() -> None:
    found = Secrets(bytes(32)).errors(plan(16, 16, 20_000), range(40)).reshape(-1)
    assert np.abs(found).max() <= BOUND
    expected = np.array([math.comb(42, 21 + at) for at in range(-21, 22)]) / 2**42 * len(found)
    counts = np.array([(found == at).sum() for at in range(-21, 22)])
    wide = expected > 10
    assert float(((counts - expected) ** 2 / expected)[wide].sum()) < 80  # about 30 cells


# Masks


def masks(done: Round, headers: str = "list", total: str = "total", leave: int = 0) -> list[Any]:
    names = [f"member {at}" for at in range(len(done.secrets) - leave)]
    public = {name: pairs.public_mask(one.mask_key) for name, one in zip(names, done.secrets, strict=False)}
    found = []
    for name, secret in zip(names, done.secrets, strict=False):
        others = {one: key for one, key in public.items() if one != name}
        found.append(pairs.mask(done.plan, secret.mask_key, name, others, headers, total))
    return found


def answers(done: Round, **about: Any) -> list[Any]:
    return [pairs.answer(done.plan, key, one) for key, one in zip(done.keys, masks(done, **about), strict=False)]


def test_all_answers_together_are_the_sum_of_keys() -> None:
    done = four()
    assert (pairs.key_sum(done.plan, np.sum(answers(done), axis=0, dtype=np.int64)) == done.key).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_sum_of_keys_at_its_bound(sign: int) -> None:
    for members in (2, 3, 16, 1024):
        found = plan(members, 16, 100)
        key = np.full(found.degree, sign * BOUND)
        one = pairs.answer(found, key, np.zeros(found.degree, dtype=np.uint16)).astype(np.int64)
        assert (pairs.key_sum(found, one * members) == members * key).all()


def test_fewer_answers_are_noise() -> None:
    done = four()
    size = 1 << done.plan.key_bits
    for missing in range(4):
        some = np.sum([one for at, one in enumerate(answers(done)) if at != missing], axis=0, dtype=np.int64) % size
        counts = np.bincount(some, minlength=size)
        assert float(((counts - 4) ** 2 / 4).sum()) < size + 6 * math.sqrt(2 * size)  # 1024 draws, 256 cells
        assert code(done.opened, pairs.key_sum(done.plan, some)) == "open.key"


def test_answers_to_different_lists_or_totals_do_not_fit_each_other() -> None:
    done = four()
    for about in ({"headers": "other"}, {"total": "other"}):
        mixed = [*answers(done)[:3], answers(done, **about)[3]]
        found = pairs.key_sum(done.plan, np.sum(mixed, axis=0, dtype=np.int64))
        assert code(done.opened, found) == "open.key"


def test_the_pair_is_ordered_by_the_bytes_of_normal_names() -> None:
    assert sorted(["b", "ä", "a\u0308a", "Z"], key=pairs.order) == ["Z", "b", "ä", "a\u0308a"]
    assert pairs.order("a\u0308") == pairs.order("ä")
    key = four().secrets[0].mask_key
    with pytest.raises(ValueError, match="share a name"):
        pairs.mask(four().plan, key, "ä", {"a\u0308": pairs.public_mask(key)}, "l", "t")
    with pytest.raises(ValueError, match="alone"):
        pairs.mask(four().plan, key, "a", {}, "l", "t")


def test_a_mask_key_of_low_order_is_refused() -> None:
    """Its agreed secrets are zero, known to everybody."""
    key = four().secrets[0].mask_key
    for low in (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"):
        assert code(pairs.check_public, low) == "envelope.malformed"
        assert code(pairs.mask, four().plan, key, "a", {"b": low}, "l", "t") == "envelope.malformed"
    assert code(pairs.check_public, bytes(31)) == "envelope.malformed"
    pairs.check_public(pairs.public_mask(key))


def test_a_copied_public_key_cancels_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eve, whose name is higher than the victim's friend's, sends the friend's public key as her own.

    The victim then masks twice with one agreed secret. Without names in the generator the two masks are equal; where
    the orders differ they cancel, and the victim's key lies open in its answer.
    """
    done = four()
    victim, friend = done.secrets[0].mask_key, pairs.public_mask(done.secrets[1].mask_key)
    others = {"anna": friend, "zoe": friend}  # the victim is "max": it subtracts for one and adds for the other
    assert pairs.mask(done.plan, victim, "max", others, "l", "t").any()
    real = pairs._words
    monkeypatch.setattr(
        pairs, "_words", lambda count, shared, own, other, headers, total: real(count, shared, "", "x", headers, total)
    )
    assert not pairs.mask(done.plan, victim, "max", others, "l", "t").any()  # weakened: all of the key is in clear


# The functionals


def test_functionals_are_linear_and_exact() -> None:
    done = Round(3, 16, 20_000)
    bodies = [residues_of(done.plan, body, done.lanes) for body in done.bodies]
    found = [tau.functionals(done.plan, "l", "t", one) for one in bodies]
    assert tau.added(done.plan, found) == tau.functionals(
        done.plan, "l", "t", residues_of(done.plan, done.total, done.lanes)
    )
    assert len(found[0]) == 3 * len(done.plan.primes)
    assert all(0 <= one < p for one, p in zip(found[0], np.repeat(done.plan.primes, 3), strict=True))


def test_a_functional_is_the_inner_product_that_it_claims_to_be() -> None:
    """Against Python's integers, over several blocks."""
    done = Round(3, 16, 40_000)
    residues = residues_of(done.plan, done.bodies[0], done.lanes)
    found = tau.functionals(done.plan, "l", "t", residues)
    label = b'{"kind":"moonflower.v2.tau","list":"l","prime":0,"total":"t"}'
    sums = [0, 0, 0]
    start = 0
    for block in tau._draws(hashlib.sha256(label).digest(), len(residues[0])):
        whole = sum(block.reshape(3, 3, -1)[:, piece].astype(np.int64) << (16 * piece) for piece in range(3))
        part = residues[0][start : start + whole.shape[1]].tolist()
        for at, row in enumerate(whole.tolist()):
            sums[at] += sum(factor * value for factor, value in zip(row, part, strict=True))
        start += whole.shape[1]
    assert start == len(residues[0]) > tau.BLOCK
    assert list(found[:3]) == [one % done.plan.primes[0] for one in sums]


def test_functionals_depend_on_list_and_total() -> None:
    residues = residues_of(four().plan, four().total, 300)
    found = {tau.functionals(four().plan, *about, residues) for about in (("l", "t"), ("m", "t"), ("l", "u"))}
    assert len(found) == 3


# Answers on their way


def test_answers_travel_under_the_circles_key() -> None:
    done = four()
    key = AnswerKey(done.plan, generate(plan_of(done.plan)))
    inner = plan_of(done.plan)
    running, seeds = RunningSum(inner, done.plan.degree), []
    for one in answers(done):
        seeds.append(running.add(key.seal(one)))
    total = running.dump()
    assert (key.open(total, seeds) == done.key).all()
    assert (done.opened(key.open(total, seeds)) == np.sum(done.vectors, axis=0)).all()
    assert code(key.open, total, seeds[:3]) == "open.key"
    assert code(key.open, total[:-1], seeds) == "open.key"
    assert code(key.open, total, [*seeds[:3], seeds[3] + bytes(SEED_BYTES)]) == "open.key"


@pytest.mark.parametrize("members", [2, 4, 16, 64, 1024])
def test_an_answer_is_one_ciphertext(members: int) -> None:
    inner = plan_of(plan(members, 16, 1_000_003))
    assert inner.chunks(4096) <= 2
    assert inner.body_bytes(4096) < 22_000
