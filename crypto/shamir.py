"""Shamir's sharing over the primes of a ring, a check that all shares lie on one polynomial, and an epoch's deals.

A dealer hides its secret (evaluations ``int64[3, N]``) as f(0) of polynomials of degree t - 1, one for each entry;
the member with point j, from 1, gets f(j). Any t shares give f(0), t - 1 say nothing about it.

**Dealt consistently?** Each dealer also deals blinds: shares of random polynomials b_k of the same degree, one number a
prime and check. Once all deals are committed to, a hash of the commitments gives public vectors r_k, and member j
publishes <r_k, f(j)> + b_k(j). Honest values lie on a polynomial of degree t - 1, about which the blind makes them say
nothing else. Shares that do not lie on one pass at a prime with probability 1 / p for each of 4 checks: at most
2**-100 with the smallest wire prime of any plan, 26 bits. With n = t there is nothing to compare.

What a member holds for an epoch is an :class:`EpochShare`: shares are kept dealer by dealer, because set A differs from
round to round. All randomness of an epoch comes from all members: the epoch secret from a part of each, a pair's key
from both. Payloads travel wrapped for their recipient's card and signed by their dealer, as ``crypto.keys`` does it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..canonical import canonical, digest
from ..errors import Refused
from . import bits
from .flood import Opening, ThresholdPlan
from .masks import pair_key
from .ring import MAX_PRIME_BITS, Ints, Prime, Stream, uniform_rows

CHECKS = 4
KEY_BYTES = 32


def weights(points: Sequence[int], at: int, modulus: int) -> list[int]:
    """Return w with f(at) = sum of w_j f(points_j) mod a prime, for f of degree below the number of points."""
    out = []
    for j in points:
        top = bottom = 1
        for m in points:
            if m != j:
                top, bottom = top * (at - m) % modulus, bottom * (j - m) % modulus
        out.append(top * pow(bottom, -1, modulus) % modulus)
    return out


def share(secret: Ints, primes: Sequence[Prime], threshold: int, points: int, stream: Stream) -> Ints:
    """Return the shares ``int64[points, len(primes), k]`` of a secret ``int64[len(primes), k]`` in [0, p)."""
    out = np.empty((points, *secret.shape), dtype=np.int64)
    for row, p in enumerate(primes):
        higher = [stream.uniform(secret.shape[1], p.modulus) for _ in range(threshold - 1)]
        for j in range(1, points + 1):
            value = np.zeros_like(secret[row])
            for coefficients in (*reversed(higher), secret[row]):
                value = p.reduce(p.scale(value, j) + coefficients)
            out[j - 1, row] = value
    return out


def combine(shares: Mapping[int, Ints], primes: Sequence[Prime]) -> Ints:
    """Return the secret ``int64[len(primes), k]`` of shares by point; wrong if they are fewer than t."""
    points = sorted(shares)
    out = np.zeros_like(shares[points[0]])
    for row, p in enumerate(primes):
        for j, factor in zip(points, weights(points, 0, p.modulus), strict=True):
            out[row] = p.reduce(out[row] + p.scale(shares[j][row], factor))
    return out


def on_one_polynomial(values: Mapping[int, int], threshold: int, modulus: int) -> bool:
    """Return whether values by point lie on a polynomial of degree below ``threshold`` mod a prime."""
    points = sorted(values)
    base = points[:threshold]
    for point in points[threshold:]:
        expected = sum(w * values[j] for w, j in zip(weights(base, point, modulus), base, strict=True))
        if (expected - values[point]) % modulus:
            return False
    return True


def odd_one_out(values: Mapping[int, int], threshold: int, modulus: int) -> int:
    """Return the one point without which the values lie on a polynomial; 0 if there is not exactly one such."""
    if len(values) < threshold + 2:
        return 0
    rest = ({j: v for j, v in values.items() if j != odd} for odd in values)
    found = [odd for odd, some in zip(values, rest, strict=True) if on_one_polynomial(some, threshold, modulus)]
    return found[0] if len(found) == 1 else 0


@dataclass(frozen=True)
class Dealt:
    """What a member makes for an epoch.

    Attributes:
        own: what it keeps to itself, together with its own payload: to be on disk before a payload is sent.
        payloads: for each member, its own included; to be wrapped for its card and signed.
        commitments: SHA-256 of each payload, for everybody to see. Payloads hold fresh keys, so they hide them.
    """

    own: bytes
    payloads: Mapping[str, bytes]
    commitments: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Dealt({len(self.payloads)} payloads)"


def deal(plan: ThresholdPlan, names: Sequence[str]) -> Dealt:
    """Return a new secret, shared among the members with these names (sorted; member k has point k)."""
    ring, stream = plan.ring, Stream.fresh()
    pair_seed, flood_key, part = (secrets.token_bytes(KEY_BYTES) for _ in range(3))
    secret = ring.transform(stream.ternary(plan.degree))
    blinds = np.stack([stream.uniform(CHECKS, p.modulus) for p in ring.primes])
    shares = share(np.hstack([secret, blinds]), ring.primes, plan.threshold, len(names), stream)
    payloads = {
        name: part + _half(pair_seed, name) + row[:, plan.degree :].astype("<u8").tobytes() + _packed(row, plan)
        for name, row in zip(names, shares, strict=True)
    }
    commitments = {name: hashlib.sha256(payload).hexdigest() for name, payload in payloads.items()}
    return Dealt(pair_seed + flood_key + _packed(secret, plan), payloads, commitments)


class EpochShare:
    """What a member holds for an epoch: its own secret, and its share of everybody's, dealer by dealer.

    Args:
        plan: the epoch's parameters.
        names: the roster, sorted.
        name: this member.
        own: from its :class:`Dealt`.
        payloads: what each dealer sent to this member, by dealer.
        commitments: of each dealer to each payload, by dealer and recipient.

    Raises:
        Refused: ``deal.signature``: a deal that is missing, malformed or not what its dealer committed to.
    """

    def __init__(
        self,
        plan: ThresholdPlan,
        names: Sequence[str],
        name: str,
        own: bytes,
        payloads: Mapping[str, bytes],
        commitments: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.plan, self.names, self.name = plan, tuple(names), name
        for dealer in names:
            known = commitments.get(dealer, {})
            found = hashlib.sha256(payloads.get(dealer, b"")).hexdigest()
            if set(known) != set(names) or not hmac.compare_digest(known[name].encode(), found.encode()):
                raise Refused("deal.signature", f"the deal of {dealer!r} is missing, or not what it committed to")
        pair_seed, self.flood_key, secret = own[:KEY_BYTES], own[KEY_BYTES : 2 * KEY_BYTES], own[2 * KEY_BYTES :]
        self.key = _unpacked(secret, plan, name)
        read = {dealer: _Payload(payloads[dealer], plan, dealer) for dealer in names}
        self.shares = {dealer: payload.share for dealer, payload in read.items()}
        self._blinds = {dealer: payload.blinds for dealer, payload in read.items()}
        self.pairs = {}
        for peer in names:
            if peer != name:
                halves = {name: _half(pair_seed, peer), peer: read[peer].half}
                first, second = sorted((name, peer))
                self.pairs[peer] = pair_key(halves[first], halves[second], (first, second))
        parts = b"".join(read[dealer].part for dealer in names)
        self.secret = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"moonflower.epoch.v1").derive(parts)
        self._transcript = digest({"plan": plan.as_dict(), "commitments": {n: dict(commitments[n]) for n in names}})

    def __repr__(self) -> str:
        return f"EpochShare({self.name!r} of {len(self.names)})"

    def answer(self) -> dict[str, Any]:
        """Return what this member publishes, signed, about the deals: a MAC of all of them, and its check values."""
        checks = {dealer: self._check_values(dealer) for dealer in self.names}
        return {"answer": self._confirmation, "checks": checks}

    def confirm(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """Check that all members saw the same deals, and that each dealer's shares lie on one polynomial.

        Raises:
            Refused: ``deal.disagree``, with the dealer's name, and the member's whose value alone does not fit.
        """
        points, checks = {name: j for j, name in enumerate(self.names, 1)}, {}
        for name in self.names:
            answer = answers.get(name, {})
            if not hmac.compare_digest(str(answer.get("answer", "")).encode(), self._confirmation.encode()):
                raise Refused("deal.disagree", f"{name!r} holds other deals")
            checks[name] = self._parsed(answer.get("checks"), name)
        for dealer in self.names:
            for row, p in enumerate(self.plan.ring.primes):
                for k in range(CHECKS):
                    values = {points[name]: checks[name][dealer][row][k] for name in self.names}
                    if not on_one_polynomial(values, self.plan.threshold, p.modulus):
                        odd = odd_one_out(values, self.plan.threshold, p.modulus)
                        alone = f"; only the value of {self.names[odd - 1]!r} does not fit" if odd else ""
                        raise Refused("deal.disagree", f"the shares dealt by {dealer!r} contradict each other{alone}")

    def factor(self, about: Opening) -> Ints:
        """Return lambda times the sum of A's shares, evaluations ``int64[3, N]``, for an opening by these openers.

        Raises:
            Refused: ``open.set``: this member is no opener, or a member of A holds no seat.
        """
        for some in (about.openers, about.members):
            if not some or list(some) != sorted(set(some)) or not set(some) <= set(self.names):
                raise Refused("open.set", "openers and set A must be sorted, without repeats, of the epoch's roster")
        if self.name not in about.openers or len(about.openers) != self.plan.threshold:
            raise Refused("open.set", f"expected {self.plan.threshold} openers, this member among them")
        points = [self.names.index(opener) + 1 for opener in about.openers]
        place = about.openers.index(self.name)
        total = sum((self.shares[member] for member in about.members), np.zeros_like(self.key))
        pairs = zip(self.plan.ring.primes, total, strict=True)
        return np.stack([p.scale(p.reduce(row), weights(points, 0, p.modulus)[place]) for p, row in pairs])

    @cached_property
    def _confirmation(self) -> str:
        return hmac.new(self.secret, b"moonflower.deals.v1\x00" + self._transcript.encode(), hashlib.sha256).hexdigest()

    def _check_values(self, dealer: str) -> list[list[int]]:
        out = []
        for row, p in enumerate(self.plan.ring.primes):
            label = canonical({"kind": "moonflower.challenge.v1", "deals": self._transcript, "prime": p.modulus})
            key = hashlib.sha256(label + dealer.encode()).digest()
            vectors = uniform_rows(key, p, range(CHECKS))
            inner = [p.dot(vector, self.shares[dealer][row]) for vector in vectors]
            blinds = self._blinds[dealer][row].tolist()
            out.append([(a + b) % p.modulus for a, b in zip(inner, blinds, strict=True)])
        return out

    def _parsed(self, value: Any, name: str) -> dict[str, list[list[int]]]:
        shape = [CHECKS] * len(self.plan.ring.primes)
        good = isinstance(value, Mapping) and set(value) == set(self.names)
        good = good and all(_shaped(rows, shape) for rows in value.values())
        numbers = [v for rows in value.values() for row in rows for v in row] if good else [-1]
        if any(type(v) is not int or not 0 <= v < 1 << MAX_PRIME_BITS for v in numbers):
            raise Refused("deal.disagree", f"the check values of {name!r} have the wrong form")
        return dict(value)


class _Payload:
    """A deal's content."""

    def __init__(self, data: bytes, plan: ThresholdPlan, dealer: str) -> None:
        count = len(plan.ring.primes) * CHECKS
        start = 2 * KEY_BYTES + 8 * count
        if len(data) < start:
            raise Refused("deal.signature", f"the deal of {dealer!r} is too short")
        self.part, self.half = data[:KEY_BYTES], data[KEY_BYTES : 2 * KEY_BYTES]
        self.blinds = np.frombuffer(data, "<i8", count, 2 * KEY_BYTES).reshape(-1, CHECKS)
        self.share = _unpacked(data[start:], plan, dealer)


def _packed(rows: Ints, plan: ThresholdPlan) -> bytes:
    """Return the first N residues for each prime, bit-packed."""
    words = np.ascontiguousarray(rows[:, : plan.degree]).view(np.uint64)
    pairs = zip(words, plan.ring.primes, strict=True)
    return b"".join(bits.pack(row[None], p.modulus.bit_length()).tobytes() for row, p in pairs)


def _unpacked(data: bytes, plan: ThresholdPlan, dealer: str) -> Ints:
    sizes = [plan.degree * p.modulus.bit_length() // 8 for p in plan.ring.primes]
    if len(data) != sum(sizes):
        raise Refused("deal.signature", f"a share of {len(data)} bytes from {dealer!r}, expected {sum(sizes)}")
    rows, start = [], 0
    for p, size in zip(plan.ring.primes, sizes, strict=True):
        packed = np.frombuffer(data, np.uint8, size, start)[None]
        rows.append(bits.unpack(packed, plan.degree, p.modulus.bit_length())[0].view(np.int64))
        if not (rows[-1] < p.modulus).all():
            raise Refused("deal.signature", f"a share from {dealer!r} is not below its modulus")
        start += size
    return np.stack(rows)


def _half(seed: bytes, name: str) -> bytes:
    return hmac.new(seed, b"moonflower.half.v1\x00" + name.encode(), hashlib.sha256).digest()


def _shaped(rows: Any, shape: list[int]) -> bool:
    return isinstance(rows, list) and all(isinstance(row, list) for row in rows) and [len(row) for row in rows] == shape
