"""What a failing or hostile member does, on purpose. A federation uses it to test its defences.

Each drill replaces one step of an honest member in one round. Only ``rows`` does so before all rounds, when the
statistics are opened. docs/drills.md says what is expected of each drill.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...client.app import Member
from ...client.guard import OwnAnswer, SealList
from ...client.purposes import Given, MemberRound
from ...client.seals import HeldSeal
from ...client.seat import Seated
from ...client.steps import Update
from ...crypto import planner
from ...crypto.quantise import Contribution, Ints
from ...protocol import envelope as envelopes
from ...protocol import model_version
from ...protocol.context import RoundContext
from ...protocol.messages import Body, Seal, Sealed
from ...protocol.purposes import STATISTICS, TALLIES, UPDATE
from ...protocol.records import from_records, kind_of, to_records, unsealed

if TYPE_CHECKING:
    from ...protocol.records import RecordDict

SCALE, AGAINST = 1000.0, -5.0
CLAIMED_ROWS = 2**38


@dataclass(frozen=True)
class _Spoiling:
    """The step that a drill adds: ``inner-product`` after all other steps, any other kind before them."""

    kind: str

    def __call__(self, update: Update, context: RoundContext) -> Update:
        if self.kind == "crash":
            raise RuntimeError("drill: the training crashed")
        factors = {"nan": np.nan, "scale": SCALE, "flip": -1.0, "inner-product": AGAINST}
        factor = np.float32(factors.get(self.kind, 1.0))
        return replace(update, vector=update.vector * factor)


class DrilledMember(Member):
    """An honest member, except for its drills: planned round → kind. Each is for the first number of its round."""

    drills: Mapping[int, str] = {}
    _numbers: dict[int, int]
    _last: tuple[envelopes.OwnEnvelope, bytes] | None = None
    _filling = ""

    def _drill(self, at: RoundContext | Seal) -> str:
        if at.purpose != UPDATE.name or at.round not in self.drills:
            return ""
        self._numbers = getattr(self, "_numbers", {})
        return self.drills[at.round] if self._numbers.setdefault(at.round, at.number) == at.number else ""

    def _give(self, at: MemberRound) -> Given:
        kind = self._drill(at.context)
        spoiling = (_Spoiling(kind),)
        steps = (*at.steps, *spoiling) if kind == "inner-product" else (*spoiling, *at.steps)
        honest = super()._give(replace(at, steps=steps))
        if at.context.purpose != STATISTICS.name or "rows" not in self.drills.values():
            return honest
        claimed = (CLAIMED_ROWS, *honest.contribution.counters[1:])
        return replace(honest, contribution=replace(honest.contribution, counters=claimed))

    def _lanes(self, seat: Seated, contribution: Contribution) -> Ints:
        lanes, full = super()._lanes(seat, contribution), (1 << seat.plan.value_bits) - 1
        if self._filling == "overflow":
            return np.full_like(lanes, full)
        if self._filling == "rare":  # as the weight of a column that few rows have
            lanes[0] = full
        if self._filling == "trap":  # weights so large, up and down in turn, that single rows stand out in later sums
            lanes[: len(lanes) // 2] = np.where(np.arange(len(lanes) // 2) % 2, full, 0)
        return lanes

    def _sealed(
        self, seat: Seated, context: RoundContext, contribution: Contribution
    ) -> tuple[envelopes.OwnEnvelope, bytes]:
        drill, last = self._drill(context), self._last
        self._filling = drill
        if drill == "replay" and last is not None:
            return last
        if drill == "wrong-params":
            plan = seat.plan
            other = planner.plan(plan.members, plan.value_bits - 1, len(contribution.update))
            seat, context = replace(seat, plan=other), replace(context, crypto=other.as_dict())
        fresh = super()._sealed(seat, context, contribution)
        if context.purpose != TALLIES.name:
            self._last = fresh
        return fresh

    def _answer(self, seat: Seated, context: RoundContext, kept: HeldSeal, listed: SealList, lanes: int) -> OwnAnswer:
        if self._drill(context) == "junk":
            kept = replace(kept, seed=os.urandom(len(kept.seed)))
        return super()._answer(seat, context, kept, listed, lanes)

    def answer(self, request: type[Body], records: RecordDict) -> RecordDict:
        """Return the honest reply, or what the drill makes of it."""
        reply = super().answer(request, records)
        if request is not Seal or kind_of(reply) != Sealed.kind:
            return reply
        asked = from_records(Seal, records)
        drill = self._drill(asked)
        if drill == "tamper":
            sealed = from_records(Sealed, reply)
            data = bytearray(sealed.envelope.data)
            data[-1] ^= 1
            return to_records(sealed.model_copy(update={"envelope": envelopes.RawEnvelope(bytes(data))}))
        return unsealed(model_version.parse(asked.model).vector) if drill == "plaintext" else reply
