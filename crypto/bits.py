"""Bit packing: residues of b bits travel without gaps, in planes, instead of as 64-bit words.

The bits of every residue are cut, from the top, into pieces as wide as the binary digits of b: 32, 16, 8, 4, 2, 1
(50 = 32 + 16 + 2). For each ciphertext the widest pieces of all residues come first, then the next, each piece
little-endian. Pieces narrower than a byte share a byte: with w bits a piece, byte j holds, from its low bits up, the
pieces of residues j, j + m, j + 2 m, … where m = N w / 8. So numpy packs and unpacks in a few passes over whole arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
_TYPES = {32: "<u4", 16: "<u2", 8: "u1"}


def pack(residues: Words, bits: int) -> Bytes:
    """Return ``residues`` (``uint64[k, N]``, N a multiple of 8, each below 2**bits) as ``uint8[k, N * bits / 8]``."""
    count, degree = residues.shape
    out = np.empty((count, degree * bits // 8), dtype=np.uint8)
    for width, below, start in _planes(bits, degree):
        part = out[:, start : start + degree * width // 8]
        piece = residues >> np.uint64(below)
        if width >= 8:
            part[...] = piece.astype(_TYPES[width]).view(np.uint8)  # astype keeps the low bits, which are the piece
        else:
            narrow = (piece & np.uint64((1 << width) - 1)).astype(np.uint8).reshape(count, 8 // width, -1)
            part[...] = narrow[:, 0]
            for i in range(1, 8 // width):
                part |= narrow[:, i] << np.uint8(width * i)
    return out


def unpack(data: Bytes, degree: int, bits: int) -> Words:
    """Return the residues ``uint64[k, N]`` in ``data`` (``uint8[k, N * bits / 8]``)."""
    (width, below, start), *others = _planes(bits, degree)
    residues = np.empty((len(data), degree), dtype=np.uint64)
    _read(data, width, start, residues)
    if not others:
        return residues
    residues <<= np.uint64(below)
    kind = np.uint16 if below <= 16 else np.uint32  # all narrower pieces together: fewer bytes to pass over
    low, piece = np.zeros(residues.shape, dtype=kind), np.empty(residues.shape, dtype=kind)
    for width, below, start in others:
        _read(data, width, start, piece)
        piece <<= kind(below)
        low |= piece
    residues |= low
    return residues


def _read(data: Bytes, width: int, start: int, out: NDArray[Any]) -> None:
    """Write the pieces of one plane to ``out``."""
    part = data[:, start : start + out.shape[1] * width // 8]
    if width >= 8:
        np.copyto(out, part.view(_TYPES[width]), casting="unsafe")
        return
    pieces = out.reshape(len(data), 8 // width, -1)
    for i in range(8 // width):
        np.copyto(pieces[:, i], (part >> np.uint8(width * i)) & np.uint8((1 << width) - 1))


def _planes(bits: int, degree: int) -> Iterator[tuple[int, int, int]]:
    """Yield (width, bits below it, first byte) of each plane of a ciphertext, from the top."""
    left, start = bits, 0
    for width in (32, 16, 8, 4, 2, 1):
        if bits & width:
            left -= width
            yield width, left, start
            start += degree * width // 8
