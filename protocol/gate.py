"""The gate: whether a candidate becomes the new model. Pure; it bounds damage, it does not prove honesty.

Coordinator, members and auditors come to the same verdict from the same signed words.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..configs.settings import GateSettings

NORM_FACTOR = 10.0
HISTORY = 5


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate.

    Attributes:
        code: "" when accepted, else ``gate.nonfinite``, ``gate.norm``, ``gate.votes`` or ``gate.regression``.
        median: median relative worsening against the best promoted version; None without enough votes.
        minority: members whose own vote passed the limit although the median did not.
    """

    code: str
    median: float | None
    minority: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether the candidate becomes the last good model."""
        return not self.code


def judge(
    votes: Mapping[str, float | None],
    norm: float | None,
    norms: Sequence[float],
    *,
    in_range: bool,
    min_members: int,
    settings: GateSettings,
) -> Verdict:
    """Return the verdict on a candidate.

    Args:
        votes: each opener's relative worsening against the best promoted version, in [-1, 1]; None abstains.
        norm: Euclidean norm of the opened mean; None when the candidate is not finite.
        norms: norms of the promoted updates so far, oldest first.
        in_range: whether the opened sum is one that honest members can make.
        min_members: fewest votes that decide.
        settings: [gate].
    """
    cast = {member: vote for member, vote in votes.items() if vote is not None}
    median = round(statistics.median(cast.values()), 6) if len(cast) >= min_members else None
    if in_range and (norm is None or not math.isfinite(norm)):
        return Verdict("gate.nonfinite", median, ())
    if not in_range or norm is None or (norms and norm > NORM_FACTOR * max(norms[-HISTORY:])):
        return Verdict("gate.norm", median, ())
    if median is None:
        return Verdict("gate.votes", None, ())
    if median > settings.max_regression:
        return Verdict("gate.regression", median, ())
    minority = tuple(sorted(member for member, vote in cast.items() if vote > settings.max_regression))
    return Verdict("", median, minority)
