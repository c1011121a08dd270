"""The context of a round: the fields that the signature of every envelope, opening and vote covers (rule 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from ..canonical import digest
from ..configs.settings import Offer
from ..crypto.identity import Roster
from ..crypto.planner import Plan
from ..version import __version__
from .circle import Circle


@dataclass(frozen=True)
class RoundContext:
    """The context that all members of a sum share. Its digest is in every header.

    Attributes:
        federation: name of the federation.
        run: identifier of the run.
        number: federation-wide round number, never reused; 0 for statistics.
        round: which of the run's planned rounds, from 1; seeds the training. 0 for statistics.
        purpose: what is summed, by its name.
        base: SHA-256 of the model version that is trained from or judged; "" for statistics.
        training: the run's [training] table.
        schema: schema digest.
        task: task reference and options.
        package: version of moonflower.
        crypto: the plan: N, q, lanes, bits, summands.
        circle: digest of the circle, all of whose members are in the sum.
        roster: digest of its members' cards.
        key: SHA-256 of the circle's key, under which answers travel.
        frozen: digest of what does not travel: frozen tensors and integer buffers.
        offer: digest of the whole offer, so that the gate is agreed as well.
        checkpoint: of the coordinator's log, as :func:`checkpoint_label` writes it, that every member of the sum has
            witnessed (rule 7). A member that was shown another history trains under another context.
    """

    federation: str
    run: str
    number: int
    round: int
    purpose: str
    base: str
    training: dict[str, Any]
    schema: str
    task: dict[str, Any]
    package: str
    crypto: dict[str, Any]
    circle: str
    roster: str
    key: str
    frozen: str
    offer: str
    checkpoint: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hex digits."""
        return context_digest(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values, which are not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def params(self) -> str:
        """Digest of the crypto parameters alone, so that a mismatch of them has its own code."""
        return digest(self.crypto)

    def at(self, number: int, planned: int, purpose: str, base: str, checkpoint: str) -> RoundContext:
        """Return the context of another round of the same run; ``planned`` is its ``round``."""
        return replace(self, number=number, round=planned, purpose=purpose, base=base, checkpoint=checkpoint)


@dataclass(frozen=True)
class Terms:
    """What all members of a run have agreed to, besides the offer.

    Attributes:
        circle: of the run.
        roster: its members' cards.
        plan: of its sums.
        key: SHA-256 of the circle's key.
        frozen: digest of what does not travel.
    """

    circle: Circle
    roster: Roster
    plan: Plan
    key: str
    frozen: str


def template(run: str, offer: Offer, raw_offer: Mapping[str, Any], terms: Terms) -> RoundContext:
    """Return what all contexts of a run share, without a round yet; see :meth:`RoundContext.at`.

    Args:
        run: its identifier.
        offer: what it carries, checked.
        raw_offer: the same as it travels.
        terms: what its members agreed to.
    """
    return RoundContext(
        federation=offer.federation.name,
        run=run,
        number=0,
        round=0,
        purpose="",
        base="",
        training=offer.training.model_dump(mode="json"),
        schema=offer.schema_digest,
        task=offer.task.model_dump(mode="json"),
        package=__version__,
        crypto=terms.plan.as_dict(),
        circle=terms.circle.digest,
        roster=terms.roster.digest,
        key=terms.key,
        frozen=terms.frozen,
        offer=digest(raw_offer),
        checkpoint="",
    )


def context_digest(fields: Mapping[str, Any]) -> str:
    """Return the digest of a context from its fields. Another version of moonflower may have other fields."""
    return digest({"kind": "moonflower.context.v2", **fields})


def checkpoint_label(key: str, size: int, root: bytes) -> str:
    """Return how a context names a checkpoint: entries, Merkle root, and the text of the key that signs the log."""
    return f"{size} {root.hex()} {key}"
