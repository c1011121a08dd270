"""Exact arithmetic in Z_q[X] / (X^N + 1) with numpy, and its randomness.

q is a product of primes p = 1 mod 2N below 2**47, and a polynomial is represented by its residues mod each of them.
Products are taken in the evaluation domain (number-theoretic transform, natural order of SEAL: entry i is
f(psi**(2 bitrev(i) + 1)) for the smallest primitive 2N-th root psi). A product mod p is exact: the quotient comes from
float64 and is off by two at most, the remainder from wrapping 64-bit integers. Inside a transform, values are signed
and grow by at most 2 p a stage: 13 stages stay below 2**52, which a float64 holds exactly.

Layout: transforms run over the first axis, ``int64[N, B]``, B polynomials at a time. All else works row by row.

Randomness is AES-256-CTR under a secret key or a key from a label, never a numpy Generator. Nothing here runs in
constant time: at least rejected draws show in the time that sampling takes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from ..canonical import canonical

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_PRIME_BITS = 47
CBD_COINS = 21  # as SEAL's error: the difference of 21 and 21 coin tosses, so at most 21
_MASK = np.uint64((1 << CBD_COINS) - 1)


class Prime:
    """Arithmetic modulo a prime, and its transforms.

    Args:
        modulus: a prime = 1 mod 2N, below 2**47.
        degree: N, a power of two up to 8192.
    """

    def __init__(self, modulus: int, degree: int) -> None:
        if modulus.bit_length() > MAX_PRIME_BITS or modulus % (2 * degree) != 1 or degree > 8192:
            raise ValueError(f"{modulus} is not a modulus of a ring of degree {degree}")
        self.modulus, self.degree, self._p = modulus, degree, np.int64(modulus)
        self._once, self._twice = np.uint64(modulus), np.uint64(2 * modulus)
        self._inverse = 1.0 / modulus
        self._repeated: dict[int, tuple[list[tuple[Ints, Floats]], Ints, Floats]] = {}
        psi = _root(modulus, degree)
        powers = _powers(psi, degree, modulus)
        order = [int(f"{i:0{degree.bit_length() - 1}b}"[::-1], 2) for i in range(degree)]
        self._forward = self._table([powers[i] for i in order])
        back = _powers(pow(psi, -2, modulus), degree // 2, modulus)  # powers of the inverse of omega = psi**2
        self._backward = [self._table(back[:: degree // 2 // half]) for half in _halves(degree)]
        scale = pow(degree, -1, modulus)
        self._scale = self._table(
            [scale * power % modulus for power in _powers(pow(psi, -1, modulus), degree, modulus)]
        )

    def reduce(self, x: Ints) -> Ints:
        """Return x mod p, for any ``|x| <= 2**53``, in [0, p)."""
        quotient = (x * self._inverse).astype(np.int64)
        return self._settle(x - quotient * self._p)

    def mul(self, a: Ints, b: Ints) -> Ints:
        """Return a b mod p in [0, p); ``|a|, |b| < 2**48`` and ``|a b| < 2**95``."""
        return self._settle(self.mul_about(a, b))

    def mul_about(self, a: Ints, b: Ints) -> Ints:
        """Return a b mod p within ±1.2 p, for a transform. Limits as for :meth:`mul`."""
        real = a.astype(np.float64)
        real *= b
        real *= self._inverse
        quotient = real.astype(np.int64)
        quotient *= self._p
        out = a * b
        out -= quotient
        return out

    def scale(self, x: Ints, factor: int) -> Ints:
        """Return x times a whole number mod p in [0, p); ``|x| < 2**50``."""
        factor %= self.modulus
        quotient = (x * (factor / self.modulus)).astype(np.int64)
        return self._settle(x * np.int64(factor) - quotient * self._p)

    def ntt(self, x: Ints) -> Ints:
        """Return the evaluations of polynomials ``int64[N, B]`` with ``|x| <= p``, in [0, p)."""
        x = x.copy()
        whole, real = self._forward
        groups, size = 1, self.degree // 2
        while size:
            pair = x.reshape(groups, 2, size, -1)
            now = slice(groups, 2 * groups)
            self._butterfly(pair[:, 0], pair[:, 1], whole[now, :, None], real[now, :, None])
            groups, size = 2 * groups, size // 2
        return self.reduce(x)

    def intt(self, x: Ints) -> Ints:
        """Return the polynomials ``int64[N, B]`` in [0, p) with evaluations ``|x| <= 1.2 p``; overwrites x."""
        stages, whole, real = self._inverse_tables(x.shape[1])
        pair = x.reshape(-1, 2, x.shape[1])  # the first stage turns by 1
        low, high = pair[:, 0], pair[:, 1]
        before = high.copy()
        np.subtract(low, before, out=high)
        low += before
        for twiddle, ratio in stages:
            pair = x.reshape(-1, 2, len(twiddle))
            self._butterfly(pair[:, 0], pair[:, 1], twiddle, ratio)
        rest = self._times_table(x.reshape(-1), whole, real)
        return self._settle(rest).reshape(x.shape)

    def _inverse_tables(self, width: int) -> tuple[list[tuple[Ints, Floats]], Ints, Floats]:
        """Return the factors of all stages but the first, and the last scaling, each repeated for every polynomial."""
        if width not in self._repeated:
            tables = (*self._backward[1:], self._scale)
            *stages, (whole, real) = [(np.repeat(whole, width), np.repeat(real, width)) for whole, real in tables]
            self._repeated[width] = (stages, whole, real)
        return self._repeated[width]

    def _butterfly(self, low: Ints, high: Ints, twiddle: Ints, ratio: Floats) -> None:
        """Replace (low, high) by (low + w high, low - w high), w high within ±2 p."""
        turned = self._times_table(high, twiddle, ratio)
        np.subtract(low, turned, out=high)
        low += turned

    def _times_table(self, x: Ints, factor: Ints, ratio: Floats) -> Ints:
        """Return x factor mod p within ±2 p, for ``|x| < 2**52`` and ratio = factor / p."""
        real = x.astype(np.float64)
        real *= ratio
        quotient = real.astype(np.int64)
        quotient *= self._p
        out = x * factor
        out -= quotient
        return out

    def _settle(self, x: Ints) -> Ints:
        """Return x mod p for x within ±2 p, in place. Negative values are large as unsigned words."""
        words = x.view(np.uint64)
        np.minimum(words, words + self._twice, out=words)
        np.minimum(words, words - self._once, out=words)
        return x

    def _table(self, factors: Sequence[int]) -> tuple[Ints, Floats]:
        whole = np.array(factors, dtype=np.int64)[:, None]
        return whole, np.array([factor / self.modulus for factor in factors])[:, None]


@lru_cache(maxsize=64)
def prime(modulus: int, degree: int) -> Prime:
    """Return the arithmetic of a prime, whose tables are made once."""
    return Prime(modulus, degree)


class Stream:
    """Pseudorandom 64-bit words: AES-256-CTR.

    Args:
        key: 32 bytes.
        start: value of the counter's upper half; below 2**64.
    """

    def __init__(self, key: bytes, start: int = 0) -> None:
        self._cipher = Cipher(AES(key), CTR(start.to_bytes(8, "big") + bytes(8))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next ``count`` words, little-endian."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")

    def uniform(self, count: int, modulus: int) -> Ints:
        """Return ``int64[count]`` uniform in [0, modulus): the top bits of words, drawn again if too large."""
        shift = np.uint64(64 - modulus.bit_length())
        values = (self.words(count) >> shift).view(np.int64)
        while values.max(initial=0) >= modulus:
            again = np.flatnonzero(values >= modulus)
            values[again] = (self.words(len(again)) >> shift).view(np.int64)
        return values

    def error(self, shape: tuple[int, ...]) -> Ints:
        """Return centred binomial noise ``int64[shape]``, standard deviation sqrt(10.5), at most 21."""
        words = self.words(math.prod(shape)).reshape(shape)
        heads, tails = (np.bitwise_count(w & _MASK).view(np.int8) for w in (words, words >> np.uint64(CBD_COINS)))
        out: Ints = (heads - tails).astype(np.int64)
        return out


def expand(label: bytes, p: Prime, chunks: range) -> Ints:
    """Return the public polynomials ``int64[B, N]`` mod p of these chunks, as evaluations.

    The key is a SHA-256 of label and prime, so the sender of the label does not choose the polynomials.
    """
    named = canonical({"kind": "moonflower.expand.v1", "label": label.hex(), "prime": p.modulus})
    key = hashlib.sha256(named).digest()
    rows: Ints = np.stack([Stream(key, chunk).uniform(p.degree, p.modulus) for chunk in chunks])
    return rows


def _root(modulus: int, degree: int) -> int:
    """Return the smallest primitive 2N-th root of one."""
    cofactor = (modulus - 1) // (2 * degree)
    some = next(r for g in range(2, modulus) if pow(r := pow(g, cofactor, modulus), degree, modulus) == modulus - 1)
    square, best, root = some * some % modulus, some, some
    for _ in range(degree - 1):
        root = root * square % modulus
        best = min(best, root)
    return best


def _powers(base: int, count: int, modulus: int) -> list[int]:
    out = [1]
    for _ in range(count - 1):
        out.append(out[-1] * base % modulus)
    return out


def _halves(degree: int) -> list[int]:
    return [1 << i for i in range(degree.bit_length() - 1)]
