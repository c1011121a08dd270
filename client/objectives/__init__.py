"""Objectives: for each kind of target the loss, the metrics, the sealed counts, and what a model's output means.

``objective_of`` returns the one of a target. All counts are whole numbers, so that sums over members are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...configs.schema import CountTarget, Label, NumberTarget, Target
from ...errors import InputError, nearest
from .base import Objective
from .classes import Classes, TwoClasses
from .counts import Counts
from .numbers import LOSSES, Numbers
from .times import Times

__all__ = ["Objective", "Settings", "objective_of"]


@dataclass(frozen=True)
class Settings:
    """Options of a task that objectives use.

    Attributes:
        edges: between the bins of scores, rising within (0, 1).
        weights: of the classes; empty for equal ones.
        loss: of numbers: squared, absolute or quantile.
        quantile: within (0, 1); of ``loss = "quantile"``.
        threshold: within (0, 1); of two classes, a score above it says the second one.
    """

    edges: tuple[float, ...]
    weights: tuple[float, ...] = ()
    loss: str = "squared"
    quantile: float = 0.5
    threshold: float = 0.5


def objective_of(target: Target, scaling: Mapping[str, Any], settings: Settings) -> Objective:
    """Return the objective of a target.

    Args:
        target: the column to predict.
        scaling: what the federation knows of it, by its name; without, a number is in units of its range.
        settings: of the task.

    Raises:
        InputError: ``config.task``: an option that does not fit the target; ``data.model``: a scaling that does not.
    """
    if isinstance(target, Label):
        if settings.loss != "squared":
            raise _misfit(f"loss = {settings.loss!r}", target)
        if settings.weights and len(settings.weights) != len(target.classes):
            raise InputError(
                "config.task",
                f"[task] class_weights has {len(settings.weights)} numbers; "
                f"expected {len(target.classes)}, the classes of {target.name!r}",
            )
        if len(target.classes) == 2:
            return TwoClasses(settings.edges, settings.weights, settings.threshold)
        if settings.threshold != 0.5:
            raise _misfit(f"threshold = {settings.threshold:g}", target, f"with {len(target.classes)} classes")
        return Classes(len(target.classes), settings.edges, settings.weights)
    if settings.threshold != 0.5:
        raise _misfit(f"threshold = {settings.threshold:g}", target)
    if settings.weights:
        raise _misfit("class_weights", target)
    if isinstance(target, NumberTarget):
        if settings.loss not in LOSSES:
            raise InputError("config.task", f"[task] loss = {settings.loss!r}; {nearest(settings.loss, LOSSES)}")
        return Numbers.of(target, scaling, settings.loss, settings.quantile)
    if settings.loss != "squared":
        raise _misfit(f"loss = {settings.loss!r}", target)
    return Counts.of(target, scaling) if isinstance(target, CountTarget) else Times(target.grid, settings.edges)


def _misfit(option: str, target: Target, what: str = "") -> InputError:
    what = what or f"whose kind is {target.kind!r}"
    return InputError("config.task", f"[task] {option} does not fit label {target.name!r}, {what}")
