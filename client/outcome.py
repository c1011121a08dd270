"""What follows from an opened sum: a statement to sign, and the model version it is about. Pure functions.

Every opener computes the same bytes from the same sum (rule 4). Totals of rows and weights stay here: only means,
spreads, the candidate and metrics go into what is signed or sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..configs.settings import Offer
from ..crypto import quantise, version
from ..crypto.context import RoundContext
from ..crypto.quantise import OpenedSum
from ..crypto.statement import Statement
from .train import Learner

MANIFEST_FORMAT = 1
METRIC_DECIMALS = 4  # exact shares would give the federation's test rows away at once; many reports still narrow them


@dataclass(frozen=True)
class Outcome:
    """A statement, and the version that results; None where none does."""

    statement: Statement
    result: version.Version | None


def start(
    offer: Offer, learner: Learner, context: RoundContext, headers: Mapping[str, str], sums: OpenedSum
) -> tuple[Outcome, int]:
    """Return version 0 from the opened statistics, with the scaling of all members' rows, and the total of rows."""
    rows, *totals = sums.finish().counters
    manifest = {
        "format": MANIFEST_FORMAT,
        "federation": context.federation,
        "task": context.task,
        "schema": learner.schema.to_dict(),
        "scaling": learner.scaling(totals),
        "package": context.package,
    }
    first = version.build(learner.layout, learner.start(), manifest)
    good = sums.in_range and rows > 0
    said = Statement.of(context, headers, sha256=first.sha256, clip=offer.crypto.clip, in_range=good)
    return Outcome(said, first), rows


def candidate(
    offer: Offer, base: version.Version, context: RoundContext, headers: Mapping[str, str], sums: OpenedSum
) -> Outcome:
    """Return the candidate: base plus the opened mean; the base itself where the sum is out of range."""
    weight = sums.counters[0]
    good = 0 < weight <= quantise.ONE + len(headers)
    vector, largest = np.empty_like(base.vector), 0.0
    for at, values in sums.values():
        if good:
            mean = quantise.mean(values, weight, context.clip, offer.crypto.value_bits)
            largest = max(largest, float(np.abs(mean).max()))
            part = slice(at, at + len(values))
            vector[part] = quantise.apply_mean(base.vector[part], mean)
    if not good or not sums.in_range:
        said = Statement.of(context, headers, sha256=base.sha256, clip=context.clip, in_range=False)
        return Outcome(said, None)
    made = version.candidate(base, vector)
    clip = quantise.next_clip(context.clip, largest)
    return Outcome(Statement.of(context, headers, sha256=made.sha256, clip=clip, in_range=True), made)


def report(learner: Learner, context: RoundContext, headers: Mapping[str, str], sums: OpenedSum) -> Outcome:
    """Return the metrics over all members' test rows; the counts themselves stay here (rule 11)."""
    good = sums.finish().in_range
    exact = learner.overall(list(sums.counters)) if good else {}
    metrics = {name: None if value is None else round(float(value), METRIC_DECIMALS) for name, value in exact.items()}
    said = Statement.of(context, headers, sha256=context.base, clip=context.clip, in_range=good, metrics=metrics)
    return Outcome(said, None)
