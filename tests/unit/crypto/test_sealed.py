"""Sealing under one-time keys: exact sums, one opening, and what becomes of lies; bits on the wire."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import bits, pairs, sealed, tau
from moonflower.crypto.planner import BOUND, Plan, plan
from moonflower.crypto.quantise import Contribution, OpenedSum, Scale, Stretch, lanes_of
from moonflower.crypto.ring import Stream, expand, prime
from moonflower.crypto.sealed import Secrets, Sum, open_total, residues_of, seal
from moonflower.errors import Refused

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
        return Secrets.fresh(random, bytes(32), CONTEXT, sealed.digest_of(vector))

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
    def worst(self: Secrets, plan: Plan, chunks: range) -> Any:
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
    residues = residues_of(done.plan, done.bodies[0], done.lanes)[0].astype(np.int64)
    data = done.plan.coefficients(done.lanes)
    places = [*range(data), *range(degree - len(residues) + data, degree)]
    message = np.zeros(len(residues), dtype=np.int64)
    message[:data] = done.vectors[0]
    rest = (residues - product[places] - message) % modulus
    noise = rest * pow(2, -done.plan.plain_bits, modulus) % modulus
    noise = np.where(noise > modulus // 2, noise - modulus, noise)
    assert np.abs(noise).max() <= BOUND
    assert (noise == done.secrets[0].errors(done.plan, range(1))[0][places]).all()


def test_known_answers() -> None:
    """What is sealed must not change by itself: old bodies could not be opened."""
    small = Round(4, 16, 300, [np.arange(300) + at for at in range(4)])
    large = Round(3, 24, 20_000, [np.arange(20_000) * (at + 1) for at in range(3)])
    assert [hashlib.sha256(one).hexdigest()[:16] for one in (small.bodies[0], small.total, large.total)] == KNOWN


KNOWN = ["ada636930f7cdfac", "751bdf170b4f2ba9", "9cdbb0c442673719"]


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
    assert code(done.opened, None, sealed._packed(done.plan, residues)) == "open.key"


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
    with pytest.raises(ValueError, match="only one member"):
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


@pytest.mark.parametrize("members", [3, 64])
def test_a_functional_is_the_inner_product_that_it_claims_to_be(members: int) -> None:
    """Against Python's integers: H = U V, over several rows and blocks."""
    used = plan(members, 16, 200_000)
    rng = np.random.default_rng(members)
    residues = [rng.integers(0, p, tau.WIDTH * (tau.BLOCK + 1) + 7, dtype=np.uint64) for p in used.primes]
    for one, p in zip(residues, used.primes, strict=True):
        one[: 2 * tau.WIDTH] = p - 1  # the largest products
    found = tau.functionals(used, "l", "t", residues)
    for at, p in enumerate(used.primes):
        label = b'{"kind":"moonflower.v2.tau","list":"l","prime":%d,"total":"t"}' % at
        rows, inside = tau.BLOCK + 2, 2 * tau.WIDTH  # words of V: eight entries of 16 bits a row
        words = Stream(hashlib.sha256(label).digest()).words(inside + 3 * 8 * rows)
        inner = words[:inside].view("<u2").reshape(-1, 8).T.tolist()
        outer = (words[inside:] >> np.uint64(16)).reshape(3, -1).tolist()
        values = residues[at].tolist()
        parts = [values[start : start + tau.WIDTH] for start in range(0, len(values), tau.WIDTH)]
        short = [sum(v * c for v, c in zip(row, part, strict=False)) for part in parts for row in inner]
        expected = [sum(u * y for u, y in zip(row, short, strict=True)) % p for row in outer]
        assert list(found[3 * at : 3 * at + 3]) == expected


def test_every_residue_counts_in_every_functional() -> None:
    done = four()
    (residues,) = residues_of(done.plan, done.total, done.lanes)
    before = tau.functionals(done.plan, "l", "t", [residues])
    for at in (0, 1, 299, len(residues) - 1):
        changed = residues.copy()
        changed[at] ^= np.uint64(1)
        assert all(one != two for one, two in zip(before, tau.functionals(done.plan, "l", "t", [changed]), strict=True))


def test_functionals_depend_on_list_and_total() -> None:
    residues = residues_of(four().plan, four().total, 300)
    found = {tau.functionals(four().plan, *about, residues) for about in (("l", "t"), ("m", "t"), ("l", "u"))}
    assert len(found) == 3


# From floats to a mean, through the sealing


@pytest.mark.parametrize(
    ("members", "value_bits", "values"), [(4, 16, 30), (4, 16, 20_000), (16, 9, 9000), (64, 14, 500)]
)
def test_a_sealed_sum_opens_to_the_quantised_sum(members: int, value_bits: int, values: int) -> None:
    rng = np.random.default_rng(values)
    updates = [rng.normal(0, 1, values).astype(np.float32) for _ in range(members)]
    scale = Scale((Stretch(values, "*", 1.5),), value_bits)
    given_ = [Contribution((i, 2**38 - 1), update, 1 / members, scale, bytes(32)) for i, update in enumerate(updates)]
    used = plan(members, value_bits, given_[0].lanes(plan(members, value_bits, values)))
    lanes = given_[0].lanes(used)
    done = Round(members, value_bits, lanes, [lanes_of(one, used) for one in given_])
    assert done.plan == used
    opened = OpenedSum(open_total(used, CONTEXT, done.key, done.total, lanes), values, 2, members, used)
    sums = np.concatenate([part for _, part in opened.values()])
    assert opened.in_range
    assert opened.counters == (sum(range(members)), members * (2**38 - 1))
    assert (sums == sum(np.concatenate([part for _, part in one.integers()]) for one in given_)).all()


# Bits


def test_packed_bits_have_known_bytes() -> None:
    residues = np.arange(64, dtype=np.uint64)[None] * np.uint64(0x3_0000_0001) % np.uint64(1 << 50)
    assert hashlib.sha256(bits.pack(residues, 50)).hexdigest() == PACKED


PACKED = "0702f20f7bf3e14d974597ac932b6e9c7490f0fdaf2525b6c3ee5b7c17cc812f"


@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 2**32))
def test_bits_come_back_and_leave_no_gap(width: int, rows: int, seed: int) -> None:
    residues = np.random.default_rng(seed).integers(0, 1 << width, (rows, 64), dtype=np.uint64)
    data = bits.pack(residues, width)
    assert data.shape == (rows, 8 * width)
    assert (bits.unpack(data, 64, width) == residues).all()


# Memory

MEMBER_MEMORY = """
import resource
import numpy as np
from moonflower.crypto import sealed, tau
from moonflower.crypto.planner import plan
from moonflower.crypto.quantise import Contribution, Length, OpenedSum, Scale, Stretch, apply_mean, lanes_of
values = 10_000_000
used = plan(2, 16, values)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
update = np.linspace(-1, 1, values, dtype=np.float32)
scale = Scale((Stretch(values, "*", 1.0),), 16)
lanes = lanes_of(Contribution((), update, 1.0, scale, bytes(32)), used)
secrets = sealed.Secrets.fresh(bytes(32), bytes(32), "c" * 64, sealed.digest_of(lanes))
body, count = sealed.seal(used, "c" * 64, secrets, lanes), len(lanes)
del lanes
sealing = peak() - before
tau.functionals(used, "l", "t", sealed.residues_of(used, body, count))
base = np.zeros(values, dtype=np.float32)
sums = OpenedSum(sealed.open_total(used, "c" * 64, secrets.key(used), body, count), values, 0, 1, used)
candidate, length = np.empty_like(base), Length(scale)
for at, part in sums.values():
    length.add(at, part)
    candidate[at : at + len(part)] = apply_mean(base[at : at + len(part)], part * scale.steps(at, len(part)))
assert sums.in_range
print(sealing, peak() - before)
"""


def test_ten_million_parameters_fit_in_six_times_their_vector_at_a_member() -> None:
    command = [sys.executable, "-c", MEMBER_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    sealing_kib, all_kib = map(int, done.stdout.split())
    vector_kib = 4 * 10_000_000 // 1024
    assert sealing_kib < 6 * vector_kib, f"sealing took {sealing_kib / vector_kib:.1f} times the vector"
    assert all_kib < 6 * vector_kib, f"sealing and opening took {all_kib / vector_kib:.1f} times the vector"
