"""What a member agreed to for a run, and its seat in it. Both are made from the ledger, so they survive a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..canonical import digest
from ..configs.settings import Offer
from ..crypto import planner
from ..crypto.answer_plan import answer_plan
from ..crypto.answers import AnswerKey
from ..crypto.identity import Roster, parse_roster
from ..crypto.quantise import Scale
from ..errors import Refused
from ..protocol import envelope
from ..protocol.circle import Circle
from ..protocol.context import RoundContext, Terms, template
from ..protocol.messages import Shared
from ..protocol.purposes import UPDATE, Purpose
from ..version import __version__
from .learning.learner import Learner
from .ledger.run_book import Agreement
from .purposes import MemberPurpose
from .scales import Floors, scale_of


@dataclass(frozen=True)
class Agreed:
    """What this member agreed to for a run at enrolment, and its own values of what all members must share.

    Attributes:
        offer: the run's.
        raw: the offer as it came.
        learner: with the node's own rows.
        circle: all members of the run; this node lives in it.
        plan: of its sums.
        shared: values that must be the same at all members.
        frozen: digest of each tensor that does not travel, by name.
        sizes: how many numbers a vector of each purpose holds.
        scale: of updates on the wire.
        floors: lower bounds of a candidate's values.
        envelope_bytes: upper bound on the size of its largest envelope.
    """

    offer: Offer
    raw: Mapping[str, Any]
    learner: Learner
    circle: Circle
    plan: planner.Plan
    shared: Mapping[Shared, str]
    frozen: Mapping[str, str]
    sizes: Mapping[str, int]
    scale: Scale
    floors: Floors
    envelope_bytes: int

    @classmethod
    def to(
        cls, offer: Offer, raw: Mapping[str, Any], learner: Learner, purposes: Iterable[MemberPurpose], circle: Circle
    ) -> Agreed:
        """Agree to an offer that the guard admitted; ``raw`` is the offer as it came."""
        start = learner.start()
        learner.prepare(learner.scaling(learner.summary().tolist()))  # its own, until the federation's is opened
        shared: dict[Shared, str] = {
            "circle": circle.digest,
            "schema": offer.schema_digest,
            "task": digest(offer.task.model_dump(mode="json")),
            "package": __version__,
            "layout": digest([[spec.name, list(spec.shape)] for spec in learner.layout]),
            "start": hashlib.sha256(start.tobytes()).hexdigest(),
        }
        asked = [(work.purpose, work.size(learner)) for work in purposes]
        sizes = {purpose.name: size for purpose, size in asked}
        plan = planner.plan(len(circle.names), offer.crypto.value_bits, sizes[UPDATE.name])
        scale, floors = scale_of(learner, offer.crypto), Floors(learner)
        largest = max(plan.body_bytes(purpose.lanes(size, plan)) for purpose, size in asked)
        most, frozen = envelope.most_bytes(largest), learner.frozen_digests
        return cls(offer, raw, learner, circle, plan, shared, frozen, sizes, scale, floors, most)

    @property
    def key_use(self) -> str:
        """What the circle's key is for: this circle, and the parameters under which its answers travel."""
        return digest([self.circle.digest, answer_plan(self.plan).as_dict()])

    @property
    def counted(self) -> str:
        """The key under which row counts are opened once (rule 8); circles that carry the counts over share it."""
        return digest([self.circle.federation, self.circle.counted, self.shared["schema"]])

    def roster(self, cards: Iterable[Any]) -> Roster:
        """Return the cards of all members of the circle, each with the pin that the circle has for it.

        Raises:
            Refused: ``circle.differs``; ``circle.card``: a card is malformed.
        """
        roster = parse_roster(cards, self.circle.pins)
        if roster.names != self.circle.names:
            raise Refused("circle.differs", "the run's members are not exactly those of this member's circle")
        return roster


@dataclass(frozen=True)
class Seated:
    """A member's seat in a run.

    Attributes:
        roster: the cards of all members of the circle.
        template: the run's RoundContext, of no round yet.
        plan: of its sums.
        key: the circle's, under which answers travel.
    """

    roster: Roster
    template: RoundContext
    plan: planner.Plan
    key: AnswerKey

    @classmethod
    def at(cls, run: str, agreed: Agreed, kept: Agreement, key: bytes | None) -> Seated:
        """Return the seat that this member took, if it is still valid.

        Args:
            run: its identifier.
            agreed: to its offer.
            kept: what the ledger holds of it.
            key: the circle's, from the ledger.

        Raises:
            Refused: ``circle.key``: no seat was taken, or the key has changed since.
        """
        if key is None or hashlib.sha256(key).hexdigest() != kept.key:
            raise Refused("circle.key", "this member took no seat in the run, or holds another key since")
        roster = agreed.roster(kept.roster)
        frozen = digest(dict(agreed.frozen))
        terms = Terms(agreed.circle, roster, agreed.plan, kept.key, frozen)
        return cls(roster, template(run, agreed.offer, agreed.raw, terms), agreed.plan, AnswerKey(agreed.plan, key))

    def lanes(self, purpose: Purpose, agreed: Agreed) -> int:
        """Return how many lanes a sum of this purpose takes."""
        return purpose.lanes(agreed.sizes[purpose.name], self.plan)
