"""Scheme ``threshold``: exact for every set of openers, nothing below it, liars found; and the five attacks.

Each attack runs twice: against a copy with one protection taken away (``threshold_weak``), where it has to succeed, or
the test would prove nothing, and against what is shipped.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import bits, masks, sealed, shamir
from moonflower.crypto.flood import (
    FLOOD_PRIMES,
    MAX_ATTEMPTS,
    Answered,
    FloodCount,
    Opening,
    ThresholdPlan,
    plan_threshold,
)
from moonflower.crypto.mac import Mac
from moonflower.crypto.planner import FRESH_NOISE, _is_prime, _largest_prime
from moonflower.crypto.planner import plan as plan_shared
from moonflower.crypto.quantise import ONE, Contribution, OpenedSum, quantise, slot_blocks
from moonflower.crypto.ring import Ring, expand, prime
from moonflower.crypto.secret import _Seal
from moonflower.crypto.shamir import EpochShare, deal
from moonflower.crypto.threshold import Check, Opened, Seat, add, combine, judge, next_openers, read
from moonflower.errors import InputError, Refused
from protocol import identity, roster
from threshold_weak import CollectiveKey, Forgetful, ObedientSeat, Unmasked

CONTEXT, LANES = "c" * 64, 501


# A federation in memory


def epoch(members: int, value_bits: int = 16, size: int = LANES) -> tuple[ThresholdPlan, dict[str, EpochShare]]:
    """n = 3, 5, 7 open with t = 2, 3, 5."""
    return _epoch(plan_threshold(members, value_bits, size, threshold=5 if members == 7 else 0))


@lru_cache
def _epoch(plan: ThresholdPlan) -> tuple[ThresholdPlan, dict[str, EpochShare]]:
    members = plan.members
    names = tuple(f"m{i:02}" for i in range(members))
    dealt = {name: deal(plan, names) for name in names}
    commitments = {name: d.commitments for name, d in dealt.items()}
    payloads = {name: {dealer: d.payloads[name] for dealer, d in dealt.items()} for name in names}
    return plan, {n: EpochShare(plan, names, n, dealt[n].own, payloads[n], commitments) for n in names}


def rows_for(plan: ThresholdPlan, seed: int, lanes: int = LANES) -> Any:
    """A whole vector of random plaintext rows as honest members fill them."""
    values = lanes - plan.limbs
    update = np.random.default_rng(seed).normal(0, 0.3, values).astype(np.float32)
    return np.concatenate(list(slot_blocks(Contribution((seed + 1,), update, ONE // plan.members), plan)))


@lru_cache
def sealed_by(members: int) -> dict[str, tuple[Any, sealed.SealedVector]]:
    """Rows and sealed vector of every member, for CONTEXT."""
    plan, held = epoch(members)
    out = {}
    for seed, (name, one) in enumerate(held.items()):
        rows = rows_for(plan, seed)
        out[name] = rows, Seat(one).seal(CONTEXT, [rows], LANES)
    return out


def residues(data: bytes, plan: ThresholdPlan) -> Any:
    packed = np.frombuffer(data, np.uint8).reshape(-1, plan.chunk_bytes)
    return bits.unpack(packed, plan.degree, plan.modulus_bits).view(np.int64)


def packed(rows: Any, plan: ThresholdPlan) -> bytes:
    return bits.pack((rows % plan.modulus).astype(np.uint64), plan.modulus_bits).tobytes()


def total_of(bodies: Any, plan: ThresholdPlan) -> bytes:
    """What the coordinator does, with no key."""
    return packed(sum(residues(body, plan) for body in bodies), plan)


def open_with(openers: Any, members: Any, total: bytes, *, n: int, attempt: int = 0, kind: Any = Seat) -> Opened:
    plan, held = epoch(n)
    about = Opening(CONTEXT, tuple(members), tuple(openers), attempt)
    partials = {name: kind(held[name]).partial(about, LANES) for name in openers}
    return combine(plan, total, partials, LANES, Check(next(iter(held.values())).secret, CONTEXT, about.members, plan))


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    return refusal.value.code


# Exactness


@pytest.mark.parametrize(("n", "t"), [(2, 2), (3, 2), (5, 3), (7, 5)])
def test_every_set_of_openers_opens_exactly_the_sum(n: int, t: int) -> None:
    plan, held = epoch(n)
    assert plan.threshold == t
    names, vectors = tuple(held), sealed_by(n)
    members = names[: max(2, n - 2)]  # the last two never sealed
    total = total_of([vectors[name][1].body for name in members], plan)
    tags = {name: list(vectors[name][1].tags) for name in members}
    sealed.check_total(Mac(held[names[0]].secret, CONTEXT, plan), tags, total, LANES, plan)
    expected = sum(vectors[name][0] for name in members)
    digests = set()
    for openers in combinations(names, t):
        opened = open_with(openers, members, total, n=n)
        assert (opened.rows == expected).all()
        digests.add(opened.digest)
    assert len(digests) == 1
    assert digests != {""}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([(5, 16), (5, 9), (3, 24), (2, 4), (9, 12)]), st.integers(0, 2**32), st.data())
def test_a_sum_opens_to_the_integers_that_scheme_shared_opens(set_: tuple[int, int], seed: int, data: Any) -> None:
    """Same values, same rounding, same counters: the integers are those of ``quantise``, whatever the packing."""
    n, value_bits = set_
    plan, held = epoch(n, value_bits, 100_000)
    assert plan.lanes > 1 or value_bits > 16
    assert value_bits == plan_shared(n, value_bits, LANES).value_bits
    names, rng = tuple(held), np.random.default_rng(seed)
    size = data.draw(st.sampled_from([0, 1, 600, plan.lanes * plan.degree - 40, plan.degree * plan.lanes + 5]))
    members = sorted(rng.choice(names, data.draw(st.integers(2, n)), replace=False).tolist())
    openers = tuple(sorted(rng.choice(names, plan.threshold, replace=False).tolist()))
    updates = {name: rng.normal(0, 1, size).astype(np.float32) for name in members}
    given_ = {name: Contribution((7, 2**44 - 1), updates[name], ONE // n, 1.5) for name in members}
    lanes = given_[members[0]].lanes(plan)
    vectors = {name: Seat(held[name]).seal(CONTEXT, slot_blocks(one, plan), lanes) for name, one in given_.items()}
    assert all(len(v.body) == plan.body_bytes(lanes) for v in vectors.values())
    total = total_of([v.body for v in vectors.values()], plan)
    tags = {name: list(v.tags) for name, v in vectors.items()}
    sealed.check_total(Mac(held[names[0]].secret, CONTEXT, plan), tags, total, lanes, plan)
    about = Opening(CONTEXT, tuple(members), openers, 0)
    partials = {name: Seat(held[name]).partial(about, lanes) for name in openers}
    assert all(len(p) == plan.body_bytes(lanes) for p in partials.values())
    opened = combine(plan, total, partials, lanes, Check(held[names[-1]].secret, CONTEXT, members, plan))
    found = OpenedSum(opened.blocks(), size, 2, len(members), plan)
    sums = [part for _, part in found.values()]
    assert found.in_range
    assert found.counters == (7 * len(members), len(members) * (2**44 - 1))
    expected = sum(quantise(u, ONE // n, 1.5, value_bits) for u in updates.values())
    assert (np.concatenate(sums) == expected).all() if size else not sums


def test_the_most_extreme_sum_is_exact() -> None:
    """All members, all lanes full, in every coefficient that is not the check's."""
    plan, held = epoch(5)
    rows = np.full((1, plan.degree), (plan.plain_modulus - 1) // plan.max_members, dtype=np.int64)
    rows[0, -plan.check_points :] = 0
    bodies = [Seat(one).seal(CONTEXT, [rows], LANES).body for one in held.values()]
    opened = open_with(tuple(held)[:3], held, total_of(bodies, plan), n=5)
    assert (opened.rows == 5 * rows).all()
    assert opened.digest


def test_a_coordinator_that_combines_gets_the_same_sum() -> None:
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    about = Opening(CONTEXT, names, names[1:4], 0)
    partials = {name: Seat(held[name]).partial(about, LANES) for name in names[1:4]}
    total = total_of([vectors[name][1].body for name in names], plan)
    combined = add(plan, total, partials, LANES)
    opened = read(plan, combined, LANES, None)
    assert (opened.rows == sum(vectors[name][0] for name in names)).all()
    secret = held["m00"].secret
    assert opened.digest == combine(plan, total, partials, LANES, Check(secret, CONTEXT, names, plan)).digest
    assert opened.digest == read(plan, combined, LANES, Check(secret, CONTEXT, names, plan)).digest
    assert code_of(read, plan, combined[:-1], LANES, None) == "open.set"
    assert read(plan, combined, LANES, Check(secret, CONTEXT, names[:4], plan)).digest == "", "another set's pads"


@pytest.mark.parametrize("lie", ["nothing", "twice", "shifted", "another"])
def test_a_coordinator_that_combines_cannot_hand_out_another_sum(lie: str) -> None:
    """It sees the sum and its check. Without pads a sum of zeros, and twice the sum, would fit theirs as well."""
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    about = Opening(CONTEXT, names, names[:3], 0)
    partials = {name: Seat(held[name]).partial(about, LANES) for name in about.openers}
    total = total_of([vectors[name][1].body for name in names], plan)
    right = residues(add(plan, total, partials, LANES), plan)
    wrong = right * {"nothing": 0, "twice": 2}.get(lie, 1)
    if lie == "shifted":
        wrong[0, 0] += plan.scaling
    if lie == "another":
        other = replace(about, context="d" * 64)
        bodies = [Seat(one).seal(other.context, [vectors[name][0]], LANES).body for name, one in held.items()]
        partials = {name: Seat(held[name]).partial(other, LANES) for name in about.openers}
        wrong = residues(add(plan, total_of(bodies, plan), partials, LANES), plan)
    assert read(plan, packed(right, plan), LANES, Check(held["m00"].secret, CONTEXT, names, plan)).digest
    assert not read(plan, packed(wrong, plan), LANES, Check(held["m00"].secret, CONTEXT, names, plan)).digest


def test_noise_is_what_the_formula_says() -> None:
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    total = residues(total_of([vectors[name][1].body for name in names], plan), plan)
    expected, found = sum(vectors[name][0] for name in names), []
    for attempt in range(4):
        about = Opening(CONTEXT, names, names[:3], attempt)
        x = total + sum(residues(Seat(held[name]).partial(about, LANES), plan) for name in about.openers)
        noise = prime(plan.modulus, plan.degree).reduce(x - expected * plan.scaling)
        noise = np.where(noise > plan.modulus // 2, noise - plan.modulus, noise)[0, : -plan.check_points]
        assert np.abs(noise).max() <= plan.noise_limit
        found.append(noise)
    rounding = (5 + 3) / 12
    flood = 3 * (2 ** (plan.flood_bits + 1) / plan.dropped) ** 2 / 12
    seals = 5 * 10.5 / plan.dropped**2
    assert abs(np.std(found) / sqrt(rounding + flood + seals) - 1) < 0.05


def test_a_seal_holds_its_fresh_noise_before_it_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No outcome shows it, as P is far above it; without it a seal would be no RLWE sample."""
    plan, held = epoch(5)
    seen: list[Any] = []
    switch = Ring.switch
    monkeypatch.setattr(Ring, "switch", lambda self, rows: seen.append(rows) or switch(self, rows))
    for _ in range(2):
        Seat(held["m00"]).seal(CONTEXT, [rows_for(plan, 0)], LANES)
    label = b"moonflower.public.v1\x00" + CONTEXT.encode()
    masks_ = plan.ring.times(-held["m00"].key, label, range(1))
    noises = [[row - mask for row, mask in zip(rows, masks_, strict=True)] for rows in seen]
    for noise in noises:
        assert (noise[0] == noise[1]).all()
        assert (noise[0] == noise[2]).all()
        assert abs(noise[0].std() / sqrt(10.5) - 1) < 0.05
    assert (noises[0][0] != noises[1][0]).mean() > 0.8, "the same noise twice"


# Below the threshold


@pytest.mark.parametrize("kind", [Seat, Unmasked])
def test_one_opener_less_opens_nothing(kind: Any) -> None:
    """Members below the threshold with the coordinator: their partials alone, or as if fewer had been enough."""
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    total = residues(total_of([vectors[name][1].body for name in names], plan), plan)
    right = sum(vectors[name][0] for name in names)
    wire = prime(plan.modulus, plan.degree)
    for missing in range(3):
        about = Opening(CONTEXT, names, names[:3], 0)
        some = [name for i, name in enumerate(about.openers) if i != missing]
        x = wire.reduce(total + sum(residues(kind(held[name]).partial(about, LANES), plan) for name in some))
        assert ((x + plan.scaling // 2) // plan.scaling == right)[:, :LANES].mean() < 0.01
        label = b"moonflower.public.v1\x00" + CONTEXT.encode()
        points = {names.index(name) + 1: sum(held[name].shares.values()) for name in some}
        shares = {
            j: np.stack([p.reduce(r) for p, r in zip(plan.ring.primes, s, strict=True)]) for j, s in points.items()
        }
        guess = plan.ring.switch(plan.ring.times(shamir.combine(shares, plan.ring.primes), label, range(1)))
        x = wire.reduce(total + guess)
        assert ((x + plan.scaling // 2) // plan.scaling == right)[:, :LANES].mean() < 0.01


def test_a_sealed_vector_and_a_single_partial_look_uniform() -> None:
    plan, held = epoch(5)
    names = tuple(held)
    about = Opening(CONTEXT, names, names[:3], 0)
    for data in (sealed_by(5)["m00"][1].body, Seat(held["m00"]).partial(about, LANES)):
        values = residues(data, plan) / plan.modulus
        counts = np.histogram(values, 32, (0, 1))[0]
        expected = values.size / 32
        assert ((counts - expected) ** 2 / expected).sum() < 75  # chi-square, 31 degrees: one in 2e5 is above


# SEAL with the reconstructed key


def test_seal_decrypts_the_same_sum_with_the_key_of_any_t_shares() -> None:
    """From the wire's bytes alone: the total times P, the public polynomial and S_A; SEAL tells x / q to 59 bits."""
    plan, held = epoch(5)
    names, vectors, ring = tuple(held), sealed_by(5), plan.ring
    members, openers = names[:4], (names[0], names[2], names[4])
    shares = {}
    for name in openers:
        total = sum(held[name].shares[member] for member in members)
        shares[names.index(name) + 1] = np.stack([p.reduce(r) for p, r in zip(ring.primes, total, strict=True)])
    key = shamir.combine(shares, ring.primes)
    small = prime(plan.modulus, plan.degree).intt(key[0][:, None].copy())[:, 0]
    small = np.where(small > 4, small - plan.modulus, small)
    assert np.abs(small).max() <= 4

    last = FLOOD_PRIMES[1] - 2 * plan.degree
    while not _is_prime(last):
        last -= 2 * plan.degree
    primes, t = [plan.modulus, *FLOOD_PRIMES, last], 1 << 59
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(plan.degree)
    parameters.set_coeff_modulus([seal.Modulus(p) for p in primes])
    parameters.set_plain_modulus(t)
    door: Any = _Seal.__new__(_Seal)
    door.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    assert door.context.parameters_set(), door.context.parameters_error_message()
    some = seal.KeyGenerator(door.context).secret_key()
    key_meta = door.save(some)[:48]
    cipher_meta = door.save(seal.Encryptor(door.context, some).encrypt_symmetric(seal.Plaintext("1")))[:73]
    whole = np.stack([prime(p, plan.degree).ntt(small[:, None])[:, 0] for p in primes])
    for p, row, ours in zip(primes[:3], whole, key, strict=False):
        assert (prime(p, plan.degree).reduce(row) == ours).all()
    secret = door.load(seal.SecretKey(), key_meta, whole.astype("<u8").tobytes(), 4 * plan.degree)

    label = b"moonflower.public.v1\x00" + CONTEXT.encode()
    total = residues(total_of([vectors[name][1].body for name in members], plan), plan)[0]
    first = [p.scale(total, plan.dropped) for p in ring.primes]
    second = [p.intt(expand(label, p, range(1)).T.copy())[:, 0] for p in ring.primes]
    data = np.concatenate([*first, *second]).astype("<u8").tobytes()
    body = cipher_meta + door._framed(struct.pack("<Q", 6 * plan.degree) + data)
    plain = seal.Plaintext()
    seal.Decryptor(door.context, secret).decrypt(door._write(seal.Ciphertext(), body), plain)
    raw = door.save(plain)
    count = struct.unpack_from("<Q", raw, 48 + 16)[0]
    read = np.frombuffer(raw, "<u8", count, 48 + 16 + 8).tolist()
    x = [(2 * value * plan.modulus + t) // (2 * t) for value in read]
    opened = [(value + plan.scaling // 2) % plan.modulus // plan.scaling for value in x]
    right = sum(vectors[name][0] for name in members)[0]
    assert opened[: -plan.check_points] == right[: -plan.check_points].tolist()
    ours = open_with(openers, members, packed(total[None], plan), n=5)
    assert ours.rows[0].tolist() == right.tolist()


# The five attacks


def summed(rows: Any, plan: ThresholdPlan) -> Any:
    """S as small numbers, from evaluations mod the wire prime."""
    p = plan.ring.wire
    small = p.intt(p.reduce(sum(row[0] for row in rows))[:, None])[:, 0]
    return np.where(small > plan.modulus // 2, small - plan.modulus, small)


@pytest.mark.parametrize("kind", [ObedientSeat, Seat])
def test_attack_1_chosen_second_polynomials(kind: Any) -> None:
    """The coordinator sends 64 P as "the ciphertext"; partials add up to 64 S: the key of A's sums in one answer."""
    plan, held = epoch(5)
    names = tuple(held)
    about, x = Opening(CONTEXT, names, names[:3], 0), 0
    for name in about.openers:
        seat = kind(held[name])
        seat.sent = np.stack([np.full(plan.degree, 64 * plan.dropped % p.modulus) for p in plan.ring.primes])
        x = x + residues(seat.partial(about, LANES), plan)[0]
    x = plan.ring.wire.reduce(x)
    guess = np.rint(np.where(x > plan.modulus // 2, x - plan.modulus, x) / 64)
    right = (guess == summed([one.key for one in held.values()], plan)).mean()
    assert right == 1.0 if kind is ObedientSeat else right < 0.01


def test_attack_2_cancellation_opens_one_member_where_openers_follow_the_ciphertext() -> None:
    """A member sends Enc(0) - the others' ciphertexts. The sum is the victim's alone, and linear tags agree with it."""
    plan, held = epoch(5)
    names = tuple(held)
    public = CollectiveKey(plan, [one.key for one in held.values()])
    rows = [rows_for(plan, seed)[0] for seed in range(4)]
    first, second = zip(*(public.encrypt(row) for row in rows), strict=True)
    zero = public.encrypt(np.zeros_like(rows[0]))
    evil = (zero[0] - sum(first[1:]), zero[1] - sum(second[1:]))
    about, x = Opening(CONTEXT, names, names[:3], 0), sum(first) + evil[0]
    sent = sum(second) + evil[1]
    for name in about.openers:
        seat = ObedientSeat(held[name])
        seat.sent = np.stack([p.reduce(row) for p, row in zip(plan.ring.primes, sent, strict=True)])
        x = x + residues(seat.partial(about, LANES), plan)[0]
    opened = (plan.ring.wire.reduce(x) + plan.scaling // 2) % plan.modulus // plan.scaling
    assert (opened == rows[0]).all()


def test_attack_2_cancellation_opens_nothing_here() -> None:
    """Its tags are right, so the total is taken for the sum; but the masks that come off are those of all of A."""
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    sent = {name: residues(vectors[name][1].body, plan) for name in names}
    evil = (sent["m04"] - sent["m01"] - sent["m02"] - sent["m03"]) % plan.modulus
    mac = Mac(held["m04"].secret, CONTEXT, plan)
    tags = {name: list(vectors[name][1].tags) for name in names}
    tags["m04"] = mac.tag("m04", [evil.reshape(-1).astype(np.uint64)])
    total = packed(sum(sent[name] for name in names[:4]) + evil, plan)
    sealed.check_total(mac, tags, total, LANES, plan)
    opened = open_with(names[:3], names, total, n=5)
    assert opened.digest == ""
    for guess in (opened.rows, opened.rows - vectors["m04"][0]):
        assert (guess == vectors["m00"][0])[:, :LANES].mean() < 0.01


@pytest.mark.parametrize("kind", [Forgetful, Answered])
def test_attack_3_two_sets_for_one_context(kind: Any) -> None:
    """The difference of the sums with and without a member is that member's vector, exactly."""
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    rest, openers = names[:4], names[:3]
    records = {name: kind(CONTEXT, names) for name in openers}
    opened = []
    for attempt, members in enumerate((names, rest)):
        asked = Opening(CONTEXT, members, openers, attempt)
        if kind is Answered and members == rest:
            assert all(code_of(records[n].admit, n, names, plan, asked) == "open.overlap" for n in openers)
            return
        records = {name: record.admit(name, names, plan, asked) for name, record in records.items()}
        total = total_of([vectors[name][1].body for name in members], plan)
        opened.append(open_with(openers, members, total, n=5, attempt=attempt).rows)
    assert kind is Forgetful
    assert (opened[0] - opened[1] == vectors["m04"][0]).all()


@pytest.mark.parametrize("weak", [True, False])
def test_attack_4_noise_that_reads_the_key(weak: bool) -> None:
    """A member adds P to its second polynomial: the sum stays right, and its noise, on average, is S. Here there is no
    second polynomial; what a member adds to its first one comes back as itself.
    """
    plan, held = epoch(5)
    names, key = tuple(held), summed([one.key for one in epoch(5)[1].values()], plan)
    wire, rows = plan.ring.wire, rows_for(plan, 0)[0]
    public = CollectiveKey(plan, [one.key for one in held.values()])
    noise = np.zeros(plan.degree)
    rounds = 30
    for attempt in range(rounds):
        context = f"{attempt:064}"
        about = Opening(context, names, names[:3], 0)
        if weak:
            x, sent = public.encrypt(rows)
            sent = np.stack(
                [p.reduce(row + plan.dropped % p.modulus) for p, row in zip(plan.ring.primes, sent, strict=True)]
            )
        else:
            bodies = [Seat(one).seal(context, [rows[None] * (n == "m00")], LANES).body for n, one in held.items()]
            x = residues(total_of(bodies, plan), plan)[0]
            x = x + 1
        for name in about.openers:
            seat = ObedientSeat(held[name]) if weak else Seat(held[name])
            if weak:
                seat.sent = sent
            x = x + residues(seat.partial(about, LANES), plan)[0]
        off = wire.reduce(x - rows * plan.scaling)
        off = np.where(off > plan.modulus // 2, off - plan.modulus, off)
        assert weak or (np.abs(off[: -plan.check_points]) <= plan.noise_limit + 1).all()
        assert (np.abs(off[: -plan.check_points]) < plan.scaling / 2).all(), "the sum would be wrong, and noticed"
        noise += off / rounds
    known = slice(None, -plan.check_points)
    if weak:
        assert (np.rint(noise) == key)[known].mean() > 0.99
    else:
        assert abs(np.corrcoef(noise[known], key[known])[0, 1]) < 0.06


def whole(rows: Any, plan: ThresholdPlan) -> list[int]:
    """Numbers mod q from their residues for each prime."""
    q = plan.modulus * plan.dropped
    basis = [(q // p.modulus) * pow(q // p.modulus, -1, p.modulus) for p in plan.ring.primes]
    return [
        sum(b * v for b, v in zip(basis, values, strict=True)) % q
        for values in zip(*(r.tolist() for r in rows), strict=True)
    ]


@pytest.mark.parametrize("kind", [Unmasked, Seat])
def test_attack_5_lagrange_ratios(kind: Any) -> None:
    """t - 1 = 2 members and the coordinator, below the threshold: with openers 1, 2, 4 and the shares of 4 and 5,
    lambda_1 is 8/5 of what it is for openers 1, 4, 5. Five times the partial of member 1 then shows the noise of all
    seals (with what their rounding cut off) mod 5, in every coefficient, whatever the flooding.
    """
    plan, held = epoch(5)
    names, vectors, ring = tuple(held), sealed_by(5), plan.ring
    q, big_p = plan.modulus * plan.dropped, plan.dropped
    about = Opening(CONTEXT, names, (names[0], names[1], names[3]), 0)
    star = (names[0], names[3], names[4])

    def factor(point: int, points: tuple[int, ...]) -> Fraction:
        out = Fraction(1)
        for m in points:
            out *= Fraction(m, m - point) if m != point else 1
        return out

    ratio = factor(1, (1, 2, 4)) / factor(1, (1, 4, 5))
    u, v = ratio.numerator, ratio.denominator
    assert (u, v) == (8, 5)
    label = b"moonflower.public.v1\x00" + CONTEXT.encode()
    known = [ring.times(held[n].factor(replace(about, openers=star)), label, range(1)) for n in star[1:]]
    k = [a + b for a, b in zip(*(whole([r[0] for r in rows], plan) for rows in known), strict=True)]
    total = residues(total_of([vectors[name][1].body for name in names], plan), plan)[0]
    plain = sum(vectors[name][0] for name in names)[0]  # what the opening tells everybody
    w = ring.wire.reduce(total - plain * plan.scaling).tolist()
    h = residues(kind(held[names[0]]).partial(about, LANES), plan)[0].tolist()
    guess = []
    for hi, wi, ki in zip(h, w, k, strict=True):
        value = (v * big_p * hi + u * (big_p * wi + ki)) % q
        guess.append((value - q if value > q // 2 else value) * pow(u, -1, v) % v)
    secret = np.stack([p.reduce(sum(held[n].key[i] for n in names)) for i, p in enumerate(ring.primes)])
    masks_ = whole([r[0] for r in ring.times(secret, label, range(1))], plan)
    noise = [(m + big_p * wi) % q for m, wi in zip(masks_, w, strict=True)]
    right = [(e - q if e > q // 2 else e) % v for e in noise]
    share = np.mean(np.array(guess) == np.array(right))
    assert share > 0.999 if kind is Unmasked else share < 0.23


def test_two_envelopes_of_one_context_tell_their_difference_without_any_key() -> None:
    """Why rule 7 persists an envelope before it is sent; and why ``seal`` is called once."""
    plan, held = epoch(5)
    one, two = rows_for(plan, 1), rows_for(plan, 2)
    sent = [residues(Seat(held["m00"]).seal(CONTEXT, [rows], LANES).body, plan) for rows in (one, two)]
    off = (sent[0] - sent[1] + plan.scaling // 2) % plan.modulus // plan.scaling
    assert (off[:, :LANES] == (one - two)[:, :LANES] % (plan.modulus // plan.scaling)).mean() > 0.99


def test_two_openings_of_one_set_share_no_polynomial_with_another_context() -> None:
    plan, _ = epoch(5)
    rows = [expand(b"moonflower.public.v1\x00" + c.encode() * 64, plan.ring.wire, range(2)) for c in "cd"]
    assert (rows[0] != rows[1]).mean() > 0.999
    assert (rows[0][0] != rows[0][1]).mean() > 0.999


# Partials


def test_a_retry_gives_the_same_bytes_and_another_attempt_fresh_masks() -> None:
    plan, held = epoch(5)
    names = tuple(held)
    about = Opening(CONTEXT, names, names[:3], 0)
    first = Seat(held["m00"]).partial(about, LANES)
    assert Seat(held["m00"]).partial(about, LANES) == first
    for other in (
        replace(about, attempt=1),
        replace(about, openers=(names[0], names[1], names[4])),
        replace(about, members=names[:4]),
        replace(about, context="d" * 64),
    ):
        assert (residues(Seat(held["m00"]).partial(other, LANES), plan) != residues(first, plan)).mean() > 0.99


def test_masks_and_floods_differ_from_prime_to_prime_and_peer_to_peer_and_cancel() -> None:
    plan, held = epoch(5)
    about = Opening(CONTEXT, tuple(held), ("m00", "m01", "m02"), 0)
    zero = {name: Seat(held[name])._masks(about).of(range(2)) for name in about.openers}
    for row, p in enumerate(plan.ring.primes):
        assert not p.reduce(sum(mask[row] for mask in zero.values())).any()
    one = zero["m00"]
    assert (one[1] != one[2]).mean() > 0.999
    assert (one[1][0] != one[1][1]).mean() > 0.999
    assert (zero["m01"][1] != -one[1]).mean() > 0.999
    bare = [residues(Unmasked(held["m00"]).partial(replace(about, attempt=k), LANES), plan) for k in range(2)]
    assert 0.3 < (bare[0] != bare[1]).mean() < 0.9, "the flood of one attempt is that of another"


def test_partials_of_different_attempts_do_not_mix() -> None:
    """A lost answer of one attempt cannot be filled in from another: the masks do not cancel, and that is noticed."""
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    total = total_of([vectors[name][1].body for name in names], plan)
    about = Opening(CONTEXT, names, names[:3], 0)
    partials = {name: Seat(held[name]).partial(about, LANES) for name in about.openers}
    partials["m02"] = Seat(held["m02"]).partial(replace(about, attempt=1), LANES)
    opened = combine(plan, total, partials, LANES, Check(held["m00"].secret, CONTEXT, about.members, plan))
    assert opened.digest == ""
    assert code_of(opened.blocks) == "open.partial"
    blind = read(plan, add(plan, total, partials, LANES), LANES, None)  # without the check, the noise alone tells
    assert code_of(blind.blocks) == "open.partial"


@pytest.mark.parametrize("lie", ["bit", "plain", "zeros", "other set", "one coefficient"])
def test_a_wrong_partial_is_never_taken(lie: str) -> None:
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    total = total_of([vectors[name][1].body for name in names], plan)
    about = Opening(CONTEXT, names, names[:3], 0)
    partials = {name: Seat(held[name]).partial(about, LANES) for name in about.openers}
    wrong = residues(partials["m01"], plan).copy()
    if lie == "bit":
        wrong[0, 17] ^= 1 << 20
    elif lie == "plain":
        wrong[0, :40] += plan.scaling  # a perfectly good looking sum, one higher
    elif lie == "one coefficient":
        wrong[0, 3] += plan.scaling << 30
    elif lie == "zeros":
        wrong[:] = 0
    else:
        wrong = residues(Seat(held["m01"]).partial(replace(about, members=names[:4]), LANES), plan)
    partials["m01"] = packed(wrong, plan)
    assert combine(plan, total, partials, LANES, Check(held["m00"].secret, CONTEXT, about.members, plan)).digest == ""


def test_partials_of_the_wrong_form_are_refused() -> None:
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    total = total_of([vectors[name][1].body for name in names], plan)
    about = Opening(CONTEXT, names, names[:3], 0)
    good = {name: Seat(held[name]).partial(about, LANES) for name in about.openers}

    def opened(partials: dict[str, bytes], total: bytes = total) -> Opened:
        return combine(plan, total, partials, LANES, Check(held["m00"].secret, CONTEXT, about.members, plan))

    assert opened(good).digest
    for bad in (b"", good["m01"][:-1], good["m01"] + b"\0", b"\xff" * len(total)):
        with pytest.raises(Refused, match="'m01'") as refusal:
            opened({**good, "m01": bad})
        assert refusal.value.code == "open.partial"
    assert code_of(opened, {"m00": good["m00"]}) == "open.set"
    assert code_of(opened, good, total[:-1]) == "open.set"


def test_a_member_of_another_epoch_opens_nothing() -> None:
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    dealt = {name: deal(plan, names) for name in names}
    stranger = EpochShare(
        plan,
        names,
        "m01",
        dealt["m01"].own,
        {dealer: d.payloads["m01"] for dealer, d in dealt.items()},
        {dealer: d.commitments for dealer, d in dealt.items()},
    )
    about = Opening(CONTEXT, names, names[:3], 0)
    partials = {name: Seat(stranger if name == "m01" else held[name]).partial(about, LANES) for name in about.openers}
    total = total_of([vectors[name][1].body for name in names], plan)
    assert combine(plan, total, partials, LANES, Check(held["m00"].secret, CONTEXT, about.members, plan)).digest == ""


# Who lied


def replay(n: int, t: int, liars: int, lie: Any, present: Any = None) -> tuple[Any, dict[Any, str]]:
    """Ask until a sum is accepted or nobody is left to ask; ``lie(openers)`` is what such a set opens."""
    outcomes: dict[Any, str] = {}
    names = tuple(present or (f"m{i}" for i in range(n)))
    while not judge(outcomes, liars).accepted and (openers := next_openers(names, t, outcomes)):
        outcomes[openers] = lie(openers)
    return judge(outcomes, liars), outcomes


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 7), st.data())
def test_a_wrong_sum_is_never_accepted_whatever_the_liars_do(n: int, data: Any) -> None:
    t = data.draw(st.integers(1, n))
    liars = data.draw(st.integers(0, min(2, n - 1)))
    guilty = set(data.draw(st.permutations([f"m{i}" for i in range(n)]))[:liars])

    def lie(openers: tuple[str, ...]) -> str:
        return data.draw(st.sampled_from(["", "right", "wrong", "other"])) if guilty & set(openers) else "right"

    found, outcomes = replay(n, t, liars, lie)
    assert found.accepted in ("", "right")
    assert not found.accepted or found.named <= guilty
    assert not found.accepted or all(set(o) & guilty for o, d in outcomes.items() if d != "right")
    if n >= t + 2 * liars or not liars:  # so many present means t + liars honest ones
        assert found.accepted == "right"


@pytest.mark.parametrize(("n", "t", "culprit"), [(5, 3, "m0"), (5, 3, "m4"), (7, 5, "m2"), (4, 2, "m1")])
def test_a_member_that_always_garbles_is_named_and_replaced(n: int, t: int, culprit: str) -> None:
    found, outcomes = replay(n, t, 0, lambda openers: "" if culprit in openers else "right")
    assert found.accepted == "right"
    assert culprit in found.suspects or culprit not in next(iter(outcomes))
    assert len(outcomes) <= 6
    names = [f"m{i}" for i in range(n)]
    while openers := next_openers(names, t, outcomes):
        outcomes[openers] = "" if culprit in openers else "right"
    assert judge(outcomes, 0).named == {culprit}


def test_one_liar_of_five_takes_few_openings() -> None:
    for culprit in range(5):
        found, outcomes = replay(5, 3, 1, lambda o, c=culprit: "wrong" if f"m{c}" in o else "right")
        assert found.accepted == "right"
        assert len(outcomes) <= 10 <= MAX_ATTEMPTS
        honest, needed = replay(5, 3, 1, lambda o: "right")
        assert (honest.accepted, len(needed)) == ("right", 3)


def test_two_certain_sums_are_none() -> None:
    contradiction = {("m0", "m1"): "a", ("m2", "m3"): "b"}
    assert judge(contradiction, 0).accepted == ""
    assert judge({**contradiction, ("m1", "m2"): "a", ("m0", "m2"): "a"}, 1).accepted == "a"
    assert judge({}, 0) == judge({}, 1)
    assert judge({}, 0).accepted == ""


def test_a_spoilt_envelope_is_told_from_lying_openers() -> None:
    found, outcomes = replay(5, 3, 1, lambda openers: "")
    assert (found.accepted, found.sealed) == ("", True)
    assert len(outcomes) == 10
    few = {("m0", "m1", "m2"): "", ("m0", "m3", "m4"): ""}
    assert not judge(few, 1).sealed
    assert judge(few, 1).named == {"m0"}


def test_a_liar_that_also_spoilt_its_own_check_gets_no_sum_accepted() -> None:
    """It seals a wrong check, so that honest openings fail, and mends it in those that it is part of."""
    found, _ = replay(4, 3, 1, lambda openers: "wrong" if "m0" in openers else "")
    assert found.accepted == ""


def test_a_garbled_partial_is_replaced_in_a_real_opening() -> None:
    plan, held = epoch(5)
    names, vectors = tuple(held), sealed_by(5)
    total = total_of([vectors[name][1].body for name in names], plan)
    outcomes: dict[Any, str] = {}
    while not judge(outcomes, 0).accepted:
        openers = next_openers(names, 3, outcomes)
        about = Opening(CONTEXT, names, openers, len(outcomes))
        partials = {name: Seat(held[name]).partial(about, LANES) for name in openers}
        if "m01" in openers:
            partials["m01"] = packed(residues(partials["m01"], plan) + 5 * plan.scaling, plan)
        opened = combine(plan, total, partials, LANES, Check(held["m00"].secret, CONTEXT, about.members, plan))
        outcomes[openers] = opened.digest
    assert (opened.rows == sum(vectors[name][0] for name in names)).all()
    assert "m01" in judge(outcomes, 0).suspects
    assert len(outcomes) == 2


# To the combiners


def test_only_a_combiner_reads_a_partial_and_only_from_its_opener() -> None:
    about = Opening(CONTEXT, ("anna", "bert"), ("anna", "cleo"), 0)
    sent = masks.wrap(identity("anna"), about, b"partial", roster(), ("bert", "dora"))
    card = roster().card("anna")
    assert b"partial" not in sent.ciphertext
    again = masks.Wrapped.parse(sent.as_dict(), sent.ciphertext)
    assert again == sent
    for combiner in ("bert", "dora"):
        assert masks.unwrap(identity(combiner), about, card, again) == b"partial"
    assert code_of(masks.unwrap, identity("cleo"), about, card, sent) == "deal.signature"
    assert code_of(masks.unwrap, identity("bert"), about, roster().card("cleo"), sent) == "envelope.member"
    assert (
        code_of(masks.unwrap, identity("bert"), replace(about, openers=("bert", "cleo")), card, sent)
        == "envelope.member"
    )
    for other in (replace(about, attempt=1), replace(about, members=("anna",)), replace(about, context="d" * 64)):
        assert code_of(masks.unwrap, identity("bert"), other, card, sent) == "envelope.signature"
    flipped = replace(sent, ciphertext=sent.ciphertext[:-1] + bytes([sent.ciphertext[-1] ^ 1]))
    assert code_of(masks.unwrap, identity("bert"), about, card, flipped) == "envelope.signature"
    forged = masks.Wrapped("anna", sent.ciphertext, sent.keys, identity("cleo").sign("partial", sent.signed(about)))
    assert code_of(masks.unwrap, identity("bert"), about, card, forged) == "envelope.signature"


@pytest.mark.parametrize(
    "junk", [None, {}, [], {"opener": "a", "keys": [], "sig": ""}, {"opener": "a", "keys": {}, "sig": 1}]
)
def test_a_wrapped_partial_of_the_wrong_form_is_refused(junk: Any) -> None:
    assert code_of(masks.Wrapped.parse, junk, b"") == "envelope.malformed"


# The plan


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 64), st.integers(4, 24), st.integers(1, 10**7), st.integers(0, 10))
def test_every_plan_holds_its_largest_sum_and_its_secrets(
    members: int, value_bits: int, size: int, faulty: int
) -> None:
    if faulty >= members:
        faulty = 0
    plan = plan_threshold(members, value_bits, size, faulty)
    n, t, big_p = plan.max_members, plan.threshold, plan.dropped
    assert members + faulty < 2 * t <= 2 * members
    assert 2 * t - members > faulty, "two sets of openers could share faulty members only"
    assert n >= members
    assert n * ((1 << value_bits) - 1) < 1 << plan.lane_bits
    assert plan.plain_modulus * plan.scaling <= plan.modulus
    worst = Fraction(FRESH_NOISE * n + (t << plan.flood_bits), big_p) + Fraction(n + t, 2)
    assert worst < Fraction(plan.scaling, 2), "t 2^B + B_ct reaches q / 2t"
    assert plan.noise_limit <= worst < plan.noise_limit + 1
    assert 1 << plan.flood_bits <= big_p
    assert plan.log_q <= 214
    assert all(_is_prime(p) and p % (2 * plan.degree) == 1 and p < 1 << 47 for p in (plan.modulus, *plan.flood_primes))
    spent = Fraction(plan.capacity * members * plan.seal_noise, 1 << (plan.flood_bits + 1))
    assert spent <= Fraction(1, 1 << 40)
    assert plan.check_points * (plan.mac_word_bits - (2 * plan.noise_limit + 1).bit_length()) >= 96
    assert plan.mac_points <= 8, "more tags than a header holds"
    chunks = plan.chunks(size)
    assert (chunks - 1) * plan.lanes * plan.degree + plan.degree - plan.check_points >= size or (
        chunks * plan.lanes * plan.degree >= size + plan.lanes * plan.degree
    )
    assert ThresholdPlan(**plan.as_dict()) == plan


def test_sizes_are_within_their_floors() -> None:
    for value_bits, floor in ((9, 5.0), (16, 6.0)):
        for members in (5, 16):
            plan = plan_threshold(members, value_bits, 1_000_000)
            assert plan.body_bytes(1_000_000) / 1e6 < floor / 1.5
            assert plan.rounds(1_000_000) > 10_000
            assert plan.describe(1_000_000)["openings"] > 100_000


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"threshold": 2}, "config.value"),
        ({"threshold": 6}, "config.value"),
        ({"faulty": 1}, "config.value"),
        ({"faulty": -1}, "config.value"),
        ({"modulus": 0}, "config.crypto"),
        ({"modulus": (1 << 46) + 1}, "config.crypto"),
        ({"flood_bits": 94}, "config.crypto"),
        ({"flood_bits": 45}, "config.crypto"),
        ({"max_members": 4}, "config.crypto"),
        ({"max_members": 64}, "config.crypto"),
        ({"lanes": 3}, "config.crypto"),
        ({"degree": 4096}, "config.crypto"),
        ({"scheme": "shared"}, "config.crypto"),
        ({"flood_primes": (FLOOD_PRIMES[0], FLOOD_PRIMES[0])}, "config.crypto"),
    ],
)
def test_parameters_that_could_open_wrongly_are_refused(changes: dict[str, Any], code: str) -> None:
    plan = plan_threshold(5, 16, 1000)
    if changes.get("modulus") == 0:  # the largest prime that leaves too little room for the noise
        changes = {"modulus": _largest_prime(plan.modulus_bits - 1, plan.degree)}
    with pytest.raises(InputError) as refusal:
        replace(plan, **changes)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((1, 16, 10), "config.value", "2 to 64"),
        ((65, 16, 10), "config.value", "2 to 64"),
        ((5, 16, 10, 5), "config.value", "0 to 4"),
        ((5, 16, 10, 1, 3), "config.value", "above 3"),
        ((5, 16, 10, 0, 6), "config.value", "at most 5"),
        ((5, 48, 10), "config.crypto", "48"),
        ((64, 16, 10**9, 0, 0, 1000), "config.value", "covers"),
    ],
)
def test_a_config_that_is_not_covered_is_refused(arguments: Any, code: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as refusal:
        plan_threshold(*arguments)
    assert refusal.value.code == code


# Counters


def test_a_member_stops_when_its_flooding_is_used_up() -> None:
    plan, _ = epoch(5)
    count = FloodCount.of(plan)
    one = count.spend(plan, LANES)
    assert one.spent == plan.chunks(LANES) * plan.degree
    nearly = replace(count, spent=count.capacity - one.spent)
    assert nearly.spend(plan, LANES).spent == count.capacity
    assert code_of(replace(nearly, spent=nearly.spent + 1).spend, plan, LANES) == "open.flood"


def test_a_record_admits_each_attempt_once_and_not_too_many() -> None:
    plan, held = epoch(5)
    names = tuple(held)
    first = Opening(CONTEXT, names, names[:3], 0)
    record = Answered(CONTEXT, names).admit("m00", names, plan, first)
    assert record.admit("m00", names, plan, first) is record
    other = ("m00", "m01", "m03")
    assert code_of(record.admit, "m00", names, plan, replace(first, openers=other)) == "open.set"
    again = record.admit("m00", names, plan, Opening(CONTEXT, names, other, 7))
    assert len(again.attempts) == 2
    for asked in (
        replace(first, attempt=MAX_ATTEMPTS),
        replace(first, attempt=-1),
        Opening(CONTEXT, names, ("m01", "m02", "m03"), 1),
        Opening(CONTEXT, names, ("m00", "m01"), 1),
        Opening(CONTEXT, names, ("m00", "m01", "zoe"), 1),
        Opening(CONTEXT, names, ("m01", "m00", "m02"), 1),
        Opening(CONTEXT, names, ("m00", "m00", "m02"), 1),
    ):
        assert code_of(record.admit, "m00", names, plan, asked) == "open.set"
    assert code_of(record.admit, "m00", names, plan, replace(first, context="d" * 64)) == "open.overlap"
