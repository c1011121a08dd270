"""A node's circles: it sees them, signs them, lives in one of them and leaves it. The rules are in ``standing.py``.

The worker that seals, the loop that talks to the server and the operator's commands each have a :class:`Circles`, over
the same ledger. What any of them signs is on disk before the signature is made.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..configs.floor import MB, missing, not_listed, nothing_of, trains_itself
from ..configs.recipe import Recipe
from ..configs.roles import CircleSettings, ClientConfig
from ..configs.settings import FloorSettings
from ..crypto.identity import Identity
from ..errors import InputError, MoonflowerError, Refused
from ..protocol.circle import Circle, Farewell, Signature, SignedCircle, say_farewell, sign
from ..version import NUMERICS
from .code import code_of
from .keyring import Keyring, identity_of
from .ledger.circle_book import CircleBook
from .standing import CircleStanding, KnownStart, LetGo

logger = logging.getLogger(__name__)
DAY_S = 86_400.0
BY_DIGEST = "sha256:"


@dataclass(frozen=True)
class Own:
    """What a node brings to circles.

    Attributes:
        identity: its keys.
        practice: whether its secret comes from a seed.
        floor: its own limits.
        circle: the circles that it signs by itself, and the limits that have no default.
    """

    identity: Identity
    practice: bool
    floor: FloorSettings
    circle: CircleSettings


def check_recipe(recipe: Recipe, members: int, own: Own) -> None:
    """Check that a recipe is within a node's own limits (rule 9), and that the installed software can carry it out.

    Args:
        recipe: of a circle.
        members: number of the circle's members.
        own: the node.

    Raises:
        Refused: ``circle.differs``, ``task.refused``, ``config.min_members``, ``config.runs_a_day``,
            ``config.max_envelope_mb``, ``config.train_timeout_s``, ``config.min_approvals``; each names the node's
            limit, or the line to add if the node has no such limit.
    """
    if recipe.federation.practice != own.practice:
        origin = "comes from a seed, and the circle is not a practice" if own.practice else "is its own"
        tail = "" if own.practice else ", and the circle is a practice"
        raise Refused("circle.differs", f"this node's secret {origin}{tail}")
    if recipe.numerics != NUMERICS:
        raise Refused(
            "circle.differs",
            f"numerics = {recipe.numerics}; expected {NUMERICS}, that of the moonflower installed here",
        )
    floor = own.floor
    if recipe.task.ref not in floor.tasks:
        raise Refused("task.refused", not_listed(recipe.task.ref, floor.tasks))
    if recipe.training.loop == "own" and recipe.task.ref not in floor.own_training:
        raise Refused("task.refused", trains_itself(recipe.task.ref, floor.own_training))
    try:
        code = code_of(recipe.task.ref)
    except InputError as error:
        raise Refused("task.refused", str(error)) from None
    if code != recipe.code:
        raise Refused("circle.differs", f"code: the task {recipe.task.ref!r} installed here differs")
    for key in missing(own.circle):
        raise Refused(f"config.{key}", nothing_of(key))
    least = own.circle.min_members
    assert least is not None  # it is not missing
    limits = (
        ("min_members", least, recipe.federation.min_members >= least and members >= least),
        ("train_timeout_s", floor.max_train_s, recipe.training.train_timeout_s <= floor.max_train_s),
        ("min_approvals", floor.min_approvals, recipe.gate.approvals >= floor.min_approvals),
    )
    for name, limit, kept in limits:
        if not kept:
            raise Refused(f"config.{name}", f"the recipe's {name} is outside this node's limit, {limit:g}")


def check_day(own: Own, agreed_s: Sequence[float]) -> None:
    """Check that one more run may begin here (rule 9).

    Args:
        own: the node.
        agreed_s: when the runs of the last 24 hours were agreed to, the earliest first. Times in the future count, so
            that setting the clock back allows no more runs.

    Raises:
        Refused: ``config.runs_a_day``.
    """
    most = own.circle.runs_a_day
    if most is None:
        raise Refused("config.runs_a_day", nothing_of("runs_a_day"))
    if len(agreed_s) >= most:
        next_s = datetime.fromtimestamp(agreed_s[len(agreed_s) - most] + DAY_S, UTC)
        raise Refused(
            "config.runs_a_day",
            f"{len(agreed_s)} runs began here within 24 hours, and this node allows {most}; the next one may begin at "
            f"{next_s:%Y-%m-%d %H:%M} UTC, or set a larger runs_a_day under [circle]",
        )


def check_envelope(own: Own, size: int) -> None:
    """Check that a run's envelopes do not exceed the largest that this node seals (rule 9).

    Args:
        own: the node.
        size: upper bound on the largest envelope, in bytes.

    Raises:
        Refused: ``config.max_envelope_mb``.
    """
    most = own.circle.max_envelope_mb
    if most is None:
        raise Refused("config.max_envelope_mb", nothing_of("max_envelope_mb"))
    if size > most * MB:
        raise Refused(
            "config.max_envelope_mb",
            f"an envelope of this run takes up to {size / MB:.3g} MB, and this node seals at most {most:g} MB; to "
            f"allow it, set under [circle]: max_envelope_mb = {_enough(size)}",
        )


def _enough(size: int) -> float | int:
    """Return a limit in MB that admits an envelope of ``size`` bytes; from 1 MB it is a whole number."""
    return -(-size // MB) if size >= MB else math.ceil(size / MB * 1000) / 1000


class Circles:
    """A node's circles.

    Args:
        own: what it brings.
        book: the circles in its ledger.
        clock: seconds since 1970.
    """

    def __init__(self, own: Own, book: CircleBook, clock: Callable[[], float] = time.time) -> None:
        self.own, self._book, self._clock = own, book, clock

    @property
    def name(self) -> str:
        """This member's name."""
        return self.own.identity.name

    @property
    def standing(self) -> CircleStanding:
        """This node's present standing."""
        return self._book.standing()

    def living(self) -> Circle:
        """Return the circle in which this node seals and answers.

        Raises:
            Refused: ``ledger.lost``; ``circle.differs``: it lives in no circle.
        """
        standing = self.standing
        if standing.lost is not None:
            raise Refused(
                "ledger.lost", "this node's ledger is lost; expected a circle with a higher number that says so"
            )
        if standing.living is None:
            left = standing.newest is not None
            raise Refused("circle.differs", "this node left its circle" if left else "this node lives in no circle yet")
        return standing.living

    def look(self, shown: Iterable[SignedCircle]) -> None:
        """Record the circles that the coordinator shows; the waiting time of members that they let go begins now.

        If a circle has a signature by this node's key that the ledger does not know, another ledger signed it, and that
        one is lost. A signature under a lower number than the present circle's does not matter: this ledger began with
        the present circle, or the act can no longer begin here.
        """
        standing = self.standing
        last = standing.newest.circle.number if standing.newest else 0
        for signed in shown:
            circle = signed.circle
            if circle.pins.get(self.name) != self.own.identity.card.node.pin:
                continue
            known = standing.of(circle.digest)
            if self.name in signed.signatures and circle.number > last and (known is None or not known.turn):
                self._lose(circle.number)
            if known is None:
                self._book.see(circle, self._clock())
                logger.info("circle %d of %d members is proposed", circle.number, len(circle.names))

    def enter(self, shown: SignedCircle) -> Circle:
        """Return the circle of a run that begins, after this node has entered it.

        Raises:
            Refused: ``circle.differs``: not all members signed it, this node did not, or it lives in another circle;
                ``ledger.lost``.
        """
        self._check_me(shown.circle)
        self.look([shown])
        if shown.missing:
            raise Refused("circle.differs", f"circle {shown.circle.number} is not signed by {', '.join(shown.missing)}")
        newest = self.standing.newest
        if newest is None or newest.circle.digest != shown.circle.digest:
            self._begin(shown.circle)
        return self.living()

    def check(self, circle: Circle) -> None:
        """Check that this node may sign a circle, apart from the members that it lets go; nothing is written.

        Raises:
            Refused: ``circle.differs``, ``base.unknown``, ``ledger.lost``, ``task.refused``, ``config.*``.
        """
        self._check_me(circle)
        check_recipe(circle.recipe, len(circle.names), self.own)
        self.standing.check_signable(circle, self.name, self.start(circle))

    def start(self, circle: Circle) -> KnownStart:
        """Return what this node knows of the version from which a circle starts."""
        return self._book.start(circle)

    def saw_promoted(self, sha256: str) -> bool:
        """Return whether this node saw all members promote a version in the circle in which it lives."""
        living = self.standing.living
        return living is not None and self._book.promoted_in(sha256) == living.digest

    def pending(self, circle: Circle, farewells: Iterable[Farewell]) -> tuple[LetGo, ...]:
        """Return the members that a circle lets go before their time is over and without a farewell."""
        return self.standing.let_go(circle, farewells, self._clock())

    def sign(self, circle: Circle, farewells: Iterable[Farewell], *, by_hand: bool) -> Signature | None:
        """Return this node's signature under a circle; None while it must wait for a member that the circle lets go.

        With ``by_hand``, the operator's consent is recorded, and the node signs by itself when the time is over.

        Args:
            circle: that was shown.
            farewells: of the members that it lets go.
            by_hand: the operator decided to sign this circle.

        Raises:
            Refused: as :meth:`check`.
        """
        self.check(circle)
        farewells, now = list(farewells), self._clock()
        self._book.see(circle, now)
        if self.standing.let_go(circle, farewells, now):
            if by_hand:
                self._book.consent(circle)
            return None

        def may(standing: CircleStanding, start: KnownStart) -> None:
            standing.check_signable(circle, self.name, start)
            if standing.let_go(circle, farewells, now):  # the worker may have begun another circle meanwhile
                raise Refused(
                    "circle.differs", "this node has entered another circle meanwhile; look at this one again"
                )

        known = self.standing.of(circle.digest)
        if known is None or not known.turn:
            self._book.sign(circle, now, by_hand, may)
        elif not known.begun and all(other.circle.digest != circle.digest for other in self.standing.unfinished(now)):
            raise Refused(
                "circle.differs",
                f"the signature under circle {circle.number} was withdrawn; this node signs each number only once",
            )
        elif by_hand:
            self._book.confirm(circle)
        return sign(self.own.identity, circle)

    def sign_by_rule(
        self, shown: Iterable[SignedCircle], farewells: Iterable[Farewell]
    ) -> list[tuple[Circle, Signature]]:
        """Return signatures under the circles that this node signs by itself, the lowest number first.

        These are the circle that ``[circle] sign`` names, those that ``same-names`` admits, and those to which the
        operator agreed before the time of the members that they let go was over.
        """
        farewells, signatures = list(farewells), []
        for signed in sorted(shown, key=lambda signed: signed.circle.number):
            if self.name in signed.signatures or self.name not in signed.missing:
                continue
            try:
                by_hand = self._by_hand(signed.circle)
                if by_hand is None:
                    continue
                signature = self.sign(signed.circle, farewells, by_hand=by_hand)
            except MoonflowerError as error:
                logger.warning("circle %d is not signed: %s", signed.circle.number, error, extra={"code": error.code})
                continue
            if signature is not None:
                signatures.append((signed.circle, signature))
        return signatures

    def farewell(self, circle: Circle) -> Farewell:
        """Return this node's farewell to a circle; from now on this node seals and answers nothing in it.

        Raises:
            Refused: ``circle.differs``: this node is not in the circle.
        """
        self._check_me(circle)
        self._book.see(circle, self._clock())  # a node without its ledger can say farewell too
        self._book.leave(circle)
        return say_farewell(self.own.identity, circle.digest)

    def _by_hand(self, circle: Circle) -> bool | None:
        """Return True if the operator chose to sign a circle, False if a rule signs it, None if it is not signed."""
        rule, standing = self.own.circle.sign, self.standing
        known = standing.of(circle.digest)
        if rule == f"{BY_DIGEST}{circle.digest}" or (known is not None and known.consented):
            return True
        fits = rule == "same-names" and standing.fits_rule(circle, self._clock(), self.start(circle))
        return False if fits else None

    def _check_me(self, circle: Circle) -> None:
        pin = circle.pins.get(self.name)
        if pin != self.own.identity.card.node.pin:
            what = "is not in it" if pin is None else "is in it with another key"
            raise Refused("circle.differs", f"circle {circle.number}: {self.name!r} {what}")

    def _begin(self, circle: Circle) -> None:
        now = self._clock()
        self._book.begin(circle, lambda standing, start: standing.check_begins(circle, self.name, now, start))
        logger.info("lives in circle %d of %d members", circle.number, len(circle.names))

    def _lose(self, number: int) -> None:
        self._book.lose(number)
        logger.error("this node's ledger is not the one that signed circle %d; this node seals nothing", number)


def circles_of(config: ClientConfig, keys: Keyring, book: CircleBook) -> Circles:
    """Return the circles of the node that a config describes.

    Raises:
        InputError: ``config.value``: an approver's key is not valid.
    """
    return Circles(Own(identity_of(config), keys.secret.practice, config.client, config.circle), book)
