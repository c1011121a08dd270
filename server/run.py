"""What all steps of a run share: its offer, its members, and where its steps are recorded."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from ..configs.settings import Offer
from ..crypto.identity import Roster
from ..crypto.planner import Plan
from ..errors import Ended
from ..protocol.circle import Circle, SignedCircle
from ..protocol.context import RoundContext
from ..protocol.messages import Body, Route
from ..protocol.purposes import Purpose, Purposes
from .exchange import Answer, Exchange
from .records import circles, contexts, history
from .records.state import State
from .wait import Wait
from .witnesses import Letters, Witnesses

Q = TypeVar("Q", bound=Body)
A = TypeVar("A", bound=Body)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        id: identifier.
        offer: what the run carries (rule 9), checked.
        raw_offer: the same in the form that is sent.
        signed: its circle, with all signatures.
        exchange: sends messages to the members.
        state: the coordinator's records.
        witnesses: what members have seen of the log.
        purposes: the purposes of its sums, by name.
    """

    id: str
    offer: Offer
    raw_offer: Mapping[str, Any]
    signed: SignedCircle
    exchange: Exchange
    state: State
    witnesses: Witnesses
    purposes: Purposes

    @property
    def circle(self) -> Circle:
        """The circle: all members that take part."""
        return self.signed.circle

    def log(self, db: Connection, event: str, **details: Any) -> None:
        """Append an entry about this run inside a transaction that records more."""
        self.state.log.append(db, event, run=self.id, **details)

    def note(self, event: str, **details: Any) -> None:
        """Append an entry about this run in a transaction of its own."""
        with self.state.store.transaction() as db:
            self.log(db, event, **details)

    def break_off(self, db: Connection, code: str) -> None:
        """Record that the round in progress, if any, has failed, and forget every sum that is not over."""
        for broken in history.break_off(db, self.id, code):
            self.log(db, "failed", number=broken.number, code=code)
        contexts.all_over(db, self.id)

    def wait(self, step: str, number: int = 0, patience_s: float = 0.0) -> Wait:
        """Return a waiting for answers; ``patience_s`` is how long a connected member may take."""
        return Wait(self, step, number, patience_s)

    def check_stop(self) -> None:
        """Check that no stop was requested, and that no other circle began.

        Raises:
            Ended: ``run.stopped``, ``circle.changed``.
        """
        with self.state.store.read() as db:
            row, living = history.run_row(db, self.id), circles.living_digest(db)
        if row is not None and row.stop:
            raise Ended("run.stopped", "the run was stopped on request; the last good model stays")
        if living != self.circle.digest:
            raise Ended("circle.changed", "another circle began during the run; the last good model stays")

    def ask(
        self,
        route: Route[Q, A],
        requests: Mapping[str, Q],
        wait: Wait,
        at: str = "",
    ) -> Generator[Answer[A]]:
        """Ask members as :meth:`Exchange.ask` does, unless a stop was requested.

        Every message shows its member the log at checkpoint ``at``, by default the newest.

        Raises:
            Ended: ``run.stopped``.
        """
        self.check_stop()
        letters = Letters(self.witnesses, at or self.witnesses.newest())
        try:
            yield from self.exchange.ask(route, requests, wait, letters)
        finally:
            wait.end()
            self.witnesses.keep(self.id)


@dataclass(frozen=True)
class Seats:
    """A run's seats as the coordinator knows them: who takes part, with which parameters; no key.

    Attributes:
        roster: all members of the circle.
        plan: parameters of its sums.
        sizes: purpose → number of parameters of an update, or of whole numbers.
        template: the run's RoundContext, to be filled in for a round.
    """

    roster: Roster
    plan: Plan
    sizes: Mapping[str, int]
    template: RoundContext

    def lanes(self, purpose: Purpose) -> int:
        """Return the number of values and counter limbs of one sealed vector."""
        return purpose.lanes(self.sizes[purpose.name], self.plan)
