"""What a coordinator's process can read from envelopes: it checks and adds them like a round, then tries to read them.

``moonflower doctor`` starts it as a process of its own (``python -m moonflower.server.evidence.onlooker``), and gives
it envelopes of a canary update together with that update. It has what a coordinator has: envelopes, cards, context and
plan. Unlike a coordinator, it knows what to look for. It imports only what this package may import, which holds no key
and no SEAL.

It tries what would read an update that is not sealed, or is sealed badly:

1. the canary's bytes, in every form that it has before it is sealed;
2. coefficients that are the plaintext, or the plaintext plus an error: encryption without a key;
3. two envelopes of one canary that differ by errors only: one key used twice;
4. residues that are not uniform over [0, p): chi-square over 64 equal cells, and over the residues mod 64.

If it fails, these ways are closed. That does not prove security, which rests on the lattice problem.
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

from ...crypto.identity import parse_card
from ...crypto.planner import BOUND, Plan
from ...crypto.sealed import Sum, residues_of
from ...errors import MoonflowerError
from ...protocol.context import RoundContext
from ...protocol.envelope import RawEnvelope, check

CELLS = 64
CHI_SQUARE_MOST = 160.0
"""Largest chi-square of uniform residues: with 63 degrees of freedom they exceed it about once in 10^9 tries."""
SHARE_MOST = 0.02
"""Share of residues that a try may hit by chance: with 1024 residues or more, one in 50 is far beyond chance."""
FORBIDDEN = ("moonflower.crypto.answers", "tenseal", "torch")
Words = NDArray[np.uint64]


def look(envelopes: Sequence[bytes], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a coordinator can read from envelopes of one canary, and their sum.

    Args:
        envelopes: of two members or more, all of the same canary.
        known: ``plan``, ``lanes``, ``context``, ``cards`` (in the envelopes' order), ``needles`` (hex), and
            ``plaintext``: the canary's coefficients, whole numbers below t.

    Returns:
        ``total`` (base64); ``needles``: how many forms of the canary were found; ``read``: try → share of coefficients
        that it reads; ``chi_square``: the largest; ``modules``: forbidden modules that this process has loaded.

    Raises:
        MoonflowerError: an envelope does not belong to this context.
    """
    plan = Plan(**{**known["plan"], "primes": tuple(known["plan"]["primes"])})
    context, lanes = RoundContext(**known["context"]), int(known["lanes"])
    cards = [parse_card(card) for card in known["cards"]]
    running = Sum(plan, lanes)
    residues = []
    for data, card in zip(envelopes, cards, strict=True):
        taken = check(RawEnvelope(data), card, context, running.body_bytes)
        running.add(taken.body)
        residues.append(residues_of(plan, taken.body, lanes))
    total = running.dump()
    everything = [*envelopes, total]
    needles = [bytes.fromhex(needle) for needle in known["needles"]]
    looked_at = [*residues, residues_of(plan, total, lanes)]
    return {
        "total": base64.b64encode(total).decode(),
        "needles": sum(needle in data for needle in needles for data in everything),
        "read": tries([joined(plan, sealed) for sealed in residues], known["plaintext"], plan),
        "chi_square": max(
            chi_square(words, p) for body in looked_at for words, p in zip(body, plan.primes, strict=True)
        ),
        "modules": [name for name in FORBIDDEN if name in sys.modules],
    }


def joined(plan: Plan, residues: Sequence[Words]) -> list[int]:
    """Return coefficients as whole numbers in [0, q), from their residues mod each prime."""
    q = plan.modulus
    units = [q // p * pow(q // p, -1, p) for p in plan.primes]
    columns = zip(*(words.tolist() for words in residues), strict=True)
    return [sum(unit * value for unit, value in zip(units, column, strict=True)) % q for column in columns]


def tries(coefficients: Sequence[Sequence[int]], plaintext: Sequence[int], plan: Plan) -> dict[str, float]:
    """Return, for each way to read a plaintext from two sealed vectors without a key, the share that it reads.

    >>> plan = Plan(1024, (40961,), 1, 8, 9, 2)
    >>> rows = list(range(100))
    >>> tries([rows, [value + 512 for value in rows]], rows, plan)
    {'unsealed': 1.0, 'without a key': 1.0, 'key used twice': 1.0}
    """
    first, second = coefficients[0], coefficients[1]
    q, t, count = plan.modulus, 1 << plan.plain_bits, len(plaintext)
    centred = [value - q if value > q // 2 else value for value in first]
    between = [(left - right + q // 2) % q - q // 2 for left, right in zip(first, second, strict=True)]
    pairs = list(zip(centred, plaintext, strict=False))
    return {
        "unsealed": sum(value == wanted for value, wanted in zip(first, plaintext, strict=False)) / count,
        "without a key": sum(value % t == wanted and abs(value) <= (BOUND + 1) * t for value, wanted in pairs) / count,
        "key used twice": sum(difference % t == 0 and abs(difference) <= 2 * BOUND * t for difference in between)
        / len(between),
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


def is_blind(seen: Mapping[str, Any]) -> bool:
    """Return whether :func:`look` found nothing."""
    shares = [float(share) for share in seen["read"].values()]
    quiet = not seen["needles"] and not seen["modules"] and all(share <= SHARE_MOST for share in shares)
    return quiet and math.isfinite(seen["chi_square"]) and seen["chi_square"] <= CHI_SQUARE_MOST


def main() -> None:
    """Read one line of JSON, answer with one, and wait for the end of input, so that the memory can be inspected."""
    asked = json.loads(sys.stdin.readline())
    envelopes = [base64.b64decode(text) for text in asked.pop("envelopes")]
    try:
        answer = look(envelopes, asked)
    except MoonflowerError as error:
        answer = {"code": error.code}
    print(json.dumps(answer), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
