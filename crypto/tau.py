"""Functionals that check whether the total is the sum of exactly these bodies, and that nobody could foresee.

    tau_i = <H(list, total), c_i>       three functionals for each prime, in the clear, in the member's signed answer
    check   sum of tau_i = <H(list, total), C>

The coordinator fixes list and total before it learns H = U V. Residues lie in rows of 2,048, V maps each row to eight
numbers, and U maps all of these to the three functionals. Entries of V are 16 random bits. Those of U are 48 random
bits, taken mod p, so that no residue is likelier than 1/p + 2**-48.

A total that is not the sum is wrong modulo at least one prime. There V maps the difference to zero with probability at
most 2**-128, or U maps what is left to zero with probability at most (1/p + 2**-48)**3. Together that is 2**-77 for a
prime of 26 bits, and 2**-116 for one of 39. H is public, so an attacker can try other totals offline, at that many
hashes. But a member answers one total in a context.
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
COLUMNS, DRAWN_BITS = 8, 16  # numbers that V makes from a row, bits of its entries
CUT_BITS, CUTS = 24, 2  # of a residue, which is below 2**47
WIDTH = 1 << 11  # of a row: inner products of V and cuts stay below 2**51, and a float64 holds them exactly
BLOCK = 7  # rows worked on at a time: they stay in the cache, and are too few for BLAS to start threads


def functionals(plan: Plan, headers: str, total: str, residues: Sequence[Words]) -> tuple[int, ...]:
    """Return three functionals of a body or total for each prime, each in [0, p), prime by prime.

    Args:
        plan: of the sum.
        headers: digest of the list of headers.
        total: digest of the total.
        residues: ``uint64[c]`` for each prime.
    """
    results: list[int] = []
    for at, (modulus, values) in enumerate(zip(plan.primes, residues, strict=True)):
        label = canonical({"kind": "moonflower.v2.tau", "list": headers, "total": total, "prime": at})
        stream, p = Stream(hashlib.sha256(label).digest()), prime(modulus, plan.degree)
        inner = stream.words(WIDTH * COLUMNS * DRAWN_BITS // 64).view("<u2").reshape(WIDTH, COLUMNS)
        short = _shortened(p, inner.astype(np.float64), values)
        outer = (stream.words(FUNCTIONALS * len(short)) >> np.uint64(16)).view(np.int64)
        products = p.mul(p.reduce(outer).reshape(FUNCTIONALS, -1), short)
        results += [sum(row) % modulus for row in products.tolist()]
    return tuple(results)


def added(plan: Plan, taus: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the sum of members' functionals, each modulo its prime."""
    moduli = [p for p in plan.primes for _ in range(FUNCTIONALS)]
    return tuple(sum(column) % p for column, p in zip(zip(*taus, strict=True), moduli, strict=True))


def _shortened(p: Prime, inner: Floats, values: Words) -> Ints:
    """Return all rows' products with V mod p, ``int64[8 rows]``: exact inner products of cuts, joined."""
    rows = -(-len(values) // WIDTH)
    together = min(BLOCK, rows)
    products = np.empty((rows, CUTS, COLUMNS))
    block, cut = np.zeros((CUTS, together * WIDTH)), np.empty(together * WIDTH, dtype=np.uint64)
    for first in range(0, rows, together):
        part = values[first * WIDTH : (first + together) * WIDTH]
        size = len(part)
        block[:, size:] = 0
        block[0, :size] = np.bitwise_and(part, np.uint64((1 << CUT_BITS) - 1), out=cut[:size]).view(np.int64)
        block[1, :size] = np.right_shift(part, np.uint64(CUT_BITS), out=cut[:size]).view(np.int64)
        exact = (block.reshape(-1, WIDTH) @ inner).reshape(CUTS, together, COLUMNS)
        products[first : first + together] = exact.transpose(1, 0, 2)[: rows - first]
    low, high = p.reduce(products.astype(np.int64)).transpose(1, 0, 2)
    return p.reduce(low + p.scale(high, 1 << CUT_BITS)).reshape(-1)
