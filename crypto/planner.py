"""Parameters of a sum under one-time keys: ring, primes, lanes, and zeros.

Member i seals c = A k + t e + m over R_q = Z_q[X]/(X^N + 1). Keys and errors are centred binomial, at most 21. These
three rules must hold. They are computed here, and no other module relies on them without a plan from here:

1. **exact**: over the integers t (E + 21 n) + M lies in [0, (42 n + 1) t), so every sum of n opens exactly iff
   q >= (42 n + 1) t. A hard bound, no tails.
2. **one opening**: with Z zero coefficients a total has at most one key that passes, except with probability 2^-192 for
   each context tried, if Z (log2 q - log2(84 n + 1)) >= N log2(84 n + 1) + 192, and
   Z <= N - N log2(42 n sqrt(N)) / log2 p for the smallest prime p.
3. **128 bits**: log2 q within :data:`MAX_LOG_Q`, on the widths that remain once the sums of keys and errors are known.

q is the product of up to four primes below 2^47, so that residues are worked on in 64-bit words. Coefficients hold L
lanes of w = value_bits + ceil(log2 n) bits each. Only the coefficients in use and the zeros travel. Noise takes the
same number of bits of a coefficient, however many lanes it holds. Four primes at N = 8192 therefore send 5 to 9 % less
than two at N = 4096 for long vectors (from about 100,000 values, where they make up for an answer of twice the size).
Sealing takes as long with them, because the number of residues is the same. Opening puts residues together and takes at
most a third longer.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from ..errors import InputError
from .primes import largest_prime
from .ring import MAX_PRIME_BITS

MAX_LOG_Q = {1024: 26, 2048: 50, 4096: 100, 8192: 200}
MAX_MEMBERS, MAX_PRIMES = 1024, 4
BOUND = 21  # of a key's and an error's coefficients
MISS_BITS = 192  # a second opening exists with probability at most 2**-192, for each context tried


@dataclass(frozen=True)
class Plan:
    """Parameters of the sums of one circle. All members and the coordinator derive the same ones.

    Attributes:
        degree: N.
        primes: of q, the largest first.
        lanes: values in a coefficient.
        value_bits: bits of one value.
        lane_bits: w.
        members: n, exactly.
    """

    degree: int
    primes: tuple[int, ...]
    lanes: int
    value_bits: int
    lane_bits: int
    members: int

    @property
    def modulus(self) -> int:
        """q."""
        return math.prod(self.primes)

    @property
    def plain_bits(self) -> int:
        """log2 t."""
        return self.lanes * self.lane_bits

    @property
    def limbs(self) -> int:
        """Lanes of one counter below 2**48."""
        return -(-48 // self.value_bits)

    @property
    def offset(self) -> int:
        """The number that is added to a signed value so that a lane holds it unsigned."""
        return 1 << (self.value_bits - 1)

    @property
    def coefficient_bits(self) -> int:
        """Bits of one coefficient on the wire."""
        return sum(prime.bit_length() for prime in self.primes)

    @property
    def key_bits(self) -> int:
        """w_k: a sum of n keys fits 2**w_k, signs included."""
        return (2 * BOUND * self.members).bit_length()

    @property
    def zeros(self) -> int:
        """Z, the fewest zero coefficients that make an opening unique."""
        return zeros(self.degree, self.modulus, self.members)

    def coefficients(self, lanes: int) -> int:
        """Coefficients that hold this many lanes."""
        return -(-lanes // self.lanes)

    def chunks(self, lanes: int) -> int:
        """Ring elements that hold this many lanes and the zeros."""
        return -(-(self.coefficients(lanes) + self.zeros) // self.degree)

    def travelling(self, lanes: int) -> int:
        """Coefficients on the wire: those in use and the zeros, padded to a multiple of 8 with more zeros."""
        return -(-(self.coefficients(lanes) + self.zeros) // 8) * 8

    def body_bytes(self, lanes: int) -> int:
        """Bytes of a sealed vector."""
        return self.travelling(lanes) * self.coefficient_bits // 8

    def sent_bytes(self, lanes: int) -> int:
        """Approximate bytes that a member sends: a sealed vector, and an answer of N numbers in lanes."""
        answer = self.degree * (self.key_bits + (self.members - 1).bit_length()) // 8
        return self.body_bytes(lanes) + answer

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, for digests and display."""
        return {**asdict(self), "primes": list(self.primes)}


def zeros(degree: int, modulus: int, members: int) -> int:
    """Return Z of rule 2's first half, rounded up."""
    spread = math.log2(4 * BOUND * members + 1)
    return math.ceil((degree * spread + MISS_BITS) / (math.log2(modulus) - spread))


def most_zeros(degree: int, smallest: int, members: int) -> int:
    """Return the bound on Z of rule 2's second half, rounded down."""
    spread = math.log2(2 * BOUND * members * math.sqrt(degree))
    return math.floor(degree - degree * spread / math.log2(smallest))


@lru_cache
def plan(members: int, value_bits: int, lanes: int) -> Plan:
    """Return the parameters that send the fewest bytes for ``lanes`` lanes; among those within 1 %, the fastest.

    Args:
        members: n, 2 to 1024.
        value_bits: bits of one value, 4 to 24.
        lanes: of the vector, including counters' limbs.

    Raises:
        InputError: ``config.crypto``: no parameters hold such a sum.
    """
    fitting = [
        candidate
        for degree in MAX_LOG_Q
        for count in range(1, MAX_PRIMES + 1)
        for packed in range(1, 40)
        if (candidate := _try(degree, count, members, value_bits, packed))
    ]
    if not fitting:
        raise InputError(
            "config.crypto",
            f"crypto.value_bits = {value_bits} with {members} members: no parameter set holds such a sum exactly; "
            f"expected 2 to {MAX_MEMBERS} members and at most 24 bits",
        )
    smallest = min(candidate.sent_bytes(lanes) for candidate in fitting)
    near = [candidate for candidate in fitting if candidate.sent_bytes(lanes) <= smallest * 1.01]
    return min(
        near,
        key=lambda candidate: (candidate.chunks(lanes) * candidate.degree * len(candidate.primes), candidate.degree),
    )


def _try(degree: int, count: int, members: int, value_bits: int, lanes: int) -> Plan | None:
    """Return the plan with these parameters, if all three rules hold for it."""
    if not 2 <= members <= MAX_MEMBERS or not 4 <= value_bits <= 24:
        return None
    lane_bits = value_bits + (members - 1).bit_length()
    least = (2 * BOUND * members + 1) << (lanes * lane_bits)
    for bits in (least.bit_length(), least.bit_length() + 1):
        primes = _primes(degree, count, bits) if bits <= MAX_LOG_Q[degree] else ()
        if not primes or math.prod(primes) < least:
            continue
        candidate = Plan(degree, primes, lanes, value_bits, lane_bits, members)
        if 0 < candidate.zeros <= min(degree, most_zeros(degree, min(primes), members)):
            return candidate
    return None


@lru_cache(maxsize=4096)
def _primes(degree: int, count: int, bits: int) -> tuple[int, ...]:
    """Return ``count`` different primes whose product has ``bits`` bits, or an empty tuple."""
    if -(-bits // count) > MAX_PRIME_BITS:
        return ()
    primes: list[int] = []
    for at in range(count):
        size = (bits + at) // count
        below = primes[-1] if primes and primes[-1].bit_length() == size else 0
        prime = largest_prime(size, degree, below)
        if not prime:
            return ()
        primes.append(prime)
    return tuple(sorted(primes, reverse=True))
