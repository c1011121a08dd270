"""The running sum: each envelope is added as it arrives and dropped, so memory holds one sum and one envelope."""

from __future__ import annotations

from ..crypto import bfv
from ..crypto.planner import Plan


class RunningSum:
    """A sealed sum of vectors of ``lanes`` values under one plan.

    Args:
        plan: the epoch's parameters.
        lanes: values and counter limbs of one vector.
    """

    def __init__(self, plan: Plan, lanes: int) -> None:
        self.count = 0
        self.max_body_bytes = bfv.max_bytes(plan, lanes)
        self._context = bfv.public_context(plan)
        self._chunks = plan.chunks(lanes)
        self._total: bfv.SealedVector = []

    def add(self, body: bytes) -> None:
        """Add one member's sealed vector: all of it, or nothing.

        Raises:
            Refused: ``envelope.malformed`` or ``envelope.params``; the sum is as before.
        """
        vector = bfv.parse(self._context, body, self._chunks)
        if self._total:
            bfv.add(self._total, vector)
        else:
            self._total = vector
        self.count += 1

    def dump(self) -> bytes:
        """Return the sum's wire form."""
        return bfv.dump(self._total)
