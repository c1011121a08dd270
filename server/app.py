"""The coordinator's half of a round, as a Flower ServerApp. Read ``client/app.py`` first.

A run, in order: enrol the members and deal an epoch's keys (``enrolment``), open the statistics (that gives version
0), then round after round train → seal → add → open + judge → promote or fall back (``sums``, ``gate``), with reports
on the way. Every transition is one transaction together with its log entry. The coordinator holds no key and sees no
member's update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

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
from .rounds import Agreed, Collection, Patience
from .run import Run, Seats
from .sums import Sums, TooFew, Wire


class Coordinator:
    """One run of a federation.

    Args:
        exchange: to the members.
        state: the coordinator's records.
        offer: what the run carries (rule 9).
        pins: member → pin of its node key.
        run: identifier of the run.
    """

    def __init__(
        self, exchange: Exchange, state: State, offer: Mapping[str, Any], pins: Mapping[str, str], run: str
    ) -> None:
        checked = parse(Offer, offer, where="the run's offer")
        self.state, self._run = state, Run(run, checked, dict(offer), dict(pins), exchange, state)
        self._patience = Patience(checked.gate)
        self._sums: Sums | None = None

    @property
    def wire(self) -> Wire:
        """Bytes and seconds of the update rounds so far."""
        return self._sums.wire if self._sums else Wire()

    def carry_out(self) -> None:
        """Carry the run out to its planned end.

        Raises:
            Ended: by policy: ``run.patience``, ``run.max_failed``, or a refused opening.
            Refused: it could not begin: too few members, keys that do not agree, no statistics.
        """
        run = self._run
        with self.state.store.transaction() as db:
            history.begin_run(db, run.id, run.raw_offer)
            run.log(db, "run_began", offer=dict(run.raw_offer))
        try:
            seats = enrolment.deal(run, *enrolment.enrol(run))
            self._sums = Sums(run, seats)
            self._start(seats, self._sums)
            for round_number in range(1, run.offer.training.rounds + 1):
                self._round(seats, self._sums, round_number)
            self._final_report(seats, self._sums)
        except MoonflowerError as error:
            self._end("policy" if isinstance(error, Ended) else "failed", error.code)
            raise
        self._end("done", "")

    def _start(self, seats: Seats, sums: Sums) -> None:
        """Open the statistics; the openers compute version 0 from them (rules 4 and 5)."""
        context = seats.template.at(0, "statistics", "", 0.0)
        collected = sums.collect(context, dict.fromkeys(seats.roster.names), None)
        if len(collected.members) < len(seats.roster.names):
            left_out = ", ".join(f"{who}: {code}" for who, code in sorted(collected.collection.excluded.items()))
            raise Refused("round.too_few", f"statistics need every member of the roster; {left_out}")
        agreed, start = sums.open(collected, "")
        if start is None:
            raise Refused("gate.norm", "the members' statistics hold what honest members cannot add up to")
        self.state.models.write(start)
        with self.state.store.transaction() as db:
            self.state.models.record(db, self._entry(start, 0, "start", "", agreed))
            self._run.log(
                db,
                "statistics_opened",
                number=0,
                sha256=start.sha256,
                members=list(collected.members),
                proof=agreed.proof.as_dict(),
            )

    def _round(self, seats: Seats, sums: Sums, round_number: int) -> None:
        """One round: collect, open, judge, promote or fall back.

        Raises:
            Ended: the run ends here by policy.
        """
        with self.state.store.transaction() as db:
            entries = self.state.models.entries(db)
            number = history.next_number(db)
            base = self._base(entries, number)
            fixed = self._fixed(history.fixed_set(db, "update", base.sha256), number)
            outcome = Round(round_number, number)
            history.write_round(db, self._run.id, outcome)
            began = {"round": round_number, "base": base.sha256, "clip": base.clip}
            self._run.log(db, "round_began", number=number, **began)
        context = seats.template.at(number, "update", base.sha256, base.clip)
        invited = fixed or self._invited(seats, number)
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
            raise Ended(error.code, f"the opening of round {number} was refused: {error}") from None
        warnings = tuple((member, "open.disagree") for member in agreed.disagreeing)
        outcome = self._judge(replace(outcome, warnings=warnings), agreed, candidate, entries)
        every = self._run.offer.training.report_every
        if outcome.status == "promoted" and every and round_number % every == 0:
            self._report(seats, sums, outcome)
        self._check_patience()

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
                statement=agreed.proof.statement.decode(),
                warnings=[list(warning) for warning in outcome.warnings],
            )
            if candidate is not None:
                next_version = 1 + max(entry.version or 0 for entry in entries)
                entry = self._entry(candidate, next_version, status, verdict.code, agreed)
                entry = replace(entry, norm=norm if math.isfinite(norm) else None, median=verdict.median)
                self.state.models.record(db, entry)
            history.write_round(db, run.id, outcome)
            excluded = dict(outcome.excluded)
            run.log(db, status, number=outcome.number, code=verdict.code, sha256=said.sha256, excluded=excluded)
        if verdict.accepted:
            self._patience.promoted()
        else:
            self._patience.was_refused()
        return outcome

    def _fail(self, outcome: Round, code: str) -> None:
        """Record a round that gave no candidate."""
        with self.state.store.transaction() as db:
            history.write_round(db, self._run.id, replace(outcome, status="failed", code=code))
            self._run.log(db, "failed", number=outcome.number, code=code, excluded=dict(outcome.excluded))
        self._patience.has_failed()

    def _check_patience(self) -> None:
        if self._patience.code:
            raise Ended(self._patience.code, "too many rounds in a row brought nothing; the last good model stays")

    # Reports over all members' test rows (rule 11).

    def _final_report(self, seats: Seats, sums: Sums) -> None:
        with self.state.store.read() as db:
            last = self.state.models.last_good(db)
            promoted = history.last_promoted(db, self._run.id)
        if last is not None and last.metrics is None:
            self._report(seats, sums, promoted)

    def _report(self, seats: Seats, sums: Sums, outcome: Round | None) -> None:
        """Open the sealed tallies of the last good version; a report that fails is logged and stops nothing."""
        with self.state.store.read() as db:
            model = self.state.models.last_good(db)
            assert model is not None
            fixed = history.fixed_set(db, "tallies", model.sha256)
        number = outcome.number if outcome else 0
        context = seats.template.at(number, "tallies", model.sha256, model.clip)
        bases: dict[str, Entry | None] = dict.fromkeys(fixed or seats.roster.names, model)
        try:
            agreed, _ = sums.open(sums.collect(context, bases, fixed), "")
            metrics, code = agreed.statement.metrics, "" if agreed.statement.in_range else "gate.norm"
        except Refused as error:
            metrics, code = {}, error.code
        with self.state.store.transaction() as db:
            if code:
                self._run.log(db, "warned", number=number, code=code, what="report")
                return
            self.state.models.report(db, model.sha256, metrics)
            if outcome is not None:
                history.write_round(db, self._run.id, replace(outcome, metrics=metrics))
            self._run.log(db, "tallies_opened", number=number, sha256=model.sha256, metrics=dict(metrics))

    # The steps that the drills of a dishonest coordinator replace.

    def _base(self, entries: list[Entry], number: int) -> Entry:
        """Return the version that the round starts from: the last good one."""
        return max((entry for entry in entries if entry.version is not None), key=lambda entry: entry.version or 0)

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

    def _end(self, status: str, code: str) -> None:
        with self.state.store.transaction() as db:
            history.end_run(db, self._run.id, status, code)
            self._run.log(db, "run_ended", code=code, status=status)


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
