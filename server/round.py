"""One round of training: collect, open, judge, promote or fall back; every transition is one transaction."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Connection

from .. import logs
from ..crypto.identity import b64
from ..errors import Ended, Refused, TooFew
from ..protocol import model_version
from ..protocol.envelope import Envelope, RawEnvelope
from ..protocol.purposes import UPDATE
from . import gate
from .records import history
from .records.history import Round
from .records.models import Entry, Models, best
from .rules import AWAY, AgreedOpening, Collection, Patience
from .run import Run, Seats
from .seating import Seating
from .sums import Wire


class Rounds:
    """The rounds of a run.

    Args:
        run: the run.
        seating: who takes part.
        patience: counts how rounds end.
        wire: what rounds cost.
    """

    def __init__(self, run: Run, seating: Seating, patience: Patience, wire: Wire) -> None:
        self._run, self._state, self._seating = run, run.state, seating
        self._patience, self._wire = patience, wire

    def carry_out(self, planned: int) -> Round:
        """Carry out one planned round, to its record.

        Raises:
            Ended: the run ends here by policy.
        """
        self._state.envelopes.expire()
        with self._state.store.read() as db:
            entries = self._state.models.entries(db, self._run.id)
            number = history.next_number(db)
            base = self.base(entries, number)
            before = history.fixed_set(db, UPDATE.name, base.sha256)
        logs.now_about(round=number)
        revoked = self._run.exchange.revoked()
        evicted = revoked & (before or frozenset())
        fixed = self.fixed(None if before is None else before - revoked, number)
        sums = self._seating.sums(fixed or frozenset())
        seats, outcome = sums.seats, Round(planned, number)
        with self._state.store.transaction() as db:
            history.write_round(db, self._run.id, outcome)
            began = {"round": planned, "base": base.sha256, "clip": base.clip}
            self._run.log(db, "round_began", number=number, **began)
        checkpoint = self._run.witnesses.newest()
        context = seats.template.at(number, planned, UPDATE.name, base.sha256, base.clip, checkpoint)
        invited = self.invited(seats, number) if fixed is None else fixed.intersection(seats.roster.names)
        bases = {member: self.base_for(member, base, entries, number) for member in invited}
        try:
            collected = sums.collect(context, bases, fixed, self.check)
        except TooFew as failed:
            return self._fail(replace(outcome, excluded=failed.excluded), failed.code)
        outcome = replace(
            outcome,
            members=collected.members,
            excluded=dict(collected.collection.excluded),
            clipped_share=collected.clipped_share,
        )
        try:
            agreed, candidate = sums.open(collected, best(entries).sha256)
        except Refused as error:
            failure = self._fail(outcome, error.code)
            if error.code in AWAY or (evicted and error.code == "open.overlap"):
                return failure
            raise Ended(error.code, f"the opening of round {number} was refused: {error}") from None
        warnings = tuple((member, "open.disagree") for member in agreed.disagreeing)
        return self._judge(replace(outcome, warnings=warnings), agreed, candidate, entries)

    def _judge(
        self, outcome: Round, agreed: AgreedOpening, candidate: model_version.Version | None, entries: list[Entry]
    ) -> Round:
        """Let the gate decide; promote the candidate, or stay with the last good model."""
        run, said = self._run, agreed.statement
        norm = _norm(self._state.models.read(said.base), candidate)
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
            self._state.models.write(candidate)
        with self._state.store.transaction() as db:
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
                entry = version_entry(
                    run.id, candidate, self._state.models.next_version(db), status, verdict.code, agreed
                )
                entry = replace(entry, norm=norm if math.isfinite(norm) else None, median=verdict.median)
                self._state.models.record(db, entry)
            self._write(db, outcome)
            excluded = dict(outcome.excluded)
            run.log(db, status, number=outcome.number, code=verdict.code, sha256=said.sha256, excluded=excluded)
        self._patience.count(status)
        return outcome

    def _fail(self, outcome: Round, code: str) -> Round:
        """Record a round that gave no candidate."""
        with self._state.store.transaction() as db:
            failed = replace(outcome, status="failed", code=code)
            self._write(db, failed)
            self._run.log(db, "failed", number=outcome.number, code=code, excluded=dict(outcome.excluded))
        self._patience.has_failed()
        return failed

    def _write(self, db: Connection, outcome: Round) -> None:
        """Keep a round that ended, and what the wire has cost so far."""
        history.write_round(db, self._run.id, outcome)
        history.write_summary(db, self._run.id, self._wire.summary(self._seating.params))

    # The steps that the drills of a dishonest coordinator replace.

    def base(self, entries: list[Entry], number: int) -> Entry:
        """Return the version that the round starts from: the last good one."""
        return newest_whole(self._state.models, good_ones(entries), self._run.id)

    def base_for(self, member: str, base: Entry, entries: list[Entry], number: int) -> Entry:
        """Return the version that a member is sent."""
        return base

    def fixed(self, fixed: frozenset[str] | None, number: int) -> frozenset[str] | None:
        """Return the one set for which the base may be opened again (rule 2)."""
        return fixed

    def invited(self, seats: Seats, number: int) -> frozenset[str]:
        """Return who is asked to train from a base that was not opened yet."""
        return frozenset(seats.roster.names)

    def check(self, collection: Collection, member: str, raw: RawEnvelope) -> Envelope:
        """Return the checked envelope."""
        return collection.check(member, raw)


def good_ones(entries: list[Entry]) -> list[Entry]:
    """Return the good versions of a run, oldest first."""
    return sorted((entry for entry in entries if entry.version is not None), key=lambda entry: entry.version or 0)


def newest_whole(models: Models, good: list[Entry], run: str) -> Entry:
    """Return the newest of a run's good versions whose file is as it was written: the last good one, that is.

    Raises:
        Refused: ``data.model``: none is.
    """
    for entry in reversed(good):
        if models.is_whole(entry.sha256):
            return entry
    raise Refused("data.model", f"no model of run {run} is whole; the newest is {good[-1].sha256}")


def version_entry(
    run: str, model: model_version.Version, number: int, verdict: str, code: str, agreed: AgreedOpening
) -> Entry:
    """Return what the registry keeps of a version that members opened."""
    said = agreed.statement
    return Entry(
        sha256=model.sha256,
        version=number if verdict != "refused" else None,
        verdict=verdict,
        code=code,
        run=run,
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


def _norm(base: model_version.Version, candidate: model_version.Version | None) -> float:
    """Return the Euclidean norm of what a candidate changes; infinite when the candidate is not finite."""
    if candidate is None:
        return 0.0
    if not np.isfinite(candidate.vector).all():
        return math.inf
    return float(np.linalg.norm(candidate.vector.astype(np.float64) - base.vector))
