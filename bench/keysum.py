"""How sealing under one-time keys costs (protocol version 2, in work), as the bench measures it: arithmetic alone.

Headers, signatures and exchanges of version 2 do not exist yet, so its bytes are bodies, totals and answers.
``open_s`` is one opener's work from received bytes to the opened integers: functionals, keys, vectors.
"""

from __future__ import annotations

import hashlib
import os
import resource
from typing import Any

import numpy as np

from ..crypto import onetime, pairs, tau
from ..crypto.answers import AnswerKey, plan_of
from ..crypto.onetime import Secrets, Sum
from ..crypto.onetime_plan import OneTimePlan, plan
from ..crypto.quantise import ONE, Ints, quantise
from ..crypto.schemes.secret import generate
from ..server.aggregate import RunningSum
from .row import CLIP, MEMBERS, Row, row, timed, vector

CONTEXT = "0" * 64


def keysum(params: int, tensors: int, members: int = MEMBERS, *, part: str = "") -> Row:
    """Seal, add, answer and open.

    Args:
        params: parameters.
        tensors: makes no difference.
        members: of the sum.
        part: ``answer`` for a row about a member's answer alone.
    """
    used = plan(members, 16, params + 3)
    lanes = params + used.limbs
    names = [f"member-{member:04}" for member in range(members)]
    running, expected = Sum(used, lanes), np.zeros(lanes, dtype=np.int64)
    secrets, bodies, seal_s, add_s = {}, {}, float("inf"), float("inf")
    for number, name in enumerate(names):
        contents = _contents(used, params, number, members)
        expected += contents
        secrets[name] = Secrets.fresh(os.urandom(32), bytes(32), CONTEXT, onetime.digest_of(contents))

        def seal(number: int = number, name: str = name) -> bytes:
            return onetime.seal(used, CONTEXT, secrets[name], _contents(used, params, number, members))

        seconds, bodies[name] = timed(seal, 1)
        seal_s = min(seal_s, seconds)
        add_s = min(add_s, timed(lambda name=name: running.add(bodies[name]), 1)[0])
        if number:
            bodies[name] = bodies[name] if number < 2 else b""  # a bench need not hold 256 of them
    total = running.dump()
    about = ("list", hashlib.sha256(total).hexdigest())
    key = AnswerKey(used, generate(plan_of(used)))
    public = {name: pairs.public_mask(one.mask_key) for name, one in secrets.items()}
    added, seeds, answer_s, answer_bytes = RunningSum(plan_of(used), used.degree), [], float("inf"), 0
    for name, one in secrets.items():

        def answer(name: str = name, one: Secrets = one) -> bytes:
            others = {other: theirs for other, theirs in public.items() if other != name}
            masked = pairs.mask(used, one.mask_key, name, others, *about)
            if bodies[name]:
                tau.functionals(used, *about, onetime.residues_of(used, bodies[name], lanes))
            return key.seal(pairs.answer(used, one.key(used), masked))

        seconds, sealed = timed(answer, 3 if bodies[name] else 1)
        answer_s, answer_bytes = min(answer_s, seconds) if bodies[name] else answer_s, len(sealed)
        seeds.append(added.add(sealed))
    sums = added.dump()

    def opening() -> Ints:
        tau.functionals(used, *about, onetime.residues_of(used, total, lanes))
        return np.concatenate(list(onetime.open_total(used, CONTEXT, key.open(sums, seeds), total, lanes)))

    open_s, found = timed(opening)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    down = (len(total) + len(sums) + sum(map(len, seeds))) / params
    up = (used.body_bytes(lanes) + answer_bytes) / params
    rows: dict[str, Any] = {
        "": row(seal_s, add_s, open_s, up, down, bool((found == expected).all()), None),
        "answer": row(answer_s, None, None, answer_bytes / params, None, None, None),
    }
    return {**rows[part], "peak_kib": peak_kib}


def _contents(used: OneTimePlan, params: int, number: int, members: int) -> Ints:
    """Return a member's update as lanes, its weight before it."""
    weight = ONE // members
    limbs = [weight >> (used.value_bits * at) & ((1 << used.value_bits) - 1) for at in range(used.limbs)]
    values = quantise(vector(params, number), weight, CLIP, used.value_bits) + used.offset
    return np.concatenate([np.array(limbs, dtype=np.int64), values])
