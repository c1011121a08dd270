"""The size of an upload, measured on a real envelope."""

from __future__ import annotations

import os

import numpy as np
from moonflower.crypto import sealed as sealing
from moonflower.crypto.mac import Mac
from moonflower.crypto.planner import plan
from moonflower.crypto.quantise import ONE, Contribution, slot_blocks
from moonflower.crypto.schemes.secret import SecretKey, generate
from moonflower.protocol import envelope

from protocol import context, identity


def upload_bytes_per_param(*, values: int, members: int, value_bits: int) -> float:
    """Return the bytes of one sealed and signed update for each of its ``values`` parameters."""
    agreed = plan(members, value_bits, values)
    about = context(crypto=agreed.as_dict())
    update = np.random.default_rng(7).normal(size=values).astype(np.float32)
    given = Contribution((ONE,), update, ONE, 8.0)
    key, mac = SecretKey(agreed, generate(agreed)), Mac(os.urandom(32), about.digest, agreed)
    vector = sealing.seal(key, mac, "anna", slot_blocks(given, agreed), given.lanes(agreed), agreed)
    return len(envelope.seal(identity("anna"), about, vector).data) / values
