"""Sealed sums against the integer sum and against SEAL, in both directions; bits on the wire; hostile bodies."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import bits, sealed
from moonflower.crypto.mac import Mac
from moonflower.crypto.planner import FRESH_NOISE, SEED_BYTES, Plan, plan
from moonflower.crypto.quantise import ONE, Contribution, OpenedSum, quantise, slot_blocks
from moonflower.crypto.schemes.secret import SecretKey, _Seal, generate
from moonflower.errors import Refused
from moonflower.protocol import envelope
from moonflower.server.aggregate import RunningSum

from protocol import context, identity

SETS = [
    (4, 16, 30),
    (4, 16, 20_000),
    (16, 16, 20_000),
    (64, 16, 20_000),
    (64, 14, 20_000),
    (16, 9, 20_000),
    (2, 16, 9000),
]
SECRET, CONTEXT = b"s" * 32, "c" * 64
KEYS: dict[Plan, SecretKey] = {}


def residues_in(data: bytes, found: Plan) -> Any:
    packed = np.frombuffer(data, np.uint8).reshape(-1, found.chunk_bytes)
    return bits.unpack(packed, found.degree, found.modulus_bits)


def key_for(found: Plan) -> SecretKey:
    if found not in KEYS:
        KEYS[found] = SecretKey(found, generate(found))
    return KEYS[found]


def seal_one(member: str, given_: Contribution, found: Plan) -> sealed.SealedVector:
    mac = Mac(SECRET, CONTEXT, found)
    return sealed.seal(key_for(found), mac, member, slot_blocks(given_, found), given_.lanes(found), found)


# Exactness


@pytest.mark.parametrize("set_", SETS)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_a_sealed_sum_opens_to_the_integer_sum(set_: tuple[int, int, int], seed: int) -> None:
    members, value_bits, values = set_
    found, rng, count = plan(*set_), np.random.default_rng(seed), min(members, 4)
    updates = [rng.normal(0, 1, values).astype(np.float32) for _ in range(count)]
    given_ = [Contribution((i, 2**38 - 1), update, ONE // count, 1.5) for i, update in enumerate(updates)]
    lanes = given_[0].lanes(found)
    running, seeds, tags = RunningSum(found, lanes), {}, {}
    for i, one in enumerate(given_):
        vector = seal_one(str(i), one, found)
        assert len(vector.body) == found.body_bytes(lanes)
        seeds[str(i)], tags[str(i)] = running.add(vector.body), list(vector.tags)
        assert hashlib.sha256(seeds[str(i)]).hexdigest() == vector.seeds
    total = running.dump()
    sealed.check_total(Mac(SECRET, CONTEXT, found), tags, total, lanes, found)
    opened = OpenedSum(sealed.open_total(key_for(found), total, seeds, lanes, found), values, 2, count, found)
    sums = np.concatenate([part for _, part in opened.values()])
    assert opened.in_range
    assert opened.counters == (sum(range(count)), count * (2**38 - 1))
    assert (sums == sum(quantise(u, ONE // count, 1.5, value_bits) for u in updates)).all()


@pytest.mark.parametrize("set_", SETS)
def test_the_most_extreme_sum_of_every_set_is_exact(set_: tuple[int, int, int]) -> None:
    found = plan(*set_)
    rows = np.full((1, found.degree), (found.plain_modulus - 1) // found.max_members, dtype=np.int64)
    total, seeds = np.zeros((1, found.degree), dtype=np.uint64), []
    for _ in range(found.max_members):
        residues, seed = key_for(found).seal(rows)
        total = (total + residues) % np.uint64(found.modulus)
        seeds.append(seed)
    assert (key_for(found).open(total, seeds) == found.max_members * rows).all()


@pytest.mark.parametrize("set_", SETS)
def test_fresh_noise_stays_within_the_planners_bound(set_: tuple[int, int, int]) -> None:
    """c0 + c1 s - round(q m / t), coefficient by coefficient: c1 s is what opening a zero c0 leaves, scaled."""
    found = plan(*set_)
    key, q, t = key_for(found), found.modulus, found.plain_modulus
    rows = np.zeros((8, found.degree), dtype=np.int64)
    residues, seeds = key.seal(rows)
    worst = 0
    for shift in range(1, FRESH_NOISE + 2):  # the largest noise is what a shift carries over a rounding edge
        edge = (q + t) // (2 * t)
        up = (residues + np.uint64(edge - shift)) % np.uint64(q)
        down = (residues + np.uint64(q - edge + shift)) % np.uint64(q)
        if (key.open(up, [seeds]) != 0).any() or (key.open(down, [seeds]) != 0).any():
            worst = shift
    assert 5 <= worst <= FRESH_NOISE + 1


# SEAL in both directions: its objects, its own encryption and decryption


def seal_ciphertext(ours: Any, found: Plan, residues: Any, seed: bytes) -> Any:
    return ours.seeded(residues.astype("<u8").tobytes(), seed)


@pytest.mark.parametrize("set_", SETS)
def test_seal_decrypts_what_we_send(set_: tuple[int, int, int]) -> None:
    found = plan(*set_)
    ours, packed = _Seal(found), generate(found)
    residues = residues_in(packed, found)[0]
    key = ours.load(seal.SecretKey(), ours.key_meta, residues.tobytes(), found.degree)
    rows = np.random.default_rng(1).integers(0, found.plain_modulus, (1, found.degree))
    sent, seeds = SecretKey(found, packed).seal(rows)
    wire = residues_in(bits.pack(sent, found.modulus_bits).tobytes(), found)[0]
    plain = seal.Plaintext()
    seal.Decryptor(ours.context, key).decrypt(seal_ciphertext(ours, found, wire, seeds[0].tobytes()), plain)
    assert [int(plain.data(i)) for i in (0, 1, 77, found.degree - 1)] == rows[0, [0, 1, 77, -1]].tolist()


@pytest.mark.parametrize("set_", SETS)
def test_we_open_what_seal_encrypts_and_adds(set_: tuple[int, int, int], tmp_path: Any) -> None:
    """SEAL's own encryptions, added by SEAL, against ours of the same numbers added by numpy."""
    found = plan(*set_)
    ours, packed = _Seal(found), generate(found)
    key = ours.load(seal.SecretKey(), ours.key_meta, residues_in(packed, found)[0].tobytes(), found.degree)
    encryptor, half = seal.Encryptor(ours.context, key), found.plain_modulus // 2 - 1
    one, two = seal.Plaintext(f"{half:X}x^5 + 3"), seal.Plaintext("1x^5 + 4")
    files = []
    for i, plain in enumerate((one, two)):
        encryptor.encrypt_symmetric(plain).save(str(tmp_path / f"{i}"))
        files.append(ours.save(encryptor.encrypt_symmetric(plain)))
    first = np.array([np.frombuffer(raw, "<u8", found.degree, 73 + 24) for raw in files])
    seeds = [np.frombuffer(raw[-SEED_BYTES:], np.uint8)[None] for raw in files]
    total = (first.sum(axis=0, dtype=np.uint64) % np.uint64(found.modulus))[None]
    opened = SecretKey(found, packed).open(total, seeds)[0]
    assert (opened[0], opened[5], np.count_nonzero(opened)) == (7, half + 1, 2)
    left, right = seal.Ciphertext(ours.context), seal.Ciphertext(ours.context)
    left.load(ours.context, str(tmp_path / "0"))
    right.load(ours.context, str(tmp_path / "1"))
    ours.evaluator.add_inplace(left, right)
    plain = seal.Plaintext()
    seal.Decryptor(ours.context, key).decrypt(left, plain)
    assert (int(plain.data(0)), int(plain.data(5))) == (7, half + 1)


def test_our_adder_adds_as_seal_does() -> None:
    found = plan(16, 16, 20_000)
    ours, rng = _Seal(found), np.random.default_rng(2)
    vectors = rng.integers(0, found.modulus, (3, found.degree), dtype=np.uint64)
    seeds = [bytes([i]) * SEED_BYTES for i in range(3)]
    whole = seal_ciphertext(ours, found, vectors[0], seeds[0])
    running = RunningSum(found, found.lanes * found.degree)
    for i in range(3):
        running.add(seeds[i] + bits.pack(vectors[i : i + 1], found.modulus_bits).tobytes())
        if i:
            ours.evaluator.add_inplace(whole, seal_ciphertext(ours, found, vectors[i], seeds[i]))
    raw = ours.save(whole)
    assert (np.frombuffer(raw, "<u8", found.degree, 73 + 24) == residues_in(running.dump(), found)).all()


# Known answers: a change of these bytes breaks federations whose members run different releases


def test_packed_bits_have_known_bytes() -> None:
    residues = np.arange(64, dtype=np.uint64)[None] * np.uint64(0x3_0000_0001) % np.uint64(1 << 50)
    assert hashlib.sha256(bits.pack(residues, 50)).hexdigest() == PACKED


def test_a_tag_has_a_known_value() -> None:
    found = plan(16, 16, 1_000_000)
    residues = np.arange(4096, dtype=np.uint64) * np.uint64(0x1_2345_6789)
    assert Mac(b"k" * 32, "a" * 64, found).tag("anna", [residues]) == TAG


PACKED = "0702f20f7bf3e14d974597ac932b6e9c7490f0fdaf2525b6c3ee5b7c17cc812f"
TAG = [96725913571958, 761704372160471]


# Bits


@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 2**32))
def test_bits_come_back_and_leave_no_gap(width: int, rows: int, seed: int) -> None:
    residues = np.random.default_rng(seed).integers(0, 1 << width, (rows, 64), dtype=np.uint64)
    data = bits.pack(residues, width)
    assert data.shape == (rows, 8 * width)
    assert (bits.unpack(data, 64, width) == residues).all()
    scratch = np.full((rows, 64), 7, dtype=np.uint64)
    assert bits.unpack(data, 64, width, scratch) is scratch
    assert (scratch == residues).all()


@given(st.integers(2, 60), st.integers(0, 2**32), st.integers(0, 70))
def test_a_residue_at_the_limit_is_found(width: int, seed: int, gap: int) -> None:
    limit = max((1 << width) - gap, 1)
    residues = np.random.default_rng(seed).integers(0, limit, (2, 64), dtype=np.uint64)
    assert bits.below(bits.pack(residues, width), 64, width, limit)
    for bad in {limit, (1 << width) - 1}:
        if limit <= bad < 1 << width:
            residues[1, 63] = bad
            assert not bits.below(bits.pack(residues, width), 64, width, limit)


# The authenticated sum


def collected(found: Plan, names: str = "abcd") -> tuple[dict[str, Any], dict[str, list[int]], int]:
    given_ = {n: Contribution((1,), np.full(100, ord(n) / 1000, dtype=np.float32), ONE // 4, 1.0) for n in names}
    vectors = {n: seal_one(n, one, found) for n, one in given_.items()}
    return vectors, {n: list(v.tags) for n, v in vectors.items()}, given_["a"].lanes(found)


def residues_of(vector: sealed.SealedVector, lanes: int, found: Plan) -> Any:
    return residues_in(vector.body[found.chunks(lanes) * SEED_BYTES :], found)


def accepts(found: Plan, tags: dict[str, list[int]], total: Any, lanes: int, context: str = CONTEXT) -> bool:
    data = bits.pack(total % np.uint64(found.modulus), found.modulus_bits).tobytes()
    code = ""
    try:
        sealed.check_total(Mac(SECRET, context, found), tags, data, lanes, found)
    except Refused as refusal:
        code = refusal.code
    assert code in ("", "envelope.tag")
    return not code


def test_only_the_exact_sum_of_the_listed_members_is_accepted() -> None:
    found = plan(4, 16, 100)
    vectors, tags, lanes = collected(found)
    r = {name: residues_of(vector, lanes, found) for name, vector in vectors.items()}
    honest = r["a"] + r["b"] + r["c"] + r["d"]
    assert accepts(found, tags, honest, lanes)
    one_bit = honest.copy()
    one_bit[0, 7] += np.uint64(1)
    hostile = {
        "one residue changed": one_bit,
        "a listed member missing": honest - r["d"],
        "a member twice": honest + r["a"],
        "one for another": honest - r["b"] + r["a"],
        "scaled": honest * np.uint64(2),
        "one alone": r["a"],
        "nothing": np.zeros_like(honest),
    }
    for what, total in hostile.items():
        assert not accepts(found, tags, total, lanes), what
    assert not accepts(found, {n: tags[n] for n in "abc"}, honest, lanes), "a member outside the list"
    assert not accepts(found, tags, honest, lanes, context="d" * 64), "another round"
    assert not accepts(found, {**tags, "a": tags["b"], "b": tags["a"]}, honest - r["a"] + r["b"], lanes)
    assert not accepts(found, {"a": [2 * t % found.modulus for t in tags["a"]]}, r["a"] * np.uint64(2), lanes)


def test_every_point_counts() -> None:
    found = plan(4, 16, 100)
    vectors, tags, lanes = collected(found)
    total = sum(residues_of(vector, lanes, found) for vector in vectors.values())
    for point in range(found.mac_points):
        forged = {**tags, "a": [t + (i == point) for i, t in enumerate(tags["a"])]}
        assert not accepts(found, forged, total, lanes)
    assert not accepts(found, {**tags, "a": tags["a"][:1]}, total, lanes)


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_the_fast_inner_product_is_the_exact_one(seed: int) -> None:
    """The float quotient of the MAC against Python's integers, also at the ends of the residues' range."""
    for set_ in SETS:
        found = plan(*set_)
        rng = np.random.default_rng(seed)
        residues = rng.integers(0, found.modulus, 256, dtype=np.uint64)
        residues[:4] = [0, 1, found.modulus - 1, found.modulus - 2]
        mac = Mac(SECRET, CONTEXT, found)
        words = np.frombuffer(mac._stream(0).update(bytes(8 * 256)), "<u8") >> np.uint64(64 - found.mac_word_bits)
        exact = sum(int(c) * int(r) for c, r in zip(residues, words, strict=True))
        assert mac._inner([residues])[0] == exact % found.modulus
        assert mac.tag("a", [residues[:100], residues[100:]]) == mac.tag("a", [residues])


# What the server refuses


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    return refusal.value.code


def test_a_refused_body_leaves_the_sum_as_it_was() -> None:
    found = plan(4, 16, 20_000)
    given_ = Contribution((1,), np.ones(20_000, dtype=np.float32))
    lanes = given_.lanes(found)
    body, running = seal_one("a", given_, found).body, RunningSum(found, lanes)
    running.add(body)
    before = running.dump()
    out_of_range = body[: -found.chunk_bytes] + b"\xff" * found.chunk_bytes
    for bad in (b"", body[:-1], body + b"\0", out_of_range):
        assert code_of(running.add, bad) == "envelope.malformed"
    assert (running.dump(), running.count) == (before, 1)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tags": (1,)}, "envelope.tag"),
        ({"tags": (1 << 60,) * 4}, "envelope.tag"),
        ({"seeds": "0" * 64}, "envelope.malformed"),
        ({}, ""),
    ],
)
def test_a_header_that_lies_about_its_body_is_refused_at_its_members_door(change: dict[str, Any], code: str) -> None:
    """Otherwise every opener would refuse the whole sum, and nobody would be named."""
    found = plan(4, 16, 100)
    vectors, _, lanes = collected(found, "a")
    about = context(crypto=found.as_dict())
    raw = envelope.seal(identity("anna"), about, replace(vectors["a"], **change))
    running = RunningSum(found, lanes)
    checked = envelope.check(raw, identity("anna").card, about, running.body_bytes)
    if code:
        assert code_of(running.vet, checked) == code
    else:
        running.vet(checked)
        assert running.add(checked.body)


def test_more_summands_than_planned_are_refused() -> None:
    found = plan(2, 16, 100)
    vectors, tags, lanes = collected(found, "abc")
    running = RunningSum(found, lanes)
    for name in "ab":
        running.add(vectors[name].body)
    assert code_of(running.add, vectors["c"].body) == "envelope.params"
    mac = Mac(SECRET, CONTEXT, found)
    assert code_of(sealed.check_total, mac, tags, running.dump(), lanes, found) == "open.set"


def test_a_total_or_seeds_of_the_wrong_size_are_refused() -> None:
    found = plan(4, 16, 100)
    _, tags, lanes = collected(found)
    total = bytes(found.chunks(lanes) * found.chunk_bytes)
    mac = Mac(SECRET, CONTEXT, found)
    for bad in (total[:-1], total + b"\0", b""):
        assert code_of(sealed.check_total, mac, tags, bad, lanes, found) == "open.set"
    opening = sealed.open_total(key_for(found), total, {"a": bytes(63)}, lanes, found)
    assert code_of(next, opening) == "open.set"


def test_long_sums_stay_exact_without_overflow() -> None:
    """1024 residues of 56 bits do not fit in 64: the lazy sum reduces in time."""
    found = plan(1024, 10, 1_000_000)
    assert (found.modulus_bits, found.max_members) == (56, 1024)
    lanes = found.lanes * found.degree
    top = np.full(found.degree, found.modulus - 1, dtype=np.uint64)
    body = bytes(SEED_BYTES) + bits.pack(top[None], found.modulus_bits).tobytes()
    running = RunningSum(found, lanes)
    for _ in range(1024):
        running.add(body)
    assert (residues_in(running.dump(), found) == found.modulus - 1024).all()


@given(st.binary(max_size=200))
def test_junk_is_no_key(junk: bytes) -> None:
    assert code_of(SecretKey, plan(4, 16, 10), junk) == "deal.signature"


def test_a_key_with_a_residue_too_large_is_refused() -> None:
    found = plan(4, 16, 10)
    assert code_of(SecretKey, found, b"\xff" * found.chunk_bytes) == "deal.signature"
    assert code_of(SecretKey, found, generate(plan(64, 16, 20_000))) == "deal.signature"


# Memory

MEMORY = """
import resource, sys
import numpy as np
from moonflower.crypto import bits
from moonflower.crypto.planner import SEED_BYTES, plan
from moonflower.server.aggregate import RunningSum
members, values = int(sys.argv[1]), 2_000_000
found = plan(64, 14, values)
running = RunningSum(found, values)
half = np.full((1, found.degree), found.modulus // 2, dtype=np.uint64)
chunks = found.chunks(values)
body = bytes(chunks * SEED_BYTES) + bits.pack(half, found.modulus_bits).tobytes() * chunks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for count in range(members):
    running.add(bytes(bytearray(body)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_the_running_sum_takes_the_same_memory_for_4_16_and_64_members() -> None:
    """One sum and one envelope, whatever the number of members: growth of the peak while adding, in KiB."""
    grown = {}
    for members in (4, 16, 64):
        command = [sys.executable, "-c", MEMORY, str(members)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
        grown[members] = int(done.stdout)
    found = plan(64, 14, 2_000_000)
    one_sum_one_envelope = (8 * found.chunks(2_000_000) * found.degree + found.body_bytes(2_000_000)) // 1024
    assert max(grown.values()) < one_sum_one_envelope + 8192, grown
    assert max(grown.values()) - min(grown.values()) < 4096, grown


MEMBER_MEMORY = """
import resource, sys
import numpy as np
from moonflower.crypto import bits, sealed
from moonflower.crypto.mac import Mac
from moonflower.crypto.planner import plan
from moonflower.crypto.quantise import ONE, Contribution, OpenedSum, apply_mean, mean, slot_blocks
from moonflower.crypto.schemes.secret import SecretKey, generate
values = 10_000_000
found = plan(16, 16, values)
key, mac = SecretKey(found, generate(found)), Mac(b"s" * 32, "c" * 64, found)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
update = np.linspace(-1, 1, values, dtype=np.float32)
given = Contribution((1,), update, ONE, 1.0)
lanes = given.lanes(found)
made = sealed.seal(key, mac, "a", slot_blocks(given, found), lanes, found)
sealing = peak() - before
chunks = found.chunks(lanes)
seeds, total, tags = {"a": made.body[: 64 * chunks]}, made.body[64 * chunks :], {"a": list(made.tags)}
del made
base = np.zeros(values, dtype=np.float32)
sealed.check_total(mac, tags, total, lanes, found)
sums = OpenedSum(sealed.open_total(key, total, seeds, lanes, found), values, 1, 1, found)
candidate = np.empty_like(base)
for at, part in sums.values():
    candidate[at : at + len(part)] = apply_mean(base[at : at + len(part)], mean(part, ONE, 1.0, 16))
assert sums.in_range and np.abs(candidate - update).max() < 1e-4
print(sealing, peak() - before)
"""


@pytest.mark.slow
def test_ten_million_parameters_fit_in_six_times_their_vector_at_a_member() -> None:
    command = [sys.executable, "-c", MEMBER_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    sealing_kib, all_kib = map(int, done.stdout.split())
    vector_kib = 4 * 10_000_000 // 1024
    assert sealing_kib < 6 * vector_kib, f"sealing took {sealing_kib / vector_kib:.1f} times the vector"
    assert all_kib < 6 * vector_kib, f"sealing and opening took {all_kib / vector_kib:.1f} times the vector"
