"""What an objective is, and what objectives share: fixed-point sums, and the intercept that a member keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

MAX_COUNT = 2**38 - 1
"""Largest number in one member's summary or tally: the sum over 1024 members stays below 2^48."""
MOST_BINS, ROWS_A_BIN = 64, 10
"""Most bins of a tally, and test rows of each kind per bin: with fewer, many runs would tell of single rows."""
FRACTION_BITS = 16
"""Fixed point of tallies: 2^22 rows of loss 1 fit for each member."""
RIDGE = 1.0
"""Pull b²/2 on the private intercept: with one class only it would run to infinity."""
_REACH = 32.0

Metrics = dict[str, float | None]
Tally = NDArray[np.int64]


class Objective(ABC):
    """The loss of a kind of target, and what follows from it.

    Attributes:
        width: numbers that a model gives for a row.
    """

    width: int = 1

    def layer(self, inputs: int, *, deep: bool) -> nn.Module:
        """Return the last layer of a model.

        Args:
            inputs: of the layer.
            deep: whether layers come before it.
        """
        return nn.Linear(inputs, self.width)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of rows, a scalar that can be differentiated."""

    def units(self, targets: Tensor) -> Tensor:
        """Return targets in the unit in which :meth:`loss` compares them with what the model says."""
        return targets

    @abstractmethod
    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return the metrics of one row or more; a metric that the rows leave undefined is None."""

    def tested(self, targets: Tensor) -> Tally:
        """Return how many test rows there are of each kind that a tally tells apart, ``int64[c]``."""
        return np.array([len(targets)], dtype=np.int64)

    def bins(self, tested: Sequence[int]) -> int:
        """Return into how many bins a tally may count; 0 = there is no tally, because there are too few test rows.

        Args:
            tested: the sums of :meth:`tested` over all members.
        """
        return min(MOST_BINS, min(tested) // ROWS_A_BIN)

    @abstractmethod
    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> Tally:
        """Return counts of test rows that make sense summed over members, ``int64[m]`` in ``[0, MAX_COUNT]``."""

    @abstractmethod
    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics over all members' test rows from the summed tallies."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return what a model says about rows, ``float64[n]`` or ``float64[n, k]``."""

    @abstractmethod
    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64]:
        """Return each row's loss from what a model says about it (:meth:`scores`), ``float64[n]``."""

    def slope(self, outputs: Tensor, targets: Tensor, intercept: float) -> float | None:
        """Return the slope of the rows' summed loss in a number that is added to all outputs; None: there is none."""
        return None

    def intercept(self, outputs: Tensor, targets: Tensor) -> float | None:
        """Return the number that, added to all outputs, gives the lowest summed loss plus b²/2; None: there is none.

        By bisection on the slope in [-32, 32].
        """
        low, high = -_REACH, _REACH
        while high - low > 1e-9:
            middle = (low + high) / 2
            slope = self.slope(outputs, targets, middle)
            if slope is None:
                return None
            low, high = (low, middle) if slope + RIDGE * middle > 0 else (middle, high)
        return (low + high) / 2


def fixed(total: float) -> int:
    """Return a sum in units of 2^-16, cut to ``[0, MAX_COUNT]``; NaN becomes ``MAX_COUNT``.

    >>> fixed(1.5), fixed(-1.0), fixed(float("nan")) == MAX_COUNT
    (98304, 0, True)
    """
    scaled = total * 2.0**FRACTION_BITS
    return round(max(scaled, 0.0)) if scaled < MAX_COUNT else MAX_COUNT


def unfixed(total: int) -> float:
    """Return a sum of :func:`fixed` numbers.

    >>> unfixed(98304)
    1.5
    """
    return int(total) / 2.0**FRACTION_BITS
