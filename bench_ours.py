"""How moonflower seals, adds and opens, as the bench measures it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bench_row import CLIP, MEMBERS, Row, row, timed, vector
from .crypto import envelope, planner, sealed, shamir
from .crypto.context import RoundContext
from .crypto.flood import Opening, plan_threshold
from .crypto.identity import Identity, Roster
from .crypto.mac import Mac
from .crypto.masks import Wrapped, check_wrapped, unwrap, wrap
from .crypto.planner import Plan
from .crypto.quantise import ONE, Contribution, Ints, OpenedSum, mean, quantise, slot_blocks
from .crypto.sealed import SealedVector
from .crypto.secret import SecretKey, generate
from .crypto.threshold import Check, Seat, combine
from .server.aggregate import RunningSum

Sealing = Callable[[str, Iterable[Ints], int], SealedVector]  # context, blocks, lanes
TOGETHER = tuple(f"member-{member:02}" for member in range(5))  # of scheme threshold; any three of them open


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


def together(params: int, tensors: int, value_bits: int = 16, part: str = "") -> Row:
    """Scheme ``threshold``: sealed by five, opened by three of them, as the other two are gone.

    Args:
        params: parameters.
        tensors: makes no difference.
        value_bits: bits of one value.
        part: ``partial`` or ``combine`` for a row about this part of an opening alone.
    """
    plan = plan_threshold(len(TOGETHER), value_bits, params)
    identities = {name: Identity.generate(name) for name in TOGETHER}
    roster = Roster(tuple(one.card for one in identities.values()))
    dealt = {name: shamir.deal(plan, TOGETHER) for name in TOGETHER}
    commitments = {name: one.commitments for name, one in dealt.items()}
    seats = {}
    for name in TOGETHER:
        payloads = {dealer: one.payloads[name] for dealer, one in dealt.items()}
        seats[name] = Seat(shamir.EpochShare(plan, TOGETHER, name, dealt[name].own, payloads, commitments))
    combiner = TOGETHER[0]
    summed = _summed(plan, identities[combiner], {name: seat.seal for name, seat in seats.items()}, params)
    about, secret = Opening(summed.context.digest, TOGETHER, TOGETHER[: plan.threshold], 0), seats[combiner].held.secret
    partial_s, partials = float("inf"), dict[str, Wrapped]()
    for name in about.openers:

        def partial(name: str = name) -> Wrapped:
            made = seats[name].partial(about, summed.lanes)
            return wrap(identities[name], about, made, roster, TOGETHER)

        seconds, partials[name] = timed(partial, 1)
        check_wrapped(about, roster.card(name), partials[name], plan.body_bytes(summed.lanes))
        partial_s = min(partial_s, seconds)

    def combining() -> Iterator[Ints]:
        came = {name: unwrap(identities[combiner], about, roster.card(name), one) for name, one in partials.items()}
        check = Check(secret, about.context, TOGETHER, plan)
        return combine(plan, summed.total, came, summed.lanes, check).blocks()

    def opening() -> tuple[Any, bool]:
        return _opened(plan, Mac(secret, about.context, plan), summed, combining, params)

    combine_s, _ = timed(combining)
    open_s, (values, in_range) = timed(opening)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    exact, error = _judged(plan, values, in_range, len(TOGETHER))
    asked = sum(len(one.data) + len(one.signature) for one in summed.signed.values()) / params
    down = asked + (len(summed.total) + sum(len(one.ciphertext) for one in partials.values())) / params
    rows = {
        "": row(summed.seal_s, summed.add_s, partial_s + open_s, summed.size / params, down, exact, error),
        "partial": row(None, None, partial_s, len(partials[about.openers[0]].ciphertext) / params, asked, None, None),
        "combine": row(None, None, combine_s, None, down, exact, error),
    }
    return {**rows[part], "peak_kib": peak_kib}


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
