"""Which parameters hold a sum: from members, value bits and vector length to ring, primes, modulus and lanes.

A slot of BFV holds an integer below the plain modulus t. It is cut into lanes of ``value_bits + guard_bits``
bits, so that ``members`` values add up in a lane without reaching its neighbour. A set of parameters is usable
when the lanes fit below t and the noise of the summed ciphertexts stays under q / 2t with a margin of nine
standard deviations (Gaussian tail 2^-62 a coefficient). Among usable sets the planner takes the smallest upload.

Security: ternary secret, 128 bits classical. log2(q) stays within the tables of "Security Guidelines for
Implementing Homomorphic Encryption" (IACR eprint 2024/463), 106 bits at N = 4096, which is tighter than
the older HomomorphicEncryption.org table (109) that SEAL enforces.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError

NOISE_SIGMAS = 9.0


@dataclass(frozen=True)
class _Ring:
    degree: int
    coeff_bits: tuple[int, ...]  # the last prime is SEAL's special prime: no data

    @property
    def data_bits(self) -> int:
        return sum(self.coeff_bits[:-1])

    @property
    def fresh_sigma(self) -> float:
        """Standard deviation of a fresh public-key encryption's noise: sqrt(N h / 12), h = 2/3 (facts: 15.1)."""
        return math.sqrt(self.degree * (2 / 3) / 12)


_RINGS = (_Ring(4096, (53, 53)), _Ring(4096, (35, 35, 36)))


@dataclass(frozen=True)
class Plan:
    """Parameters of one epoch's sums; every member and the coordinator derive the same one.

    Attributes:
        scheme: ``shared``.
        degree: N, coefficients of the ring = slots of a ciphertext.
        coeff_bits: sizes of the primes of q in bits, the special prime last.
        plain_modulus: t, a prime = 1 mod 2N.
        lanes: values in a slot.
        value_bits: bits of one value.
        lane_bits: bits of a lane: value_bits + guard bits.
        max_members: most summands that neither lanes nor noise let overflow.
        noise_margin_bits: log2 of (q / 2t) over nine sigmas of a sum of ``max_members``; never negative.
    """

    scheme: str
    degree: int
    coeff_bits: tuple[int, ...]
    plain_modulus: int
    lanes: int
    value_bits: int
    lane_bits: int
    max_members: int
    noise_margin_bits: float

    @property
    def offset(self) -> int:
        """What is added to a signed value so that a lane holds it unsigned."""
        return 1 << (self.value_bits - 1)

    @property
    def limbs(self) -> int:
        """Lanes that one counter below 2**48 takes."""
        return -(-48 // self.value_bits)

    def chunks(self, values: int) -> int:
        """Ciphertexts that hold this many values."""
        return -(-values // (self.lanes * self.degree))

    def packed_bytes(self, values: int) -> int:
        """Bytes of the residues of an upload, bit-packed: a floor of what travels."""
        return self.chunks(values) * 2 * self.degree * sum(self.coeff_bits[:-1]) // 8

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, for digests and display."""
        return asdict(self)


def plan(members: int, value_bits: int, values: int, scheme: str = "shared") -> Plan:
    """Return the cheapest parameters that hold a sum over ``members``.

    Args:
        members: summands, 2 to 1024.
        value_bits: bits of one value, 4 to 24.
        values: length of the vector; decides which usable set uploads least.
        scheme: ``shared``.

    Raises:
        InputError: ``config.crypto``: no set holds such a sum; the sentence names the largest that fits.
    """
    if scheme != "shared":
        raise InputError("config.crypto", f"crypto.scheme = {scheme!r} is unknown; expected 'shared'")
    fitting = [p for ring in _RINGS for lanes in range(1, 7) if (p := _try(ring, members, value_bits, lanes))]
    if not fitting:
        raise InputError(
            "config.crypto",
            f"crypto.value_bits = {value_bits} with {members} members: no parameter set holds such a sum exactly; "
            f"expected at most {_most(members)} value bits for {members} members",
        )
    return min(fitting, key=lambda p: (p.packed_bytes(values), p.lanes))


def _try(ring: _Ring, members: int, value_bits: int, lanes: int) -> Plan | None:
    lane_bits = value_bits + (members - 1).bit_length()
    if lanes * lane_bits > 59:  # SEAL holds t in 60 bits
        return None
    modulus = _batching_prime(1 << (lanes * lane_bits), ring.degree)
    budget = 2.0 ** (ring.data_bits - 0.01) / (2 * modulus) / (NOISE_SIGMAS * ring.fresh_sigma)
    by_noise, by_lanes = math.floor(budget**2), 1 << (lane_bits - value_bits)
    if min(by_noise, by_lanes) < members:
        return None
    margin = round(math.log2(budget / math.sqrt(min(by_noise, by_lanes))), 2)
    return Plan(
        "shared",
        ring.degree,
        ring.coeff_bits,
        modulus,
        lanes,
        value_bits,
        lane_bits,
        min(by_noise, by_lanes),
        margin,
    )


def _most(members: int) -> int:
    return max((bits for bits in range(1, 25) for ring in _RINGS if _try(ring, members, bits, 1)), default=0)


def _batching_prime(above: int, degree: int) -> int:
    """Return the smallest prime > ``above`` that is 1 mod 2N, so that SEAL can batch."""
    step = 2 * degree
    candidate = above // step * step + 1
    while candidate <= above or not _is_prime(candidate):
        candidate += step
    return candidate


def _is_prime(n: int) -> bool:
    """Miller-Rabin with the bases that decide every n < 3.3e24 (Sorenson and Webster 2015)."""
    if n < 2:
        return False
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if n in bases or any(n % p == 0 for p in bases):
        return n in bases
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
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
