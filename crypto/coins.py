"""The coins of rounding: noise that is added to a value before it is rounded to a whole number of steps (rule 6).

Rounding alone would swallow small updates: all values below half a step would become zero in every round. With coins,
the mean of many rounds is right. One coin is not enough, because how much it moves a value depends on the value. The
*variance* of a sum would then tell how the sum splits among members. Twelve coins, each uniform within half a step,
hide that.

A coin is one byte b and adds (b + 1/2) / 256 - 1/2 steps. The sum of twelve lies within ±6 steps, with mean 0 and
variance 1 - 2**-16.

Coins follow from a secret and from the values to which they are added. The same update therefore has the same coins in
every retry, run and choice, and nothing is gained by asking again. Any other update has other coins.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from .ring import Stream

COINS = 12
MOST = COINS / 2
"""The coins of a value lie within ± this many steps."""
_BYTES = 32
_VALUES = 256  # of one byte


class Coins:
    """The coins of one update, block by block.

    Args:
        secret: the node's own, 32 bytes or more.
        about: SHA-256 of the values to which they are added, 32 bytes.

    Raises:
        ValueError: an argument is too short.
    """

    def __init__(self, secret: bytes, about: bytes) -> None:
        for what, value in (("secret", secret), ("digest of the values", about)):
            if len(value) < _BYTES:
                raise ValueError(f"{what} of {len(value)} bytes; expected {_BYTES} or more")
        self._key = HKDF(SHA256(), _BYTES, None, b"moonflower.v2.coins" + about).derive(secret)

    def block(self, number: int, count: int) -> NDArray[np.float64]:
        """Return the coins of a block, ``float64[count]`` in steps, within ±6.

        Args:
            number: of the block, from 0.
            count: of its values.
        """
        words = Stream(self._key, number).words(-(-COINS * count // 8))
        thrown = words.view(np.uint8)[: COINS * count].reshape(COINS, count)
        coins: NDArray[np.float64] = (thrown.sum(axis=0, dtype=np.int64) + MOST) / _VALUES - MOST
        return coins
