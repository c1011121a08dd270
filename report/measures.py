"""The metrics of a result: their names in words, which way is better, and which of them a result has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import number, plain

WAYS = ("alone", "federated", "personalised", "pooled")


@dataclass(frozen=True)
class Measure:
    """A metric.

    Attributes:
        label: its name within a sentence.
        lower: whether less is better.
        full: its largest value; None if there is none.
        guide: its value for a model that guesses; None if there is none.
        aside: whether it stands in full tables only.
    """

    label: str
    lower: bool = False
    full: float | None = None
    guide: float | None = None
    aside: bool = False

    @property
    def title(self) -> str:
        """Its name at the beginning of a line."""
        return self.label[:1].upper() + self.label[1:]


MEASURES = {
    "loss": Measure("loss", lower=True),
    "accuracy": Measure("accuracy", full=1.0),
    "auc": Measure("AUC", full=1.0, guide=0.5),
    "macro_auc": Measure("macro AUC", full=1.0, guide=0.5),
    "c_index": Measure("C-index", full=1.0, guide=0.5),
    "r2": Measure("R²", full=1.0),
    "rmse": Measure("RMSE", lower=True),
    "mae": Measure("MAE", lower=True),
    "d2": Measure("D²", full=1.0),
    "deviance": Measure("deviance", lower=True, aside=True),
    "average_precision": Measure("average precision", full=1.0, aside=True),
    "coverage": Measure("share below the quantile", full=1.0, aside=True),
}
"""The metrics that moonflower's own tasks have, the most important first."""
_BESIDE = ("auc", "macro_auc", "c_index", "r2", "d2", "accuracy", "rmse")
_USUAL = ("loss", "accuracy", "auc")


def measure(name: str) -> Measure:
    """Return what is known of a metric; of one that another task made up, only its name."""
    return MEASURES.get(name) or Measure(plain(name), aside=True)


def measured(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the metrics that have a value somewhere, the most important first.

    >>> measured([{"loss": 0.3, "rmse": None}, {"r2": 0.5, "mine": 1.0}])
    ['loss', 'r2', 'mine']
    """
    found = {name: None for values in scores for name, value in values.items() if number(value) is not None}
    return [*(name for name in MEASURES if name in found), *(name for name in found if name not in MEASURES)]


def shown(names: Sequence[str], rare: bool = False) -> list[str]:
    """Return those of some metrics that are shown outside of full tables; the usual ones if there is none.

    Args:
        names: of the metrics.
        rare: whether positive rows are rare, so that the average precision is shown, too.

    >>> shown(["loss", "r2", "deviance"]), shown([])
    (['loss', 'r2'], ['loss', 'accuracy', 'auc'])
    """
    always = ("average_precision",) if rare else ()
    return [name for name in names if name in always or not measure(name).aside] or list(_USUAL)


def beside(names: Sequence[str]) -> str:
    """Return the metric that is shown beside the loss.

    >>> beside(["loss", "accuracy"]), beside(["loss", "r2", "rmse"]), beside([])
    ('accuracy', 'r2', 'auc')
    """
    return next((name for name in _BESIDE if name in names), "auc")


def whole_table(names: Sequence[str]) -> list[str]:
    """Return the metrics of a full table: all that are known, or those of classes if there is none."""
    return list(names) or [*_USUAL, "average_precision"]
