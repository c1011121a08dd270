"""A sealed vector, made and opened by members: blocks of plaintext in, body and tags out, and the way back.

Body: the seeds of all ciphertexts, 64 bytes each, then their residues, bit-packed. The header signs the digest of
the body, the digest of the seeds (openers get only these and the sum of the residues) and the tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import Refused
from . import bits
from .mac import Mac
from .planner import SEED_BYTES, Plan
from .quantise import BLOCK_LANES, Ints

Words = NDArray[np.uint64]


class Key(Protocol):
    """What can seal and open: ``crypto.secret.SecretKey``, and in tests a key that encrypts nothing."""

    def seal(self, rows: Ints) -> tuple[Words, NDArray[np.uint8]]:
        """Return residues ``uint64[k, N]`` and seeds ``uint8[k, 64]``."""

    def open(self, totals: Words, seeds: list[NDArray[np.uint8]]) -> Ints:
        """Return the sums ``int64[k, N]`` modulo t."""


@dataclass(frozen=True)
class SealedVector:
    """A member's vector, ready for its envelope."""

    body: bytes
    seeds: str
    tags: tuple[int, ...]


def seal(key: Key, mac: Mac, member: str, blocks: Iterable[Ints], lanes: int, plan: Plan) -> SealedVector:
    """Return the sealed vector of plaintext ``blocks`` that hold ``lanes`` lanes in all."""
    chunks = plan.chunks(lanes)
    body = bytearray(plan.body_bytes(lanes))
    done = 0

    def residues() -> Iterator[Words]:
        nonlocal done
        for rows in blocks:
            words, seeds = key.seal(rows)
            body[done * SEED_BYTES : (done + len(rows)) * SEED_BYTES] = seeds.tobytes()
            start = chunks * SEED_BYTES + done * plan.chunk_bytes
            body[start : start + len(rows) * plan.chunk_bytes] = bits.pack(words, plan.modulus_bits).tobytes()
            done += len(rows)
            yield words.reshape(-1)

    tags = tuple(mac.tag(member, residues()))
    digest = hashlib.sha256(memoryview(body)[: chunks * SEED_BYTES]).hexdigest()
    return SealedVector(bytes(body), digest, tags)


def check_total(mac: Mac, tags: Mapping[str, list[int]], total: bytes, lanes: int, plan: Plan) -> None:
    """Check that a total is exactly the sum of what these members sealed.

    Raises:
        Refused: ``open.set``: of another size, or more members than planned; ``envelope.tag``.
    """
    if len(total) != plan.chunks(lanes) * plan.chunk_bytes or len(tags) > plan.max_members:
        raise Refused("open.set", f"a total of {len(total)} bytes over {len(tags)} members is not what was planned")
    if not mac.verify(tags, (block.reshape(-1) for _, block in _blocks(total, plan))):
        raise Refused("envelope.tag", "the total is not the sum of exactly these members' envelopes")


def open_total(key: Key, total: bytes, seeds: Mapping[str, bytes], lanes: int, plan: Plan) -> Iterator[Ints]:
    """Yield the opened plaintext rows of a total that :func:`check_total` accepted, block by block.

    Raises:
        Refused: ``open.set``: seeds of the wrong length.
    """
    chunks = plan.chunks(lanes)
    if any(len(seed) != chunks * SEED_BYTES for seed in seeds.values()):
        raise Refused("open.set", "a member's seeds are not as many as the ciphertexts")
    tables = [np.frombuffer(seed, np.uint8).reshape(chunks, SEED_BYTES) for seed in seeds.values()]
    for first, block in _blocks(total, plan):
        yield key.open(block, [table[first : first + len(block)] for table in tables])


def _blocks(total: bytes, plan: Plan) -> Iterator[tuple[int, Words]]:
    """Yield (first ciphertext, residues ``uint64[k, N]``) of each block of a total, reduced mod q."""
    step = max(1, BLOCK_LANES // (plan.lanes * plan.degree))
    packed = np.frombuffer(total, np.uint8).reshape(-1, plan.chunk_bytes)
    for first in range(0, len(packed), step):
        block = bits.unpack(packed[first : first + step], plan.degree, plan.modulus_bits)
        yield first, block % np.uint64(plan.modulus)
