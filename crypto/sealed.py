"""Sealing under one-time keys, and opening only the sum of the keys.

    seal   c_i = A k_i + t e_i + m_i   mod q        a member, once; it deletes k_i when it has answered
    add    C   = sum of c_i                         the coordinator, no key
    open   X   = C - A K + 21 n t,  K = sum of k_i; M = X mod t, E = X div t - 21 n; |E| <= 21 n and zeros, or refused

A is public and follows from the context. Keys and errors are centred binomial, never ternary: a sum of two ternary keys
gives away a fifth of each. k_i is for one context and one vector. If it were used twice, the difference of the two
vectors would be open at once. A party that holds C and K learns M and E, and no more about the summands.

Nothing here runs in constant time. A key is used for one seal.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from ..errors import Refused
from . import bits
from .planner import BOUND, Plan
from .ring import Ints, Prime, Stream, expand, prime

Words = NDArray[np.uint64]
SEED_BYTES = 32
BLOCK = 1 << 15  # coefficients worked on at a time
_GROUP_BITS = 45  # of lanes in one word; an error above them stays below 2**50
_LIMB_BITS, _LIMB = 24, np.uint64((1 << 24) - 1)
_KEY, _ERRORS, _MASK = b"moonflower.v2.key", b"moonflower.v2.errors", b"moonflower.v2.mask"


@dataclass(frozen=True)
class Secrets:
    """Everything random in one seal, derived from one seed. Its ``repr`` does not show the seed.

    Attributes:
        seed: 32 bytes. A party that has it can read the vector.
    """

    seed: bytes = field(repr=False)

    @classmethod
    def fresh(cls, random: bytes, node_secret: bytes, context: str, vector: bytes) -> Secrets:
        """Return secrets for one vector in one context.

        Args:
            random: from the operating system, 32 bytes or more.
            node_secret: the node's own secret, so that a restored machine whose generator repeats does no harm.
            context: digest of the RoundContext.
            vector: SHA-256 of the vector to seal.
        """
        for what, value in (("randomness", random), ("node secret", node_secret), ("digest of the vector", vector)):
            if len(value) < SEED_BYTES:
                raise ValueError(f"{what} of {len(value)} bytes; expected {SEED_BYTES} or more")
        entropy = b"".join(len(part).to_bytes(4, "big") + part for part in (random, node_secret))
        info = b"moonflower.v2.seal" + bytes.fromhex(context) + vector
        return cls(HKDF(SHA256(), SEED_BYTES, None, info).derive(entropy))

    def key(self, plan: Plan) -> Ints:
        """Return the one-time key, ``int64[N]``, at most 21."""
        return Stream(self._derived(_KEY)).error((plan.degree,))

    def errors(self, plan: Plan, chunks: range) -> Ints:
        """Return the errors of some chunks, ``int64[B, N]``, at most 21."""
        key = self._derived(_ERRORS)
        return np.stack([Stream(key, chunk).error((plan.degree,)) for chunk in chunks])

    @property
    def mask_key(self) -> bytes:
        """The private half of the one-time mask key (X25519), 32 bytes."""
        return self._derived(_MASK)

    def _derived(self, info: bytes) -> bytes:
        return HKDF(SHA256(), SEED_BYTES, None, info).derive(self.seed)


def seal(plan: Plan, context: str, secrets: Secrets, lanes: Ints) -> bytes:
    """Return a sealed vector: residues of the coefficients in use and of the zeros, prime by prime.

    Args:
        plan: of the sum.
        context: digest of the RoundContext, 64 hex digits: A comes from it.
        secrets: of this vector and context, never used before.
        lanes: contents ``int64[m]``, each in ``[0, 2**value_bits)``.

    Raises:
        ValueError: a lane holds a number out of range.
    """
    if lanes.size and not (int(lanes.min()) >= 0 and int(lanes.max()) < 1 << plan.value_bits):
        raise ValueError(f"a lane holds a number outside 0..2**{plan.value_bits} - 1")
    work = _Work(plan, context, len(lanes))
    key = secrets.key(plan)
    out = [np.empty(work.travelling, dtype=np.uint64) for _ in plan.primes]
    keys = [p.ntt(p.reduce(key)[:, None])[:, 0] for p in work.rings]
    for chunks in work.blocks():
        parts = _noisy(plan, _groups(plan, lanes, chunks), secrets.errors(plan, chunks))
        for p, key_hat, residues in zip(work.rings, keys, out, strict=True):
            rows = parts[-1]
            for part in parts[-2::-1]:
                rows = p.scale(rows, 1 << _group(plan)[1]) + part
            work.take(chunks, p.reduce(rows + work.products(p, key_hat, chunks)), residues)
    return _packed(plan, out)


def _packed(plan: Plan, residues: Iterable[Words]) -> bytes:
    """Return the wire form of residues ``uint64[c]`` for each prime."""
    rows = zip(residues, plan.primes, strict=True)
    return b"".join(bits.pack(row[None], p.bit_length()).tobytes() for row, p in rows)


def residues_of(plan: Plan, body: bytes | memoryview, lanes: int) -> list[Words]:
    """Return the residues of a sealed vector or total, ``uint64[c]`` for each prime.

    Raises:
        Refused: ``envelope.malformed``: wrong length, or a residue that is not below its prime.
    """
    if len(body) != plan.body_bytes(lanes):
        raise Refused("envelope.malformed", f"a body of {len(body)} bytes, expected {plan.body_bytes(lanes)}")
    count, start, by_prime = plan.travelling(lanes), 0, []
    for modulus in plan.primes:
        size = count * modulus.bit_length() // 8
        packed = np.frombuffer(body, np.uint8, size, start)[None]
        residues = bits.unpack(packed, count, modulus.bit_length())[0]
        if residues.size and int(residues.max()) >= modulus:
            raise Refused("envelope.malformed", "a residue is not below its prime")
        by_prime.append(residues)
        start += size
    return by_prime


class Sum:
    """A running sum of sealed vectors. The coordinator needs no key for it.

    Attributes:
        body_bytes: length of every body that can be added.
        count: summands so far.
    """

    def __init__(self, plan: Plan, lanes: int) -> None:
        self._plan, self._lanes = plan, lanes
        self.body_bytes, self.count = plan.body_bytes(lanes), 0
        self._totals = [np.zeros(plan.travelling(lanes), dtype=np.uint64) for _ in plan.primes]

    def add(self, body: bytes | memoryview) -> None:
        """Add a body, whole or not at all. Sums of 1024 residues below 2**47 fit 64 bits unreduced.

        Raises:
            Refused: ``envelope.malformed``; ``envelope.params``: more summands than planned.
        """
        if self.count >= self._plan.members:
            raise Refused("envelope.params", f"one summand too many: the sum is planned for {self._plan.members}")
        for total, residues in zip(self._totals, residues_of(self._plan, body, self._lanes), strict=True):
            total += residues
        self.count += 1

    def dump(self) -> bytes:
        """Return the total, in the form of a sealed vector."""
        reduced = (total % np.uint64(p) for total, p in zip(self._totals, self._plan.primes, strict=True))
        return _packed(self._plan, reduced)


def open_total(plan: Plan, context: str, key_sum: Ints, total: bytes, lanes: int) -> Iterator[Ints]:
    """Return the sums of lanes, ``int64`` blocks in order, after checking every coefficient of the total.

    Args:
        plan: of the sum.
        context: digest of the RoundContext.
        key_sum: K, ``int64[N]``.
        total: as :meth:`Sum.dump` makes it.
        lanes: of each vector.

    Raises:
        Refused: ``envelope.malformed``; ``open.key``: K is not the sum of the keys, or the total not a sum of vectors.
    """
    if key_sum.shape != (plan.degree,) or int(np.abs(key_sum).max()) > BOUND * plan.members:
        raise Refused("open.key", f"the sum of keys is larger than {plan.members} keys can be")
    residues = residues_of(plan, total, lanes)
    work = _Work(plan, context, lanes)
    keys = [p.ntt(p.reduce(key_sum)[:, None])[:, 0] for p in work.rings]
    shift = BOUND * plan.members << plan.plain_bits
    opened: list[Words | NDArray[np.uint32]] = []
    for chunks in work.blocks():
        parts = []
        for p, key_hat, rows in zip(work.rings, keys, residues, strict=True):
            x = work.place(chunks, rows) - work.products(p, key_hat, chunks) + np.int64(shift % p.modulus)
            parts.append(p.reduce(x)[work.used(chunks)])
        contents, noise = _split(plan, _joined(work.rings, parts))
        if int(noise.max(initial=0)) > 2 * BOUND * plan.members:
            raise Refused("open.key", f"the noise is larger than {plan.members} errors can be")
        data = work.data(chunks)
        if contents[data:].any():
            raise Refused("open.key", "a coefficient of the opened sum that must be zero is not")
        count = min(lanes - chunks.start * plan.degree * plan.lanes, data * plan.lanes)
        opened += _lanes(contents[:data], count, np.uint32 if plan.lane_bits <= 32 else np.uint64)
    return (block.astype(np.int64) for block in opened)


class _Work:
    """Which coefficients travel, and their places in ring elements."""

    def __init__(self, plan: Plan, context: str, lanes: int) -> None:
        self.plan, self._label = plan, bytes.fromhex(context)
        self.rings = [prime(p, plan.degree) for p in plan.primes]
        self._chunks, self._data = plan.chunks(lanes), plan.coefficients(lanes)
        self.travelling = plan.travelling(lanes)

    def blocks(self) -> Iterator[range]:
        """Yield the chunks to work on together, so that a transform stays in the cache."""
        step = BLOCK // self.plan.degree
        for first in range(0, self._chunks, step):
            yield range(first, min(first + step, self._chunks))

    def products(self, p: Prime, key_hat: Ints, chunks: range) -> Ints:
        """Return A k of these chunks, ``int64[B, N]`` in [0, p)."""
        product = p.mul_about(expand(self._label, p, chunks), key_hat)
        return np.ascontiguousarray(p.intt(np.ascontiguousarray(product.T)).T)

    def _spans(self, chunks: range) -> Iterator[tuple[slice, slice]]:
        """Yield (place in the block's coefficients, place among those that travel): data, then zeros."""
        degree = self.plan.degree
        first, stop = chunks.start * degree, chunks.stop * degree
        data = min(self._data, stop) - first
        if data > 0:
            yield slice(0, data), slice(first, first + data)
        beyond = self._chunks * degree - (self.travelling - self._data)
        if stop > beyond:
            begin = max(first, beyond)
            at = self._data + begin - beyond
            yield slice(begin - first, stop - first), slice(at, at + stop - begin)

    def take(self, chunks: range, rows: Ints, residues: Words) -> None:
        """Copy the part of a block that travels into ``residues``."""
        flat = rows.reshape(-1)
        for here, there in self._spans(chunks):
            residues[there] = flat[here]

    def place(self, chunks: range, residues: Words) -> Ints:
        """Return a block with the coefficients that travelled in their places."""
        flat = np.zeros(len(chunks) * self.plan.degree, dtype=np.int64)
        for here, there in self._spans(chunks):
            flat[here] = residues[there]
        return flat.reshape(len(chunks), -1)

    def used(self, chunks: range) -> tuple[Ints, Ints]:
        """Return the index of the coefficients of a block that travelled, data first."""
        at = np.concatenate([np.arange(here.start, here.stop) for here, _ in self._spans(chunks)])
        rows, columns = np.divmod(at, self.plan.degree)
        return rows, columns

    def data(self, chunks: range) -> int:
        """Return how many of a block's coefficients hold data."""
        return max(0, min(self._data, chunks.stop * self.plan.degree) - chunks.start * self.plan.degree)


def _group(plan: Plan) -> tuple[int, int]:
    """Return how many lanes share a 64-bit word, so that errors fit above them, and their bits together."""
    count = min(plan.lanes, _GROUP_BITS // plan.lane_bits)
    return count, count * plan.lane_bits


def _groups(plan: Plan, lanes: Ints, chunks: range) -> list[Ints]:
    """Return the plaintext of these chunks as groups of lanes ``int64[coefficients]``, the lowest first."""
    size, (together, _) = plan.degree * plan.lanes, _group(plan)
    part = lanes[chunks.start * size : chunks.stop * size]
    table = np.zeros((plan.coefficients(len(part)), plan.lanes), dtype=np.int64)
    table.reshape(-1)[: len(part)] = part
    groups = []
    for first in range(0, plan.lanes, together):
        group = table[:, first].copy()
        for at in range(1, min(together, plan.lanes - first)):
            group += table[:, first + at] << (at * plan.lane_bits)
        groups.append(group)
    return groups


def _noisy(plan: Plan, groups: Sequence[Ints], errors: Ints) -> list[Ints]:
    """Return t e + m of some chunks in groups ``int64[B, N]``, the lowest first. Errors lie above the last lane."""
    top = errors << (plan.plain_bits - (len(groups) - 1) * _group(plan)[1])
    top.reshape(-1)[: len(groups[-1])] += groups[-1]
    lower = []
    for group in groups[:-1]:
        whole = np.zeros_like(errors)
        whole.reshape(-1)[: len(group)] = group
        lower.append(whole)
    return [*lower, top]


def _joined(rings: Sequence[Prime], parts: Sequence[Ints]) -> list[Words]:
    """Return integers below q from their residues, as words of 48 bits, the lowest first.

    Garner: x = d_0 + p_0 (d_1 + p_1 (d_2 + ...)), added up in columns of 24 bits: eight products of 48 bits at most.
    """
    moduli = [p.modulus for p in rings]
    count = math.prod(moduli).bit_length() // (2 * _LIMB_BITS) + 1
    columns = np.zeros((2 * count + 1, len(parts[0])), dtype=np.uint64)
    digits: list[Ints] = []
    for at, (p, part) in enumerate(zip(rings, parts, strict=True)):
        below, digit = math.prod(moduli[:at]), part
        if digits:
            known = digits[-1]
            for modulus, lower in zip(moduli[at - 2 :: -1], digits[-2::-1], strict=False):
                known = p.scale(known, modulus) + lower
            digit = p.scale(part - known, pow(below, -1, p.modulus))
        digits.append(digit)
        words = digit.view(np.uint64)
        for place, piece in enumerate((words & _LIMB, words >> np.uint64(_LIMB_BITS))):
            for limb in range(-(-below.bit_length() // _LIMB_BITS)):
                columns[place + limb] += piece * np.uint64(below >> (_LIMB_BITS * limb) & int(_LIMB))
    for column, following in itertools.pairwise(columns):
        following += column >> np.uint64(_LIMB_BITS)
        column &= _LIMB
    return [columns[2 * at] | columns[2 * at + 1] << np.uint64(_LIMB_BITS) for at in range(count)]


def _split(plan: Plan, words: Sequence[Words]) -> tuple[Words, Words]:
    """Return the lanes' contents ``uint64[c, L]`` and E + 21 n of integers below q."""
    contents = np.empty((len(words[0]), plan.lanes), dtype=np.uint64)
    mask = np.uint64((1 << plan.lane_bits) - 1)
    for lane in range(plan.lanes):
        contents[:, lane] = _shifted(words, lane * plan.lane_bits) & mask
    return contents, _shifted(words, plan.plain_bits)


def _shifted(words: Sequence[Words], by: int) -> Words:
    """Return the lower bits, at least 48, of integers shifted right."""
    at, by = divmod(by, 2 * _LIMB_BITS)
    out = words[at] >> np.uint64(by)
    if at + 1 < len(words):
        out |= words[at + 1] << np.uint64(2 * _LIMB_BITS - by)
    return out


def _lanes(contents: Words, count: int, kind: type[np.uint32 | np.uint64]) -> list[Any]:
    """Return the lanes of a block as integers of type ``kind``, without the last coefficient's padding.

    Raises:
        Refused: ``open.key``: the padding is not zero.
    """
    flat = contents.reshape(-1)
    if flat[max(count, 0) :].any():
        raise Refused("open.key", "a lane of the opened sum that must be empty is not")
    return [flat[:count].astype(kind)] if count > 0 else []


def digest_of(lanes: Ints) -> bytes:
    """Return the SHA-256 of a vector's lanes in 32 bits each, for :meth:`Secrets.fresh`."""
    return hashlib.sha256(lanes.astype("<u4").data).digest()
