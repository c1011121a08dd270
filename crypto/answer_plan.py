"""Parameters of the circle's key, under which answers travel, and the coordinator's sum of them: no key, no SEAL.

An answer is N whole numbers below 2**w (``pairs.py``), and their sum is needed modulo 2**w. L of them share a
coefficient of a BFV plaintext, each in a lane of w + ceil(log2 n) bits. The uppermost lane needs only w bits, because
its carries leave the plaintext modulo t. The modulus q is one prime, the smallest of its kind that decrypts every sum:

    fresh noise |e| <= 21 (SEAL's centred binomial distribution), scaling error <= 1/2, so a sum of n decrypts
    exactly, modulo t, when n (21 + 1/2) t / q < 1/2, that is q > 43 n t.

This is a hard bound, not a tail. What wraps modulo t is a multiple of q and costs nothing. Security: ternary secret,
128 bits classical. log2 q is within "Security Guidelines for Implementing Homomorphic Encryption" (IACR eprint
2024/463), which is tighter than the table that SEAL enforces.

A sealed answer is the seeds of all ciphertexts, 64 bytes each, then their residues, bit-packed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import InputError, Refused
from . import bits
from .planner import BOUND, Plan
from .primes import largest_prime

MAX_LOG_Q = {1024: 26, 2048: 53, 4096: 106}
MAX_MODULUS_BITS = 60  # SEAL holds a prime, and t, in 60 bits
SEED_BYTES = 64
NEAR = 1.05  # within this factor of the fewest bytes, fewest coefficients win: opening costs grow with them


@dataclass(frozen=True)
class AnswerPlan:
    """Parameters of a circle's key. All members and the coordinator derive the same ones.

    Attributes:
        degree: N of the BFV ring.
        modulus: q, a prime = 1 mod 2N.
        lanes: how many numbers of an answer share a coefficient.
        lane_bits: bits of each lane except the uppermost.
        key_bits: w, the bits that are needed of a sum, and the bits of the uppermost lane.
        members: n, exactly.
        count: how many numbers are in an answer: the degree of the sum's own ring.
    """

    degree: int
    modulus: int
    lanes: int
    lane_bits: int
    key_bits: int
    members: int
    count: int

    @property
    def modulus_bits(self) -> int:
        """Bits of a residue on the wire."""
        return self.modulus.bit_length()

    @property
    def plain_modulus(self) -> int:
        """t, a power of two: the lanes fill it exactly."""
        return 1 << ((self.lanes - 1) * self.lane_bits + self.key_bits)

    @property
    def chunks(self) -> int:
        """Ciphertexts of an answer."""
        return -(-self.count // (self.lanes * self.degree))

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one ciphertext's residues, and of a key."""
        return self.degree * self.modulus_bits // 8

    @property
    def seed_bytes(self) -> int:
        """Bytes of the seeds of one answer."""
        return self.chunks * SEED_BYTES

    @property
    def total_bytes(self) -> int:
        """Bytes of the sum of answers, without the seeds of its summands."""
        return self.chunks * self.chunk_bytes

    @property
    def body_bytes(self) -> int:
        """Bytes of one sealed answer."""
        return self.seed_bytes + self.total_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, for digests and display."""
        return asdict(self)


@lru_cache
def answer_plan(plan: Plan) -> AnswerPlan:
    """Return the parameters for the answers of a sum: nearly the fewest bytes, and among those the fewest coefficients.

    Raises:
        InputError: ``config.crypto``: no parameters hold such answers. No :func:`planner.plan` is so large.
    """
    fitting = [candidate for degree in MAX_LOG_Q for lanes in range(1, 8) if (candidate := _try(plan, degree, lanes))]
    if not fitting:
        raise InputError("config.crypto", f"no parameter set holds the answers of {plan.members} members exactly")
    smallest = min(candidate.body_bytes for candidate in fitting)
    near = [candidate for candidate in fitting if candidate.body_bytes <= smallest * NEAR]
    return min(
        near, key=lambda candidate: (candidate.chunks * candidate.degree, candidate.chunks, candidate.body_bytes)
    )


def _try(plan: Plan, degree: int, lanes: int) -> AnswerPlan | None:
    lane_bits = plan.key_bits + (plan.members - 1).bit_length()
    least = (2 * BOUND + 1) * plan.members << ((lanes - 1) * lane_bits + plan.key_bits)
    most = min(MAX_MODULUS_BITS, MAX_LOG_Q[degree])
    for size in (least.bit_length(), least.bit_length() + 1):
        modulus = largest_prime(size, degree) if size <= most else 0
        if modulus > least:
            return AnswerPlan(degree, modulus, lanes, lane_bits, plan.key_bits, plan.members, plan.degree)
    return None


class AnswerSum:
    """A running sum of sealed answers. The coordinator needs no key for it.

    Attributes:
        count: summands so far.
    """

    def __init__(self, plan: AnswerPlan) -> None:
        self._plan, self.count = plan, 0
        self._total = np.zeros((plan.chunks, plan.degree), dtype=np.uint64)

    def add(self, body: bytes | memoryview) -> bytes:
        """Add a sealed answer, whole or not at all, and return its seeds.

        Raises:
            Refused: ``envelope.malformed``: wrong length, or a residue not below q; ``envelope.params``: more
                summands than planned.
        """
        plan = self._plan
        if len(body) != plan.body_bytes:
            raise Refused("envelope.malformed", f"an answer of {len(body)} bytes, expected {plan.body_bytes}")
        if self.count >= plan.members:
            raise Refused("envelope.params", f"one answer too many: the sum is planned for {plan.members}")
        packed = np.frombuffer(body, np.uint8, offset=plan.seed_bytes).reshape(plan.chunks, plan.chunk_bytes)
        residues = bits.unpack(packed, plan.degree, plan.modulus_bits)
        if int(residues.max()) >= plan.modulus:
            raise Refused("envelope.malformed", "a residue of the answer is not below the modulus")
        self._total += residues  # both below 2**60
        self._total %= np.uint64(plan.modulus)
        self.count += 1
        return bytes(body[: plan.seed_bytes])

    def dump(self) -> bytes:
        """Return the sum's residues, bit-packed, without seeds."""
        return bits.pack(self._total, self._plan.modulus_bits).tobytes()
