"""Sealed sums, for all purposes: collect envelopes into set A, then have set A open the sum."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import RecordDict

from ..crypto import version
from ..crypto.context import RoundContext
from ..crypto.envelope import Envelope, RawEnvelope
from ..errors import InputError, Refused
from ..messages import Open, Opened, Seal, Sealed
from .aggregate import RunningSum
from .records import rounds as history
from .records.models import Entry
from .rounds import Agreed, Collection, Hearing
from .run import Run, Seats

Check = Callable[[Collection, str, RawEnvelope], Envelope]


class TooFew(Refused):
    """A set could not be closed; carries who was left out, and why."""

    def __init__(self, code: str, message: str, excluded: dict[str, str]) -> None:
        super().__init__(code, message)
        self.excluded = excluded


@dataclass
class Wire:
    """Bytes and seconds of update rounds, one figure an envelope or opening; reports show medians."""

    upload_bytes: list[int] = field(default_factory=list)
    download_bytes: list[int] = field(default_factory=list)
    seal_s: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)
    open_s: list[float] = field(default_factory=list)

    def summary(self, params: int) -> dict[str, Any]:
        """Return the medians in the form of result.json; null where nothing was measured."""
        medians: dict[str, Any] = {
            name: statistics.median(values) if values else None for name, values in vars(self).items()
        }
        upload = medians["upload_bytes"]
        a_param = upload / params if upload is not None and params else None
        return {"params": params, "upload_bytes_per_param": a_param, **medians}


@dataclass(frozen=True)
class Collected:
    """A closed set and its sealed sum.

    Attributes:
        context: the round's.
        collection: signed headers of set A, and who was excluded.
        members: set A, sorted.
        seeds: each member's seeds.
        total: the sum's residues.
        clipped_share: largest share that a member of A reported.
    """

    context: RoundContext
    collection: Collection
    members: tuple[str, ...]
    seeds: dict[str, bytes]
    total: bytes
    clipped_share: float


class Sums:
    """The sealed sums of a run in one epoch; what its update rounds cost is added to ``wire``."""

    def __init__(self, run: Run, seats: Seats, wire: Wire) -> None:
        self.seats = seats
        self._run, self._wire = run, wire

    def collect(
        self,
        context: RoundContext,
        bases: Mapping[str, Entry | None],
        fixed: frozenset[str] | None,
        check: Check = Collection.check,
    ) -> Collected:
        """Ask members for sealed vectors, add each as it comes, and close set A.

        Args:
            context: the round's.
            bases: member → the version it is sent; None for statistics.
            fixed: the only set for which this base may be opened, where it was opened before.
            check: how an envelope is checked before it is added.

        Raises:
            TooFew: ``round.too_few``.
        """
        run, update = self._run, context.purpose == "update"
        running = RunningSum(self.seats.plan, self.seats.lanes(context.purpose))
        collection = Collection(context, self.seats.roster, frozenset(bases), running.body_bytes, fixed)
        shares: dict[str, float] = {}
        seeds: dict[str, bytes] = {}
        requests = {member: self._seal_request(context, base) for member, base in bases.items()}
        for member, reply in run.ask("train.seal", requests, run.offer.training.train_timeout_s, at=context.checkpoint):
            try:
                sealed = Sealed.from_records(_content(reply))
                envelope = check(collection, member, sealed.envelope)
                began = time.perf_counter()
                running.vet(envelope)
                seeds[member] = running.add(envelope.body)
                seconds = time.perf_counter() - began
            except Refused as error:
                self._leave_out(collection, member, error.code)
                continue
            if update:
                run.state.envelopes.keep(context.number, envelope.signed, sealed.envelope)
            collection.accept(envelope)
            shares[member] = sealed.clipped_share
            size = len(sealed.envelope.data)
            self._note("envelope_accepted", context, member=member, header=envelope.signed.digest, bytes=size)
            if update:
                self._wire.upload_bytes.append(size)
                self._wire.seal_s.append(sealed.seal_s)
                self._wire.add_s.append(seconds)
        for member in sorted(collection.waiting):
            self._leave_out(collection, member, "envelope.late")
        try:
            members = collection.close()
        except Refused as error:
            raise TooFew(error.code, str(error), dict(collection.excluded)) from None
        total = running.dump()
        closed = {
            "purpose": context.purpose,
            "context": asdict(context),
            "headers": {member: collection.accepted[member].digest for member in members},
            "sum": hashlib.sha256(total).hexdigest(),
        }
        with run.state.store.transaction() as db:
            history.fix_set(db, context.purpose, context.base, members)
            run.log(db, "set_closed", number=context.number, **closed)
        share = round(max(shares.values(), default=0.0), 2)
        return Collected(context, collection, members, seeds, total, share)

    def open(self, collected: Collected, best: str) -> tuple[Agreed, version.Version | None]:
        """Ask set A to open the sum, until a quorum agrees and one of it has sent the version that follows.

        Args:
            collected: the closed set.
            best: SHA-256 of the gate's reference; "" where there is no vote.

        Returns:
            The agreement, and the version; None where none follows (tallies, or a sum out of range).

        Raises:
            Refused: no quorum; the code says why.
        """
        context, results = collected.context, dict[str, bytes]()
        request = self._open_request(collected, best)
        agreed = self._heard(collected, best, request, results)
        self._note("opened", context, **agreed.proof.as_dict(), disagreeing=list(agreed.disagreeing))
        if context.purpose == "tallies" or not agreed.statement.in_range:
            return agreed, None
        return agreed, self._result(context, request, agreed, results)

    def _heard(
        self,
        collected: Collected,
        best: str,
        request: Open,
        results: dict[str, bytes],
    ) -> Agreed:
        """Ask set A to open and judge, and return what a quorum agrees on.

        Args:
            collected: the closed set.
            best: as in :meth:`open`.
            request: the same for all but for who sends the result.
            results: digest → file, of those that came.
        """
        run, members = self._run, collected.members
        hearing = Hearing(collected.context, self.seats.roster, members, run.offer.crypto.open_quorum, best)
        requests = {member: request.model_copy(update={"upload": member == members[0]}) for member in members}
        timeout_s = run.offer.crypto.open_timeout_s
        needs_all = collected.context.purpose == "statistics"  # who does not open them never knows the total of rows
        for member, reply in run.ask("evaluate.open", requests, timeout_s, lambda: hearing.enough and not needs_all):
            self._hear(hearing, member, reply, results)
        for member in sorted(hearing.waiting):
            self._refuse(hearing, member, "envelope.late")
        return hearing.conclude()

    def _result(
        self, context: RoundContext, request: Open, agreed: Agreed, results: dict[str, bytes]
    ) -> version.Version:
        """Return the version that the quorum signed; ask its signers in turn where the first did not send it."""
        wanted = agreed.statement.sha256
        for member in sorted(agreed.proof.signatures):
            if wanted in results:
                break
            again = {member: request.model_copy(update={"upload": True})}
            timeout_s = self._run.offer.crypto.open_timeout_s
            for _, reply in self._run.ask("evaluate.open", again, timeout_s):
                try:
                    _keep(Opened.from_records(_content(reply)).result, results)
                except Refused as error:
                    self._note("opening_refused", context, member=member, code=error.code)
        if wanted not in results:
            raise Refused("open.quorum", "no opener sent the result that it signed")
        try:
            return version.parse(results[wanted])
        except InputError as error:
            raise Refused("open.disagree", f"the result that a quorum signed is no model: {error}") from None

    def _hear(self, hearing: Hearing, member: str, reply: RecordDict | str, results: dict[str, bytes]) -> None:
        try:
            opened = Opened.from_records(_content(reply))
            hearing.hear(member, opened)
        except Refused as error:
            self._refuse(hearing, member, error.code)
            return
        _keep(opened.result, results)
        if hearing.context.purpose == "update":
            self._wire.open_s.append(opened.open_s)

    def _refuse(self, hearing: Hearing, member: str, code: str) -> None:
        hearing.refuse(member, code)
        self._note("opening_refused", hearing.context, member=member, code=code)

    def _leave_out(self, collection: Collection, member: str, code: str) -> None:
        collection.exclude(member, code)
        self._note("envelope_refused", collection.context, member=member, code=code)

    def _seal_request(self, context: RoundContext, base: Entry | None) -> Seal:
        models = self._run.state.models
        return Seal(
            run=self._run.id,
            epoch=self.seats.epoch,
            number=context.number,
            round=context.round,
            purpose=context.purpose,
            base=base.sha256 if base else "",
            clip=base.clip if base else context.clip,
            checkpoint=context.checkpoint,
            model=models.read(base.sha256).data if base else b"",
            proof=dict(base.proof) if base else {},
        )

    def _open_request(self, collected: Collected, best: str) -> Open:
        context, accepted = collected.context, collected.collection.accepted
        headers = {member: accepted[member].data for member in collected.members}
        signatures = {member: accepted[member].signature for member in collected.members}
        if context.purpose == "update":
            base = self._run.state.models.path(context.base).stat().st_size
            signed = sum(map(len, headers.values())) + sum(map(len, signatures.values()))
            seeds = sum(map(len, collected.seeds.values()))
            self._wire.download_bytes.append(base + signed + seeds + len(collected.total))
        return Open(
            run=self._run.id,
            epoch=self.seats.epoch,
            number=context.number,
            round=context.round,
            purpose=context.purpose,
            base=context.base,
            clip=context.clip,
            checkpoint=context.checkpoint,
            members=list(collected.members),
            headers=headers,
            signatures=signatures,
            seeds=collected.seeds,
            total=collected.total,
            best=best,
            upload=False,
        )

    def _note(self, event: str, context: RoundContext, **details: Any) -> None:
        self._run.note(event, number=context.number, purpose=context.purpose, **details)


def _content(reply: RecordDict | str) -> RecordDict:
    if isinstance(reply, str):
        raise Refused(reply, "the member refused")
    return reply


def _keep(result: bytes, results: dict[str, bytes]) -> None:
    if result:
        results[hashlib.sha256(result).hexdigest()] = result
