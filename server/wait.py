"""Waiting for members, for as long as it takes. All members can see whom a run waits for (rule 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..protocol.messages import Waits
from .records import waiting
from .records.waiting import WaitedFor

if TYPE_CHECKING:
    from .exchange import Awaited
    from .run import Run

LOOK_S = 0.5  # between two looks at who is missing and whether a stop was requested
RETURNS = 10  # the others are told again each time a node has come back this many more times
GRACE_S = 5.0  # for those that have not answered yet, once one refused and the number has failed


@dataclass
class Wait:
    """One waiting of a run.

    Attributes:
        run: that waits.
        step: what members are asked for; see :class:`WaitedFor`.
        number: of the round; 0 before the first.
        patience_s: a connected member is named after this time, one that is not connected after ``away_after_s``.
        until: when the waiting ends, in seconds on the exchange's clock.
    """

    run: Run
    step: str
    number: int
    patience_s: float
    until: float = math.inf
    _named: dict[str, WaitedFor] = field(default_factory=dict)
    _looked: float = -math.inf

    def look(self, awaited: Mapping[str, Awaited], now: float) -> Waits | None:
        """Look at who is missing. Log and record those missing for long; return what to tell the others.

        Raises:
            Ended: ``run.stopped``.
        """
        if now - self._looked < LOOK_S:
            return None
        self._looked = now
        self.run.check_stop()
        away = {
            member: self._waited_for(member, asked, now)
            for member, asked in awaited.items()
            if member in self._named or now - asked.since >= self._after(asked)  # the named stay named
        }
        if away == self._named:
            return None
        with self.run.state.store.transaction() as db:
            for member, entry in away.items():
                if member not in self._named:
                    what = {"step": self.step, "why": entry.why, "since": entry.since}
                    self.run.log(db, "waited_for", number=self.number, member=member, code="circle.away", **what)
            waiting.write(db, self.run.id, away.values())
        news = {*away} - {*self._named} or any(entry.returns % RETURNS == 1 for entry in away.values())
        self._named = away
        return self._told(away) if news else None

    def came(self, member: str) -> None:
        """Take note that a member answered. If it was named, the log says that it came back."""
        entry = self._named.pop(member, None)
        if entry is None:
            return
        with self.run.state.store.transaction() as db:
            what = {"step": self.step, "since": entry.since, "returns": entry.returns}
            self.run.log(db, "came_back", number=self.number, member=member, **what)
            waiting.write(db, self.run.id, self._named.values())

    def give_up(self) -> None:
        """Wait only a little longer: a member refused, so the number fails whatever others answer."""
        self.until = min(self.until, self.run.exchange.now() + GRACE_S)

    def end(self) -> None:
        """End the waiting."""
        if self._named:
            with self.run.state.store.transaction() as db:
                waiting.write(db, self.run.id, ())
            self._named = {}

    def _told(self, away: Mapping[str, WaitedFor]) -> Waits:
        return Waits(
            run=self.run.id,
            number=self.number,
            step=self.step,
            since={member: entry.since for member, entry in away.items()},
            why={member: entry.why for member, entry in away.items()},
            returns={member: entry.returns for member, entry in away.items()},
        )

    def _after(self, asked: Awaited) -> float:
        away = self.run.exchange.away_after_s
        return max(away, self.patience_s) if asked.connected else away

    def _waited_for(self, member: str, asked: Awaited, now: float) -> WaitedFor:
        why = "revoked" if asked.shut_out else "broke" if asked.broke else "silent" if asked.connected else "absent"
        known = self._named.get(member)
        since = known.since if known else _ago(now - asked.since)
        return WaitedFor(member, self.run.id, self.number, self.step, since, why, asked.returns)


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")
