"""Is the total the sum of exactly these bodies? Functionals that nobody could foresee.

    tau_i = <H(list, total), c_i>       three functionals for each prime, in clear, in the member's signed answer
    check   sum of tau_i = <H(list, total), C>

The coordinator fixes list and total before it learns H, the product of two smaller ones: residues lie in rows of
1,024, V takes each row to three numbers, and U takes all of these to the three functionals. Entries of V and U are 48
random bits, taken mod p, so that no residue is likelier than 1/p + 2**-48.

A total that is not the sum is wrong mod one prime at least. There V takes the difference to zero, or U takes to zero
what is left, each with at most (1/p + 2**-48)**3; so it passes with at most twice that: 2**-76 for a prime of 26 bits,
2**-115 for one of 39. It can be tried offline, with other totals, for H is public: that many hashes. But a member
answers one total in a context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..canonical import canonical
from .planner import Plan
from .ring import Ints, Prime, Stream, prime

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]
FUNCTIONALS = 3
DRAWN_BITS, DRAWN = 16, 3  # pieces of an entry of V, 48 bits together
CUT_BITS, CUTS = 24, 2  # of a residue, which is below 2**47
WIDTH = 1 << 10  # of a row: sums of products of pieces stay below 2**50, and a float64 holds them exactly
BLOCK = 14  # rows worked on at a time: they stay in the cache, and BLAS starts no threads for so few


def functionals(plan: Plan, headers: str, total: str, residues: Sequence[Words]) -> tuple[int, ...]:
    """Return three functionals of a body or total for each prime, each in [0, p), prime by prime.

    Args:
        plan: of the sum.
        headers: digest of the list of headers.
        total: digest of the total.
        residues: ``uint64[c]`` for each prime.
    """
    found: list[int] = []
    for at, (modulus, values) in enumerate(zip(plan.primes, residues, strict=True)):
        label = canonical({"kind": "moonflower.v2.tau", "list": headers, "total": total, "prime": at})
        stream, p = Stream(hashlib.sha256(label).digest()), prime(modulus, plan.degree)
        short = _shortened(p, _draws(stream, WIDTH), values)
        products = p.mul(p.reduce(_draws(stream, len(short))), short)
        found += [sum(row) % modulus for row in products.tolist()]
    return tuple(found)


def added(plan: Plan, taus: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the sum of members' functionals, each modulo its prime."""
    moduli = [p for p in plan.primes for _ in range(FUNCTIONALS)]
    return tuple(sum(column) % p for column, p in zip(zip(*taus, strict=True), moduli, strict=True))


def _draws(stream: Stream, count: int) -> Ints:
    """Return the next entries of V or U: ``int64[3, count]`` of 48 random bits each."""
    words = stream.words(FUNCTIONALS * count) >> np.uint64(64 - DRAWN * DRAWN_BITS)
    return words.view(np.int64).reshape(FUNCTIONALS, count)


def _shortened(p: Prime, inner: Ints, values: Words) -> Ints:
    """Return all rows' products with V mod p, ``int64[3 rows]``: exact inner products of pieces, put together."""
    mask = (1 << DRAWN_BITS) - 1
    pieces = [(inner >> (DRAWN_BITS * at) & mask).astype(np.float64) for at in range(DRAWN)]
    factors = np.ascontiguousarray(np.concatenate(pieces).T)
    rows = -(-len(values) // WIDTH)
    products = np.empty((rows, CUTS, DRAWN * FUNCTIONALS))
    block, cut = np.zeros((CUTS, BLOCK * WIDTH)), np.empty(BLOCK * WIDTH, dtype=np.uint64)
    for first in range(0, rows, BLOCK):
        part = values[first * WIDTH : (first + BLOCK) * WIDTH]
        size = len(part)
        block[:, size:] = 0
        block[0, :size] = np.bitwise_and(part, np.uint64((1 << CUT_BITS) - 1), out=cut[:size]).view(np.int64)
        block[1, :size] = np.right_shift(part, np.uint64(CUT_BITS), out=cut[:size]).view(np.int64)
        found = (block.reshape(-1, WIDTH) @ factors).reshape(CUTS, BLOCK, -1)
        products[first : first + BLOCK] = found.transpose(1, 0, 2)[: rows - first]
    whole = p.reduce(products.astype(np.int64)).reshape(rows, CUTS * DRAWN, FUNCTIONALS)
    powers = [CUT_BITS * cut + DRAWN_BITS * at for cut in range(CUTS) for at in range(DRAWN)]
    weights = np.array([pow(2, power, p.modulus) for power in powers], dtype=np.int64)[:, None]
    return p.reduce(p.mul(whole, weights).sum(axis=1)).reshape(-1)
