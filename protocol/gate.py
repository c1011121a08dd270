"""The gate: whether a candidate is promoted, kept or refused. It bounds damage; it does not prove honesty (rule 7).

The gate is a pure function, so coordinator, members and auditors reach the same verdict from the same signed votes. A
vote is a word and not a number, because numbers in the clear, round after round, would give away a member's own
gradient.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..configs.settings import GateSettings

Vote = Literal["better", "same", "worse", "abstain"]
VOTES: tuple[Vote, ...] = ("better", "same", "worse", "abstain")
Status = Literal["promoted", "kept", "refused"]
STEP_FACTOR, HISTORY = 3.0, 5
SWALLOWED = 1.1
"""Up to this length, relative to its coins alone, an opened sum says little beyond the coins: all are warned."""


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on a candidate.

    Attributes:
        status: ``promoted``: the new best version; ``kept``: trained further, never released; ``refused``.
        code: ``gate.step`` or ``gate.worse`` if refused, else "".
        minority: members that voted worse although the candidate was not refused.
    """

    status: Status
    code: str = ""
    minority: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the next round trains from the candidate."""
        return self.status != "refused"


def judge(
    votes: Mapping[str, str], norm: float | None, norms: Sequence[float], *, in_range: bool, settings: GateSettings
) -> Verdict:
    """Return the verdict on a candidate.

    The candidate's length is checked first. It is refused if the length is not finite, is more than ``max_step``, or is
    more than three times the longest of the last five candidates that were not refused.

    Then the votes decide. ``abstain`` does not count. The candidate is refused if more than half of the counting votes
    are ``worse``. It is promoted if ``better`` minus ``worse`` is more than half of them. Without the subtraction, a
    hostile member and half of the others could promote what costs one of them more in every round. An ``abstain`` is
    never worth more than ``better`` or ``worse``, so nothing is gained by it.

    Args:
        votes: each opener's vote, one of :data:`VOTES`.
        norm: Euclidean norm of the opened mean; None if the candidate is not finite.
        norms: norms of this run's candidates so far that were not refused, oldest first.
        in_range: whether honest members can make the opened sum.
        settings: [gate].
    """
    if not in_range or norm is None or not math.isfinite(norm) or norm > _longest(norms, settings):
        return Verdict("refused", "gate.step")
    counts = counted(votes)
    most = (counts["better"] + counts["same"] + counts["worse"]) / 2
    if counts["worse"] > most:
        return Verdict("refused", "gate.worse")
    minority = tuple(sorted(member for member, vote in votes.items() if vote == "worse"))
    return Verdict("promoted" if counts["better"] - counts["worse"] > most else "kept", "", minority)


def _longest(norms: Sequence[float], settings: GateSettings) -> float:
    """Return the longest mean that may pass. In a practice, ``max_step`` is 0 until one is found."""
    bound = settings.max_step or math.inf
    return min(bound, STEP_FACTOR * max(norms[-HISTORY:])) if norms else bound


def counted(votes: Mapping[str, str]) -> dict[str, int]:
    """Return how many votes each word of :data:`VOTES` has."""
    tally = Counter(votes.values())
    return {word: tally[word] for word in VOTES}


def vote_on(loss: float | None, good: Sequence[float | None], settings: GateSettings) -> Vote:
    """Return a member's vote on a candidate.

    *Worse* compares with the lowest loss of all good versions, not only with the best version's. A member that loses a
    little in every round would otherwise never vote worse.

    Args:
        loss: of the candidate on the member's own validation rows. None or not finite counts as the worst.
        good: losses of the version where the run began and of those promoted since, oldest first. None for a version
            that was never measured here.
        settings: [gate].
    """
    best = good[-1] if good else None
    if best is None:
        return "same"
    if loss is None or not math.isfinite(loss):
        return "worse"
    known = [past for past in good if past is not None and math.isfinite(past)]
    if known and loss > min(known) + settings.max_regression * abs(min(known)):
        return "worse"
    return "better" if not math.isfinite(best) or loss < best - settings.min_gain * abs(best) else "same"
