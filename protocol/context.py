"""What a round is: the fields that every envelope, opening and vote is signed over (rule 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..canonical import digest
from ..configs.settings import Offer
from ..crypto.identity import Roster
from ..crypto.planner import Plan
from ..version import __version__


@dataclass(frozen=True)
class RoundContext:
    """One context for all members of a sum; its digest stands in every header.

    Attributes:
        federation: name of the federation.
        run: identifier of the run.
        number: federation-wide round number, never reused; 0 for statistics.
        round: which of the run's planned rounds, from 1; seeds the training. 0 for statistics.
        purpose: what is summed, by its name.
        base: SHA-256 of the model version that is trained from or judged; "" for statistics.
        clip: bound on one parameter's update; 0 where nothing is clipped.
        training: the run's [training] table.
        schema: schema digest.
        task: task reference and options.
        package: version of moonflower.
        crypto: the plan: scheme, N, q, lanes, bits, most summands.
        epoch: key epoch.
        roster: roster digest.
        min_members: a sum over fewer is never opened.
        offer: digest of the whole offer, so that gate and quorum are agreed as well.
        checkpoint: of the coordinator's log, as :func:`checkpoint_label` writes it, that every member of the sum has
            witnessed (rule 7): who was shown another history trains under another context.
    """

    federation: str
    run: str
    number: int
    round: int
    purpose: str
    base: str
    clip: float
    training: dict[str, Any]
    schema: str
    task: dict[str, Any]
    package: str
    crypto: dict[str, Any]
    epoch: int
    roster: str
    min_members: int
    offer: str
    checkpoint: str

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hex digits."""
        return context_digest(asdict(self))

    @property
    def params(self) -> str:
        """Digest of the crypto parameters alone, so that a mismatch there has its own code."""
        return digest(self.crypto)

    def at(self, number: int, planned: int, purpose: str, base: str, clip: float, checkpoint: str) -> RoundContext:
        """Return the context of another round of the same run and epoch; ``planned`` is its ``round``."""
        return replace(self, number=number, round=planned, purpose=purpose, base=base, clip=clip, checkpoint=checkpoint)


def template(
    run: str, offer: Offer, raw_offer: Mapping[str, Any], epoch: int, roster: Roster, plan: Plan
) -> RoundContext:
    """Return what all contexts of a run and epoch share, of no round yet: see :meth:`RoundContext.at`.

    Args:
        run: its identifier.
        offer: what it carries, checked.
        raw_offer: the same as it travels.
        epoch: of the keys.
        roster: of the epoch.
        plan: of its sums.
    """
    return RoundContext(
        federation=offer.federation.name,
        run=run,
        number=0,
        round=0,
        purpose="",
        base="",
        clip=0.0,
        training=offer.training.model_dump(mode="json"),
        schema=offer.schema_digest,
        task=offer.task.model_dump(mode="json"),
        package=__version__,
        crypto=plan.as_dict(),
        epoch=epoch,
        roster=roster.digest,
        min_members=offer.federation.min_members,
        offer=digest(raw_offer),
        checkpoint="",
    )


def context_digest(fields: Mapping[str, Any]) -> str:
    """Return the digest of a context by its fields, which another version of moonflower may have had more of."""
    return digest({"kind": "moonflower.context.v1", **fields})


def checkpoint_label(key: str, size: int, root: bytes) -> str:
    """Return how a context names a checkpoint: entries, Merkle root, and the text of the key that signs the log."""
    return f"{size} {root.hex()} {key}"
