"""Answers as they travel: encrypted with a key that all members of a circle hold.

The coordinator adds what members send, and an opener downloads one sum: seeds and residues, in the byte form of
``answer_plan.py``. So a coordinator that no member helps does not see the opened integers. A party that holds this key
reads sums of answers, never a member's value. No claim about a single member rests on this key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import Refused
from . import bits
from . import seal as sealing
from .answer_plan import SEED_BYTES, AnswerPlan, answer_plan
from .pairs import Words16, key_sum
from .planner import Plan
from .ring import Ints


def generate(plan: AnswerPlan) -> bytes:
    """Return a new secret key: N residues in SEAL's number-theoretic order, bit-packed."""
    return bits.pack(sealing.generate(plan)[None], plan.modulus_bits).tobytes()


class AnswerKey:
    """A circle's key, ready to seal answers and to open their sum. Made once and kept: SEAL takes time to set up.

    Args:
        outer: parameters of the sum.
        key: what :func:`generate` returned.

    Raises:
        Refused: ``circle.key``: it does not fit these parameters, or does not decrypt what it encrypts.
    """

    def __init__(self, outer: Plan, key: bytes) -> None:
        self._outer = outer
        self._plan = plan = answer_plan(outer)
        if len(key) != plan.chunk_bytes:
            raise Refused("circle.key", f"the circle's key has {len(key)} bytes, expected {plan.chunk_bytes}")
        residues = bits.unpack(np.frombuffer(key, np.uint8)[None], plan.degree, plan.modulus_bits)[0]
        if int(residues.max()) >= plan.modulus:
            raise Refused("circle.key", "the circle's key does not fit the agreed parameters")
        self._key = sealing.SealKey(plan, residues)
        sent = np.arange(plan.count, dtype=np.int64) & ((1 << plan.key_bits) - 1)
        words, seeds = self._key.encrypt(_rows(sent, plan))
        if not (_numbers(self._key.decrypt(words, [seeds]), plan) == sent).all():
            raise Refused("circle.key", "the circle's key does not decrypt what it encrypts")

    def seal(self, answer: Words16) -> bytes:
        """Return an answer, ``uint16[N]`` below 2**w, sealed: seeds, then residues."""
        words, seeds = self._key.encrypt(_rows(answer.astype(np.int64), self._plan))
        return seeds.tobytes() + bits.pack(words, self._plan.modulus_bits).tobytes()

    def open(self, total: bytes, seeds: Sequence[bytes]) -> Ints:
        """Return K, the sum of all members' one-time keys, ``int64[N]``.

        Args:
            total: residues of the sum of all answers.
            seeds: of each answer.

        Raises:
            Refused: ``open.key``: not of the form of a sum of this number of answers.
        """
        plan = self._plan
        if len(total) != plan.total_bytes or any(len(seed) != plan.seed_bytes for seed in seeds):
            raise Refused("open.key", "the sum of answers, or one answer's seeds, do not have the planned length")
        if len(seeds) != plan.members:
            raise Refused("open.key", f"{len(seeds)} answers, expected {plan.members}")
        packed = np.frombuffer(total, np.uint8).reshape(plan.chunks, plan.chunk_bytes)
        words = bits.unpack(packed, plan.degree, plan.modulus_bits) % np.uint64(plan.modulus)
        tables = [np.frombuffer(seed, np.uint8).reshape(plan.chunks, SEED_BYTES) for seed in seeds]
        return key_sum(self._outer, _numbers(self._key.decrypt(words, tables), plan))


def _rows(numbers: Ints, plan: AnswerPlan) -> Ints:
    """Return an answer as plaintext rows ``int64[chunks, N]``: lane after lane holds the next N numbers."""
    cube = np.zeros((plan.chunks, plan.lanes, plan.degree), dtype=np.int64)
    cube.reshape(-1)[: len(numbers)] = numbers
    shifts = np.arange(plan.lanes, dtype=np.int64)[:, None] * plan.lane_bits
    rows: Ints = (cube << shifts).sum(axis=1)
    return rows


def _numbers(rows: Ints, plan: AnswerPlan) -> Ints:
    """Return the numbers in plaintext rows, modulo 2**w."""
    shifts = np.arange(plan.lanes, dtype=np.int64)[:, None] * plan.lane_bits
    cube = rows[:, None] >> shifts & ((1 << plan.key_bits) - 1)
    return np.asarray(cube.reshape(-1)[: plan.count])
