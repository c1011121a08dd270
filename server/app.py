"""The coordinator's half of a round, as a Flower ServerApp. Read ``client/app.py`` first.

A run, in order: the members take seats, that is they enrol and deal an epoch's keys (``enrolment``); they open the
statistics, which gives version 0; then round after round train → seal → add → open + judge → promote or fall back
(``sums``, ``gate``), with reports on the way. Every transition is one transaction together with its log entry, so that
the process may be killed at any moment: the next one has the members take seats anew and goes on from the last good
model. The coordinator holds no key and sees no member's update.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from sqlalchemy import Connection

from .. import logs
from ..configs.settings import Offer, parse
from ..crypto import version
from ..crypto.envelope import Envelope, RawEnvelope
from ..crypto.identity import b64
from ..errors import Ended, MoonflowerError, Refused
from . import enrolment, gate
from .exchange import Exchange
from .records import rounds as history
from .records.models import Entry, best
from .records.rounds import Round
from .records.state import State
from .release import Board
from .rounds import AWAY, Agreed, Collection, Patience
from .run import Run, Seats
from .sums import Sums, TooFew, Wire
from .witnesses import Witnesses


class Coordinator:
    """One run of a federation, from its beginning or from where an earlier process was killed.

    Args:
        exchange: to the members.
        state: the coordinator's records; the run is among them (``history.queue_run``).
        offer: what the run carries (rule 9).
        pins: member → pin of its node key.
        run: identifier of the run.

    Attributes:
        wire: bytes and seconds of the update rounds that this process carried out.
    """

    def __init__(
        self, exchange: Exchange, state: State, offer: Mapping[str, Any], pins: Mapping[str, str], run: str
    ) -> None:
        checked = parse(Offer, offer, where="the run's offer")
        self.state, self._run = state, Run(run, checked, dict(offer), dict(pins), exchange, state, Witnesses(state))
        self.wire = Wire()
        self._patience = Patience(checked.gate)
        self._sums: Sums | None = None

    def carry_out(self) -> None:
        """Carry the run out to its planned end; a run that is over stays as it is.

        Raises:
            Ended: by policy: ``run.patience``, ``run.max_failed``, or a refused opening; or ``run.stopped``.
            Refused: it could not begin: too few members, keys that do not agree, no statistics.
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
        self._end("done", "")

    def _carry_on(self, done: int) -> None:
        """Carry out what is left after so many planned rounds."""
        self._check_patience()
        self._start()
        for planned in range(done + 1, self._run.offer.training.rounds + 1):
            self._mend()
            self._round(planned)
        self._mend()
        self._final_report()

    def _take_up(self) -> int | None:
        """Begin the run, or go on with it; return how many of its planned rounds are over, None where it is itself.

        A round that an earlier process left unfinished has failed; it does not count as a planned one.
        """
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
                self._break_off(db, history.INTERRUPTED)
                run.log(db, "run_resumed", rounds=len(history.rounds(db, run.id)))
            if self.state.envelopes.hours:
                run.log(db, "warned", what="retention", hours=self.state.envelopes.hours)
            finished = history.finished(db, run.id)
        for outcome in finished:
            self._patience.count(outcome.status)
        return max((outcome.round for outcome in finished), default=0)

    def _seated(self, wanted: frozenset[str] = frozenset()) -> Sums:
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
        with self.state.store.read() as db:
            entries = self.state.models.entries(db, run.id)
        while True:
            try:
                seats = enrolment.take_seats(run, entries[0].members if entries else run.exchange.members)
            except Refused as error:
                if not entries:
                    raise
                run.note("warned", code=error.code, what="seats")
                self._patience.has_failed()
                self._check_patience()
            else:
                self._sums = Sums(run, seats, self.wire)
                return self._sums

    def _start(self) -> None:
        """Open the statistics, once in a run; the openers compute version 0 from them (rules 4 and 5)."""
        with self.state.store.read() as db:
            if self.state.models.entries(db, self._run.id):
                return
        while True:
            sums = self._seated()
            everybody = sums.seats.roster.names
            context = sums.seats.template.at(0, 0, "statistics", "", 0.0, self._run.witnesses.newest())
            collected = sums.collect(context, dict.fromkeys(everybody), None)
            missing = {*everybody} - {*collected.members}
            if not missing:
                break
            if not missing <= self._run.exchange.revoked():
                left_out = ", ".join(f"{who}: {code}" for who, code in sorted(collected.collection.excluded.items()))
                raise Refused("round.too_few", f"statistics need every member of the roster; {left_out}")
        agreed, start = sums.open(collected, "")
        if start is None:
            raise Refused("gate.norm", "the members' statistics hold what honest members cannot add up to")
        self.state.models.write(start)
        with self.state.store.transaction() as db:
            version_number = self.state.models.next_version(db)
            self.state.models.record(db, self._entry(start, version_number, "start", "", agreed))
            self._run.log(
                db,
                "statistics_opened",
                number=0,
                sha256=start.sha256,
                members=list(collected.members),
            )

    def _round(self, planned: int) -> None:
        """One round: collect, open, judge, promote or fall back.

        Raises:
            Ended: the run ends here by policy.
        """
        self.state.envelopes.expire()
        with self.state.store.read() as db:
            entries = self.state.models.entries(db, self._run.id)
            number = history.next_number(db)
            base = self._base(entries, number)
            before = history.fixed_set(db, "update", base.sha256)
        logs.now_about(round=number)
        revoked = self._run.exchange.revoked()
        evicted = revoked & (before or frozenset())
        fixed = self._fixed(None if before is None else before - revoked, number)
        sums = self._seated(fixed or frozenset())
        seats, outcome = sums.seats, Round(planned, number)
        with self.state.store.transaction() as db:
            history.write_round(db, self._run.id, outcome)
            began = {"round": planned, "base": base.sha256, "clip": base.clip}
            self._run.log(db, "round_began", number=number, **began)
        checkpoint = self._run.witnesses.newest()
        context = seats.template.at(number, planned, "update", base.sha256, base.clip, checkpoint)
        invited = self._invited(seats, number) if fixed is None else fixed.intersection(seats.roster.names)
        bases = {member: self._base_for(member, base, entries, number) for member in invited}
        try:
            collected = sums.collect(context, bases, fixed, self._check)
        except TooFew as failed:
            self._fail(replace(outcome, excluded=failed.excluded), failed.code)
            self._check_patience()
            return
        outcome = replace(
            outcome,
            members=collected.members,
            excluded=dict(collected.collection.excluded),
            clipped_share=collected.clipped_share,
        )
        try:
            agreed, candidate = sums.open(collected, best(entries).sha256)
        except Refused as error:
            self._fail(outcome, error.code)
            if error.code in AWAY or (evicted and error.code == "open.overlap"):
                self._check_patience()
                return
            raise Ended(error.code, f"the opening of round {number} was refused: {error}") from None
        warnings = tuple((member, "open.disagree") for member in agreed.disagreeing)
        outcome = self._judge(replace(outcome, warnings=warnings), agreed, candidate, entries)
        every = self._run.offer.training.report_every
        if outcome.status == "promoted" and every and planned % every == 0:
            self._report(outcome)
        self._check_patience()

    def _mend(self) -> None:
        """Repeat the rounds whose models are damaged on disk, so that the run goes on from its last good version.

        From the same base, for the same set (rule 2) and under the same plan a round gives the same bytes again. Where
        it gives others, because a member was revoked since, these are the next version, and the run goes on from it.

        Raises:
            Refused: ``data.model``: not even the start is whole, or the disk keeps nothing.
            Ended: repeated rounds brought nothing, too often in a row.
        """
        run, settings = self._run, self._run.offer.gate
        tries: Counter[str] = Counter()
        while True:
            with self.state.store.read() as db:
                good = _good(self.state.models.entries(db, run.id))
                planned = {outcome.number: outcome.round for outcome in history.finished(db, run.id)}
            damaged = good[good.index(self._whole(good)) + 1 :]
            if not damaged:
                return
            for entry in damaged:
                if not tries[entry.sha256]:
                    run.note("warned", code="data.model", what="model", sha256=entry.sha256, version=entry.version)
                tries[entry.sha256] += 1
            first = damaged[0]
            if tries[first.sha256] > settings.patience + settings.max_failed or first.number not in planned:
                raise Refused("data.model", f"model {first.sha256} is damaged and could not be made again")
            self._round(planned[first.number])

    def _whole(self, good: list[Entry]) -> Entry:
        """Return the newest of a run's good versions whose file is as it was written: the last good one, that is.

        Raises:
            Refused: ``data.model``: none is.
        """
        for entry in reversed(good):
            if self.state.models.is_whole(entry.sha256):
                return entry
        raise Refused("data.model", f"no model of run {self._run.id} is whole; the newest is {good[-1].sha256}")

    def _judge(self, outcome: Round, agreed: Agreed, candidate: version.Version | None, entries: list[Entry]) -> Round:
        """Let the gate decide; promote the candidate, or stay with the last good model."""
        run, said = self._run, agreed.statement
        norm = _norm(self.state.models.read(said.base), candidate)
        verdict = gate.judge(
            agreed.votes,
            norm,
            [entry.norm for entry in entries if entry.verdict == "promoted" and entry.norm is not None],
            in_range=said.in_range,
            min_members=run.offer.federation.min_members,
            settings=run.offer.gate,
        )
        status = "promoted" if verdict.accepted else "refused"
        outcome = replace(
            outcome,
            status=status,
            code=verdict.code,
            warnings=outcome.warnings + tuple((member, "gate.regression") for member in verdict.minority),
            baseline=best(entries).version,
            median=verdict.median,
        )
        if verdict.accepted and candidate is not None:
            self.state.models.write(candidate)
        with self.state.store.transaction() as db:
            run.log(
                db,
                "judged",
                number=outcome.number,
                code=verdict.code,
                median=verdict.median,
                votes=dict(agreed.votes),
                vote_signatures={member: b64(signature) for member, signature in agreed.vote_signatures.items()},
                best=best(entries).sha256,
                warnings=[list(warning) for warning in outcome.warnings],
            )
            if candidate is not None:
                entry = self._entry(candidate, self.state.models.next_version(db), status, verdict.code, agreed)
                entry = replace(entry, norm=norm if math.isfinite(norm) else None, median=verdict.median)
                self.state.models.record(db, entry)
            self._write(db, outcome)
            excluded = dict(outcome.excluded)
            run.log(db, status, number=outcome.number, code=verdict.code, sha256=said.sha256, excluded=excluded)
        self._patience.count(status)
        return outcome

    def _fail(self, outcome: Round, code: str) -> None:
        """Record a round that gave no candidate."""
        with self.state.store.transaction() as db:
            self._write(db, replace(outcome, status="failed", code=code))
            self._run.log(db, "failed", number=outcome.number, code=code, excluded=dict(outcome.excluded))
        self._patience.has_failed()

    def _write(self, db: Connection, outcome: Round) -> None:
        """Keep a round that ended, and what the wire has cost so far."""
        history.write_round(db, self._run.id, outcome)
        params = self._sums.seats.sizes["update"] if self._sums else 0
        history.write_summary(db, self._run.id, self.wire.summary(params))

    def _check_patience(self) -> None:
        if self._patience.code:
            raise Ended(self._patience.code, "too many rounds in a row brought nothing; the last good model stays")

    # Reports over all members' test rows (rule 11).

    def _final_report(self) -> None:
        with self.state.store.read() as db:
            last = self.state.models.last_good(db, self._run.id)
            promoted = [outcome for outcome in history.finished(db, self._run.id) if outcome.status == "promoted"]
        if last is not None and last.metrics is None:
            self._report(promoted[-1] if promoted else None)

    def _report(self, outcome: Round | None) -> None:
        """Open the sealed tallies of the last good version; a report that fails is logged and stops nothing."""
        with self.state.store.read() as db:
            model = self.state.models.last_good(db, self._run.id)
            assert model is not None
            before = history.fixed_set(db, "tallies", model.sha256)
        fixed = None if before is None else before - self._run.exchange.revoked()
        sums = self._seated(fixed or frozenset())
        number, planned = (outcome.number, outcome.round) if outcome else (0, 0)
        checkpoint = self._run.witnesses.newest()
        context = sums.seats.template.at(number, planned, "tallies", model.sha256, model.clip, checkpoint)
        names = sums.seats.roster.names
        bases: dict[str, Entry | None] = {name: model for name in names if fixed is None or name in fixed}
        try:
            agreed, _ = sums.open(sums.collect(context, bases, fixed), "")
            metrics, code = agreed.statement.metrics, "" if agreed.statement.in_range else "gate.norm"
        except Refused as error:
            metrics, code = {}, error.code
        with self.state.store.transaction() as db:
            if code:
                self._run.log(db, "warned", number=number, code=code, what="report")
                return
            self.state.models.report(db, self._run.id, model.sha256, metrics)
            if outcome is not None:
                history.write_round(db, self._run.id, replace(outcome, metrics=metrics))
            self._run.log(db, "tallies_opened", number=number, sha256=model.sha256, metrics=dict(metrics))

    # The steps that the drills of a dishonest coordinator replace.

    def _base(self, entries: list[Entry], number: int) -> Entry:
        """Return the version that the round starts from: the last good one."""
        return self._whole(_good(entries))

    def _base_for(self, member: str, base: Entry, entries: list[Entry], number: int) -> Entry:
        """Return the version that a member is sent."""
        return base

    def _fixed(self, fixed: frozenset[str] | None, number: int) -> frozenset[str] | None:
        """Return the one set for which the base may be opened again (rule 2)."""
        return fixed

    def _invited(self, seats: Seats, number: int) -> frozenset[str]:
        """Return who is asked to train from a base that was not opened yet."""
        return frozenset(seats.roster.names)

    def _check(self, collection: Collection, member: str, raw: RawEnvelope) -> Envelope:
        """Return the checked envelope."""
        return collection.check(member, raw)

    def _entry(self, model: version.Version, number: int, verdict: str, code: str, agreed: Agreed) -> Entry:
        said = agreed.statement
        return Entry(
            sha256=model.sha256,
            version=number if verdict != "refused" else None,
            verdict=verdict,
            code=code,
            run=self._run.id,
            number=said.number,
            base=said.base,
            members=said.members,
            proof=agreed.proof.as_dict(),
            clip=said.clip,
            norm=None,
            median=None,
            metrics=None,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def _break_off(self, db: Connection, code: str) -> None:
        """Record that the round in progress, if there is one, has failed."""
        for broken in history.break_off(db, self._run.id, code):
            self._run.log(db, "failed", number=broken.number, code=code)

    def _end(self, status: str, code: str) -> None:
        with self.state.store.transaction() as db:
            self._break_off(db, code)
            history.end_run(db, self._run.id, status, code)
            if status == "done":
                self._release(db)
            self._run.log(db, "run_ended", code=code, status=status)

    def _release(self, db: Connection) -> None:
        """Release the last good version, if the run said that this happens by itself; else approvers do it."""
        good = self.state.models.last_good(db, self._run.id)
        if good is not None:
            Board(db, self.state.models).release_automatically(good, self.state.log)


def _good(entries: list[Entry]) -> list[Entry]:
    """Return the good versions of a run, oldest first."""
    return sorted((entry for entry in entries if entry.version is not None), key=lambda entry: entry.version or 0)


def _norm(base: version.Version, candidate: version.Version | None) -> float:
    """Return the Euclidean norm of what a candidate changes; infinite when the candidate is not finite."""
    if candidate is None:
        return 0.0
    if not np.isfinite(candidate.vector).all():
        return math.inf
    return float(np.linalg.norm(candidate.vector.astype(np.float64) - base.vector))


def server_app(coordinator_for: Callable[[Grid], Coordinator]) -> ServerApp:
    """Return the Flower ServerApp that carries out one run."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        coordinator_for(grid).carry_out()

    return app
