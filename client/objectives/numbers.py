"""Numbers: squared, absolute or quantile loss, in units of the federation's spread of the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...configs.schema import NumberTarget
from ...errors import InputError
from .base import Metrics, Objective, Tally, fixed, unfixed
from .standard import pair_of

LOSSES = ("squared", "absolute", "quantile")


class Numbers(Objective):
    """One number for each row, ``[n, 1]``, in spreads above the mean.

    Args:
        mean, spread: of the target.
        low, high: its range.
        loss: squared, absolute or quantile (pinball).
        quantile: within (0, 1).
    """

    def __init__(self, mean: float, spread: float, low: float, high: float, loss: str, quantile: float) -> None:
        self._mean, self._spread, self._low, self._width = mean, spread, low, high - low
        self._loss, self._quantile = loss, quantile

    @classmethod
    def of(cls, target: NumberTarget, scaling: Mapping[str, Any], loss: str, quantile: float) -> Numbers:
        """Return the objective of a target.

        Raises:
            InputError: ``config.task``: the quantile; ``data.model``: the scaling.
        """
        if loss == "quantile" and not 0 < quantile < 1:
            raise InputError("config.task", f"[task] quantile = {quantile!r}; expected a number between 0 and 1")
        whole = (target.min, target.max - target.min)
        mean, spread = pair_of(scaling, target.name) if target.name in scaling else whole
        return cls(mean, spread, target.min, target.max, loss, quantile)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, in spreads: squared ones for ``squared``."""
        return self._losses(outputs.squeeze(-1), self.units(targets).to(outputs.dtype)).mean()

    def units(self, targets: Tensor) -> Tensor:
        """Return targets in spreads above the mean."""
        return (targets - self._mean) / self._spread

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return loss, and in the target's own unit RMSE and MAE, and R²; R² is None where all targets are equal.

        With ``quantile`` also the share of targets that are not above what the model says.
        """
        said, truth = outputs.detach().double().reshape(-1), self.units(targets.double())
        loss, apart = self._losses(said, truth).mean().item(), said - truth
        total = float(((truth - truth.mean()) ** 2).sum())
        return self._named(
            loss=loss,
            squares=float((apart**2).mean()),
            absolute=float(apart.abs().mean()),
            explained=1 - float((apart**2).sum()) / total if total > 0 else None,
            covered=float((apart >= 0).double().mean()),
        )

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> Tally:
        """Return rows, sums of loss, squares and absolute differences, rows that are covered, and the targets' sums.

        The last two are sum and sum of squares of the targets' places in their range, for R². All but rows are in units
        of 2^-16.
        """
        said, truth = outputs.detach().double().reshape(-1), self.units(targets.double())
        apart, place = said - truth, ((targets.double() - self._low) / self._width).clamp(0, 1)
        sums = [self._losses(said, truth), apart**2, apart.abs(), (apart >= 0).double(), place, place**2]
        return np.array([len(targets), *(fixed(float(values.sum())) for values in sums)], dtype=np.int64)

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics over all members' test rows."""
        rows, *rest = (int(number) for number in totals)
        if not rows:
            return dict.fromkeys(("loss", "rmse", "mae", "r2"))
        loss, squares, absolute, covered, place, places = (unfixed(total) / rows for total in rest)
        variance = max(places - place * place, 0.0) * (self._width / self._spread) ** 2
        explained = 1 - squares / variance if variance > 0 else None
        return self._named(loss=loss, squares=squares, absolute=absolute, explained=explained, covered=covered)

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return what the model says, in the target's own unit, ``float64[n]``."""
        return (outputs.detach().double().reshape(len(outputs)) * self._spread + self._mean).numpy()

    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64]:
        """Return each row's loss, in spreads."""
        said = (torch.from_numpy(scores) - self._mean) / self._spread
        return self._losses(said, self.units(targets.double())).numpy()

    def slope(self, outputs: Tensor, targets: Tensor, intercept: float) -> float | None:
        """Return the slope of the rows' summed loss."""
        apart = outputs.double().reshape(-1) + intercept - self.units(targets.double())
        if self._loss == "squared":
            return float((2 * apart).sum())
        above = 1 - self._quantile if self._loss == "quantile" else 1.0
        below = self._quantile if self._loss == "quantile" else 1.0
        return float(torch.where(apart > 0, above, -below).sum())

    def _losses(self, said: Tensor, truth: Tensor) -> Tensor:
        apart = said - truth
        if self._loss == "squared":
            return apart**2
        if self._loss == "absolute":
            return apart.abs()
        return torch.maximum((self._quantile - 1) * -apart, self._quantile * -apart)

    def _named(
        self, *, loss: float, squares: float, absolute: float, explained: float | None, covered: float
    ) -> Metrics:
        found: Metrics = {
            "loss": loss,
            "rmse": math.sqrt(squares) * self._spread if squares >= 0 else squares,
            "mae": absolute * self._spread,
            "r2": explained,
        }
        return {**found, "coverage": covered} if self._loss == "quantile" else found
