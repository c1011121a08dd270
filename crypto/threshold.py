"""Scheme ``threshold``: any t of n members open a sum together, fewer open nothing (docs/threshold-notes.md).

    deal     each member -> each member: a share of its secret, half of a pair key, a part of the epoch secret
    confirm  all: the shares of each dealer lie on one polynomial, and everybody holds the same epoch secret
    seal     member -> coordinator: round((-a s + e) / P) + D m mod w, a = expand(context): nobody chooses it
    add      coordinator: sums residues mod w, with no key (``server/aggregate.py``)
    partial  opener -> combiner: round((lambda sum of A's shares  a + flood + zero masks) / P) mod w
    combine  sum + partials = D M + noise, so M, exactly

A partial depends on nothing that the coordinator or another member sends except set A, the openers and the round: there
is no ciphertext to choose, to cancel with or to add noise to. What must hold is one set A for a context and t > (n + f)
/ 2 (``flood.Answered``), a public a that is never used twice (the context's number counts up), and zero masks.

**The check.** The last coefficients of a sealed vector hold <r, m> + pad mod w at several points, r and the member's
pad from the epoch secret, not multiplied by D: they add up mod w inside the sum, so that only <r, M> shows, and M has
to fit it up to the noise. A partial that is wrong by accident is found but for 2**-96, and so is what a coordinator
changed, also where it combines. An opener that lies on purpose knows r, so against it only other openers help:
:func:`judge`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from ..canonical import canonical
from ..errors import Refused
from . import bits
from .flood import Opening, ThresholdPlan
from .mac import Mac
from .masks import ZeroMasks
from .quantise import BLOCK_LANES
from .ring import Flood, Ints, Stream
from .sealed import SealedVector
from .shamir import KEY_BYTES, EpochShare

Openers = tuple[str, ...]


class Seat:
    """A member's part in an epoch: it seals, and opens with others.

    Args:
        held: what it holds for the epoch.
    """

    def __init__(self, held: EpochShare) -> None:
        self.held, self.plan, self._ring = held, held.plan, held.plan.ring

    def seal(self, context: str, blocks: Iterable[Ints], lanes: int) -> SealedVector:
        """Return the sealed vector of plaintext rows (``quantise.slot_blocks``) that hold ``lanes`` lanes in all.

        To be called once for a context: two results for one context tell their difference without any key.

        Args:
            context: digest of the RoundContext.
            blocks: rows ``int64[k, N]``.
            lanes: without the check's.

        Raises:
            ValueError: rows that are not as many as the lanes take.
        """
        plan, ring, stream, held = self.plan, self._ring, Stream.fresh(), self.held
        check, minus = Check(held.secret, context, (held.name,), plan), -held.key
        body, chunks = bytearray(plan.body_bytes(lanes)), plan.chunks(lanes)
        done = 0

        def residues() -> Iterator[NDArray[np.uint64]]:
            nonlocal done
            for rows in blocks:
                span = range(done, done + len(rows))
                if rows.shape != (len(span), plan.degree) or span.stop > chunks:
                    raise ValueError(f"rows of shape {rows.shape} after {done} of {chunks}")
                check.read(rows)
                error = stream.error(rows.shape)
                mask = ring.switch([x + error for x in self._products(minus, context, span)])
                mask += ring.wire.scale(rows, plan.scaling)
                if span.stop == chunks:
                    mask[-1, -plan.check_points :] += check.values
                words = ring.wire.reduce(mask).view(np.uint64)
                body[done * plan.chunk_bytes : span.stop * plan.chunk_bytes] = bits.pack(words, plan.modulus_bits).data
                done = span.stop
                yield words.reshape(-1)

        tags = tuple(Mac(held.secret, context, plan).tag(held.name, residues()))
        if done != chunks:
            raise ValueError(f"{done} rows, expected {chunks}")
        return SealedVector(bytes(body), hashlib.sha256().hexdigest(), tags)

    def partial(self, about: Opening, lanes: int) -> bytes:
        """Return this member's partial opening, residues mod w, bit-packed; the same bytes for the same opening.

        The caller has recorded the opening and paid for it first (``flood.Answered``, ``flood.FloodCount``).

        Raises:
            Refused: ``open.set``: this member is no opener, or a member of A holds no seat.
        """
        plan, ring, held = self.plan, self._ring, self.held
        key, masks = held.factor(about), self._masks(about)
        flood_key = hmac.new(held.flood_key, about.bytes("flood"), hashlib.sha256).digest()
        out = []
        for span in _spans(plan, lanes):
            flood, zero = Flood(flood_key, span, plan.degree, plan.flood_bits), masks.of(span)
            products = self._products(key, about.context, span)
            whole = [x + flood.mod(p) + z for p, x, z in zip(ring.primes, products, zero, strict=True)]
            out.append(bits.pack(ring.switch(whole).view(np.uint64), plan.modulus_bits).tobytes())
        return b"".join(out)

    def _products(self, key: Ints, context: str, chunks: range) -> list[Ints]:
        return self._ring.times(key, b"moonflower.public.v1\x00" + context.encode(), chunks)

    def _masks(self, about: Opening) -> ZeroMasks:
        return ZeroMasks(self.held.name, self.held.pairs, about, self._ring)


class Check:
    """The inner products that sealed vectors carry about themselves, and that their opened sum has to fit.

    Each member adds a pad of its own to each: a coordinator that combines sees their sum, and must neither learn
    anything about r from it nor scale a sum and its check together.

    Args:
        secret: the epoch secret.
        context: digest of the RoundContext.
        members: whose vectors are in it: the one that seals, or set A.
        plan: lanes and wire prime.
    """

    def __init__(self, secret: bytes, context: str, members: Iterable[str], plan: ThresholdPlan) -> None:
        self._plan = plan
        key = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"moonflower.check.v1").derive(secret)
        labels = [canonical({"context": context, "point": point}) for point in range(plan.check_points)]
        self._streams = [Stream(hmac.new(key, label, hashlib.sha256).digest()) for label in labels]
        self._points = [0] * plan.check_points
        for member in members:
            for point in range(plan.check_points):
                label = canonical({"context": context, "member": member, "point": point})
                pad = int.from_bytes(hmac.new(key, label, hashlib.sha512).digest(), "little")
                self._points[point] = (self._points[point] + pad) % plan.modulus

    def read(self, rows: Ints) -> None:
        """Take the next rows ``int64[k, N]`` in."""
        wire, shift = self._plan.ring.wire, np.uint64(64 - self._plan.mac_word_bits)
        for point, stream in enumerate(self._streams):
            factors = (stream.words(rows.size) >> shift).view(np.int64).reshape(rows.shape)
            self._points[point] = (self._points[point] + wire.dot(rows, factors)) % wire.modulus

    @property
    def values(self) -> Ints:
        """Inner products of what was read, with the members' pads, ``int64[check_points]`` below w."""
        return np.array(self._points, dtype=np.int64)

    def fits(self, opened: Ints) -> bool:
        """Return whether opened residues are these values up to honest noise."""
        off = self._plan.ring.wire.reduce(opened - self.values)
        return bool((np.minimum(off, self._plan.modulus - off) <= self._plan.noise_limit).all())


@dataclass(frozen=True)
class Opened:
    """An opened sum.

    Attributes:
        rows: plaintext rows ``int64[k, N]`` for ``quantise.OpenedSum``, the check taken out.
        digest: their SHA-256, for :func:`judge`; "" where noise or check say that they are wrong.
    """

    rows: Ints
    digest: str

    def blocks(self) -> Iterator[Ints]:
        """Return the rows as one block, for ``quantise.OpenedSum``.

        Raises:
            Refused: ``open.partial``: they are wrong.
        """
        if not self.digest:
            raise Refused("open.partial", "a partial opening, a deal or an envelope in this opening is wrong")
        return iter((self.rows,))


def combine(plan: ThresholdPlan, total: bytes, partials: Mapping[str, bytes], lanes: int, check: Check) -> Opened:
    """Return what a total and the partial openings of exactly one set of openers hold.

    Args:
        plan: the epoch's.
        total: the sum of A's residues, bit-packed, that ``sealed.check_total`` accepted.
        partials: by opener.
        lanes: of the vector, without the check.
        check: fresh, for set A.

    Raises:
        Refused: ``open.set``: another number of partials, or a total of another size; ``open.partial``: a partial of
            another size, or with a residue out of range, with its opener's name.
    """
    return _read(plan, _tables(plan, total, partials, lanes), lanes, check)


def add(plan: ThresholdPlan, total: bytes, partials: Mapping[str, bytes], lanes: int) -> bytes:
    """Return a total with the partial openings added, bit-packed: what a coordinator that combines hands on.

    Raises:
        Refused: as :func:`combine`.
    """
    tables = _tables(plan, total, partials, lanes)
    out = []
    for span in _spans(plan, lanes):
        value = plan.ring.wire.reduce(_residues(plan, tables, span))
        out.append(bits.pack(value.view(np.uint64), plan.modulus_bits).tobytes())
    return b"".join(out)


def read(plan: ThresholdPlan, combined: bytes, lanes: int, check: Check | None) -> Opened:
    """Return what :func:`add` made holds.

    Args:
        plan: the epoch's.
        combined: as it came.
        lanes: of the vector, without the check.
        check: fresh, for set A; None for the coordinator, which has no epoch secret: to it a wrong partial shows in
            the noise only, if at all.

    Raises:
        Refused: ``open.set``: of another size.
    """
    return _read(plan, _tables(plan, combined, None, lanes), lanes, check)


Table = NDArray[np.uint8]


def _tables(plan: ThresholdPlan, total: bytes, partials: Mapping[str, bytes] | None, lanes: int) -> list[Table]:
    """Return a total and partial openings, each ``uint8[chunks, chunk_bytes]``, after checking their form."""
    if len(total) != plan.body_bytes(lanes):
        raise Refused("open.set", f"a total of {len(total)} bytes, expected {plan.body_bytes(lanes)}")
    tables = [np.frombuffer(total, np.uint8).reshape(-1, plan.chunk_bytes)]
    if partials is None:
        return tables
    if len(partials) != plan.threshold:
        raise Refused("open.set", f"{len(partials)} partial openings, expected {plan.threshold}")
    for opener, partial in partials.items():
        packed = np.frombuffer(partial, np.uint8)
        if len(packed) != len(total) or not bits.below(
            packed.reshape(-1, plan.chunk_bytes), plan.degree, plan.modulus_bits, plan.modulus
        ):
            raise Refused("open.partial", f"the partial opening of {opener!r} is malformed")
        tables.append(packed.reshape(-1, plan.chunk_bytes))
    return tables


def _residues(plan: ThresholdPlan, tables: list[Table], span: range) -> Ints:
    """Return the sum of all tables' residues of these ciphertexts, not reduced."""
    some = slice(span.start, span.stop)
    words = [bits.unpack(table[some], plan.degree, plan.modulus_bits).view(np.int64) for table in tables]
    return sum(words[1:], words[0])


def _read(plan: ThresholdPlan, tables: list[Table], lanes: int, check: Check | None) -> Opened:
    """Return the sum of these tables, taken apart into plaintext rows, check and noise."""
    rows = np.empty((plan.chunks(lanes), plan.degree), dtype=np.int64)
    half, good, values = np.int64(plan.scaling // 2), True, rows[0, :0]
    for span in _spans(plan, lanes):
        some = slice(span.start, span.stop)
        value = plan.ring.wire.reduce(_residues(plan, tables, span) + half)
        if span.stop == len(rows):
            values = value[-1, -plan.check_points :] - half
            value[-1, -plan.check_points :] = half  # a zero without noise
        rows[some] = (value / plan.scaling).astype(np.int64)  # below 2**47 over an integer: right, or one too many
        rest = value - rows[some] * plan.scaling
        rows[some] -= rest < 0
        rest = np.where(rest < 0, rest + plan.scaling, rest) - half
        good &= bool((np.abs(rest) <= plan.noise_limit).all() and (rows[some] < plan.plain_modulus).all())
    if check:
        check.read(rows)
        good &= check.fits(values)
    return Opened(rows, hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest() if good else "")


@dataclass(frozen=True)
class Agreement:
    """What the openings of one sum say, if at most so many openers lied.

    Attributes:
        accepted: digest of the sum that is right then; "" if that is not certain.
        named: openers that must have given a wrong partial then.
        suspects: openers of whom somebody must have, wherever an opening was wrong.
        sealed: no so few openers explain the openings that failed their check: an envelope or a deal is at fault.
    """

    accepted: str
    named: frozenset[str]
    suspects: frozenset[str]
    sealed: bool


def judge(outcomes: Mapping[Openers, str], liars: int) -> Agreement:
    """Return what openings by different sets of openers agree on.

    A digest is accepted when its being wrong would take more than ``liars`` liars, one in each set that opened it: if
    no more lie, one of those sets was honest, and an honest set opens the right sum. Failed checks are no evidence
    for a digest: a member that lies as an opener may have spoilt the check in its own envelope. With ``liars`` = 0
    one opening that holds its check is enough, and two that differ are a contradiction. With t + ``liars`` honest
    openers there is always a digest to accept.

    Args:
        outcomes: digest of what each set opened; "" where noise or check say that it is wrong.
        liars: most openers that lie.
    """
    sets: dict[str, list[Openers]] = {}
    for openers, found in outcomes.items():
        sets.setdefault(found, []).append(openers)
    failed = sets.pop("", [])
    certain = [found for found, same in sets.items() if not _explanations(same, liars)]
    accepted = certain[0] if len(certain) == 1 else ""
    wrong = [openers for openers, found in outcomes.items() if found != accepted] if accepted else failed
    guilty: list[frozenset[str]] = []
    for most in range(liars, len(wrong) + 1):  # more than assumed, where so few cannot explain it
        guilty = guilty or _explanations(wrong, most)
    named = frozenset.intersection(*guilty) if guilty else frozenset()
    sealed = bool(failed) and not sets and not _explanations(failed, liars)
    return Agreement(accepted, named, frozenset().union(*guilty), sealed)


def next_openers(present: Iterable[str], threshold: int, outcomes: Mapping[Openers, str]) -> Openers:
    """Return the set to ask next: who was in fewest doubtful openings, then in fewest at all; () if all were asked."""
    counts = Counter(outcome for outcome in outcomes.values() if outcome)
    usual = max(sorted(counts), key=lambda outcome: counts[outcome], default="")
    wrong = Counter(name for openers, outcome in outcomes.items() if outcome != usual or not usual for name in openers)
    asked = Counter(name for openers in outcomes for name in openers)
    order = sorted(present, key=lambda name: (wrong[name], asked[name], name))
    for some in combinations(order, threshold):
        if tuple(sorted(some)) not in outcomes:
            return tuple(sorted(some))
    return ()


def _explanations(wrong: Iterable[Openers], liars: int) -> list[frozenset[str]]:
    """Return the smallest sets of at most ``liars`` openers with one in each of these: none smaller inside."""
    sets = [frozenset(openers) for openers in wrong]
    everybody = sorted(frozenset().union(*sets))
    found: list[frozenset[str]] = []
    for size in range(min(liars, len(everybody)) + 1):
        for some in map(frozenset, combinations(everybody, size)):
            if all(some & openers for openers in sets) and not any(less <= some for less in found):
                found.append(some)
    return found


def _spans(plan: ThresholdPlan, lanes: int) -> Iterator[range]:
    """Yield the ciphertexts of each block."""
    chunks, step = plan.chunks(lanes), max(1, BLOCK_LANES // (plan.lanes * plan.degree))
    for first in range(0, chunks, step):
        yield range(first, min(first + step, chunks))
