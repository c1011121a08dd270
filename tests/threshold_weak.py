"""Scheme ``threshold`` with one protection taken away at a time, so that attacks have something to win.

Each class differs from the shipped one in one method. None of this may be used for anything else.

    Unmasked        attack 5: no zero masks between openers
    ObedientSeat    attacks 1, 2, 4: multiplies its share with a polynomial that came over the wire
    CollectiveKey   attacks 2, 4: what clients need for such a wire: encryption with a common public key
    Forgetful       attack 3: admits two sets for one context
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from moonflower.crypto.flood import Answered, Opening, ThresholdPlan
from moonflower.crypto.masks import ZeroMasks
from moonflower.crypto.ring import Ints, Stream
from moonflower.crypto.threshold import Seat


class NoMasks(ZeroMasks):
    def of(self, chunks: range) -> list[Ints]:
        return [np.zeros_like(mask) for mask in super().of(chunks)]


class Unmasked(Seat):
    def _masks(self, about: Opening) -> ZeroMasks:
        return NoMasks(self.held.name, self.held.pairs, about, self._ring)


class ObedientSeat(Seat):
    """Opens whatever second polynomial it is sent, ``int64[3, N]`` as evaluations, for one ciphertext."""

    sent: Ints

    def _products(self, key: Ints, context: str, chunks: range) -> list[Ints]:
        assert len(chunks) == 1
        pairs = zip(self._ring.primes, key, self.sent, strict=True)
        return [p.intt(p.mul(row, c)[:, None]).T.copy() for p, row, c in pairs]


class CollectiveKey:
    """The public key (b, a) = (-(a S + e), a) of the sum S of all members' secrets; encryption as in BFV."""

    def __init__(self, plan: ThresholdPlan, secrets: Sequence[Ints]) -> None:
        self.plan, self._ring = plan, plan.ring
        stream = Stream.fresh()
        self.a = np.stack([stream.uniform(plan.degree, p.modulus) for p in self._ring.primes])
        error = self._ring.transform(stream.error((plan.degree,)))
        rows = zip(self._ring.primes, self.a, sum(secrets[1:], secrets[0]), error, strict=True)
        self.b = np.stack([p.reduce(-p.mul(a, p.reduce(s)) - e) for p, a, s, e in rows])

    def encrypt(self, plain: Ints) -> tuple[Ints, Ints]:
        """Return (c0 ``int64[N]`` mod w, c1 as evaluations ``int64[3, N]``)."""
        ring, stream = self._ring, Stream.fresh()
        u = ring.transform(stream.ternary(self.plan.degree))
        error = ring.transform(stream.error((self.plan.degree,)))
        first, noise = [], stream.error((1, self.plan.degree))
        for p, b, turn in zip(ring.primes, self.b, u, strict=True):
            first.append(p.intt(p.mul(b, turn)[:, None]).T + noise)
        rows = zip(ring.primes, self.a, u, error, strict=True)
        second = np.stack([p.reduce(p.mul(a, turn) + e) for p, a, turn, e in rows])
        return ring.wire.reduce(ring.switch(first)[0] + ring.wire.scale(plain, self.plan.scaling)), second


class Forgetful(Answered):
    def admit(self, name: str, roster: Sequence[str], plan: ThresholdPlan, asked: Opening) -> Answered:
        return super(Forgetful, replace(self, members=asked.members)).admit(name, roster, plan, asked)
