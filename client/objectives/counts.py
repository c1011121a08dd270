"""Counts: Poisson regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...configs.schema import CountTarget
from .base import Metrics, Objective, Tally, fixed, unfixed
from .standard import pair_of

_LEAST = 1e-6
"""Least share of the largest count that the mean counts as; a mean of 0 has no logarithm."""


class Counts(Objective):
    """The logarithm of the expected count over the federation's mean, ``[n, 1]``.

    The loss is half the Poisson deviance: the negative log-likelihood, less that of a model that is always right.

    Args:
        mean: of the target in the federation, above 0.
    """

    def __init__(self, mean: float) -> None:
        self._mean = mean

    @classmethod
    def of(cls, target: CountTarget, scaling: Mapping[str, Any]) -> Counts:
        """Return the objective of a target.

        Raises:
            InputError: ``data.model``: the scaling.
        """
        mean = pair_of(scaling, target.name)[0] if target.name in scaling else 1.0
        return cls(max(mean, _LEAST * target.max))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss."""
        return self._losses(outputs.squeeze(-1), targets.to(outputs.dtype)).mean()

    def units(self, targets: Tensor) -> Tensor:
        """Return counts over the federation's mean."""
        return targets.double() / self._mean

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return loss, mean Poisson deviance, its explained share D², and MAE and RMSE in counts.

        D² compares with a model that says the mean of these rows; it is None where all counts are 0.
        """
        said, truth = outputs.detach().double().reshape(-1), targets.double()
        apart = torch.exp(said) * self._mean - truth
        return self._named(
            len(truth),
            self._losses(said, truth).sum().item(),
            (apart**2).sum().item(),
            apart.abs().sum().item(),
            truth.sum().item(),
            torch.special.xlogy(truth, truth).sum().item(),
        )

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> Tally:
        """Return rows, and sums of loss, squares, absolute differences, counts y and y log y, in units of 2^-16."""
        said, truth = outputs.detach().double().reshape(-1), targets.double()
        apart = torch.exp(said) * self._mean - truth
        sums = [self._losses(said, truth), apart**2, apart.abs(), truth, torch.special.xlogy(truth, truth)]
        return np.array([len(truth), *(fixed(values.sum().item()) for values in sums)], dtype=np.int64)

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics over all members' test rows."""
        rows, *rest = (int(number) for number in totals)
        if not rows:
            return dict.fromkeys(("loss", "deviance", "d2", "mae", "rmse"))
        return self._named(rows, *(unfixed(total) for total in rest))

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the expected counts, ``float64[n]``."""
        return (torch.exp(outputs.detach().double().reshape(len(outputs))) * self._mean).numpy()

    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64]:
        """Return half of each row's Poisson deviance."""
        return self._losses(torch.log(torch.from_numpy(scores) / self._mean), targets.double()).numpy()

    def slope(self, outputs: Tensor, targets: Tensor, intercept: float) -> float | None:
        """Return the slope of the rows' summed loss."""
        said = outputs.double().reshape(-1) + intercept
        return float((torch.exp(said) * self._mean - targets.double()).sum())

    def _losses(self, said: Tensor, truth: Tensor) -> Tensor:
        expected = torch.exp(said) * self._mean
        log = said + float(np.log(self._mean))
        losses: Tensor = expected - truth * log - truth + torch.special.xlogy(truth, truth)
        return losses

    @staticmethod
    def _named(rows: int, loss: float, squares: float, absolute: float, total: float, logs: float) -> Metrics:
        null = 2 * (logs - total * float(np.log(total / rows))) if total > 0 else 0.0
        return {
            "loss": loss / rows,
            "deviance": 2 * loss / rows,
            "d2": 1 - 2 * loss / null if null > 0 else None,
            "mae": absolute / rows,
            "rmse": float(np.sqrt(squares / rows)),
        }
