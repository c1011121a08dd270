"""What a member agreed to for a run, and its seat in an epoch; both are made from the ledger, after a restart too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..canonical import digest
from ..configs.settings import Offer
from ..crypto import planner
from ..crypto.identity import Identity, Roster, parse_roster
from ..crypto.schemes.deal import EpochTerms
from ..errors import Refused
from ..protocol.context import RoundContext, template
from ..protocol.messages import Shared
from ..protocol.purposes import UPDATE, Purpose
from ..version import __version__
from . import epochs
from .learning.learner import Learner
from .ledger.ledger import Epoch
from .purposes import MemberPurpose


@dataclass(frozen=True)
class Agreed:
    """What this member agreed to for a run at enrolment, and its half of what all must share.

    Attributes:
        offer: the run's.
        raw: the offer as it came.
        learner: with the node's own rows.
        shared: what all members must say alike.
        sizes: how many numbers a vector of each purpose holds.
    """

    offer: Offer
    raw: Mapping[str, Any]
    learner: Learner
    shared: Mapping[Shared, str]
    sizes: Mapping[str, int]

    @classmethod
    def to(cls, offer: Offer, raw: Mapping[str, Any], learner: Learner, purposes: Iterable[MemberPurpose]) -> Agreed:
        """Agree to an offer that the guard admitted; ``raw`` is the offer as it came."""
        start = learner.start()
        learner.prepare(learner.scaling(learner.summary().tolist()))  # its own, until the federation's is opened
        shared: dict[Shared, str] = {
            "schema": offer.schema_digest,
            "task": digest(offer.task.model_dump(mode="json")),
            "package": __version__,
            "layout": digest([[spec.name, list(spec.shape)] for spec in learner.layout]),
            "start": hashlib.sha256(start.tobytes()).hexdigest(),
        }
        sizes = {one.purpose.name: one.size(learner) for one in purposes}
        return cls(offer, raw, learner, shared, sizes)

    def plan(self, members: int) -> planner.Plan:
        """Return the crypto parameters of an epoch with so many members."""
        return planner.plan(members, self.offer.crypto.value_bits, self.sizes[UPDATE.name])


@dataclass(frozen=True)
class Seated:
    """What an epoch adds: who takes part, with which parameters, under which keys.

    Attributes:
        roster: its members' cards.
        template: the epoch's RoundContext, of no round yet.
        plan: its parameters.
        held: its keys, as this member uses them.
    """

    roster: Roster
    template: RoundContext
    plan: planner.Plan
    held: epochs.SharedKey

    @classmethod
    def at(cls, agreed: Agreed, kept: Epoch, identity: Identity, pins: Mapping[str, str]) -> Seated:
        """Return the seat in a confirmed epoch, if it still stands: same package, and all its members pinned here.

        Raises:
            Refused: ``envelope.epoch``.
        """
        terms = kept.key.terms
        try:
            roster = parse_roster(kept.roster, pins)
        except Refused as error:
            raise Refused("envelope.epoch", f"epoch {terms.epoch} is over: {error}") from None
        plan = agreed.plan(len(roster.names))
        if EpochTerms.of(agreed.offer.federation.name, terms.epoch, roster, plan) != terms:
            raise Refused("envelope.epoch", f"epoch {terms.epoch} was dealt for another plan than this node makes")
        about = template(kept.run, agreed.offer, agreed.raw, terms.epoch, roster, plan)
        return cls(roster, about, plan, epochs.held(identity, plan, kept.key))

    def lanes(self, purpose: Purpose, agreed: Agreed) -> int:
        """Return how many lanes a sum of this purpose takes."""
        return purpose.lanes(agreed.sizes[purpose.name], self.plan)
