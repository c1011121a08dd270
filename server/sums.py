"""Sealed sums, for all purposes: collect envelopes into set A, then have set A open the sum."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError, Refused, TooFew
from ..protocol import model_version
from ..protocol.context import RoundContext
from ..protocol.envelope import Envelope, RawEnvelope
from ..protocol.messages import OPEN, SEAL, Open, Opened, Seal, Sealed
from ..protocol.purposes import UPDATE, Purpose
from .aggregate import RunningSum
from .exchange import Answer
from .records import history
from .records.models import Entry
from .rules import AgreedOpening, Collection, Hearing
from .run import Run, Seats

Check = Callable[[Collection, str, RawEnvelope], Envelope]


@dataclass
class _Collecting:
    """A set while it is being collected."""

    collection: Collection
    running: RunningSum
    seeds: dict[str, bytes] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


@dataclass
class Wire:
    """Bytes and seconds of update rounds, one figure an envelope or opening; reports show medians."""

    upload_bytes: list[int] = field(default_factory=list)
    download_bytes: list[int] = field(default_factory=list)
    seal_s: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)
    open_s: list[float] = field(default_factory=list)

    def sealed(self, envelope_bytes: int, seal_s: float, add_s: float) -> None:
        """Count an envelope."""
        self.upload_bytes.append(envelope_bytes)
        self.seal_s.append(seal_s)
        self.add_s.append(add_s)

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
        purpose: of the sum.
        context: the round's.
        collection: signed headers of set A, and who was excluded.
        members: set A, sorted.
        seeds: each member's seeds.
        total: the sum's residues.
        clipped_share: largest share that a member of A reported.
    """

    purpose: Purpose
    context: RoundContext
    collection: Collection
    members: tuple[str, ...]
    seeds: dict[str, bytes]
    total: bytes
    clipped_share: float


class Sums:
    """The sealed sums of a run in one epoch; what its rounds cost is added to ``wire``.

    Attributes:
        params: of an update.
    """

    def __init__(self, run: Run, seats: Seats, wire: Wire) -> None:
        self.seats, self.params = seats, seats.sizes[UPDATE.name]
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
            bases: member → the version it is sent; None where the purpose is about none.
            fixed: the only set for which this base may be opened, where it was opened before.
            check: how an envelope is checked before it is added.

        Raises:
            TooFew: ``round.too_few``.
        """
        run, purpose = self._run, self._run.purposes[context.purpose]
        running = RunningSum(self.seats.plan, self.seats.lanes(purpose))
        collection = Collection(context, self.seats.roster, frozenset(bases), running.body_bytes, fixed)
        collecting = _Collecting(collection, running)
        requests = {member: self._seal_request(context, base) for member, base in bases.items()}
        for answer in run.ask(SEAL, requests, run.offer.training.train_timeout_s, at=context.checkpoint):
            try:
                self._take(purpose, collecting, answer, check)
            except Refused as error:
                self._leave_out(collection, answer.member, error.code)
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
        share = round(max(collecting.shares.values(), default=0.0), 2)
        return Collected(purpose, context, collection, members, collecting.seeds, total, share)

    def _take(self, purpose: Purpose, collecting: _Collecting, answer: Answer[Sealed], check: Check) -> None:
        """Check an envelope and add it to the sum.

        Raises:
            Refused: it is not added.
        """
        member, sealed = answer.member, answer.body()
        collection, running = collecting.collection, collecting.running
        envelope = check(collection, member, sealed.envelope)
        began = time.perf_counter()
        running.vet(envelope)
        collecting.seeds[member] = running.add(envelope.body)
        seconds = time.perf_counter() - began
        context, size = collection.context, len(sealed.envelope.data)
        if purpose.when == "round":
            self._run.state.envelopes.keep(context.number, envelope.signed, sealed.envelope)
            self._wire.sealed(size, sealed.seal_s, seconds)
        collection.accept(envelope)
        collecting.shares[member] = sealed.clipped_share
        self._note("envelope_accepted", context, member=member, header=envelope.signed.digest, bytes=size)

    def open(self, collected: Collected, best: str) -> tuple[AgreedOpening, model_version.Version | None]:
        """Ask set A to open the sum, until a quorum agrees and one of it has sent the version that follows.

        Args:
            collected: the closed set.
            best: SHA-256 of the gate's reference; "" where there is no vote.

        Returns:
            The agreement, and the version; None where none follows from this purpose or from a sum out of range.

        Raises:
            Refused: no quorum; the code says why.
        """
        context, results = collected.context, dict[str, bytes]()
        request = self._open_request(collected, best)
        agreed = self._heard(collected, best, request, results)
        self._note("opened", context, **agreed.proof.as_dict(), disagreeing=list(agreed.disagreeing))
        if not (collected.purpose.makes_version and agreed.statement.in_range):
            return agreed, None
        return agreed, self._result(context, request, agreed, results)

    def _heard(self, collected: Collected, best: str, request: Open, results: dict[str, bytes]) -> AgreedOpening:
        """Ask set A to open and judge, and return what a quorum agrees on.

        Args:
            collected: the closed set.
            best: as in :meth:`open`.
            request: the same for all but for who sends the result.
            results: digest → file, of those that came.
        """
        run, members, purpose = self._run, collected.members, collected.purpose
        hearing = Hearing(purpose, collected.context, self.seats.roster, members, run.offer.crypto.open_quorum, best)
        requests = {member: request.model_copy(update={"upload": member == members[0]}) for member in members}
        timeout_s, needs_all = run.offer.crypto.open_timeout_s, purpose.kept_by_openers
        for answer in run.ask(OPEN, requests, timeout_s, lambda: hearing.enough and not needs_all):
            self._hear(hearing, answer, results)
        for member in sorted(hearing.waiting):
            self._refuse(hearing, member, "envelope.late")
        return hearing.conclude()

    def _result(
        self, context: RoundContext, request: Open, agreed: AgreedOpening, results: dict[str, bytes]
    ) -> model_version.Version:
        """Return the version that the quorum signed; ask its signers in turn where the first did not send it."""
        wanted = agreed.statement.sha256
        for member in sorted(agreed.proof.signatures):
            if wanted in results:
                break
            again = {member: request.model_copy(update={"upload": True})}
            for answer in self._run.ask(OPEN, again, self._run.offer.crypto.open_timeout_s):
                try:
                    _keep(answer.body().result, results)
                except Refused as error:
                    self._note("opening_refused", context, member=member, code=error.code)
        if wanted not in results:
            raise Refused("open.quorum", "no opener sent the result that it signed")
        try:
            return model_version.parse(results[wanted])
        except InputError as error:
            raise Refused("open.disagree", f"the result that a quorum signed is no model: {error}") from None

    def _hear(self, hearing: Hearing, answer: Answer[Opened], results: dict[str, bytes]) -> None:
        try:
            opened = answer.body()
            hearing.hear(answer.member, opened)
        except Refused as error:
            self._refuse(hearing, answer.member, error.code)
            return
        _keep(opened.result, results)
        if hearing.purpose.when == "round":
            self._wire.open_s.append(opened.open_s)

    def _refuse(self, hearing: Hearing, member: str, code: str) -> None:
        hearing.refuse(member, code)
        self._note("opening_refused", hearing.context, member=member, code=code)

    def _leave_out(self, collection: Collection, member: str, code: str) -> None:
        collection.exclude(member, code)
        self._note("envelope_refused", collection.context, member=member, code=code)

    def _round(self, context: RoundContext) -> dict[str, Any]:
        """Return what every request of a round says of it."""
        return {
            "run": self._run.id,
            "epoch": self.seats.epoch,
            **{name: getattr(context, name) for name in ("number", "round", "purpose", "base", "clip", "checkpoint")},
        }

    def _seal_request(self, context: RoundContext, base: Entry | None) -> Seal:
        sent = {"base": base.sha256 if base else "", "clip": base.clip if base else context.clip}
        model = self._run.state.models.read(base.sha256).data if base else b""
        return Seal(**{**self._round(context), **sent}, model=model, proof=dict(base.proof) if base else {})

    def _open_request(self, collected: Collected, best: str) -> Open:
        context, accepted = collected.context, collected.collection.accepted
        headers = {member: accepted[member].data for member in collected.members}
        signatures = {member: accepted[member].signature for member in collected.members}
        if collected.purpose.when == "round":
            base = self._run.state.models.path(context.base).stat().st_size
            pieces = (*headers.values(), *signatures.values(), *collected.seeds.values(), collected.total)
            self._wire.download_bytes.append(base + sum(map(len, pieces)))
        return Open(
            **self._round(context),
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


def _keep(result: bytes, results: dict[str, bytes]) -> None:
    if result:
        results[hashlib.sha256(result).hexdigest()] = result
