"""A node's standing to circles, and what it may do: rule 1 of ``docs/protocol.md`` as a state machine without IO.

1. A node lives in the circle with the highest number that it signed and of which it was shown all signatures. It never
   goes back.
2. It signs a number once. A signature under a higher number withdraws those under lower numbers that have not begun. A
   signature also ends after 30 days. A node may sign a lower number while a higher one has not begun.
3. It lets a member go at the member's own signed farewell to the circle that it lives in, or ``let_go_days`` of that
   circle after it first saw the act. The same name under another pin is another member.
4. A circle starts at a version over which no sum was opened, if there is one: at a newly drawn version 0, or at a
   version that this node saw promoted. Rows are counted anew exactly where other members' rows, or other rules for
   rows, would make the old counts wrong; otherwise its act says so.
5. A node that lost its ledger signs only a circle with a higher number that says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import Refused
from ..protocol.act import Act
from ..protocol.circle import SIGNATURE_DAYS, Circle, Farewell

DAY_S = 86400.0
JUMP = 100
"""No rule signs a number that exceeds the last one by more than this; the operator is asked."""


@dataclass(frozen=True)
class KnownCircle:
    """A circle that this node was shown.

    Attributes:
        circle: the circle itself.
        seen_s: when this node first saw it, seconds since 1970.
        signed_s: when this node signed it; None if it did not.
        turn: number of this signature among the node's signatures, from 1; 0 if it did not sign.
        by_hand: the operator decided to sign this circle.
        consented: the operator agrees to the members that it lets go, before their time is over.
        spent: when this node signed it, a sum had been opened over the version from which it starts.
        begun: this node was shown the signatures of all members.
        left: this node said farewell to it.
    """

    circle: Circle
    seen_s: float
    signed_s: float | None = None
    turn: int = 0
    by_hand: bool = False
    consented: bool = False
    spent: bool = False
    begun: bool = False
    left: bool = False


@dataclass(frozen=True)
class LetGo:
    """A member that a circle lets go without its farewell.

    Attributes:
        name: its name.
        due_s: when it may be let go without a farewell, seconds since 1970.
    """

    name: str
    due_s: float


@dataclass(frozen=True)
class KnownStart:
    """What a node knows of the version from which a circle starts.

    Attributes:
        promoted: it saw all members promote a version with these numbers, in a circle in which it lived.
        same: the promoted version was this same file.
        summed: it answered a sum of updates over the version; at version 0: a circle began here with the same
            checkpoint file, so that it may have.
        better: in its present circle it saw promoted versions over which it answered no sum.
    """

    promoted: bool = False
    same: bool = False
    summed: bool = False
    better: bool = False

    @property
    def unspent(self) -> bool:
        """Whether this node saw the version promoted, and answered no sum over it."""
        return self.same and not self.summed


@dataclass(frozen=True)
class CircleStanding:
    """A node's standing to circles.

    Attributes:
        known: every circle that it was shown.
        lost: number of the newest circle in the ledger that it lost; None if it has its ledger.
    """

    known: tuple[KnownCircle, ...] = ()
    lost: int | None = None

    @property
    def newest(self) -> KnownCircle | None:
        """The circle with the highest number that has begun here, or None; the node may have left it since."""
        return max((known for known in self.known if known.begun), key=lambda known: known.circle.number, default=None)

    @property
    def living(self) -> Circle | None:
        """The circle in which this node seals and answers, or None."""
        newest = self.newest
        return None if newest is None or newest.left or self.lost is not None else newest.circle

    def of(self, digest: str) -> KnownCircle | None:
        """Return what this node knows of a circle, or None."""
        return next((known for known in self.known if known.circle.digest == digest), None)

    def began_with(self, checkpoint: str) -> bool:
        """Return whether a circle began here whose version 0 has the tensors of this checkpoint file; "" is no file."""
        begun = (known.circle for known in self.known if known.begun)
        return bool(checkpoint) and any(one.recipe.checkpoint == checkpoint and one.start is None for one in begun)

    def unfinished(self, now: float) -> tuple[KnownCircle, ...]:
        """Return the circles that this node signed and that have not begun, if its signature is still valid."""
        last = self.newest.circle.number if self.newest else 0
        return tuple(
            known
            for known in self.known
            if known.signed_s is not None
            and not (known.begun or known.left)
            and known.circle.number > last
            and not self._withdrawn(known)
            and now - known.signed_s <= SIGNATURE_DAYS * DAY_S
        )

    def _withdrawn(self, known: KnownCircle) -> bool:
        return any(other.circle.number > known.circle.number and other.turn > known.turn for other in self.known)

    def check_signable(self, circle: Circle, name: str, start: KnownStart) -> None:
        """Check that this node, called ``name``, may sign a circle; :meth:`let_go` checks the members that leave.

        Args:
            circle: the proposed circle.
            name: this node's.
            start: what this node knows of the circle's start.

        Raises:
            Refused: ``circle.differs``; ``base.unknown``; ``ledger.lost``.
        """
        number, newest = circle.number, self.newest
        if self.lost is not None:
            self._check_found(circle, name)
        if self.lost is None and newest is not None and name in circle.new_ledgers:
            raise Refused("circle.differs", "the circle says that this node lost its ledger, but the ledger is here")
        if any(known.left and known.circle.digest == circle.digest for known in self.known):
            raise Refused(
                "circle.differs", f"this node said farewell to circle {number}; expected a circle with a higher number"
            )
        for known in self.known:
            if known.turn and known.circle.number == number and known.circle.digest != circle.digest:
                raise Refused(
                    "circle.differs", f"this node signed another circle {number}; it signs each number only once"
                )
        if newest is not None and number <= newest.circle.number:
            raise Refused("circle.differs", _no_return(newest.circle.number))
        if newest is not None and circle.federation != newest.circle.federation and not newest.left:
            raise Refused(
                "circle.differs",
                f"this node's rows are in federation {newest.circle.federation!r}; expected a farewell to it first",
            )
        self._check_base(circle, newest)
        self._check_start(circle, newest, start)

    def _check_found(self, circle: Circle, name: str) -> None:
        """Check that a circle says that this node begins a new ledger, with a number above those of the lost ledger."""
        assert self.lost is not None
        if not (circle.number > self.lost and name in circle.new_ledgers):
            raise Refused(
                "ledger.lost",
                f"this node's ledger is lost; expected a circle with a number above {self.lost} that names {name!r} "
                "among the members that begin a new ledger",
                hint=f"moonflower circle propose CONFIG --new-ledger '{name}'",
            )

    def _check_base(self, circle: Circle, newest: KnownCircle | None) -> None:
        """Check that the circle's version 0 is new, and that its row counts are right."""
        used = next(
            (known.circle.number for known in self.known if known.begun and known.circle.draw == circle.draw), None
        )
        if used is not None:
            raise Refused(
                "circle.differs", f"version 0 is the same as in circle {used}; expected another training.init_seed"
            )
        if newest is None:
            return
        act = Act.between(newest.circle, circle)
        anew = circle.counted == circle.number
        if act.must_recount and not anew:
            raise Refused("circle.differs", "members or [data] differ; expected a circle that counts rows anew")
        if not (anew or circle.counted == newest.circle.counted):
            raise Refused(
                "circle.differs",
                f"row counts are from circle {circle.counted}; expected those from circle {newest.circle.counted}",
            )

    def _check_start(self, circle: Circle, newest: KnownCircle | None, known: KnownStart) -> None:
        """Check that this node agrees to the version from which a circle starts.

        A node that was in no circle before, or lost its ledger, cannot check the version; its act says so.
        """
        start = circle.start
        if start is None or newest is None or self.lost is not None:
            return
        version = f"version {start.sha256[:16]}"
        if start.imported and known.promoted:
            raise Refused("base.unknown", f"{version} is called an import, but it is from this federation")
        if not (start.imported or known.same):
            raise Refused("base.unknown", f"this node's ledger does not have {version} as promoted")
        if known.summed and known.better:
            what = f"a sum was opened over {version}; expected a promoted version without an opened sum"
            hint = "for example the last version of a run whose last round was promoted"
            raise Refused("base.unknown", what, hint=hint)

    def let_go(self, circle: Circle, farewells: Iterable[Farewell], now: float) -> tuple[LetGo, ...]:
        """Return the members that a circle lets go before their time is over and without a farewell.

        A lost ledger makes no difference: no member of the circle that the node knows is let go sooner.
        """
        newest, known = self.newest, self.of(circle.digest)
        if newest is None or newest.left:
            return ()
        old, farewells = newest.circle, list(farewells)
        seen = known.seen_s if known is not None else now
        due = seen + old.recipe.federation.let_go_days * DAY_S
        gone = [(name, pin) for name, pin in old.members if (name, pin) not in circle.members]
        return tuple(
            LetGo(name, due)
            for name, pin in gone
            if now < due and not any(farewell.is_from(name, pin, old.digest) for farewell in farewells)
        )

    def fits_rule(self, circle: Circle, now: float, start: KnownStart) -> bool:
        """Return whether the rule ``same-names`` signs a circle; ``start``: what is known of the circle's start."""
        living = self.living
        if living is None or circle.number > living.number + JUMP:
            return False
        by_hand = any(known.by_hand for known in self.unfinished(now))
        if circle.start is not None and not start.unspent:
            return False
        return Act.between(living, circle).by_rule and not by_hand

    def check_begins(self, circle: Circle, name: str, now: float, start: KnownStart) -> None:
        """Check that a circle with all its signatures begins for this node, called ``name``.

        Args:
            circle: signed by all its members.
            name: this node's.
            now: seconds since 1970.
            start: what this node knows of the circle's start; a sum may have been opened over it since it signed.

        Raises:
            Refused: ``circle.differs``: this node did not sign it, or its signature is not valid any more;
                ``base.unknown``; ``ledger.lost``.
        """
        if self.lost is not None:
            self._check_found(circle, name)  # it may have signed this one before it was shown what it had lost
        signed = next((entry for entry in self.unfinished(now) if entry.circle.digest == circle.digest), None)
        if signed is not None:
            if start.summed and not signed.spent:
                what = f"a sum was opened over the start of circle {circle.number} since this node signed it"
                raise Refused("base.unknown", f"{what}; expected another circle")
            return
        known, newest, number = self.of(circle.digest), self.newest, circle.number
        if known is None or not known.turn:
            raise Refused("circle.differs", f"this node has not signed circle {number}")
        if newest is not None and number <= newest.circle.number:
            raise Refused("circle.differs", _no_return(newest.circle.number))
        why = "it has since signed a higher circle, has left this one, or signed more than 30 days ago"
        raise Refused("circle.differs", f"this node's signature under circle {number} is withdrawn: {why}")


def _no_return(number: int) -> str:
    return f"this node has already lived in circle {number}; it never goes back"
