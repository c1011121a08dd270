"""Answers on their way: exact sums under the circle's key, against SEAL both ways; hostile answers and keys."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import bits
from moonflower.crypto.answer_plan import MAX_LOG_Q, SEED_BYTES, AnswerPlan, AnswerSum, answer_plan
from moonflower.crypto.answers import AnswerKey, _rows, generate
from moonflower.crypto.pairs import key_sum
from moonflower.crypto.planner import BOUND, Plan, plan
from moonflower.crypto.primes import is_prime
from moonflower.crypto.seal import SealKey, _Seal
from moonflower.errors import Refused

MEMBERS = [2, 3, 4, 5, 16, 17, 64, 256]
LENGTHS = [30, 5000, 1_000_003]


def code(function: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refused:
        function(*arguments)
    return refused.value.code


@lru_cache
def key_for(outer: Plan) -> AnswerKey:
    return AnswerKey(outer, generate(answer_plan(outer)))


def added(outer: Plan, answers: list[Any]) -> tuple[bytes, list[bytes]]:
    running = AnswerSum(answer_plan(outer))
    seeds = [running.add(key_for(outer).seal(one)) for one in answers]
    return running.dump(), seeds


def full(outer: Plan, value: int) -> Any:
    return np.full(outer.degree, value, dtype=np.uint16)


def residues_in(data: bytes, found: AnswerPlan) -> Any:
    return bits.unpack(np.frombuffer(data, np.uint8).reshape(-1, found.chunk_bytes), found.degree, found.modulus_bits)


# Parameters


@given(st.integers(2, 1024), st.integers(4, 24), st.integers(1, 10**7))
def test_every_plan_of_answers_holds_its_largest_sum(members: int, value_bits: int, lanes: int) -> None:
    outer = plan(members, value_bits, lanes)
    found = answer_plan(outer)
    assert found.modulus > (2 * BOUND + 1) * members * found.plain_modulus, "a sum may decrypt wrongly"
    assert found.modulus_bits <= min(60, MAX_LOG_Q[found.degree]), "more than eprint 2024/463 allows"
    assert is_prime(found.modulus)
    assert found.modulus % (2 * found.degree) == 1, "the ring does not split"
    assert members * ((1 << outer.key_bits) - 1) < 1 << found.lane_bits, "a lane reaches its neighbour"
    assert found.plain_modulus == 1 << ((found.lanes - 1) * found.lane_bits + outer.key_bits)
    assert found.chunks * found.lanes * found.degree >= found.count == outer.degree
    assert found.body_bytes == found.chunks * (SEED_BYTES + found.degree * found.modulus_bits // 8)
    assert found.body_bytes == found.seed_bytes + found.total_bytes


@pytest.mark.parametrize("members", [2, 4, 16, 64, 256, 1024])
def test_an_answer_is_one_ciphertext(members: int) -> None:
    found = answer_plan(plan(members, 16, 1_000_003))
    assert found.chunks == 1
    assert found.degree <= 4096
    assert found.body_bytes < 30_000
    short = answer_plan(plan(members, 16, 20_000))
    assert (short.chunks, short.degree) == (1, 4096 if members == 1024 else 2048)
    assert short.body_bytes < 17_000


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("lanes", LENGTHS)
def test_seal_takes_the_plans_parameters(members: int, lanes: int) -> None:
    found = answer_plan(plan(members, 16, lanes))
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(found.degree)
    parameters.set_coeff_modulus([seal.Modulus(found.modulus)])
    parameters.set_plain_modulus(found.plain_modulus)
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set(), context.parameters_error_message()


# Exact sums


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("lanes", LENGTHS)
def test_sums_of_answers_are_exact_at_the_ends_of_their_range(members: int, lanes: int) -> None:
    outer = plan(members, 16, lanes)
    top = (1 << outer.key_bits) - 1
    for value in (0, top):
        total, seeds = added(outer, [full(outer, value)] * members)
        expected = key_sum(outer, np.full(outer.degree, members * value))
        assert (key_for(outer).open(total, seeds) == expected).all()


def test_sums_of_a_thousand_and_twenty_four_answers_are_exact() -> None:
    outer = plan(1024, 16, 1_000_003)
    answers = [full(outer, (1 << outer.key_bits) - 1 - at % 2) for at in range(1024)]
    total, seeds = added(outer, answers)
    assert (key_for(outer).open(total, seeds) == key_sum(outer, np.sum(answers, axis=0, dtype=np.int64))).all()


@settings(max_examples=15)
@given(st.sampled_from([(2, 30), (3, 5000), (4, 30), (16, 5000), (5, 1_000_003)]), st.integers(0, 2**32))
def test_any_sum_of_answers_is_exact(sizes: tuple[int, int], seed: int) -> None:
    members, lanes = sizes
    outer, rng = plan(members, 16, lanes), np.random.default_rng(seed)
    answers = [rng.integers(0, 1 << outer.key_bits, outer.degree, dtype=np.uint16) for _ in range(members)]
    total, seeds = added(outer, answers)
    assert (key_for(outer).open(total, seeds) == key_sum(outer, np.sum(answers, axis=0, dtype=np.int64))).all()


@pytest.mark.parametrize("lanes", LENGTHS)
def test_fresh_noise_stays_within_the_plans_bound(lanes: int) -> None:
    """A shift of all residues is told from noise: the largest noise is what one carries over a rounding edge."""
    found = answer_plan(plan(16, 16, lanes))
    key = SealKey(found, residues_in(generate(found), found)[0])
    q, t = found.modulus, found.plain_modulus
    residues, seeds = key.encrypt(np.zeros((8, found.degree), dtype=np.int64))
    worst = 0
    for shift in range(1, BOUND + 2):
        edge = (q + t) // (2 * t)
        up = (residues + np.uint64(edge - shift)) % np.uint64(q)
        down = (residues + np.uint64(q - edge + shift)) % np.uint64(q)
        if (key.decrypt(up, [seeds]) != 0).any() or (key.decrypt(down, [seeds]) != 0).any():
            worst = shift
    assert 5 <= worst <= BOUND + 1


# SEAL in both directions: its objects, its own encryption, addition and decryption


@pytest.mark.parametrize("members", [4, 16, 256])
def test_seal_decrypts_what_we_send(members: int) -> None:
    outer = plan(members, 16, 1_000_003)
    found, packed = answer_plan(outer), generate(answer_plan(outer))
    ours = _Seal(found)
    key = ours.load(seal.SecretKey(), ours.key_meta, residues_in(packed, found).tobytes(), found.degree)
    answer = np.random.default_rng(1).integers(0, 1 << outer.key_bits, outer.degree).astype(np.uint16)
    sent = AnswerKey(outer, packed).seal(answer)
    first = residues_in(sent[found.seed_bytes :], found)[0].tobytes()
    plain = seal.Plaintext()
    seal.Decryptor(ours.context, key).decrypt(ours.summed(first, [sent[:SEED_BYTES]]), plain)
    row = _rows(answer.astype(np.int64), found)[0]
    assert [int(plain.data(i)) for i in (0, 1, 77, found.degree - 1)] == row[[0, 1, 77, -1]].tolist()


@pytest.mark.parametrize("members", [4, 16])
def test_we_open_what_seal_encrypts_and_adds(members: int, tmp_path: Any) -> None:
    """SEAL's own encryptions, added by its Evaluator, against ours of the same numbers added by numpy."""
    found = answer_plan(plan(members, 16, 1_000_003))
    ours, words = _Seal(found), residues_in(generate(found), found)[0]
    key = ours.load(seal.SecretKey(), ours.key_meta, words.tobytes(), found.degree)
    encryptor, half = seal.Encryptor(ours.context, key), found.plain_modulus // 2 - 1
    files = []
    for i, plain in enumerate((seal.Plaintext(f"{half:X}x^5 + 3"), seal.Plaintext("1x^5 + 4"))):
        made = encryptor.encrypt_symmetric(plain)
        made.save(str(tmp_path / f"{i}"))
        files.append(ours.save(made))
    first = np.array([np.frombuffer(raw, "<u8", found.degree, 73 + 24) for raw in files])
    seeds = [np.frombuffer(raw[-SEED_BYTES:], np.uint8)[None] for raw in files]
    total = (first.sum(axis=0, dtype=np.uint64) % np.uint64(found.modulus))[None]
    opened = SealKey(found, words).decrypt(total, seeds)[0]
    assert (opened[0], opened[5], np.count_nonzero(opened)) == (7, half + 1, 2)
    left, right, plain = seal.Ciphertext(ours.context), seal.Ciphertext(ours.context), seal.Plaintext()
    left.load(ours.context, str(tmp_path / "0"))
    right.load(ours.context, str(tmp_path / "1"))
    ours.evaluator.add_inplace(left, right)
    seal.Decryptor(ours.context, key).decrypt(left, plain)
    assert (int(plain.data(0)), int(plain.data(5))) == (7, half + 1)


def test_our_adder_adds_as_seal_does() -> None:
    found, rng = answer_plan(plan(16, 16, 1_000_003)), np.random.default_rng(2)
    ours, running = _Seal(found), AnswerSum(found)
    vectors = rng.integers(0, found.modulus, (3, 1, found.degree), dtype=np.uint64)
    seeds = [bytes([i]) * SEED_BYTES for i in range(3)]
    whole = ours.summed(vectors[0].tobytes(), [seeds[0]])
    for i in range(3):
        assert running.add(seeds[i] + bits.pack(vectors[i], found.modulus_bits).tobytes()) == seeds[i]
        if i:
            ours.evaluator.add_inplace(whole, ours.summed(vectors[i].tobytes(), [seeds[i]]))
    first = np.frombuffer(ours.save(whole), "<u8", found.degree, 73 + 24)
    assert (first == residues_in(running.dump(), found)[0]).all()


# Hostile answers, totals and keys


@lru_cache
def four() -> tuple[Plan, AnswerPlan, list[bytes]]:
    outer = plan(4, 16, 300)
    return outer, answer_plan(outer), [key_for(outer).seal(full(outer, at)) for at in range(4)]


def test_a_refused_answer_leaves_the_sum_as_it_was() -> None:
    _, found, bodies = four()
    running = AnswerSum(found)
    running.add(bodies[0])
    before = running.dump()
    too_large = bodies[1][: found.seed_bytes] + b"\xff" * found.total_bytes
    for bad in (b"", bodies[1][:-1], bodies[1] + b"\0", too_large):
        assert code(running.add, bad) == "envelope.malformed"
    just = bits.pack(np.full((found.chunks, found.degree), found.modulus, dtype=np.uint64), found.modulus_bits)
    assert code(running.add, bytes(found.seed_bytes) + just.tobytes()) == "envelope.malformed"
    assert (running.dump(), running.count) == (before, 1)


def test_more_answers_than_members_are_refused() -> None:
    _, found, bodies = four()
    running = AnswerSum(found)
    for body in bodies:
        running.add(body)
    assert code(running.add, bodies[0]) == "envelope.params"


def test_a_sum_of_answers_of_another_form_is_refused() -> None:
    outer, found, bodies = four()
    running = AnswerSum(found)
    seeds, key = [running.add(body) for body in bodies], key_for(outer)
    total = running.dump()
    assert (key.open(total, seeds) == key_sum(outer, np.full(outer.degree, 6))).all()
    assert code(key.open, total, seeds[:3]) == "open.key"
    assert code(key.open, total, [*seeds, seeds[0]]) == "open.key"
    assert code(key.open, total[:-1], seeds) == "open.key"
    assert code(key.open, total, [*seeds[:3], seeds[3] + bytes(SEED_BYTES)]) == "open.key"


def test_other_seeds_give_another_key_sum() -> None:
    outer, found, bodies = four()
    running = AnswerSum(found)
    seeds = [running.add(body) for body in bodies]
    wrong = key_for(outer).open(running.dump(), [*seeds[:3], bytes(SEED_BYTES)])
    assert (wrong != 6).mean() > 0.9


@given(st.binary(max_size=200))
def test_junk_is_no_key(junk: bytes) -> None:
    assert code(AnswerKey, plan(4, 16, 10), junk) == "circle.key"


def test_a_key_of_other_parameters_is_refused() -> None:
    outer, found, _ = four()
    assert code(AnswerKey, outer, generate(answer_plan(plan(64, 16, 20_000)))) == "circle.key"
    assert code(AnswerKey, outer, generate(found)[:-1]) == "circle.key"
    assert code(AnswerKey, outer, b"\xff" * found.chunk_bytes) == "circle.key"
    just = np.full((1, found.degree), found.modulus, dtype=np.uint64)
    assert code(AnswerKey, outer, bits.pack(just, found.modulus_bits).tobytes()) == "circle.key"


def test_a_key_that_does_not_decrypt_what_it_encrypts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    outer, found, _ = four()
    monkeypatch.setattr(SealKey, "decrypt", lambda self, totals, seeds: np.zeros(totals.shape, dtype=np.int64))
    assert code(AnswerKey, outer, generate(found)) == "circle.key"


def test_keys_are_new_and_answers_under_one_key_differ() -> None:
    outer, found, _ = four()
    assert generate(found) != generate(found)
    one, two = (key_for(outer).seal(full(outer, 1)) for _ in range(2))
    assert one[: found.seed_bytes] != two[: found.seed_bytes]
    differ = residues_in(one[found.seed_bytes :], found) != residues_in(two[found.seed_bytes :], found)
    assert differ.mean() > 1 - 8 / math.sqrt(found.modulus)
