"""Which parameters hold a sum: from members, value bits and vector length to ring, moduli and lanes.

A coefficient of a BFV plaintext holds an integer below t = 2**(lanes * lane_bits): values lie in lanes of
``value_bits + guard_bits`` bits, so that ``members`` values add up in a lane without reaching its neighbour. The
ciphertext modulus q is one prime, the smallest that decrypts every sum:

    fresh noise |e| <= 21 (SEAL's centred binomial distribution), scaling error <= 1/2, so a sum of n decrypts
    exactly when n (21 + 1/2) t / q < 1/2, that is q > 43 n t.

This is a hard bound, not a tail: honest sums never decrypt wrongly, whatever the dice. Among usable sets the
planner takes the smallest upload, or one within 1 % of it that takes fewer ciphertexts.

Security: ternary secret, 128 bits classical; log2(q) within "Security Guidelines for Implementing Homomorphic
Encryption" (IACR eprint 2024/463): 26, 53 and 106 bits at N = 1024, 2048 and 4096. That is tighter than the
HomomorphicEncryption.org table (27, 54, 109), which SEAL enforces as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from ..errors import InputError
from .primes import largest_prime

MAX_LOG_Q = {1024: 26, 2048: 53, 4096: 106}
MAX_MODULUS_BITS = 60  # SEAL holds a prime, and t, in 60 bits
FRESH_NOISE = 21  # largest absolute value of SEAL's fresh symmetric noise
MAC_BITS, MAC_WORD_BITS = 96, 48  # forging the authenticated sum: at most 2**-96 an attempt
SEED_BYTES = 64


@dataclass(frozen=True)
class Plan:
    """Parameters of one epoch's sums; every member and the coordinator derive the same one.

    Attributes:
        scheme: ``shared``.
        degree: N, coefficients of the ring.
        modulus: q, a prime = 1 mod 2N.
        lanes: values in a coefficient.
        value_bits: bits of one value.
        lane_bits: bits of a lane: value_bits + guard bits.
        max_members: most summands that neither lanes nor noise let overflow.
    """

    scheme: str
    degree: int
    modulus: int
    lanes: int
    value_bits: int
    lane_bits: int
    max_members: int

    @property
    def modulus_bits(self) -> int:
        """Bits of a residue on the wire."""
        return self.modulus.bit_length()

    @property
    def plain_modulus(self) -> int:
        """t, a power of two: the lanes fill it exactly."""
        return 1 << (self.lanes * self.lane_bits)

    @property
    def noise_margin(self) -> float:
        """q over what the largest sum needs; above 1, or sums could decrypt wrongly."""
        return self.modulus / ((2 * FRESH_NOISE + 1) * self.max_members * self.plain_modulus)

    @property
    def mac_word_bits(self) -> int:
        """Bits of a MAC coefficient: all values differ mod q."""
        return min(MAC_WORD_BITS, self.modulus_bits - 1)

    @property
    def mac_points(self) -> int:
        """Independent points of the MAC, together at least 96 bits."""
        return -(-MAC_BITS // self.mac_word_bits)

    @property
    def offset(self) -> int:
        """What is added to a signed value so that a lane holds it unsigned."""
        return 1 << (self.value_bits - 1)

    @property
    def limbs(self) -> int:
        """Lanes that one counter below 2**48 takes."""
        return -(-48 // self.value_bits)

    @property
    def seed_bytes(self) -> int:
        """Bytes of a ciphertext's seed in a body."""
        return SEED_BYTES

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one ciphertext's residues, bit-packed; its seed comes on top."""
        return self.degree * self.modulus_bits // 8

    def chunks(self, lanes: int) -> int:
        """Ciphertexts that hold this many lanes."""
        return -(-lanes // (self.lanes * self.degree))

    def body_bytes(self, lanes: int) -> int:
        """Bytes of an envelope's body: seeds and residues."""
        return self.chunks(lanes) * (self.seed_bytes + self.chunk_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, for digests and display."""
        return asdict(self)


@lru_cache
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
    fitting = [p for degree in MAX_LOG_Q for lanes in range(1, 16) if (p := _try(degree, members, value_bits, lanes))]
    if not fitting:
        raise InputError(
            "config.crypto",
            f"crypto.value_bits = {value_bits} with {members} members: no parameter set holds such a sum exactly; "
            f"expected at most {_most(members)} value bits for {members} members",
        )
    smallest = min(p.body_bytes(values) for p in fitting)
    near = [p for p in fitting if p.body_bytes(values) <= smallest * 1.01]
    return min(near, key=lambda p: (p.chunks(values), p.degree))  # fewer ciphertexts are faster


def _try(degree: int, members: int, value_bits: int, lanes: int) -> Plan | None:
    lane_bits = value_bits + (members - 1).bit_length()
    if lanes * lane_bits > MAX_MODULUS_BITS - 1:
        return None
    most = 1 << (lane_bits - value_bits)
    least = (2 * FRESH_NOISE + 1) * most << (lanes * lane_bits)
    bits = least.bit_length()
    if bits > min(MAX_MODULUS_BITS, MAX_LOG_Q[degree]):
        return None
    modulus = largest_prime(bits, degree)
    if modulus <= least:
        return None
    return Plan("shared", degree, modulus, lanes, value_bits, lane_bits, most)


def _most(members: int) -> int:
    return max((bits for bits in range(1, 49) for degree in MAX_LOG_Q if _try(degree, members, bits, 1)), default=0)
