"""The size of an upload, measured on a real envelope."""

from __future__ import annotations

import numpy as np
from moonflower.crypto import quantise
from moonflower.crypto.planner import plan
from moonflower.crypto.secret import SecretKey, generate
from protocol import context, sealed


def upload_bytes_per_param(*, values: int, members: int, value_bits: int) -> float:
    """Return the bytes of one sealed and signed update for each of its ``values`` parameters."""
    agreed = plan(members, value_bits, values)
    update = np.random.default_rng(7).normal(size=values)
    numbers, _ = quantise.quantise(update, quantise.ONE, 8.0, value_bits)
    body = SecretKey(agreed, generate(agreed)).seal(quantise.pack(numbers, (1,), agreed))
    return len(sealed("anna", context(crypto=agreed.as_dict()), body).data) / values
