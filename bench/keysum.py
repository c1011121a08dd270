"""How sealing under one-time keys costs (protocol version 2, in work), as the bench measures it: arithmetic alone.

Headers, signatures and exchanges of version 2 do not exist yet, so its bytes are bodies, totals and answers.
``open_s`` is one opener's work from received bytes to the opened integers: functionals, keys, vectors.
"""

from __future__ import annotations

import hashlib
import os
import resource
from functools import partial
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
    secrets: dict[str, Secrets] = {}
    body, seal_s, add_s = b"", float("inf"), float("inf")
    for number, name in enumerate(names):
        contents = _contents(used, params, number, members)
        expected += contents
        secrets[name] = Secrets.fresh(os.urandom(32), bytes(32), CONTEXT, onetime.digest_of(contents))
        del contents
        seconds, sealed = timed(partial(_seal, used, params, number, members, secrets[name]), 1)
        seal_s = min(seal_s, seconds)
        add_s = min(add_s, timed(partial(running.add, sealed), 1)[0])
        body = body or sealed
    total = running.dump()
    about = ("list", hashlib.sha256(total).hexdigest())
    key = AnswerKey(used, generate(plan_of(used)))
    public = {name: pairs.public_mask(one.mask_key) for name, one in secrets.items()}
    added, seeds = RunningSum(plan_of(used), used.degree), []
    for name, one in secrets.items():
        others = {other: theirs for other, theirs in public.items() if other != name}
        masked = pairs.answer(used, one.key(used), pairs.mask(used, one.mask_key, name, others, *about))
        answer = key.seal(masked)
        seeds.append(added.add(answer))

    def answering() -> bytes:
        """As the last member, but for whose body it is: they are of one length."""
        tau.functionals(used, *about, onetime.residues_of(used, body, lanes))
        return key.seal(pairs.answer(used, one.key(used), pairs.mask(used, one.mask_key, name, others, *about)))

    answer_s, _ = timed(answering)
    sums = added.dump()

    def opening() -> Ints:
        tau.functionals(used, *about, onetime.residues_of(used, total, lanes))
        return np.concatenate(list(onetime.open_total(used, CONTEXT, key.open(sums, seeds), total, lanes)))

    open_s, found = timed(opening)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    down = (len(total) + len(sums) + sum(map(len, seeds))) / params
    up = (used.body_bytes(lanes) + len(answer)) / params
    rows: dict[str, Any] = {
        "": row(seal_s, add_s, open_s, up, down, bool((found == expected).all()), None),
        "answer": row(answer_s, None, None, len(answer) / params, None, None, None),
    }
    return {**rows[part], "peak_kib": peak_kib}


def _seal(used: OneTimePlan, params: int, number: int, members: int, secrets: Secrets) -> bytes:
    return onetime.seal(used, CONTEXT, secrets, _contents(used, params, number, members))


def _contents(used: OneTimePlan, params: int, number: int, members: int) -> Ints:
    """Return a member's update as lanes, its weight before it."""
    weight = ONE // members
    limbs = [weight >> (used.value_bits * at) & ((1 << used.value_bits) - 1) for at in range(used.limbs)]
    values = quantise(vector(params, number), weight, CLIP, used.value_bits) + used.offset
    return np.concatenate([np.array(limbs, dtype=np.int64), values])
