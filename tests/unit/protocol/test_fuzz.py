"""A seeded slice of the soak: mutated envelopes and junk at every parser; one error type, never a partial add."""

from __future__ import annotations

import numpy as np
import pytest
from fuzzing import feed, honest

CODES = {
    0: {"envelope.malformed", "envelope.signature"},
    1: {"envelope.malformed", "envelope.signature", "envelope.member"},
    2: {"", "envelope.malformed"},
    3: {"data.model"},
    4: {"open.disagree"},
    5: {"circle.card"},
    6: {"release.malformed"},
    7: {"open.list"},
}


def test_the_honest_envelope_passes() -> None:
    assert feed(b"\0" + honest()) == ""


@pytest.mark.parametrize("kind", CODES)
def test_junk_is_refused_with_a_known_code(kind: int) -> None:
    rng = np.random.default_rng(kind)
    for _ in range(150):
        junk = rng.bytes(int(rng.integers(0, 300)))
        assert feed(bytes([kind]) + junk) in CODES[kind]


def test_mutated_envelopes_are_refused() -> None:
    rng = np.random.default_rng(7)
    for _ in range(600):
        data = bytearray(honest())
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(0, 700 if rng.random() < 0.7 else len(data)))
            match int(rng.integers(0, 3)):
                case 0:
                    data[at] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    del data[at : at + int(rng.integers(1, 9))]
                case _:
                    data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        assert feed(b"\0" + bytes(data)) in CODES[0]
