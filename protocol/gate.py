"""The gate: what a candidate becomes. Pure; it bounds damage, it does not prove honesty (rule 7).

Coordinator, members and auditors come to the same verdict from the same signed words. A vote is a word: numbers in
clear, round after round, would give a member's own gradient away.
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
"""Lengths of an opened sum beside its coins alone, up to which everybody is warned: it says little that they do not."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate.

    Attributes:
        status: ``promoted``: the new best version; ``kept``: trained further, never released; ``refused``.
        code: "" unless refused: ``gate.step`` or ``gate.worse``.
        minority: members that found it worse although it was not refused.
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

    Before any word counts its length: not finite, longer than ``max_step``, or longer than three times the longest of
    the last five that were not refused. Then the words that count decide; ``abstain`` does not count. More than half
    ``worse`` refuse. More than half ``better``, each ``worse`` taken away from them, promote: a hostile member and half
    of the others would else promote what costs one of them ever more.
    A word that does not count is never worth more than ``better`` or ``worse``, so nothing is gained by it.

    Args:
        votes: each opener's word, one of :data:`VOTES`.
        norm: Euclidean norm of the opened mean; None when the candidate is not finite.
        norms: norms of the candidates of this run so far that were not refused, oldest first.
        in_range: whether the opened sum is one that members can make.
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
    """Return the longest mean that may pass; ``max_step`` is 0 in a practice that has not found one."""
    bound = settings.max_step or math.inf
    return min(bound, STEP_FACTOR * max(norms[-HISTORY:])) if norms else bound


def counted(votes: Mapping[str, str]) -> dict[str, int]:
    """Return how often each word was said."""
    found = Counter(votes.values())
    return {word: found[word] for word in VOTES}


def vote_on(loss: float | None, good: Sequence[float | None], settings: GateSettings) -> Vote:
    """Return a member's word on a candidate.

    *Worse* is beside the lowest loss of all good versions, not of the best one alone: a member that loses a little in
    every round would else never say so.

    Args:
        loss: of the candidate on the member's own validation rows; None or not finite: it is as bad as can be.
        good: of the version where the run began and of those promoted since, oldest first; None where one was never
            measured here.
        settings: [gate].
    """
    best = good[-1] if good else None
    if best is None:
        return "same"
    if loss is None or not math.isfinite(loss):
        return "worse"
    known = [one for one in good if one is not None and math.isfinite(one)]
    if known and loss > min(known) + settings.max_regression * abs(min(known)):
        return "worse"
    return "better" if not math.isfinite(best) or loss < best - settings.min_gain * abs(best) else "same"
