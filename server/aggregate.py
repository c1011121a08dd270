"""The running sum: each envelope is checked whole, added and dropped, so memory holds one sum and one envelope.

Plain numpy over residues mod q: no SEAL, no key. Sums stay unreduced while they fit 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..crypto import bits
from ..crypto.planner import SEED_BYTES, Plan
from ..errors import Refused

BLOCK = 1 << 16  # residues handled at a time


class RunningSum:
    """A sealed sum of vectors of ``lanes`` lanes under one plan.

    Attributes:
        body_bytes: length of every body that can be added.
        count: summands so far.
    """

    def __init__(self, plan: Plan, lanes: int) -> None:
        self._plan, self._seed_bytes = plan, plan.chunks(lanes) * SEED_BYTES
        self.body_bytes, self.count = plan.body_bytes(lanes), 0
        self._total = np.zeros(plan.chunks(lanes) * plan.degree, dtype=np.uint64)
        self._room = self._adds = (2**64 - 1) // plan.modulus - 1

    def add(self, body: bytes) -> bytes:
        """Add one member's body, all of it or nothing, and return its seeds.

        Raises:
            Refused: ``envelope.malformed``: wrong length, or a residue not below q; ``envelope.params``: more
                summands than planned.
        """
        if len(body) != self.body_bytes:
            raise Refused("envelope.malformed", f"a body of {len(body)} bytes, expected {self.body_bytes}")
        if self.count >= self._plan.max_members:
            raise Refused("envelope.params", f"the sum is planned for {self._plan.max_members} members")
        if any(block.max() >= self._plan.modulus for _, block in self._blocks(body)):
            raise Refused("envelope.malformed", "a residue is not below the modulus")
        if self._room == 0:
            np.remainder(self._total, np.uint64(self._plan.modulus), out=self._total)
            self._room = self._adds
        for start, block in self._blocks(body):
            self._total[start : start + len(block)] += block
        self._room -= 1
        self.count += 1
        return body[: self._seed_bytes]

    def dump(self) -> bytes:
        """Return the sum's residues mod q, bit-packed, without seeds."""
        modulus = np.uint64(self._plan.modulus)
        parts = (self._total[start : start + BLOCK] % modulus for start in range(0, len(self._total), BLOCK))
        return b"".join(bits.pack(part, self._plan.modulus_bits) for part in parts)

    def _blocks(self, body: bytes) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        view = memoryview(body)[self._seed_bytes :]
        step = BLOCK * self._plan.modulus_bits // 8
        for number, start in enumerate(range(0, len(view), step)):
            yield number * BLOCK, bits.unpack(view[start : start + step], self._plan.modulus_bits)
