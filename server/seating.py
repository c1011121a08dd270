"""The epoch that a run is in: members take seats anew where there are none that will do."""

from __future__ import annotations

from ..errors import Ended, Refused
from . import enrolment
from .rules import Patience
from .run import Run
from .sums import Sums, Wire


class Seating:
    """The seats of a run.

    Args:
        run: the run.
        patience: seats that cannot be taken count as a failed round.
        wire: what the run's rounds cost.
    """

    def __init__(self, run: Run, patience: Patience, wire: Wire) -> None:
        self._run, self._patience, self._wire = run, patience, wire
        self._sums: Sums | None = None

    @property
    def params(self) -> int:
        """Parameters of an update; 0 before anybody took a seat."""
        return self._sums.params if self._sums else 0

    def sums(self, wanted: frozenset[str] = frozenset()) -> Sums:
        """Return the sums of the present epoch; members take seats in a new one where there is none that will do.

        That is at the start, in a process that was started again, after a member was revoked, and where one of
        ``wanted``, without whom nothing can be opened, has no seat. Once the run has its version 0 only those who
        opened its statistics take part, and seats that cannot be taken count as a failed round.

        Raises:
            Ended: ``run.max_failed``.
            Refused: before version 0: too few members, or keys that do not agree.
        """
        run = self._run
        if self._sums is not None:
            seated = {*self._sums.seats.roster.names}
            if wanted <= seated and not seated & run.exchange.revoked():
                return self._sums
        with run.state.store.read() as db:
            entries = run.state.models.entries(db, run.id)
        while True:
            try:
                seats = enrolment.take_seats(run, entries[0].members if entries else run.exchange.members)
            except Refused as error:
                if not entries:
                    raise
                run.note("warned", code=error.code, what="seats")
                self._patience.has_failed()
                self.check_patience()
            else:
                self._sums = Sums(run, seats, self._wire)
                return self._sums

    def check_patience(self) -> None:
        """Check that not too much went wrong in a row.

        Raises:
            Ended: ``run.patience``, ``run.max_failed``.
        """
        if self._patience.code:
            raise Ended(self._patience.code, "too many rounds in a row brought nothing; the last good model stays")
