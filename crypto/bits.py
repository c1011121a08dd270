"""Residues of b bits, packed without gaps: what travels instead of 64-bit words.

Little-endian throughout: bit i of the stream is bit i mod 8 of byte i // 8, and residue j takes bits [b j, b j + b).
Counts are multiples of 64, so that 64 residues fill exactly b words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD = 64
Words = NDArray[np.uint64]


def pack(residues: Words, bits: int) -> bytes:
    """Return ``residues`` (``uint64[n]``, n a multiple of 64, each below 2**bits) as n * bits / 8 bytes."""
    columns = np.ascontiguousarray(residues.reshape(-1, WORD).T)
    words = np.zeros((bits, columns.shape[1]), dtype=np.uint64)
    for i in range(WORD):
        word, shift = divmod(i * bits, WORD)
        words[word] |= columns[i] << np.uint64(shift)
        if shift + bits > WORD:
            words[word + 1] |= columns[i] >> np.uint64(WORD - shift)
    return np.ascontiguousarray(words.T).astype("<u8", copy=False).tobytes()


def unpack(data: bytes | memoryview, bits: int) -> Words:
    """Return the residues in ``data`` as ``uint64[n]``; its length is a multiple of 8 * bits bytes."""
    words = np.ascontiguousarray(np.frombuffer(data, dtype="<u8").reshape(-1, bits).T)
    columns = np.empty((WORD, words.shape[1]), dtype=np.uint64)
    mask = np.uint64((1 << bits) - 1)
    for i in range(WORD):
        word, shift = divmod(i * bits, WORD)
        np.right_shift(words[word], np.uint64(shift), out=columns[i])
        if shift + bits > WORD:
            columns[i] |= words[word + 1] << np.uint64(WORD - shift)
        columns[i] &= mask
    return np.ascontiguousarray(columns.T).reshape(-1)
