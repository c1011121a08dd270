"""Answers on their way: under a TenSEAL key that all members of a circle hold (protocol version 2, in work).

The coordinator adds what members send, and an opener downloads one sum: seeds and residues, in the byte form of
``sealed.py``. So opened integers stay from a coordinator that no member helps. Whoever holds this key reads sums of
answers, never a member's value: no claim about one member rests on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import Refused
from . import bits
from .onetime_plan import OneTimePlan
from .pairs import Words16, key_sum
from .planner import SEED_BYTES, Plan, plan
from .quantise import lanes_of, rows_of
from .ring import Ints
from .schemes.secret import SecretKey


def plan_of(outer: OneTimePlan) -> Plan:
    """Return the parameters under which the answers of a sum travel."""
    return plan(outer.members, outer.key_bits, outer.degree)


class AnswerKey:
    """A circle's key, ready to seal answers and to open their sum.

    Args:
        outer: parameters of the sum.
        key: what ``schemes.secret.generate`` returned for :func:`plan_of`.

    Raises:
        Refused: ``circle.card``: not a key of these parameters.
    """

    def __init__(self, outer: OneTimePlan, key: bytes) -> None:
        self._outer, self._plan = outer, plan_of(outer)
        self._key = SecretKey(self._plan, key)

    def seal(self, answer: Words16) -> bytes:
        """Return an answer as it travels: seeds, then residues."""
        plan = self._plan
        lanes = np.zeros(plan.chunks(self._outer.degree) * plan.lanes * plan.degree, dtype=np.int64)
        lanes[: len(answer)] = answer
        words, seeds = self._key.seal(rows_of(lanes, plan))
        return seeds.tobytes() + bits.pack(words, plan.modulus_bits).tobytes()

    def open(self, total: bytes, seeds: Sequence[bytes]) -> Ints:
        """Return K, the sum of all members' keys, ``int64[N]``.

        Args:
            total: residues of the sum of all answers.
            seeds: of each answer.

        Raises:
            Refused: ``open.key``: not a sum of so many answers.
        """
        plan, chunks = self._plan, self._plan.chunks(self._outer.degree)
        if len(total) != chunks * plan.chunk_bytes or any(len(one) != chunks * SEED_BYTES for one in seeds):
            raise Refused("open.key", "the sum of answers, or the seeds of one, are not as long as planned")
        if len(seeds) != self._outer.members:
            raise Refused("open.key", f"{len(seeds)} answers, expected {self._outer.members}")
        packed = np.frombuffer(total, np.uint8).reshape(chunks, plan.chunk_bytes)
        words = bits.unpack(packed, plan.degree, plan.modulus_bits) % np.uint64(plan.modulus)
        tables = [np.frombuffer(one, np.uint8).reshape(chunks, SEED_BYTES) for one in seeds]
        lanes = lanes_of(self._key.open(words, tables), plan)
        used, rest = lanes[: self._outer.degree], lanes[self._outer.degree :]
        if rest.any() or int(used.max()) > self._outer.members * ((1 << self._outer.key_bits) - 1):
            raise Refused("open.key", "the sum of answers holds more than so many answers can")
        return key_sum(self._outer, used)
