"""What a member agreed to for a run, and its seat in an epoch; both are made from the ledger, after a restart too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..canonical import digest
from ..configs.settings import Offer
from ..crypto import planner
from ..crypto.context import RoundContext
from ..crypto.identity import Identity, Roster, parse_roster
from ..crypto.keys import EpochTerms
from ..errors import Refused
from ..messages import Shared, Size
from . import epochs
from .ledger import Epoch
from .train import Learner


@dataclass(frozen=True)
class Agreed:
    """What this member agreed to for a run at enrolment, and its half of what all must share.

    Attributes:
        offer: the run's.
        digest: of the offer as it came.
        learner: with the node's own rows.
        shared: what all members must say alike.
        sizes: how many numbers a vector of each purpose holds.
    """

    offer: Offer
    digest: str
    learner: Learner
    shared: Mapping[Shared, str]
    sizes: Mapping[Size, int]

    @classmethod
    def to(cls, offer: Offer, raw: Mapping[str, Any], learner: Learner) -> Agreed:
        """Agree to an offer that the guard admitted; ``raw`` is the offer as it came."""
        start, summary = learner.start(), learner.summary()
        learner.prepare(learner.scaling(summary.tolist()))  # its own, until the federation's is opened
        shared: dict[Shared, str] = {
            "schema": offer.schema_digest,
            "task": digest(offer.task.model_dump(mode="json")),
            "package": __version__,
            "layout": digest([[spec.name, list(spec.shape)] for spec in learner.layout]),
            "start": hashlib.sha256(start.tobytes()).hexdigest(),
        }
        sizes: dict[Size, int] = {
            "update": len(start),
            "statistics": 1 + len(summary),
            "tallies": len(learner.tally(start)),
        }
        return cls(offer, digest(raw), learner, shared, sizes)

    def plan(self, members: int) -> planner.Plan:
        """Return the crypto parameters of an epoch with so many members."""
        return planner.plan(members, self.offer.crypto.value_bits, self.sizes["update"])


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
        template = RoundContext(
            federation=terms.federation,
            run=kept.run,
            number=0,
            round=0,
            purpose="statistics",
            base="",
            clip=0.0,
            training=agreed.offer.training.model_dump(mode="json"),
            schema=agreed.offer.schema_digest,
            task=agreed.offer.task.model_dump(mode="json"),
            package=__version__,
            crypto=plan.as_dict(),
            epoch=terms.epoch,
            roster=roster.digest,
            min_members=agreed.offer.federation.min_members,
            offer=agreed.digest,
            checkpoint="",
        )
        return cls(roster, template, plan, epochs.held(identity, plan, kept.key))
