"""The circle: who trains together, and under which recipe. A sum opens only if it is over all its members (rule 2).

A circle begins when every member in it has signed its digest (rule 1). The digest is part of every context, so members
that are in other circles seal under other contexts, and nothing opens. ``client/circles.py`` has what a node does about
circles, and ``server/records/circles.py`` what the coordinator keeps of them. Neither has to trust the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..canonical import canonical, digest
from ..configs.recipe import Recipe, draw_of, parse_recipe
from ..configs.settings import DIGEST
from ..crypto.identity import Identity, PublicKey, b64, unb64
from ..crypto.pairs import order
from ..errors import InputError, Refused

KIND = "moonflower.circle"
LAST_NUMBER = 2**31
SIGNATURE_DAYS = 30
"""For how many days a signature under a circle that has not begun is valid."""
_PIN = re.compile(r"[A-Za-z0-9_-]{43}")
_DIGEST = re.compile(DIGEST)
_SIGNED = "circle"  # domains of signatures
_LEAVES = "farewell"


@dataclass(frozen=True)
class Start:
    """A version from which the runs of a circle start, instead of version 0. The runs use its scaling.

    Attributes:
        sha256: of its file, 64 hex digits.
        identity: see :attr:`~moonflower.protocol.model_version.Version.identity`.
        imported: it came from outside. If False, members promoted it in an earlier circle.
    """

    sha256: str
    identity: str
    imported: bool

    @classmethod
    def parse(cls, raw: Any) -> Start:
        """Return a start that came from outside.

        Raises:
            ValueError: malformed.
        """
        start = cls(str(raw["sha256"]), str(raw["identity"]), bool(raw["imported"]))
        if start.as_dict() != raw or not all(_DIGEST.fullmatch(sha256) for sha256 in (start.sha256, start.identity)):
            raise ValueError("not a start")
        return start

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(vars(self))


@dataclass(frozen=True)
class Circle:
    """All members of a federation, by name and pin, and the recipe under which they train.

    Attributes:
        number: from 1. A circle replaces those with lower numbers.
        members: (name, pin) pairs, sorted by name.
        recipe: every setting that acts on a member's own value.
        counted: number of the circle in whose first run the members' rows were counted. It is an earlier circle's
            number where the counts, and the scaling that follows from them, are carried over.
        new_ledgers: names of the members that lost their ledger and begin a new one with this circle.
        start: where its runs start; None for version 0.
    """

    number: int
    members: tuple[tuple[str, str], ...]
    recipe: Recipe
    counted: int = 1
    new_ledgers: tuple[str, ...] = ()
    start: Start | None = None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        pins: Mapping[str, str],
        *,
        number: int = 1,
        counted: int | None = None,
        new_ledgers: Iterable[str] = (),
        start: Start | None = None,
    ) -> Circle:
        """Return the circle of these members under this recipe.

        Args:
            recipe: of all members.
            pins: name → pin, of every member.
            number: the circle's.
            counted: see :class:`Circle`; None for the circle's own number.
            new_ledgers: see :class:`Circle`.
            start: see :class:`Circle`.

        Raises:
            Refused: ``circle.differs``: too few members, a name or pin twice, or a number that no circle can have.
        """
        members, fresh = tuple(sorted(pins.items())), tuple(sorted({*new_ledgers}))
        least = max(recipe.federation.min_members, 2)
        if len(members) < least:
            raise Refused("circle.differs", f"a circle of {_count(len(members))}; {_least(least)}")
        if len({order(name) for name in pins}) < len(pins) or len({*pins.values()}) < len(pins):
            raise Refused("circle.differs", "two members of the circle share a name or a pin")
        counted = number if counted is None else counted
        if not 1 <= counted <= number <= LAST_NUMBER:
            got = f"circle {number} with rows counted in circle {counted}"
            raise Refused("circle.differs", f"{got}; expected 1 <= counted <= number <= {LAST_NUMBER}")
        if not {*fresh} <= {*pins}:
            raise Refused("circle.differs", "new_ledgers names a member that is not in the circle")
        return cls(number, members, recipe, counted, fresh, start)

    @classmethod
    def parse(cls, raw: Any) -> Circle:
        """Return a circle that came from outside.

        Raises:
            Refused: ``circle.differs``: malformed.
        """
        try:
            recipe = parse_recipe(raw["recipe"], where="the circle")
            pins = {str(name): str(pin) for name, pin in raw["members"]}
            good = (0 < len(name) <= 64 and name.isprintable() and _PIN.fullmatch(pin) for name, pin in pins.items())
            if not all(good):
                raise ValueError("not a name, or not a pin")
            lost, start = map(str, raw["new_ledgers"]), None if raw["start"] is None else Start.parse(raw["start"])
            circle = cls.of(recipe, pins, number=raw["number"], counted=raw["counted"], new_ledgers=lost, start=start)
            if canonical(circle.as_dict()) != canonical(raw):
                raise ValueError("another spelling")
        except InputError as error:
            raise Refused("circle.differs", str(error)) from None
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            raise Refused(
                "circle.differs", "malformed circle: a field is missing, unknown or of the wrong form"
            ) from None
        return circle

    def as_dict(self) -> dict[str, Any]:
        """The document, JSON-able; its digest is what members sign."""
        return {
            "kind": KIND,
            "number": self.number,
            "members": [list(pair) for pair in self.members],
            "recipe": self.recipe.as_dict(),
            "counted": self.counted,
            "new_ledgers": list(self.new_ledgers),
            "start": None if self.start is None else self.start.as_dict(),
        }

    @property
    def federation(self) -> str:
        """Name of the federation."""
        return self.recipe.federation.name

    @property
    def practice(self) -> bool:
        """Whether members' secrets come from a seed. A party that knows the seed knows which rows are whose."""
        return self.recipe.federation.practice

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members, sorted."""
        return tuple(name for name, _ in self.members)

    @cached_property
    def pins(self) -> dict[str, str]:
        """Name → pin."""
        return dict(self.members)

    @property
    def first(self) -> str:
        """Name of the member that makes the circle's key, under which answers travel."""
        return self.members[0][0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hex digits."""
        return digest(self.as_dict())

    @cached_property
    def draw(self) -> str:
        """The value from which version 0 is drawn."""
        return draw_of(self.recipe, self.names)

    def offer(self, seed: int, rounds: int, start: str = "", choice: int = 0) -> dict[str, Any]:
        """Return the offer of a run in this circle: the recipe's tables with what the run chose.

        Args:
            seed, rounds: of the run.
            start: SHA-256 of the version of this circle from which the run starts; "" for the circle's own start.
            choice: 0 for the server optimiser of ``[training]``, k for that of the k-th ``[[choice]]``.

        Raises:
            Refused: ``circle.differs``: more rounds or choices than the recipe has.
        """
        allowed = self.recipe.training.rounds
        if not (0 <= seed < 2**63 and 1 <= rounds <= allowed):
            raise Refused("circle.differs", f"training.rounds = {rounds}; expected 1 to {allowed}, the recipe's limit")
        if not 0 <= choice <= len(self.recipe.choice):
            have = len(self.recipe.choice)
            raise Refused("circle.differs", f"choice {choice}; expected 0 to {have}, as many as the recipe has")
        whole = self.recipe.as_dict()
        tables = {name: whole[name] for name in ("federation", "task", "crypto", "gate")}
        picked = whole["choice"][choice - 1] if choice else {}
        training = {**whole["training"], **picked, "seed": seed, "rounds": rounds}
        own = {"schema": self.recipe.schema_digest, "circle": self.digest, "start": start or self.starts_at}
        return {**tables, "training": training, **own, "choice": choice}

    @property
    def starts_at(self) -> str:
        """SHA-256 of the version from which its runs start; "" for version 0."""
        return "" if self.start is None else self.start.sha256


@dataclass(frozen=True)
class Signature:
    """One member's signature under a digest. The key's pin says which member's.

    Attributes:
        key: public node key.
        signature: 96 bytes.
    """

    key: PublicKey
    signature: bytes

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"key": self.key.jwk, "signature": b64(self.signature)}

    @classmethod
    def parse(cls, raw: Any) -> Signature:
        """Return a signature that came from outside. It is not checked yet.

        Raises:
            Refused: ``circle.differs``: malformed.
        """
        try:
            signature = cls(PublicKey.from_jwk(raw["key"]), unb64(raw["signature"]))
            if signature.as_dict() != raw:
                raise ValueError("another spelling")
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Refused(
                "circle.differs", "malformed signature under a circle: expected a key and a signature"
            ) from None
        return signature


@dataclass(frozen=True)
class SignedCircle:
    """A circle with the signatures so far. :meth:`parse` is the only way in from outside.

    Attributes:
        circle: what the signatures cover.
        signatures: name → signature, each checked.
    """

    circle: Circle
    signatures: Mapping[str, Signature]

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the members that have not signed. If empty, the circle has begun."""
        return tuple(name for name in self.circle.names if name not in self.signatures)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        signatures = {name: signature.as_dict() for name, signature in self.signatures.items()}
        return {"circle": self.circle.as_dict(), "signatures": signatures}

    @classmethod
    def parse(cls, raw: Any) -> SignedCircle:
        """Return a circle and its signatures, after checking every signature.

        Raises:
            Refused: ``circle.differs``.
        """
        if not isinstance(raw, Mapping) or {*raw} != {"circle", "signatures"}:
            raise Refused("circle.differs", "malformed circle: expected a circle and its signatures")
        circle, listed = Circle.parse(raw["circle"]), raw["signatures"]
        if not isinstance(listed, Mapping):
            raise Refused("circle.differs", "malformed circle: expected a circle and its signatures")
        signatures = {str(name): Signature.parse(signature) for name, signature in listed.items()}
        for name, signature in signatures.items():
            check_signature(circle, name, signature)
        return cls(circle, signatures)


def sign(identity: Identity, circle: Circle) -> Signature:
    """Return a member's signature under a circle. ``client/circles.py`` says when a member may sign."""
    return Signature(identity.card.node, identity.sign(_SIGNED, circle.digest.encode()))


def check_signature(circle: Circle, name: str, signature: Signature) -> None:
    """Check that a signature under a circle is from the member of this name.

    Raises:
        Refused: ``circle.differs``.
    """
    if circle.pins.get(name) != signature.key.pin:
        raise Refused("circle.differs", f"the signature of {name!r} is by a key that the circle does not name")
    if not signature.key.verify(_SIGNED, circle.digest.encode(), signature.signature):
        raise Refused("circle.differs", f"the signature of {name!r} does not match circle {circle.number}")


@dataclass(frozen=True)
class Farewell:
    """A member's signed statement that it leaves a circle. The others may begin the next circle without it at once.

    Attributes:
        circle: digest of the circle that it leaves.
        name: the member's.
        signed: signature of its node key.
    """

    circle: str
    name: str
    signed: Signature

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"circle": self.circle, "name": self.name, **self.signed.as_dict()}

    @classmethod
    def parse(cls, raw: Any) -> Farewell:
        """Return a farewell that came from outside. It is not checked yet.

        Raises:
            Refused: ``circle.differs``: malformed.
        """
        try:
            signed = Signature.parse({"key": raw["key"], "signature": raw["signature"]})
            farewell = cls(str(raw["circle"]), str(raw["name"]), signed)
            if farewell.as_dict() != raw:
                raise ValueError("another spelling")
        except (LookupError, TypeError, ValueError):
            raise Refused(
                "circle.differs", "malformed farewell: expected a circle, a name, a key and a signature"
            ) from None
        return farewell

    def is_from(self, name: str, pin: str, circle: str) -> bool:
        """Return whether the member with this name and pin signed this farewell to this circle."""
        if (self.name, self.circle, self.signed.key.pin) != (name, circle, pin):
            return False
        return self.signed.key.verify(_LEAVES, _leaving(circle, name), self.signed.signature)


def say_farewell(identity: Identity, circle: str) -> Farewell:
    """Return a member's farewell to the circle with this digest."""
    signed = Signature(identity.card.node, identity.sign(_LEAVES, _leaving(circle, identity.name)))
    return Farewell(circle, identity.name, signed)


def _leaving(circle: str, name: str) -> bytes:
    return canonical({"circle": circle, "name": name})


def _count(members: int) -> str:
    return "one member" if members == 1 else f"{members} members"


def _least(smallest: int) -> str:
    if smallest == 2:
        return "expected two or more: the sum of one member is its own update"
    return f"expected {smallest} or more (min_members); in a circle of two, each member reads the other's update"
