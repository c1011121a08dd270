"""How moonflower seals, adds and opens, as the bench measures it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..crypto import planner, sealed
from ..crypto.identity import Identity
from ..crypto.mac import Mac
from ..crypto.planner import Plan
from ..crypto.quantise import ONE, Contribution, Ints, OpenedSum, mean, quantise, slot_blocks
from ..crypto.schemes.secret import SecretKey, generate
from ..crypto.sealed import SealedVector
from ..protocol import envelope
from ..protocol.context import RoundContext
from ..server.aggregate import RunningSum
from .row import CLIP, MEMBERS, Row, row, timed, vector

Sealing = Callable[[str, Iterable[Ints], int], SealedVector]  # context, blocks, lanes


@dataclass(frozen=True)
class Summed:
    """What a coordinator holds once all members have sealed, and what that took.

    Attributes:
        context: of the sum.
        lanes: of each vector.
        seal_s, add_s: seconds of the fastest member.
        size: bytes of an envelope.
        signed: each member's header.
        seeds, tags: of each member's envelope.
        total: the sealed sum.
    """

    context: RoundContext
    lanes: int
    seal_s: float
    add_s: float
    size: int
    signed: dict[str, envelope.SignedHeader]
    seeds: dict[str, bytes]
    tags: dict[str, list[int]]
    total: bytes


def _summed(plan: Plan, identity: Identity, members: Mapping[str, Sealing], params: int) -> Summed:
    """Seal and add every member's update; all sign with one node key, which takes as long as with their own."""
    none = "0" * 64
    context = RoundContext(
        "bench", "bench", 1, 1, "update", none, CLIP, {}, none, {}, "0", plan.as_dict(), 1, none, 3, none, ""
    )
    lanes, weight = params + plan.limbs, ONE // len(members)
    running, signed = RunningSum(plan, lanes), dict[str, envelope.SignedHeader]()
    seeds, tags = dict[str, bytes](), dict[str, list[int]]()
    seal_s = add_s = float("inf")
    size = 0
    for member, (name, sealing) in enumerate(members.items()):
        update = vector(params, member)

        def seal(update: Any = update, sealing: Sealing = sealing) -> envelope.RawEnvelope:
            given = Contribution((weight,), update, weight, CLIP)
            return envelope.seal(identity, context, sealing(context.digest, slot_blocks(given, plan), lanes))

        seconds, raw = timed(seal, 1)
        seal_s, size = min(seal_s, seconds), len(raw.data)

        def add(raw: envelope.RawEnvelope = raw) -> tuple[bytes, envelope.Envelope]:
            checked = envelope.check(raw, identity.card, context, running.body_bytes)
            running.vet(checked)
            return running.add(checked.body), checked

        seconds, (seeds[name], checked) = timed(add, 1)
        add_s, tags[name], signed[name] = min(add_s, seconds), list(checked.header.tags), checked.signed
        del raw, checked
    return Summed(context, lanes, seal_s, add_s, size, signed, seeds, tags, running.dump())


def _opened(plan: Plan, mac: Mac, summed: Summed, rows: Callable[[], Iterator[Ints]], params: int) -> tuple[Any, bool]:
    """Return the opened integers of a sum that is checked first, and whether all of it was in range."""
    sealed.check_total(mac, summed.tags, summed.total, summed.lanes, plan)
    sums = OpenedSum(rows(), params, 1, len(summed.tags), plan)
    values = np.empty(params, dtype=np.int64)
    for at, part in sums.values():
        values[at : at + len(part)] = part
    return values, sums.in_range


def _judged(plan: Plan, values: Any, in_range: bool, members: int) -> tuple[bool, float]:
    """Return whether opened integers are exactly the sum of what was sealed, and how far their mean is off."""
    weight, params = ONE // members, len(values)
    integers, floats = np.zeros(params, dtype=np.int64), np.zeros(params)
    for member in range(members):
        integers += quantise(vector(params, member), weight, CLIP, plan.value_bits)
        floats += vector(params, member) / members
    error = float(np.abs(mean(values, weight * members, CLIP, plan.value_bits) - floats).max())
    return bool(in_range and (values == integers).all()), error


def ours(params: int, tensors: int, value_bits: int = 16) -> Row:
    """Scheme ``shared``: seeded symmetric BFV through SEAL, bit-packed, authenticated, 16 members."""
    plan = planner.plan(MEMBERS, value_bits, params)
    key, secret = SecretKey(plan, generate(plan)), os.urandom(32)

    def sealing(name: str) -> Sealing:
        return lambda context, blocks, lanes: sealed.seal(key, Mac(secret, context, plan), name, blocks, lanes, plan)

    names = [f"member-{member:02}" for member in range(MEMBERS)]
    summed = _summed(plan, Identity.generate(names[0]), {name: sealing(name) for name in names}, params)

    def opening() -> tuple[Any, bool]:
        mac = Mac(secret, summed.context.digest, plan)
        rows = sealed.open_total(key, summed.total, summed.seeds, summed.lanes, plan)
        return _opened(plan, mac, summed, lambda: rows, params)

    open_s, (values, in_range) = timed(opening, 1)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    exact, error = _judged(plan, values, in_range, MEMBERS)
    down = (len(summed.total) + sum(map(len, summed.seeds.values()))) / params
    made = row(summed.seal_s, summed.add_s, open_s, summed.size / params, down, exact, error)
    return {**made, "peak_kib": peak_kib}


def addition(params: int, tensors: int) -> Row:
    """Our addition alone, of residues in memory, as the running sum does it."""
    return _addition(params, ours=True)


def bare_addition(params: int, tensors: int) -> Row:
    """``np.add`` over the same residues in memory: the machine's own speed."""
    return _addition(params, ours=False)


def _addition(params: int, *, ours: bool) -> Row:
    plan = planner.plan(MEMBERS, 16, params)
    lanes = params + plan.limbs
    shape = (plan.chunks(lanes), plan.degree)
    residues = np.random.default_rng(0).integers(0, plan.modulus, shape, dtype=np.uint64)
    if not ours:
        total = np.zeros(shape, dtype=np.uint64)
        add_s, _ = timed(lambda: np.add(total, residues, out=total), 9)
        return row(None, add_s, None, None, None, None, None)
    running = RunningSum(plan, lanes)
    add_s, _ = timed(lambda: running.accumulate(0, residues), 9)
    return row(None, add_s, None, None, None, None, None)
