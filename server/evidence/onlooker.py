"""What a coordinator's process can make of envelopes: it checks and adds them as a round does, then tries to read them.

``moonflower doctor`` starts it as a process of its own (``python -m moonflower.server.evidence.onlooker``), with
envelopes of a canary update that it also tells it. So it knows what to look for, which a coordinator does not, and has
what a coordinator has: envelopes, cards, context, plan. It imports what this room may import, which holds no key and
no SEAL.

It tries what reads an update that is not sealed, or sealed badly:

1. the canary's bytes, in every form in which it exists before it is sealed;
2. residues that are the plaintext, or the plaintext times q/t: encryption without a mask;
3. two envelopes of one canary whose residues differ by noise only: one mask used twice;
4. residues that are not uniform over [0, q): chi-square over 64 equal cells, and over the residues mod 64.

That it fails shows that these ways are shut. It is no proof of security: that is the lattice problem's.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...crypto import bits
from ...crypto.identity import parse_card
from ...crypto.planner import FRESH_NOISE, SEED_BYTES, Plan
from ...errors import MoonflowerError
from ...protocol.context import RoundContext
from ...protocol.envelope import RawEnvelope, check
from ..aggregate import RunningSum

CELLS = 64
CHI_SQUARE_MOST = 160.0
"""Largest chi-square of uniform residues: with 63 degrees of freedom they exceed it about once in 10^9 tries."""
SHARE_MOST = 0.02
"""Share of residues that a try may hit by chance: with 1024 residues or more, one in 50 is far beyond chance."""
FORBIDDEN = ("moonflower.crypto.schemes.secret", "moonflower.crypto.schemes.deal", "tenseal", "torch")
Words = NDArray[np.uint64]


def look(envelopes: Sequence[bytes], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a coordinator gets out of envelopes of one canary, and their sum.

    Args:
        envelopes: of two members or more, all of the same canary.
        known: ``plan``, ``lanes``, ``context``, ``cards`` (in the envelopes' order), ``needles`` (hex), and ``rows``:
            the canary's plaintext ``int64[k * N]``.

    Returns:
        ``total`` and each body's ``seeds`` (base64), ``tags``; ``needles``: how many forms of the canary were found;
        ``read``: try → share of residues that it reads; ``chi_square``: the largest; ``modules``: forbidden ones that
        this process has loaded.

    Raises:
        MoonflowerError: an envelope is not one of this context.
    """
    plan, context = Plan(**known["plan"]), RoundContext(**known["context"])
    cards = [parse_card(card) for card in known["cards"]]
    running = RunningSum(plan, known["lanes"])
    tags, seeds, residues = [], [], []
    for data, card in zip(envelopes, cards, strict=True):
        taken = check(RawEnvelope(data), card, context, running.body_bytes)
        running.vet(taken)
        seeds.append(running.add(taken.body))
        tags.append(list(taken.header.tags))
        residues.append(_residues(bytes(taken.body[plan.chunks(known["lanes"]) * SEED_BYTES :]), plan))
    total = running.dump()
    everything = [*envelopes, total]
    needles = [bytes.fromhex(needle) for needle in known["needles"]]
    rows = np.array(known["rows"], dtype=np.uint64)
    return {
        "total": base64.b64encode(total).decode(),
        "seeds": [base64.b64encode(seed).decode() for seed in seeds],
        "tags": tags,
        "needles": sum(needle in data for needle in needles for data in everything),
        "read": tries(residues, rows, plan),
        "chi_square": max(chi_square(one, plan.modulus) for one in [*residues, _residues(total, plan)]),
        "modules": [name for name in FORBIDDEN if name in sys.modules],
    }


def tries(residues: Sequence[Words], rows: Words, plan: Plan) -> dict[str, float]:
    """Return, for each way to read ``rows`` out of residues without a key, the share that it reads.

    >>> plan = Plan("shared", 1024, 12289, 1, 8, 8, 1)
    >>> rows = np.arange(100, dtype=np.uint64)
    >>> tries([rows, rows + np.uint64(3)], rows, plan)
    {'unsealed': 1.0, 'unmasked': 0.01, 'mask used twice': 1.0}
    """
    first, second = residues[0], residues[1]
    q, t = plan.modulus, plan.plain_modulus
    scaled = np.rint(first.astype(np.float64) * (t / q)).astype(np.uint64) % np.uint64(t)
    between = (first + (np.uint64(q) - second)) % np.uint64(q)
    near = np.minimum(between, np.uint64(q) - between) <= np.uint64(2 * FRESH_NOISE + 2)
    return {
        "unsealed": float((first == rows).mean()),
        "unmasked": float((scaled == rows).mean()),
        "mask used twice": float(near.mean()),
    }


def chi_square(residues: Words, modulus: int) -> float:
    """Return how far residues are from uniform over [0, q): the larger of two chi-squares with 63 degrees of freedom.

    >>> chi_square(np.arange(64 * 100, dtype=np.uint64), 64 * 100)
    0.0
    >>> chi_square(np.zeros(6400, dtype=np.uint64), 64 * 100) > CHI_SQUARE_MOST
    True
    """
    high = (residues.astype(np.float64) * (CELLS / modulus)).astype(np.int64)
    low = (residues % np.uint64(CELLS)).astype(np.int64)
    expected = len(residues) / CELLS
    counts = (np.bincount(cells.clip(0, CELLS - 1), minlength=CELLS) for cells in (high, low))
    return max(float(((count - expected) ** 2).sum() / expected) for count in counts)


def is_blind(found: Mapping[str, Any]) -> bool:
    """Return whether :func:`look` found nothing."""
    shares = [float(share) for share in found["read"].values()]
    quiet = not found["needles"] and not found["modules"] and all(share <= SHARE_MOST for share in shares)
    return quiet and math.isfinite(found["chi_square"]) and found["chi_square"] <= CHI_SQUARE_MOST


def _residues(packed: bytes, plan: Plan) -> Words:
    rows = np.frombuffer(packed, np.uint8).reshape(-1, plan.chunk_bytes)
    return bits.unpack(rows, plan.degree, plan.modulus_bits).reshape(-1)


def main() -> None:
    """Read one line of JSON, answer with one, and stay until the input ends, so that the memory can be looked at."""
    asked = json.loads(sys.stdin.readline())
    envelopes = [base64.b64decode(one) for one in asked.pop("envelopes")]
    try:
        found = look(envelopes, asked)
    except MoonflowerError as error:
        found = {"code": error.code}
    print(json.dumps(found), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
