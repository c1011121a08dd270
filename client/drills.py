"""What a failing or hostile member does, on purpose: part of the product, so that a federation can try its defences.

Each drill replaces one step of an honest member in one round. What is expected of each stands in docs/drills.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from ..crypto import envelope as envelopes
from ..crypto import planner, quantise, version
from ..crypto.context import RoundContext
from ..crypto.quantise import Contribution
from ..messages import Body, Seal, Sealed
from . import epochs
from .app import Member
from .seat import Agreed, Seated

SCALE = 1000.0


class DrilledMember(Member):
    """An honest member but for its drills: round number → kind."""

    drills: Mapping[int, str] = {}
    _last: envelopes.RawEnvelope | None = None
    _overflowing = False

    def _drill(self, context: RoundContext) -> str:
        return self.drills.get(context.number, "") if context.purpose == "update" else ""

    def _train(self, agreed: Agreed, context: RoundContext, base: version.Version) -> quantise.Update:
        drill = self._drill(context)
        if drill == "crash":
            raise RuntimeError("drill: the training crashed")
        update = super()._train(agreed, context, base)
        return update * np.float32({"nan": np.nan, "scale": SCALE, "flip": -1.0}.get(drill, 1.0))

    def _blocks(self, seat: Seated, given: Contribution) -> Iterator[quantise.Ints]:
        for rows in super()._blocks(seat, given):
            if self._overflowing:
                half_full = np.full(rows.size * seat.plan.lanes, 1 << (seat.plan.lane_bits - 1), dtype=np.int64)
                yield quantise.rows_of(half_full, seat.plan)
            else:
                yield rows

    def _sealed(self, seat: Seated, context: RoundContext, given: Contribution) -> envelopes.RawEnvelope:
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
        if context.purpose != "tallies":
            self._last = raw
        return raw

    def answer(self, request: type[Body], records: RecordDict) -> RecordDict:
        """Return the honest reply, or what the drill makes of it on its way out."""
        reply = super().answer(request, records)
        if request is not Seal or reply.config_records["message"]["kind"] != Sealed.kind:
            return reply
        asked = Seal.from_records(records)
        drill = self.drills.get(asked.number, "") if asked.purpose == "update" else ""
        if drill == "tamper":
            sealed = Sealed.from_records(reply)
            data = bytearray(sealed.envelope.data)
            data[-1] ^= 1
            return sealed.model_copy(update={"envelope": envelopes.RawEnvelope(bytes(data))}).to_records()
        if drill == "plaintext":
            vector = version.parse(asked.model).vector
            arrays = ArrayRecord({"update": Array(vector)})
            return RecordDict({"message": ConfigRecord({"kind": "sealed"}), "bytes": arrays})
        return reply
