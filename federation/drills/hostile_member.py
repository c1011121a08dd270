"""What a failing or hostile member does, on purpose: part of the product, so that a federation can try its defences.

Each drill replaces one step of an honest member in one round. What is expected of each stands in docs/drills.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...client import epochs
from ...client.app import Member
from ...client.purposes import Given, MemberRound
from ...client.seat import Seated
from ...client.steps import Update
from ...crypto import planner, quantise
from ...crypto.quantise import Contribution
from ...protocol import envelope as envelopes
from ...protocol import model_version
from ...protocol.context import RoundContext
from ...protocol.messages import Body, Seal, Sealed
from ...protocol.purposes import TALLIES, UPDATE
from ...protocol.records import from_records, kind_of, to_records, unsealed

if TYPE_CHECKING:
    from ...protocol.records import RecordDict

SCALE = 1000.0


@dataclass(frozen=True)
class _Spoiling:
    """The step of a drill, before all others."""

    kind: str

    def __call__(self, update: Update, context: RoundContext) -> Update:
        if self.kind == "crash":
            raise RuntimeError("drill: the training crashed")
        factor = np.float32({"nan": np.nan, "scale": SCALE, "flip": -1.0}.get(self.kind, 1.0))
        return replace(update, vector=update.vector * factor)


class DrilledMember(Member):
    """An honest member but for its drills: round number → kind."""

    drills: Mapping[int, str] = {}
    _last: envelopes.OwnEnvelope | None = None
    _overflowing = False

    def _drill(self, context: RoundContext) -> str:
        return self.drills.get(context.number, "") if context.purpose == UPDATE.name else ""

    def _give(self, at: MemberRound) -> Given:
        return super()._give(replace(at, steps=(_Spoiling(self._drill(at.context)), *at.steps)))

    def _blocks(self, seat: Seated, given: Contribution) -> Iterator[quantise.Ints]:
        for rows in super()._blocks(seat, given):
            if self._overflowing:
                half_full = np.full(rows.size * seat.plan.lanes, 1 << (seat.plan.lane_bits - 1), dtype=np.int64)
                yield quantise.rows_of(half_full, seat.plan)
            else:
                yield rows

    def _sealed(self, seat: Seated, context: RoundContext, given: Contribution) -> envelopes.OwnEnvelope:
        drill, last = self._drill(context), self._last
        self._overflowing = drill == "overflow"
        if drill == "replay" and last is not None:
            return last
        if drill == "wrong-params":
            other = planner.plan(len(seat.roster.names), seat.plan.value_bits - 1, len(given.update))
            seat = replace(seat, plan=other, held=epochs.stranger(self.identity, other))
            context = replace(context, crypto=other.as_dict())
        elif drill == "wrong-key":
            seat = replace(seat, held=epochs.stranger(self.identity, seat.plan))
            context = replace(context, epoch=context.epoch + 1)
        raw = super()._sealed(seat, context, given)
        if context.purpose != TALLIES.name:
            self._last = raw
        return raw

    def answer(self, request: type[Body], records: RecordDict) -> RecordDict:
        """Return the honest reply, or what the drill makes of it on its way out."""
        reply = super().answer(request, records)
        if request is not Seal or kind_of(reply) != Sealed.kind:
            return reply
        asked = from_records(Seal, records)
        drill = self.drills.get(asked.number, "") if asked.purpose == UPDATE.name else ""
        if drill == "tamper":
            sealed = from_records(Sealed, reply)
            data = bytearray(sealed.envelope.data)
            data[-1] ^= 1
            return to_records(sealed.model_copy(update={"envelope": envelopes.RawEnvelope(bytes(data))}))
        return unsealed(model_version.parse(asked.model).vector) if drill == "plaintext" else reply
