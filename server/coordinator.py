"""The coordinator's side of a run, as a Flower ServerApp. Read ``client/app.py`` first.

A run goes as follows. Every member of the circle takes a seat (``enrolment``). The members open the statistics, which
gives version 0. Then each round does train → seal → add → answer → open + judge → promote or fall back (``sums``,
``gate``), with reports in between.

The run waits for members that are away. A round that fails is repeated with all members, under the next number.

Every transition and its log entry are one transaction, so the process may be killed at any moment. The next process
has the members take their seats again and continues in the same round. The coordinator holds no key and sees no
member's update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from .. import logs
from ..configs.settings import Offer, parse
from ..errors import Ended, MoonflowerError, Refused
from ..protocol.circle import SignedCircle
from ..protocol.purposes import FIRST, STATISTICS, Purpose, Purposes
from . import enrolment
from .exchange import Exchange
from .records import history, waiting
from .records.history import Round
from .records.state import State
from .releases.board import Board
from .round import Rounds, chain_of, newest_whole, version_entry
from .rules import Patience
from .run import Run, Seats
from .sums import Sums
from .wire import Wire
from .witnesses import Witnesses

REPORTED = frozenset({"run.patience", "run.max_failed", "gate.forked"})
"""Ends by policy after which the best version is still reported. After others the members would not answer, or a person
asked for the end."""


class Coordinator:
    """One run of a federation, from its beginning or from where an earlier process was killed.

    Args:
        exchange: sends messages to the members.
        state: the coordinator's records. They hold the run already (``history.queue_run``).
        offer: what the run carries (rule 9).
        signed: the run's circle with all signatures, as it is on record.
        run: identifier of the run.
        purposes: the purposes of its sums.

    Attributes:
        wire: bytes and seconds of the update rounds in this process.
    """

    def __init__(
        self,
        exchange: Exchange,
        state: State,
        offer: Mapping[str, Any],
        signed: SignedCircle,
        run: str,
        purposes: Purposes = FIRST,
    ) -> None:
        checked = parse(Offer, offer, where="the run's offer")
        witnesses = Witnesses(state)
        self.state, self.wire = state, Wire()
        self._run = Run(run, checked, dict(offer), signed, exchange, state, witnesses, purposes)
        self._patience = Patience(checked.gate)

    def carry_out(self) -> None:
        """Carry the run out to its planned end. A run that is over stays as it is.

        Raises:
            Ended: the policy ended it (``run.patience``, ``run.max_failed``, a refused opening), or ``run.stopped``.
            Refused: it could not begin: a member refused or differs, or there are no statistics.
        """
        done = self._take_up()
        if done is None:
            return
        try:
            with logs.about(run=self._run.id, round=0):
                self._carry_on(done)
        except MoonflowerError as error:
            by_policy = "stopped" if error.code == "run.stopped" else "policy"
            self._end(by_policy if isinstance(error, Ended) else "failed", error.code)
            raise
        self._end("done", history.CONVERGED if self._patience.converged else "")

    def _carry_on(self, done: int) -> None:
        """Carry out what is left after ``done`` planned rounds, and report the best version.

        A run that was killed at its end by policy takes its seats again if there is still something to report.
        """
        if not self._unreported():
            self._check_patience()
        self._sums = self._sums_of(self._run, self._seats())
        self._rounds = self._rounds_of(self._run, self._sums)
        try:
            self._train(done)
        except Ended as ended:
            if ended.code in REPORTED:
                self._report_after(ended)
            raise
        self._report_best(None)

    def _train(self, done: int) -> None:
        """Carry out the planned rounds that are left, until the run ends by its plan, its policy or its convergence."""
        self._check_patience()
        self._start()
        for purpose in self._run.purposes.values():
            if purpose.when == "start" and not purpose.makes_version:
                self._open(purpose, None)
        for planned in range(done + 1, self._run.offer.training.rounds + 1):
            if self._patience.converged:
                break
            self._mend()
            self._round(planned)
        self._mend()

    def _take_up(self) -> int | None:
        """Begin or continue the run; return how many planned rounds are over, or None if the run is over."""
        run = self._run
        self.state.sweep()
        with self.state.store.transaction() as db:
            row = history.run_row(db, run.id)
            if row is None:
                raise ValueError(f"run {run.id!r} is not on record")
            if row.status not in ("queued", "running"):
                return None
            if row.status == "queued":
                history.begin_run(db, run.id)
                history.write_summary(db, run.id, self.wire.summary(0))
                run.log(db, "run_began", offer=dict(run.raw_offer))
            else:
                run.log(db, "run_resumed", rounds=len(history.rounds(db, run.id)))
            waiting.write(db, run.id, ())  # a process that was killed may have left some
            if self.state.envelopes.hours:
                run.log(db, "warned", what="retention", hours=self.state.envelopes.hours)
            finished = history.finished(db, run.id)
        for outcome in finished:
            self._patience.count(outcome.status, outcome.round)
        return max((outcome.round for outcome in finished if outcome.status != "failed"), default=0)

    def _sums_of(self, run: Run, seats: Seats) -> Sums:
        """Return the sums of these seats. Drills override this."""
        return Sums(run, seats, self.wire)

    def _rounds_of(self, run: Run, sums: Sums) -> Rounds:
        """Return the rounds over these sums. Drills override this."""
        return Rounds(run, sums, self._patience, self.wire)

    def _seats(self) -> Seats:
        """Return the seats of all members. Once the run has its version 0, a refusal is followed by another try.

        Raises:
            Ended: ``run.max_failed``.
            Refused: before version 0, a member refused or differs.
        """
        with self.state.store.read() as db:
            begun = bool(self.state.models.entries(db, self._run.id))
        while True:
            try:
                return enrolment.take_seats(self._run)
            except Refused as error:
                if not begun:
                    raise
                self._run.note("warned", code=error.code, what="seats")
                self._patience.count("failed", 0)
                self._check_patience()

    def _check_patience(self) -> None:
        """Check that the run did not fail too often in a row.

        Raises:
            Ended: ``run.patience``, ``run.max_failed``.
        """
        if self._patience.code:
            message = "too many rounds in a row were refused or failed; the last good model stays"
            raise Ended(self._patience.code, message)

    def _start(self) -> None:
        """Open the statistics, once in a run. The openers compute version 0 from them (rules 4 and 5)."""
        with self.state.store.read() as db:
            if self.state.models.entries(db, self._run.id):
                return
        sums = self._sums
        context = sums.context(0, 0, STATISTICS, "")
        collected = sums.collect(context, dict.fromkeys(sums.seats.roster.names))
        agreed, start = sums.open(collected, "")
        if start is None:
            raise Refused("stats.impossible", "impossible statistics: those of honest members cannot add up to them")
        self.state.models.write(start)
        with self.state.store.transaction() as db:
            version_number = self.state.models.next_version(db)
            entry = version_entry(self._run.id, start, version_number, "start", "", agreed)
            self.state.models.record(db, replace(entry, metrics=self.state.models.measured(db, start.sha256)))
            sums.over(db, context)
            self._run.log(
                db,
                "statistics_opened",
                number=0,
                sha256=start.sha256,
                members=list(agreed.statement.members),
            )

    def _round(self, planned: int) -> None:
        """Carry out a planned round until it does not fail, and the reports that are due after it."""
        while True:
            outcome = self._rounds.carry_out(planned)
            self._check_patience()
            if outcome.status != "failed":
                break
        every = self._run.offer.training.report_every
        if every and planned % every == 0:
            self._report_best(outcome)

    def _mend(self) -> None:
        """Repeat the rounds whose models are damaged on disk, so that the run continues from its last good version.

        The same round from the same base gives the same bytes, because members train as they trained before.

        Raises:
            Refused: ``data.model``: even the start is damaged, or repeating did not help.
            Ended: repeated rounds were refused or failed too often in a row.
        """
        run, settings = self._run, self._run.offer.gate
        tries: Counter[str] = Counter()
        while True:
            with self.state.store.read() as db:
                chain = chain_of(self.state.models.entries(db, run.id))
                planned = {outcome.number: outcome.round for outcome in history.finished(db, run.id)}
            damaged = chain[chain.index(newest_whole(self.state.models, chain, run.id)) + 1 :]
            if not damaged:
                return
            for entry in damaged:
                if not tries[entry.sha256]:
                    run.note("warned", code="data.model", what="model", sha256=entry.sha256, version=entry.version)
                tries[entry.sha256] += 1
            first = damaged[0]
            if tries[first.sha256] > settings.patience + settings.max_failed or first.number not in planned:
                raise Refused("data.model", f"model {first.sha256} is damaged on disk and could not be restored")
            self._round(planned[first.number])

    # Reports over all members' rows (rule 11).

    def _unreported(self) -> bool:
        """Return whether the run promoted a version and its best one has no report."""
        with self.state.store.read() as db:
            last = self.state.models.last_good(db, self._run.id)
        return last is not None and last.verdict == "promoted" and last.metrics is None

    def _report_best(self, outcome: Round | None) -> None:
        """Report the best version if it was not reported; ``outcome``: the round it is due after, None at the end."""
        with self.state.store.read() as db:
            last = self.state.models.last_good(db, self._run.id)
            promoted = [outcome for outcome in history.finished(db, self._run.id) if outcome.status == "promoted"]
        if last is None or last.metrics is not None:
            return
        if not promoted and (outcome is not None or self._run.circle.start is not None):
            return  # members of an earlier circle may have measured the start of this one: do not measure it again
        self._report(promoted[-1] if promoted else None)

    def _report_after(self, ended: Ended) -> None:
        """Report the best version of a run that its policy ended. If the report fails, that is logged."""
        with self.state.store.transaction() as db:
            self._run.break_off(db, ended.code)
        try:
            if self._unreported():
                self._report_best(None)
        except MoonflowerError as error:
            self._run.note("warned", code=error.code, what="report")

    def _report(self, outcome: Round | None) -> None:
        """Open the sums of a report on the last good version. A sum that fails is logged and stops nothing."""
        for purpose in self._run.purposes.values():
            if purpose.when == "report":
                self._open(purpose, outcome)

    def _open(self, purpose: Purpose, outcome: Round | None) -> None:
        """Open a sum about the last good version, or about rows alone, and record what follows from it."""
        with self.state.store.read() as db:
            model = self.state.models.last_good(db, self._run.id)
            assert model is not None
            about = model.sha256 if purpose.based else ""
        sums = self._sums
        number, planned = (outcome.number, outcome.round) if outcome else (0, 0)
        context = sums.context(number, planned, purpose, about)
        bases = dict.fromkeys(sums.seats.roster.names, model if purpose.based else None)
        try:
            agreed, _ = sums.open(sums.collect(context, bases), "")
            metrics, code = agreed.statement.metrics, "" if agreed.statement.in_range else "stats.impossible"
        except Refused as error:
            metrics, code = {}, error.code
        with self.state.store.transaction() as db:
            sums.over(db, context)
            if code:
                self._run.log(db, "warned", number=number, code=code, what="report")
                return
            if not purpose.measures:
                self._run.log(db, "sum_opened", number=number, purpose=purpose.name, metrics=dict(metrics))
                return
            self.state.models.report(db, self._run.id, model.sha256, metrics)
            if outcome is not None:
                history.write_round(db, self._run.id, replace(outcome, metrics=metrics))
            self._run.log(db, "tallies_opened", number=number, sha256=model.sha256, metrics=dict(metrics))

    def _end(self, status: str, code: str) -> None:
        with self.state.store.transaction() as db:
            self._run.break_off(db, code)
            history.end_run(db, self._run.id, status, code)
            if status == "done":
                self._release(db)
            self._drop_kept(db)
            self._run.log(db, "run_ended", code=code, status=status)
        self.state.expire()

    def _drop_kept(self, db: Connection) -> None:
        """Delete the files of kept candidates once the end is on record: no round starts from them any more."""
        models = self.state.models
        kept = [entry.sha256 for entry in models.entries(db, self._run.id) if entry.verdict == "kept"]

        def drop() -> None:
            for sha256 in kept:
                models.drop(sha256)

        self.state.store.after_commit(db, drop)

    def _release(self, db: Connection) -> None:
        """Release the last good version if the run's settings release it automatically; otherwise approvers do."""
        good = self.state.models.last_good(db, self._run.id)
        if good is not None and good.verdict == "promoted":
            Board(db, self.state.models).release_automatically(good, self.state.log)
