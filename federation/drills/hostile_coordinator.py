"""What a dishonest coordinator does, on purpose, so that members can see their guards refuse it.

``split-base`` sends one member an older proved base than the others and adds its envelope all the same: opened,
the sum would give that member away. ``reopen`` does the round of the last base again without one member: opened,
the difference of the two sums would be its update.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...protocol.envelope import Envelope, RawEnvelope, split
from ...server.coordinator import Coordinator
from ...server.records.models import Entry
from ...server.round import Rounds
from ...server.rules import Collection
from ...server.run import Seats


class DrilledRounds(Rounds):
    """Honest rounds but for the drills: round number → (kind, member); from round 2 on."""

    drills: Mapping[int, tuple[str, str]] = {}

    def _drill(self, number: int) -> tuple[str, str]:
        return self.drills.get(number, ("", ""))

    def base(self, entries: list[Entry], number: int) -> Entry:
        """As the drill wants it."""
        base = super().base(entries, number)
        return _before(base, entries) if self._drill(number)[0] == "reopen" else base

    def base_for(self, member: str, base: Entry, entries: list[Entry], number: int) -> Entry:
        """As the drill wants it."""
        return _before(base, entries) if self._drill(number) == ("split-base", member) else base

    def fixed(self, fixed: frozenset[str] | None, number: int) -> frozenset[str] | None:
        """As the drill wants it."""
        return None if self._drill(number)[0] == "reopen" else super().fixed(fixed, number)

    def invited(self, seats: Seats, number: int) -> frozenset[str]:
        """As the drill wants it."""
        kind, member = self._drill(number)
        return super().invited(seats, number) - ({member} if kind == "reopen" else set())

    def check(self, collection: Collection, member: str, raw: RawEnvelope) -> Envelope:
        """As the drill wants it."""
        if self._drill(collection.context.number) != ("split-base", member):
            return super().check(collection, member, raw)
        signed, body = split(raw)
        return Envelope(signed.verify(collection.roster.card(member)), signed, body)


class DrilledCoordinator(Coordinator):
    """A coordinator whose rounds are drilled."""

    rounds_kind = DrilledRounds


def _before(base: Entry, entries: list[Entry]) -> Entry:
    """Return the good version before ``base``."""
    return max(
        (entry for entry in entries if entry.version is not None and entry.version < (base.version or 0)),
        key=lambda entry: entry.version or 0,
    )
