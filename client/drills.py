"""What a failing or hostile member does, on purpose: part of the product, so that a federation can try its defences.

Each drill replaces one step of an honest member in one round. What is expected of each stands in docs/drills.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from ..crypto import envelope as envelopes
from ..crypto import planner, quantise, secret, version
from ..crypto.context import RoundContext
from ..messages import Body, Seal, Sealed
from .app import Agreed, Contribution, Member, Seated

SCALE = 1000.0


class DrilledMember(Member):
    """An honest member but for its drills: round number → kind."""

    drills: Mapping[int, str] = {}
    _last: envelopes.RawEnvelope | None = None

    def _drill(self, context: RoundContext) -> str:
        return self.drills.get(context.number, "") if context.purpose == "update" else ""

    def _train(self, agreed: Agreed, context: RoundContext, base: version.Version) -> quantise.Floats:
        drill = self._drill(context)
        if drill == "crash":
            raise RuntimeError("drill: the training crashed")
        update = super()._train(agreed, context, base)
        factor = {"nan": np.nan, "scale": SCALE, "flip": -1.0}.get(drill, 1.0)
        return update * factor

    def _slots(self, seat: Seated, contribution: Contribution) -> quantise.Ints:
        if self._overflowing and len(contribution.values):
            used = len(contribution.values) + len(contribution.counters) * seat.plan.limbs
            half_full = np.full(used, 1 << (seat.plan.lane_bits - 1), dtype=np.int64)
            return quantise.pack_lanes(half_full, seat.plan)
        return super()._slots(seat, contribution)

    _overflowing = False

    def _sealed(self, seat: Seated, context: RoundContext, contribution: Contribution) -> envelopes.RawEnvelope:
        drill, last = self._drill(context), self._last
        self._overflowing = drill == "overflow"
        if drill == "replay" and last is not None:
            return last
        if drill == "wrong-params":
            other = planner.plan(len(seat.roster.names), seat.plan.value_bits - 1, len(contribution.values))
            small = replace(contribution, values=np.trunc(contribution.values / 2).astype(np.int64))
            key = secret.SecretKey(other, secret.generate(other))
            seat = replace(seat, plan=other, key=key)
            raw = super()._sealed(seat, replace(context, crypto=other.as_dict()), small)
        elif drill == "wrong-key":
            key = secret.SecretKey(seat.plan, secret.generate(seat.plan))
            raw = super()._sealed(replace(seat, key=key), replace(context, epoch=context.epoch + 1), contribution)
        else:
            raw = super()._sealed(seat, context, contribution)
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
