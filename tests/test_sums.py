"""Encrypted equals plain: sealed sums against numpy, SEAL's bytes against hostile ones, memory against members."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
import tenseal as ts
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import bfv
from moonflower.crypto.planner import Plan, plan
from moonflower.crypto.quantise import pack, unpack
from moonflower.crypto.secret import SecretKey, generate
from moonflower.errors import Refused
from moonflower.server.aggregate import RunningSum

SETS = [(4, 16), (16, 16), (64, 14), (64, 16), (16, 9)]
KEYS: dict[Plan, SecretKey] = {}


def key_for(found: Plan) -> SecretKey:
    if found not in KEYS:
        KEYS[found] = SecretKey(found, generate(found))
    return KEYS[found]


@pytest.mark.parametrize("set_", SETS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), values=st.integers(1, 20_000))
def test_a_sealed_sum_opens_to_the_integer_sum(set_: tuple[int, int], seed: int, values: int) -> None:
    members, bits = set_
    found, rng = plan(members, bits, values), np.random.default_rng(seed)
    key, top, count = key_for(found), (1 << (bits - 1)) - 1, min(members, 4)
    vectors = [rng.integers(-top, top + 1, values) for _ in range(count)]
    running = RunningSum(found, values + found.limbs)
    for i, vector in enumerate(vectors):
        running.add(key.seal(pack(vector, [i], found)))
    opened = key.open(running.dump(), found.chunks(values + found.limbs))
    sums = unpack(opened, values, 1, count, found)
    assert sums.in_range
    assert (sums.values == sum(vectors)).all()
    assert sums.counters == (sum(range(count)),)


@pytest.mark.parametrize("set_", SETS)
def test_the_most_extreme_sum_of_every_set_is_exact(set_: tuple[int, int]) -> None:
    members, bits = set_
    found, top = plan(members, bits, 100), (1 << (bits - 1)) - 1
    key, running = key_for(found), RunningSum(found, 100)
    body = key.seal(pack(np.full(100, top), [], found))
    for _ in range(members):
        running.add(body)
    assert (unpack(key.open(running.dump(), 1), 100, 0, members, found).values == members * top).all()


def test_the_sum_needs_no_key_and_holds_none() -> None:
    context = bfv.public_context(plan(4, 16, 10))
    assert not context.is_private()
    assert not context.has_public_key()
    assert not context.has_secret_key()


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 100, -1])
def test_a_cut_off_body_is_refused_whole(cut: int) -> None:
    found = plan(4, 16, 10)
    body, running = key_for(found).seal(pack(np.ones(10, dtype=np.int64), [], found)), RunningSum(found, 10)
    running.add(body)
    before = running.dump()
    with pytest.raises(Refused) as refusal:
        running.add(body[:cut])
    assert refusal.value.code == "envelope.malformed"
    assert (running.dump(), running.count) == (before, 1)


def test_a_second_bad_chunk_leaves_the_first_unadded() -> None:
    found = plan(4, 16, 10)
    values = 2 * found.lanes * found.degree
    body, running = (
        key_for(found).seal(pack(np.ones(values, dtype=np.int64), [], found)),
        RunningSum(found, values),
    )
    running.add(body)
    before = running.dump()
    with pytest.raises(Refused):
        running.add(body[:-50] + bytes(50))
    assert running.dump() == before


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_junk_is_refused_with_one_error(junk: bytes) -> None:
    found = plan(4, 16, 10)
    with pytest.raises(Refused) as refusal:
        bfv.parse(CONTEXT, len(junk).to_bytes(4, "little") + junk, found.chunks(10))
    assert refusal.value.code in ("envelope.malformed", "envelope.params")


CONTEXT = bfv.public_context(plan(4, 16, 10))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash_the_parser(data: st.DataObject) -> None:
    found = plan(4, 16, 10)
    body = bytearray(key_for(found).seal(pack(np.ones(10, dtype=np.int64), [], found)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(4, min(len(body) - 1, 400)))] ^= data.draw(st.integers(1, 255))
    code = ""
    try:
        bfv.parse(CONTEXT, bytes(body), 1)
    except Refused as refusal:
        code = refusal.code
    assert code in ("", "envelope.malformed", "envelope.params")


def test_another_ring_is_refused() -> None:
    other = ts.context(ts.SCHEME_TYPE.BFV, 4096, plan(64, 16, 10).plain_modulus, [35, 35, 36])
    data = ts.bfv_vector(other, [1, 2, 3]).serialize()
    with pytest.raises(Refused) as refusal:
        bfv.parse(CONTEXT, len(data).to_bytes(4, "little") + data, 1)
    assert refusal.value.code in ("envelope.malformed", "envelope.params")


def test_a_key_of_other_parameters_is_refused() -> None:
    found, other = plan(4, 16, 10), plan(64, 16, 10)
    whole = ts.context(ts.SCHEME_TYPE.BFV, found.degree, found.plain_modulus, list(found.coeff_bits))
    no_secret = whole.serialize(save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    for bad in (generate(other), b"", b"no key", no_secret):
        with pytest.raises(Refused) as refusal:
            SecretKey(found, bad)
        assert refusal.value.code == "deal.signature"


MEMORY = """
import resource, sys
import numpy as np
from moonflower.crypto.planner import plan
from moonflower.crypto.quantise import pack
from moonflower.crypto.secret import SecretKey, generate
from moonflower.server.aggregate import RunningSum
members, values = int(sys.argv[1]), 400_000
found = plan(64, 14, values)
key, running = SecretKey(found, generate(found)), RunningSum(found, values)
vector = np.arange(values) % 8191
for count in range(members):
    running.add(key.seal(pack(vector, [], found)))
    if count == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_the_running_sum_takes_the_same_memory_for_4_16_and_64_members() -> None:
    """One sum and one envelope, whatever the number of members: peak growth after the second addition, in KiB."""
    assert resource.RUSAGE_SELF == 0
    grown = {}
    for members in (4, 16, 64):
        done = subprocess.run([sys.executable, "-c", MEMORY, str(members)], capture_output=True, text=True, check=True)
        grown[members] = int(done.stdout)
    one_envelope_kib = plan(64, 14, 400_000).packed_bytes(400_000) // 1024
    assert max(grown.values()) < one_envelope_kib, grown
