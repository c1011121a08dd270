"""Primes that are 1 mod 2N for a ring of degree N, so that polynomials have a number-theoretic transform."""

from __future__ import annotations

from functools import lru_cache

_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)


@lru_cache(maxsize=4096)
def largest_prime(bits: int, degree: int, below: int = 0) -> int:
    """Return the largest prime of ``bits`` bits that is 1 mod 2N, or 0. SEAL takes the same prime for this size.

    Args:
        bits: of the prime.
        degree: N.
        below: if given, only primes below it count.
    """
    step = 2 * degree
    candidate = (1 << bits) - step + 1
    while candidate.bit_length() == bits:
        if (not below or candidate < below) and is_prime(candidate):
            return candidate
        candidate -= step
    return 0


def is_prime(n: int) -> bool:
    """Return whether a number is prime: Miller-Rabin with bases that decide every n < 3.3e24 (Sorenson, Webster 2015).

    >>> [n for n in range(30) if is_prime(n)]
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    """
    if n < 2:
        return False
    if n in _BASES or any(n % p == 0 for p in _BASES):
        return n in _BASES
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in _BASES:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True
