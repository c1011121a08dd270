"""One round of training: collect, open, judge, promote or fall back. Every transition is one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from .. import logs
from ..errors import Ended, Refused, TooFew
from ..protocol import gate, model_version
from ..protocol.context import RoundContext
from ..protocol.envelope import Envelope, RawEnvelope
from ..protocol.purposes import UPDATE
from .records import contexts, history
from .records.history import Round
from .records.models import Entry, Models, best
from .rules import JUNK, AgreedOpening, Collection, Patience
from .run import Run
from .sums import Sums
from .wire import Wire


class Rounds:
    """The rounds of a run.

    Args:
        run: the run.
        sums: its sealed sums.
        patience: counts how rounds end.
        wire: counts what rounds cost.
    """

    def __init__(self, run: Run, sums: Sums, patience: Patience, wire: Wire) -> None:
        self._run, self._state, self._sums = run, run.state, sums
        self._patience, self._wire = patience, wire

    def carry_out(self, planned: int) -> Round:
        """Carry out one planned round and return its record. It keeps the number that it began with, or takes the next.

        Raises:
            Ended: ``circle.junk``: for the second time, answers did not open the sum.
        """
        self._state.expire()
        with self._state.store.read() as db:
            entries = self._state.models.entries(db, self._run.id)
        chain = chain_of(entries)
        base = newest_whole(self._state.models, chain, self._run.id)
        reached = chain[: chain.index(base) + 1]  # in a repetition: the versions that existed the first time
        context, sums = self._begin(planned, base), self._sums
        outcome = Round(planned, context.number)
        logs.now_about(round=context.number)
        bases = {member: self.base_for(member, base, entries, context) for member in sums.seats.roster.names}
        try:
            collected = sums.collect(context, bases, _refused(entries), self.check)
        except TooFew as failed:
            return self._fail(replace(outcome, named=failed.named), failed.code, context)
        members = sums.seats.roster.names
        outcome = replace(outcome, members=members)
        try:
            agreed, candidate = sums.open(collected, best(reached).sha256)
        except Refused as error:
            failed_round = self._fail(outcome, error.code, context)
            self._check_junk()
            return failed_round
        return self._judge(outcome, context, agreed, candidate, reached)

    def _begin(self, planned: int, base: Entry) -> RoundContext:
        """Return the context of a planned round: the one from before a restart, if it still fits, or a new one.

        It does not fit if members now have other cards or another base. Then that number has failed.
        """
        run, template = self._run, self._sums.seats.template
        with self._state.store.read() as db:
            going = history.running(db, run.id)
            begun = contexts.going_on(db, run.id, going.number, UPDATE.name) if going else None
        if going is not None and going.round == planned:
            checkpoint = begun.checkpoint if begun else run.witnesses.newest()
            context = template.at(going.number, planned, UPDATE.name, base.sha256, checkpoint)
            if begun is None or begun.digest == context.digest:
                return context
        with self._state.store.transaction() as db:
            run.break_off(db, history.INTERRUPTED)
            number = history.next_number(db)
            history.write_round(db, run.id, Round(planned, number))
            run.log(db, "round_began", number=number, round=planned, base=base.sha256)
        return template.at(number, planned, UPDATE.name, base.sha256, run.witnesses.newest())

    def _check_junk(self) -> None:
        """Check that fewer than two openings of this run failed for lack of a key.

        Raises:
            Ended: ``circle.junk``.
        """
        with self._state.store.read() as db:
            junk = [outcome for outcome in history.finished(db, self._run.id) if outcome.code == "open.key"]
        if len(junk) >= JUNK:
            raise Ended("circle.junk", f"in {len(junk)} rounds the answers of all members did not open the sum")

    def _judge(
        self,
        outcome: Round,
        context: RoundContext,
        agreed: AgreedOpening,
        candidate: model_version.Version | None,
        reached: list[Entry],
    ) -> Round:
        """Let the gate decide: promote the candidate, keep it as the next base, or stay with the base.

        Args:
            outcome, context, agreed, candidate: of the round.
            reached: the versions up to and including the round's base, oldest first.
        """
        run, statement, votes = self._run, agreed.statement, agreed.proof.votes
        norms = [entry.norm for entry in reached if entry.norm is not None]
        verdict = gate.judge(votes, statement.norm, norms, in_range=statement.in_range, settings=run.offer.gate)
        swallowed = statement.in_range and statement.signal <= gate.SWALLOWED
        warned = [(member, "gate.worse") for member in verdict.minority]
        warned += [(member, "update.coins") for member in statement.members if swallowed]
        status, counts = verdict.status, gate.counted(votes)
        outcome = replace(
            outcome, status=status, code=verdict.code, warnings=(*outcome.warnings, *warned), votes=counts
        )
        if verdict.accepted and candidate is not None:
            self._state.models.write(candidate)
        with self._state.store.transaction() as db:
            about = {
                "votes": votes,
                "best": agreed.proof.best,
                "warnings": [list(warning) for warning in outcome.warnings],
            }
            run.log(db, "judged", number=outcome.number, code=verdict.code, **about)
            if candidate is not None:
                number = self._state.models.next_version(db)
                entry = version_entry(run.id, candidate, number, status, verdict.code, agreed)
                self._state.models.record(db, replace(entry, norm=statement.norm, votes=counts))
            self._write(db, outcome, context)
            named = dict(outcome.named)
            run.log(db, status, number=outcome.number, code=verdict.code, sha256=statement.sha256, named=named)
        self._patience.count(status, outcome.round)
        return outcome

    def _fail(self, outcome: Round, code: str, context: RoundContext) -> Round:
        """Record a round without a candidate."""
        with self._state.store.transaction() as db:
            failed = replace(outcome, status="failed", code=code)
            self._write(db, failed, context)
            self._run.log(db, "failed", number=outcome.number, code=code, named=dict(outcome.named))
        self._patience.count("failed", outcome.round)
        return failed

    def _write(self, db: Connection, outcome: Round, context: RoundContext) -> None:
        """Record a round that ended, and the cost so far; drop what came in its context."""
        self._sums.over(db, context)
        history.write_round(db, self._run.id, outcome)
        history.write_summary(db, self._run.id, self._wire.summary(self._sums.params))

    # The steps that the drills of a dishonest coordinator replace.

    def base_for(self, member: str, base: Entry, entries: list[Entry], context: RoundContext) -> Entry:
        """Return the version that a member is sent."""
        return base

    def check(self, collection: Collection, member: str, raw: RawEnvelope) -> Envelope:
        """Return the checked envelope."""
        return collection.check(member, raw)


def chain_of(entries: list[Entry]) -> list[Entry]:
    """Return the versions of a run that rounds train from, oldest first: all but the refused ones."""
    return sorted((entry for entry in entries if entry.verdict != "refused"), key=lambda entry: entry.number)


def newest_whole(models: Models, chain: list[Entry], run: str) -> Entry:
    """Return the newest of a run's versions whose file is intact: the next round's base.

    Raises:
        Refused: ``data.model``: every file is damaged.
    """
    for entry in reversed(chain):
        if models.is_whole(entry.sha256):
            return entry
    raise Refused("data.model", f"every model of run {run} is damaged on disk; the newest is {chain[-1].sha256}")


def version_entry(
    run: str, model: model_version.Version, number: int, verdict: str, code: str, agreed: AgreedOpening
) -> Entry:
    """Return the registry's entry for a version that members opened."""
    statement = agreed.statement
    return Entry(
        sha256=model.sha256,
        version=number if verdict in ("start", "promoted") else None,
        verdict=verdict,
        code=code,
        run=run,
        number=statement.number,
        base=statement.base,
        members=statement.members,
        proof=agreed.proof.as_dict(),
        norm=None,
        votes={},
        metrics=None,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _refused(entries: list[Entry]) -> Mapping[str, Any] | None:
    """Return the proof of a run's newest candidate, if it was refused."""
    newest = max(entries, key=lambda entry: entry.number)
    return newest.proof if newest.verdict == "refused" else None
