"""The running sum: each envelope is checked whole, added and dropped, so memory holds one sum and one envelope.

Plain numpy over residues mod q: no SEAL, no key. Sums stay unreduced while they fit 64 bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ..crypto import bits
from ..crypto.planner import Plan
from ..errors import Refused
from ..protocol.envelope import Envelope


class RunningSum:
    """A sealed sum of vectors of ``lanes`` lanes under one plan.

    Attributes:
        body_bytes: length of every body that can be added.
        count: summands so far.
    """

    def __init__(self, plan: Plan, lanes: int) -> None:
        self._plan, self._chunks = plan, plan.chunks(lanes)
        self.body_bytes, self.count = plan.body_bytes(lanes), 0
        self._total = np.zeros((self._chunks, plan.degree), dtype=np.uint64)
        self._scratch = np.empty((max(1, bits.BLOCK // plan.degree), plan.degree), dtype=np.uint64)
        self._room = self._adds = (2**64 - 1) // plan.modulus - 1

    def vet(self, envelope: Envelope) -> None:
        """Check what the header says of the body, so that a lie is laid at its member's door and not at the sum's.

        Raises:
            Refused: ``envelope.tag``: tags of another number or size; ``envelope.malformed``: other seeds.
        """
        plan, header = self._plan, envelope.header
        if len(header.tags) != plan.mac_points or max(header.tags) >= plan.modulus:
            raise Refused("envelope.tag", f"expected {plan.mac_points} tags below the modulus")
        if hashlib.sha256(envelope.body[: self._chunks * plan.seed_bytes]).hexdigest() != header.seeds:
            raise Refused("envelope.malformed", "the seeds in the body are not the ones that the header signs")

    def add(self, body: bytes | memoryview) -> bytes:
        """Add one member's body, all of it or nothing, and return its seeds.

        Raises:
            Refused: ``envelope.malformed``: wrong length, or a residue not below q; ``envelope.params``: more
                summands than planned.
        """
        plan, seed_bytes = self._plan, self._chunks * self._plan.seed_bytes
        if len(body) != self.body_bytes:
            raise Refused("envelope.malformed", f"a body of {len(body)} bytes, expected {self.body_bytes}")
        if self.count >= plan.max_members:
            raise Refused("envelope.params", f"the sum is planned for {plan.max_members} members")
        packed = np.frombuffer(body, np.uint8, offset=seed_bytes).reshape(self._chunks, plan.chunk_bytes)
        if not bits.below(packed, plan.degree, plan.modulus_bits, plan.modulus):
            raise Refused("envelope.malformed", "a residue is not below the modulus")
        if self._room == 0:
            np.remainder(self._total, np.uint64(plan.modulus), out=self._total)
            self._room = self._adds
        for first in range(0, self._chunks, len(self._scratch)):
            part = packed[first : first + len(self._scratch)]
            residues = bits.unpack(part, plan.degree, plan.modulus_bits, self._scratch[: len(part)])
            self.accumulate(first, residues)
        self._room -= 1
        self.count += 1
        return bytes(body[:seed_bytes])

    def accumulate(self, first: int, residues: NDArray[np.uint64]) -> None:
        """Add residues ``uint64[k, N]`` from ciphertext ``first`` on, unreduced: the addition itself."""
        part = self._total[first : first + len(residues)]
        np.add(part, residues, out=part)

    def dump(self) -> bytes:
        """Return the sum's residues mod q, bit-packed, without seeds."""
        plan, step = self._plan, len(self._scratch)
        blocks = (self._total[first : first + step] % np.uint64(plan.modulus) for first in range(0, self._chunks, step))
        return b"".join(bits.pack(block, plan.modulus_bits).tobytes() for block in blocks)
