"""How moonflower seals, adds, answers and opens, as the bench measures it.

Bytes up are everything that a member sends in a round. Bytes down are everything that an opener receives, except for
``sig_bytes``: the headers, answer documents and signatures of others. ``open_s`` is an opener's work from received
bytes to the mean. It includes the opener's checks, except for those of others' signatures.
"""

from __future__ import annotations

import hashlib
import os
import resource
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..crypto import pairs, sealed, tau
from ..crypto.answer_plan import AnswerSum, answer_plan
from ..crypto.answers import AnswerKey, generate
from ..crypto.identity import SIGNATURE_BYTES, Identity
from ..crypto.planner import Plan, plan
from ..crypto.quantise import Contribution, Ints, OpenedSum, Scale, Stretch, lanes_of
from ..crypto.sealed import Secrets, Sum
from .row import CLIP, MEMBERS, Row, row, timed, vector

CONTEXT, LIST = "0" * 64, "1" * 64
HEADER_BYTES = (
    700  # an envelope's header: version, member, digests of context and body, public mask key, as canonical JSON
)
DOCUMENT_BYTES = 600  # an answer's document: digests of context, list, total and ciphertext, and the functionals
SIGNED_BYTES = HEADER_BYTES + DOCUMENT_BYTES + 2 * SIGNATURE_BYTES  # what others receive of one member
MANY, MOST_PARAMS = 16, 1_000_000  # with more parameters, more than MANY members take too long


@dataclass
class _Measured:
    """Members that seal one after another. Of each, only its secrets and its part of the running sum are kept."""

    plan: Plan
    params: int
    identity: Identity = field(default_factory=lambda: Identity.generate("bench"))
    seal_s: float = float("inf")
    add_s: float = float("inf")
    body: bytes = b""

    def __post_init__(self) -> None:
        self.lanes = self.params
        self.running = Sum(self.plan, self.lanes)
        self.secrets: list[Secrets] = []
        self.integers = np.zeros(self.lanes, dtype=np.int64)
        self.floats = np.zeros(self.params)

    def member(self, number: int) -> None:
        """Seal and add one member's update. All sign with the same node key, which costs as much as separate keys."""
        update = vector(self.params, number)
        seconds, (secrets, body, header, signature) = timed(partial(self._seal, update), 1)
        self.seal_s = min(self.seal_s, seconds)
        self.add_s = min(self.add_s, timed(partial(self._add, body, header, signature), 1)[0])
        self.secrets.append(secrets)
        self.body = self.body or body
        self.integers += lanes_of(self._contribution(update), self.plan)
        self.floats += update / self.plan.members

    def _contribution(self, update: Any) -> Contribution:
        share, scale = 1 / self.plan.members, scale_of(self.params, self.plan)
        return Contribution((), update, share, scale, bytes(32))

    def _seal(self, update: Any) -> tuple[Secrets, bytes, bytes, bytes]:
        lanes = lanes_of(self._contribution(update), self.plan)
        secrets = Secrets.fresh(os.urandom(32), bytes(32), CONTEXT, sealed.digest_of(lanes))
        body = sealed.seal(self.plan, CONTEXT, secrets, lanes)
        header = hashlib.sha256(body).digest() + pairs.public_mask(secrets.mask_key)
        header += bytes(HEADER_BYTES - len(header))
        return secrets, body, header, self.identity.sign("envelope", header)

    def _add(self, body: bytes, header: bytes, signature: bytes) -> None:
        good = self.identity.card.node.verify("envelope", header, signature)
        if not good or hashlib.sha256(body).digest() != header[:32]:
            raise RuntimeError("a header does not fit its body")
        self.running.add(body)


def ours(params: int, tensors: int, value_bits: int = 16, members: int = MEMBERS) -> Row:
    """Measure one-time keys, with their sum under seeded BFV: seal, add, answer and open.

    Args:
        params: number of parameters.
        tensors: has no effect.
        value_bits: bits of one value.
        members: number of members in the sum.
    """
    if members > MANY and params > MOST_PARAMS:
        raise ValueError(f"{members} members seal at most {MOST_PARAMS:,} parameters here: more would take too long")
    used = plan(members, value_bits, params)
    done = _Measured(used, params)
    for number in range(members):
        done.member(number)
    total = done.running.dump()
    about = (LIST, hashlib.sha256(total).hexdigest())
    key = AnswerKey(used, generate(answer_plan(used)))
    names = [f"member-{number:04}" for number in range(members)]
    public = dict(zip(names, (pairs.public_mask(member.mask_key) for member in done.secrets), strict=True))

    def answer(name: str, secrets: Secrets) -> bytes:
        others = {other: theirs for other, theirs in public.items() if other != name}
        masked = pairs.mask(used, secrets.mask_key, name, others, *about)
        return key.seal(pairs.answer(used, secrets.key(used), masked))

    def answering() -> bytes:
        taus = tau.functionals(used, *about, sealed.residues_of(used, done.body, done.lanes))
        sent = answer(names[0], done.secrets[0])
        done.identity.sign("answer", repr((*about, taus, hashlib.sha256(sent).hexdigest())).encode())
        return sent

    added = AnswerSum(answer_plan(used))
    seeds = [added.add(answer(*pair)) for pair in zip(names, done.secrets, strict=True)]
    answer_s, sent = timed(answering, 5)
    sums = added.dump()

    def opening() -> tuple[Ints, Any, bool]:
        digest = hashlib.sha256(total).hexdigest()
        tau.functionals(used, LIST, digest, sealed.residues_of(used, total, done.lanes))
        blocks = sealed.open_total(used, CONTEXT, key.open(sums, seeds), total, done.lanes)
        return _read(used, OpenedSum(blocks, params, 0, members, used), params)

    open_s, (values, floats, in_range) = timed(opening, 2)
    expected = done.integers - members * used.offset
    up = len(done.body) + len(sent) + SIGNED_BYTES + SIGNATURE_BYTES  # the last signature is on the opened result
    down = len(total) + len(sums) + sum(map(len, seeds))
    measured = row(
        done.seal_s,
        done.add_s,
        open_s,
        up / params,
        down / params,
        in_range and bool((values == expected).all()),
        float(np.abs(floats - done.floats).max()),
        answer_s=answer_s,
        sig_bytes=members * SIGNED_BYTES,
        members=members,
    )
    return {**measured, "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def scale_of(params: int, used: Plan) -> Scale:
    """Return the scale of the measured updates: one clip for all parameters."""
    return Scale((Stretch(params, "*", CLIP),), used.value_bits)


def _read(used: Plan, sums: OpenedSum, params: int) -> tuple[Ints, Any, bool]:
    """Return the opened integers ``int64[params]``, their mean ``float64[params]``, and whether all are in range."""
    values, floats, scale = np.empty(params, dtype=np.int64), np.empty(params), scale_of(params, used)
    for at, part in sums.values():
        values[at : at + len(part)] = part
        floats[at : at + len(part)] = part * scale.steps(at, len(part))
    return values, floats, sums.in_range


def addition(params: int, tensors: int) -> Row:
    """Measure our addition alone: a body in memory, added as the coordinator adds it."""
    used = plan(MEMBERS, 16, params)
    running = Sum(used, params)
    body = bytes(used.body_bytes(params))
    add_s, _ = timed(lambda: running.add(body), 9)
    return row(None, add_s, None, None, None, None, None)


def bare_addition(params: int, tensors: int) -> Row:
    """Measure ``np.add`` on as many residues in memory: the machine's own speed."""
    used = plan(MEMBERS, 16, params)
    shape = (len(used.primes), used.travelling(params))
    residues = np.random.default_rng(0).integers(0, min(used.primes), shape, dtype=np.uint64)
    total = np.zeros(shape, dtype=np.uint64)
    add_s, _ = timed(lambda: np.add(total, residues, out=total), 9)
    return row(None, add_s, None, None, None, None, None)
