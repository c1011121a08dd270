"""Is the total the sum of exactly these bodies? Functionals that nobody could foresee (protocol version 2, in work).

    tau_i = <H(list, total), c_i>       three functionals for each prime, in clear, in the member's signed answer
    check   sum of tau_i = <H(list, total), C>

The coordinator fixes list and total before it learns H. H is 48 random bits a coefficient, taken mod p, so that no
residue is likelier than 1/p + 2**-48. A total that is not the sum is wrong mod one prime at least, and passes there
with at most (1/p + 2**-48)**3: 2**-77 for a prime of 26 bits, 2**-116 for one of 39. It can be tried offline, with
other totals, for H is public: that many hashes. But a member answers one total in a context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from ..canonical import canonical
from .onetime_plan import OneTimePlan

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]
FUNCTIONALS = 3
DRAWN_BITS, DRAWN = 16, 3  # pieces of a number of H, 48 bits together
CUT_BITS, CUTS = 24, 2  # of a residue, which is below 2**47
BLOCK = 1 << 13  # so inner products of pieces stay below 2**53, which a float64 holds exactly


def functionals(plan: OneTimePlan, headers: str, total: str, residues: Sequence[Words]) -> tuple[int, ...]:
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
        sums = [0] * FUNCTIONALS
        drawn = _draws(hashlib.sha256(label).digest(), len(values))
        for start, factors in zip(range(0, len(values), BLOCK), drawn, strict=True):
            products = [factors @ piece for piece in _cut(values[start : start + BLOCK])]
            for number in range(FUNCTIONALS):
                sums[number] += sum(
                    int(products[cut][number * DRAWN + at]) << (DRAWN_BITS * at + CUT_BITS * cut)
                    for cut in range(CUTS)
                    for at in range(DRAWN)
                )
        found += [one % modulus for one in sums]
    return tuple(found)


def added(plan: OneTimePlan, taus: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the sum of members' functionals, each modulo its prime."""
    moduli = [p for p in plan.primes for _ in range(FUNCTIONALS)]
    return tuple(sum(column) % p for column, p in zip(zip(*taus, strict=True), moduli, strict=True))


def _draws(key: bytes, count: int) -> Iterator[Floats]:
    """Yield H block by block, ``float64[functionals * pieces, k]``, lowest piece first: AES-256-CTR under ``key``."""
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        words = np.frombuffer(stream.update(bytes(2 * FUNCTIONALS * DRAWN * size)), dtype="<u2")
        yield words.reshape(FUNCTIONALS * DRAWN, size).astype(np.float64)


def _cut(values: Words) -> tuple[Floats, Floats]:
    """Return residues in pieces, ``float64[k]`` each, the lowest first."""
    low = values & np.uint64((1 << CUT_BITS) - 1)
    return low.astype(np.float64), (values >> np.uint64(CUT_BITS)).astype(np.float64)
