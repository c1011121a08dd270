"""The authenticated sum: a linearly homomorphic MAC under a key that members share and the server lacks.

For the residues c of a sealed vector (``Z_q^m``), a RoundContext and each of several points:

    tag_i = <r, c_i> + pad_i  mod q        r = AES-256-CTR(HMAC(k, context, point)),  pad_i = HMAC(k, context, point, i)

and openers accept a sum C of the members A only if ``<r, C> + sum of pad_i over A == sum of tag_i over A`` at every
point. A server that drops, doubles, scales, swaps or changes anything must hit a uniform r: at most 2**-w a point
with w-bit coefficients, 2**-96 in all. The pad, one per member and context, is what makes scaled tags useless.

It protects against the server alone. Whoever holds the epoch secret can forge: any member can.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from ..canonical import canonical
from .planner import Plan

Words = NDArray[np.uint64]
_BLOCK = 1 << 15  # residues handled at a time, so that they stay in the cache
_LOW = np.int64(0xFFFF_FFFF)


class Mac:
    """Tags and checks under one epoch secret, for one context.

    Args:
        secret: the epoch secret, 32 bytes.
        context: digest of the RoundContext: the label.
        plan: modulus, points and coefficient width.
    """

    def __init__(self, secret: bytes, context: str, plan: Plan) -> None:
        self._key = HKDF(SHA256(), 32, salt=None, info=b"moonflower.mac.v1").derive(secret)
        self._context, self._plan = context, plan

    def tag(self, member: str, blocks: Iterable[Words]) -> list[int]:
        """Return a member's tag, one number below q a point, over all blocks of residues in order."""
        return [
            (inner + self._pad(member, point)) % self._plan.modulus for point, inner in enumerate(self._inner(blocks))
        ]

    def verify(self, tags: Mapping[str, list[int]], blocks: Iterable[Words]) -> bool:
        """Return whether the summed residues in ``blocks`` are exactly the sum of what these members tagged."""
        modulus, points = self._plan.modulus, self._plan.mac_points
        if any(len(tag) != points for tag in tags.values()):
            return False
        inner = self._inner(blocks)
        good = True
        for point in range(points):
            wanted = sum(tag[point] for tag in tags.values()) % modulus
            found = (inner[point] + sum(self._pad(member, point) for member in tags)) % modulus
            good &= hmac.compare_digest(wanted.to_bytes(8, "little"), found.to_bytes(8, "little"))
        return good

    def _inner(self, blocks: Iterable[Words]) -> list[int]:
        """Return <r, c> mod q for every point, reading the blocks once."""
        streams = [self._stream(point) for point in range(self._plan.mac_points)]
        totals = [0] * len(streams)
        for block in blocks:
            for start in range(0, len(block), _BLOCK):
                part = block[start : start + _BLOCK]
                for point, stream in enumerate(streams):
                    totals[point] += self._product(part, stream)
        return [total % self._plan.modulus for total in totals]

    def _product(self, residues: Words, stream: CipherContext) -> int:
        """Return <r, residues> up to multiples of q.

        r < 2**48 and q < 2**60, so the quotient c r / q < 2**48 is right within one in float64, and the wrapped
        difference c r - quotient q lies in (-q, 2 q), which int64 holds.
        """
        words = np.frombuffer(stream.update(bytes(8 * len(residues))), dtype="<u8")
        factors = words >> np.uint64(64 - self._plan.mac_word_bits)
        quotient = (residues.astype(np.float64) * factors.astype(np.float64) / self._plan.modulus).astype(np.uint64)
        rest = (residues * factors - quotient * np.uint64(self._plan.modulus)).view(np.int64)
        return (int((rest >> np.int64(32)).sum()) << 32) + int((rest & _LOW).sum())

    def _stream(self, point: int) -> CipherContext:
        return Cipher(AES(self._derive("r", point=point)[:32]), CTR(bytes(16))).encryptor()

    def _pad(self, member: str, point: int) -> int:
        return int.from_bytes(self._derive("pad", point=point, member=member), "little") % self._plan.modulus

    def _derive(self, use: str, **fields: int | str) -> bytes:
        label = canonical({"use": use, "context": self._context, **fields})
        return hmac.new(self._key, label, hashlib.sha512).digest()
