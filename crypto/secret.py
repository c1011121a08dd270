"""What needs the epoch's key: sealing and opening. Members import this module; nothing of the server may.

Sealing is TenSEAL's public-key BFV encryption, randomised by SEAL from the operating system. Opening is exact:
the slots equal the integer sum modulo t, bit for bit, as long as the plan's number of summands is kept.
"""

from __future__ import annotations

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from ..errors import Refused
from . import bfv
from .planner import Plan


def generate(plan: Plan) -> bytes:
    """Return a new HE key for the plan: TenSEAL's context with public and secret key, serialised."""
    context = ts.context(ts.SCHEME_TYPE.BFV, plan.degree, plan.plain_modulus, list(plan.coeff_bits))
    return bytes(
        context.serialize(save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    )


class SecretKey:
    """An epoch's HE key, ready to seal and to open."""

    def __init__(self, plan: Plan, key: bytes) -> None:
        """Load a key that :func:`generate` made.

        Raises:
            Refused: ``deal.signature``: not such a key, or of other parameters.
        """
        self.plan = plan
        try:
            self._context = ts.context_from(key)
            fits = self._context.is_private() and self._context.has_public_key()
            probe = ts.bfv_vector(self._context, [plan.plain_modulus // 2] * plan.degree).serialize()
            bfv.parse(bfv.public_context(plan), len(probe).to_bytes(4, "little") + probe, 1)
        except (ValueError, RuntimeError, TypeError, Refused):
            fits = False
        if not fits:
            raise Refused("deal.signature", "the dealt key is no key of the agreed parameters")

    def seal(self, slots: NDArray[np.int64]) -> bytes:
        """Return the wire form of ``slots`` ``int64[chunks, N]``, each in [0, t), encrypted."""
        t = self.plan.plain_modulus
        centred = np.where(slots > t // 2, slots - t, slots)
        return bfv.dump([ts.bfv_vector(self._context, row.tolist()) for row in centred])

    def open(self, data: bytes, chunks: int) -> NDArray[np.int64]:
        """Return the slots ``int64[chunks, N]`` in [0, t) of a sealed sum.

        Raises:
            Refused: ``envelope.malformed`` or ``envelope.params``.
        """
        vector = bfv.parse(self._context, data, chunks)
        slots = np.array([chunk.decrypt() for chunk in vector], dtype=np.int64)
        return np.where(slots < 0, slots + self.plan.plain_modulus, slots)
