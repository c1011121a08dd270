"""Scheme ``threshold``: its parameters, how much its flooding hides, and the counters that say when it is used up.

A member's seal is ``round((-a s + e) / P) + D m mod w`` for a public a mod q = w P, its own ternary secret s, fresh
noise |e| <= 21 and plaintext m below T, a power of two; P = p1 p2, D = floor(w / T). Only the residue mod the wire
prime w travels. A partial opening is rounded in the same way; its flood E is uniform in [-2**B, 2**B) with
2**B <= P. What a sum of n seals and t partials leaves beside D M is at most

    (21 n + t 2**B) / P + (n + t) / 2  <  D / 2

in absolute value: the last sign is checked for every plan, so that every honest sum opens exactly, whatever the dice.
(Times P, that is t 2**B + B_ct + the rounding, below q / 2T.)

What the flood hides: the sum of the seals' noise, B_ct = 21 n at most, a coefficient. One flooded answer differs from
one that does not depend on that noise by at most B_ct / 2**(B + 1) a coefficient (statistical distance), and these add
up over coefficients, answers and members. A member stops answering when its share of 2**-40 in an epoch is spent.

Security of the secrets: N = 8192, ternary, 128 bits classical up to log2(q) = 214 ("Security Guidelines for
Implementing Homomorphic Encryption", IACR eprint 2024/463); q has at most 141 bits here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from ..canonical import canonical
from ..errors import InputError, Refused
from .planner import FRESH_NOISE, MAC_BITS, Plan, _is_prime, _largest_prime
from .ring import MAX_PRIME_BITS, Ring, ring

DEGREE, MAX_LOG_Q_8192 = 8192, 214
FLOOD_PRIMES = (140737488273409, 140737488125953)  # the two largest of 47 bits that are 1 mod 2N
DISTANCE_BITS = 40  # statistical distance of all answers of an epoch: at most 2**-40
MAX_ATTEMPTS = 16  # sets of openers that one member answers for one sum
MAX_MEMBERS = 64
COMBINERS = ("members", "coordinator")


@dataclass(frozen=True)
class ThresholdPlan(Plan):
    """Parameters of an epoch of scheme ``threshold``; a Plan whose ``modulus`` is the wire prime w.

    Attributes:
        members: n, who hold shares.
        threshold: t: so many open, and fewer do not.
        faulty: f, members that may help a dishonest coordinator to two sets for one sum; t > (n + f) / 2.
        flood_primes: p1, p2.
        flood_bits: B.
        combiner: who puts partial openings together and so reads the sum: ``members``, those of set A, or the
            ``coordinator``, which hands it on to them.

    Raises:
        InputError: ``config.value``: t, n and f do not fit each other; ``config.crypto``: a sum could open wrongly.
    """

    members: int
    threshold: int
    faulty: int
    flood_primes: tuple[int, int]
    flood_bits: int
    combiner: str = "members"

    def __post_init__(self) -> None:
        n, t, f = self.members, self.threshold, self.faulty
        if not (0 <= f < n and n + f < 2 * t <= 2 * n):
            raise InputError(
                "config.value",
                f"a threshold of {t} with {n} members, {f} of them faulty: expected above {(n + f) / 2:g}, at most {n}",
            )
        if self.combiner not in COMBINERS:
            raise InputError("config.value", f"a combiner {self.combiner!r}: expected one of {', '.join(COMBINERS)}")
        object.__setattr__(self, "flood_primes", tuple(self.flood_primes))  # a list, where it came from JSON
        one, two = self.flood_primes
        sized = self.scheme == "threshold" and self.degree == DEGREE and self.max_members >= n
        primes = {self.modulus, one, two}
        split = all(_is_prime(p) and p % (2 * DEGREE) == 1 and p.bit_length() <= MAX_PRIME_BITS for p in primes)
        fits = split and len(primes) == 3
        fits = fits and self.log_q <= MAX_LOG_Q_8192 and self.flood_bits >= 46 and 1 << self.flood_bits <= one * two
        if not (sized and fits and self.noise_margin > 1):
            raise InputError("config.crypto", "these threshold parameters do not hold their largest sum exactly")

    @cached_property
    def ring(self) -> Ring:
        """The arithmetic."""
        return ring(self.modulus, self.flood_primes, self.degree)

    @property
    def scaling(self) -> int:
        """D: what a plaintext is multiplied with."""
        return self.modulus // self.plain_modulus

    @property
    def dropped(self) -> int:
        """P = p1 p2."""
        return self.flood_primes[0] * self.flood_primes[1]

    @property
    def log_q(self) -> int:
        """Bits of q = w P."""
        return (self.modulus * self.dropped).bit_length()

    @property
    def seal_noise(self) -> int:
        """B_ct: largest sum of the seals' noise in a coefficient; what the flood has to hide."""
        return FRESH_NOISE * self.max_members

    @property
    def noise_limit(self) -> int:
        """Largest distance of an honest total from a multiple of D."""
        whole = 2 * (self.seal_noise + (self.threshold << self.flood_bits))
        return (whole + (self.max_members + self.threshold) * self.dropped) // (2 * self.dropped)

    @property
    def noise_margin(self) -> float:
        """D over twice the largest noise; above 1, or sums could open wrongly."""
        return self.scaling / (2 * self.noise_limit + 1)

    @property
    def seed_bytes(self) -> int:
        """Bytes of a ciphertext's seed: there are none, the second polynomial is public."""
        return 0

    @property
    def check_points(self) -> int:
        """Coefficients at the end of a vector that hold its check: a wrong sum fits it with at most 2**-96."""
        return -(-MAC_BITS // (self.mac_word_bits - (2 * self.noise_limit + 1).bit_length()))

    def chunks(self, lanes: int) -> int:
        """Ciphertexts that hold this many lanes, and the check in coefficients of its own."""
        full, rest = divmod(lanes, self.lanes * self.degree)
        return full + (1 if rest <= self.degree - self.check_points else 2)

    def body_bytes(self, lanes: int) -> int:
        """Bytes of an envelope's body, of a total and of a partial opening: residues mod w, bit-packed."""
        return self.chunks(lanes) * self.chunk_bytes

    @property
    def capacity(self) -> int:
        """Coefficients that one member may answer in an epoch: n of it make a distance of at most 2**-40."""
        return (1 << (self.flood_bits + 1 - DISTANCE_BITS)) // (self.seal_noise * self.members)

    def openings(self, lanes: int) -> int:
        """Answers for sums of this size that the flooding covers in an epoch."""
        return self.capacity // (self.chunks(lanes) * self.degree)

    def rounds(self, lanes: int) -> int:
        """Sums of this size that the flooding covers even if each takes all attempts."""
        return self.openings(lanes) // MAX_ATTEMPTS

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, for digests; ``ThresholdPlan(**as_dict())`` is the plan."""
        return {**asdict(self), "flood_primes": list(self.flood_primes)}

    def describe(self, lanes: int) -> dict[str, Any]:
        """Return what follows from the plan for vectors of this size, for display."""
        answer = self.seal_noise * self.chunks(lanes) * self.degree * self.members
        return {
            "log2_q": self.log_q,
            "bytes_per_value": self.body_bytes(lanes) / lanes,
            "guard_bits": self.lane_bits - self.value_bits,
            "seal_noise": self.seal_noise,
            "distance_bits_per_opening": self.flood_bits + 2 - answer.bit_length(),
            "openings": self.openings(lanes),
            "rounds": self.rounds(lanes),
        }


@lru_cache
def plan_threshold(
    members: int, value_bits: int, size: int, faulty: int = 0, threshold: int = 0, rounds: int = 1
) -> ThresholdPlan:
    """Return the parameters with the smallest upload for vectors of ``size`` lanes.

    Args:
        members: n, 2 to 64.
        value_bits: bits of one value, 4 to 24.
        size: lanes of the largest vector.
        faulty: f.
        threshold: t; 0 for the smallest above (n + f) / 2.
        rounds: sums of that size that an epoch has to cover.

    Raises:
        InputError: ``config.value``: members, t, f or rounds; ``config.crypto``: no set holds such a sum.
    """
    if not 2 <= members <= MAX_MEMBERS:
        raise InputError("config.value", f"scheme threshold with {members} members: expected 2 to {MAX_MEMBERS}")
    if not 0 <= faulty < members:
        raise InputError("config.value", f"{faulty} faulty of {members} members: expected 0 to {members - 1}")
    threshold = threshold or (members + faulty) // 2 + 1
    fitting = [p for n in range(1, 12) if (p := _try(members, value_bits, n, faulty, threshold))]
    if not fitting:
        raise InputError(
            "config.crypto",
            f"crypto.value_bits = {value_bits} with {members} members: no parameter set holds such a sum exactly",
        )
    best = min(fitting, key=lambda p: (p.body_bytes(size), p.modulus_bits))
    if best.rounds(size) < rounds:
        raise InputError(
            "config.value",
            f"the flooding covers {best.rounds(size)} rounds of {size} values in an epoch, expected {rounds}",
        )
    return best


def _try(members: int, value_bits: int, lanes: int, faulty: int, threshold: int) -> ThresholdPlan | None:
    lane_bits = value_bits + (members - 1).bit_length()
    flood_bits = (FLOOD_PRIMES[0] * FLOOD_PRIMES[1]).bit_length() - 1
    for bits in range(max(20, lanes * lane_bits + 2), MAX_PRIME_BITS + 1):
        wire = _largest_prime(bits, DEGREE)
        if not wire or wire in FLOOD_PRIMES:
            continue
        most = 1 << (lane_bits - value_bits)
        shape = (DEGREE, wire, lanes, value_bits, lane_bits, most, members, threshold, faulty)
        try:
            return ThresholdPlan("threshold", *shape, FLOOD_PRIMES, flood_bits)
        except InputError as error:
            if error.code == "config.value":
                raise
    return None


@dataclass(frozen=True)
class FloodCount:
    """What a member's flooding has covered in an epoch; to be on disk before the answer that it counts is sent.

    Attributes:
        capacity: coefficients, from the plan.
        spent: of them.
    """

    capacity: int
    spent: int = 0

    @classmethod
    def of(cls, plan: ThresholdPlan) -> FloodCount:
        """Return the count of a new epoch."""
        return cls(plan.capacity)

    def spend(self, plan: ThresholdPlan, lanes: int) -> FloodCount:
        """Return the count after one more answer.

        Raises:
            Refused: ``open.flood``: the epoch's flooding is used up; the members have to deal new keys.
        """
        spent = self.spent + plan.chunks(lanes) * plan.degree
        if spent > self.capacity:
            raise Refused("open.flood", f"the epoch's flooding covers {self.capacity} coefficients, expected {spent}")
        return replace(self, spent=spent)


@dataclass(frozen=True)
class Opening:
    """Which sum is opened, and by whom: what every partial opening is made, masked and signed over.

    Attributes:
        context: digest of the RoundContext.
        members: set A, sorted.
        openers: t members of the roster, sorted; they need not be in A.
        attempt: counts up from 0 with every other set of openers for this sum.
    """

    context: str
    members: tuple[str, ...]
    openers: tuple[str, ...]
    attempt: int

    def bytes(self, kind: str, **more: Any) -> bytes:
        """Return the canonical bytes for one use."""
        return canonical({"kind": f"moonflower.opening.{kind}.v1", **vars(self), **more})


@dataclass(frozen=True)
class Answered:
    """What a member answered about one RoundContext; to be on disk before the answer is sent.

    Attributes:
        context: digest of the RoundContext.
        members: set A, sorted; one for a context, for ever: two sums differ by the updates of whoever is in one.
        attempts: (number, openers) of every answer.
    """

    context: str
    members: tuple[str, ...]
    attempts: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def admit(self, name: str, roster: Sequence[str], plan: ThresholdPlan, asked: Opening) -> Answered:
        """Return the record with an answer added; the same record, if this very answer was given before.

        Raises:
            Refused: ``open.overlap``: another context or set; ``open.set``: openers that are not t members of the
                roster with this one among them, other openers under an attempt's number, or one attempt too many.
        """
        if (asked.context, asked.members) != (self.context, self.members):
            raise Refused("open.overlap", "this context was opened, or asked to be, for another set")
        proper = list(asked.openers) == sorted(set(asked.openers)) and set(asked.openers) <= set(roster)
        if not proper or name not in asked.openers or len(asked.openers) != plan.threshold:
            raise Refused("open.set", f"expected {plan.threshold} openers of the roster, this member among them")
        known = dict(self.attempts).get(asked.attempt)
        if known == asked.openers:
            return self
        if known or not 0 <= asked.attempt < MAX_ATTEMPTS:
            raise Refused("open.set", f"attempt {asked.attempt} has other openers, or is not below {MAX_ATTEMPTS}")
        return replace(self, attempts=(*self.attempts, (asked.attempt, asked.openers)))
