"""What a dishonest coordinator does, on purpose, so that members can see their guards refuse it.

``split-base`` sends one member the base of the round before, and still adds its envelope. ``nudge`` sends it a base
that no member ever computed. ``fork-list`` has it answer a total that nobody else gets, ``leave-out`` a list that lacks
another member. ``shift`` changes the total before it is answered, ``rushing`` afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from ...protocol import model_version
from ...protocol.context import RoundContext
from ...protocol.envelope import Envelope, RawEnvelope, split
from ...protocol.messages import Ask, Open, RoundRequest, Seal
from ...protocol.purposes import UPDATE
from ...server.coordinator import Coordinator
from ...server.records.models import Entry
from ...server.round import Rounds
from ...server.rules import Collection
from ...server.run import Run, Seats
from ...server.sums import Sums

R = TypeVar("R", bound=RoundRequest)


class Drills:
    """Planned round → (kind, member). A drill applies to the first number of its round, and only to updates."""

    def __init__(self, drills: Mapping[int, tuple[str, str]]) -> None:
        self._drills, self._numbers = dict(drills), dict[int, int]()

    def due(self, at: RoundContext | RoundRequest) -> tuple[str, str]:
        """Return the kind and the member of the drill that is due; two empty strings if there is none."""
        if at.purpose != UPDATE.name or at.round not in self._drills:
            return "", ""
        first = self._numbers.setdefault(at.round, at.number)
        return self._drills[at.round] if first == at.number else ("", "")


class DrilledRounds(Rounds):
    """Honest rounds, except for the drills."""

    drills: Drills

    def base_for(self, member: str, base: Entry, entries: list[Entry], context: RoundContext) -> Entry:
        """Return the base for a member: the version before it, if the drill says so."""
        return _before(base, entries) if self.drills.due(context) == ("split-base", member) else base

    def check(self, collection: Collection, member: str, raw: RawEnvelope) -> Envelope:
        """Return the envelope. The drill accepts one that is about another base, and checks only its signature."""
        if self.drills.due(collection.context) != ("split-base", member):
            return super().check(collection, member, raw)
        signed, body = split(raw)
        return Envelope(signed.verify(collection.roster.card(member)), signed, body)


class DrilledSums(Sums):
    """Honest sums, except for the drills."""

    drills: Drills

    def sent(self, member: str, request: R) -> R:
        """Return a request as it is sent to a member, which the drill may change."""
        kind, target = self.drills.due(request)
        if target != member:
            return request
        if isinstance(request, Seal) and kind == "nudge":
            base = model_version.parse(request.model)
            nudged = model_version.candidate(base, base.vector + np.float32(1e-3), dict(base.state))
            return request.model_copy(update={"base": nudged.sha256, "model": nudged.data})
        if isinstance(request, Ask) and kind == "fork-list":
            return request.model_copy(update={"total": "0" * 64})
        if isinstance(request, Ask) and kind == "leave-out":
            left = next(name for name in self.seats.roster.names if name != member)
            kept = {"headers": dict(request.headers), "signatures": dict(request.signatures)}
            del kept["headers"][left], kept["signatures"][left]
            return request.model_copy(update=kept)
        if isinstance(request, Open) and kind == "rushing":
            return request.model_copy(update={"total": _shifted(request.total)})
        return request

    def summed(self, context: RoundContext, total: bytes) -> bytes:
        """Return a total as it is answered, which the drill may change."""
        return _shifted(total) if self.drills.due(context)[0] == "shift" else total


class DrilledCoordinator(Coordinator):
    """A coordinator whose rounds are drilled: planned round → (kind, member)."""

    drills: Mapping[int, tuple[str, str]] = {}

    def _sums_of(self, run: Run, seats: Seats) -> Sums:
        sums = DrilledSums(run, seats, self.wire)
        sums.drills = Drills(self.drills)
        return sums

    def _rounds_of(self, run: Run, sums: Sums) -> Rounds:
        rounds = DrilledRounds(run, sums, self._patience, self.wire)
        rounds.drills = Drills(self.drills)
        return rounds


def _before(base: Entry, entries: list[Entry]) -> Entry:
    """Return the good version before ``base``, or ``base`` if there is none."""
    earlier = [entry for entry in entries if entry.version is not None and entry.version < (base.version or 0)]
    return max(earlier, key=lambda entry: entry.version or 0, default=base)


def _shifted(total: bytes) -> bytes:
    """Return a total with one residue changed."""
    return bytes([total[0] ^ 1]) + total[1:]
