"""Times to an event, some of them censored: discrete hazards on a public grid of times.

The hazard of an interval is the chance that the event happens in it, given that it has not happened before. A row
counts in each interval that it lived through, and in the one in which its event was seen. Who was last observed within
an interval does not count in it. Singer and Willett, "It's about time", J. Educational Statistics 18 (1993).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .base import MOST_BINS, Metrics, Objective, Tally, fixed, unfixed
from .classes import binned
from .ranking import concordance, concordance_of_counts

_TINY = 1e-12
"""Least distance of a chance from 0 and 1."""


class Proportional(nn.Module):
    """A linear score of the row, added to a number for each interval: logits of hazards, ``[n, intervals]``.

    Args:
        inputs: of the score.
        intervals: of the grid.
    """

    def __init__(self, inputs: int, intervals: int) -> None:
        super().__init__()
        self.score = nn.Linear(inputs, 1, bias=False)
        self.baseline = nn.Parameter(torch.full((intervals,), -math.log(intervals)))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits."""
        score: Tensor = self.score(rows)
        return score + self.baseline


class Times(Objective):
    """Logits of each interval's hazard, ``[n, intervals]``; a row's loss is its negative log-likelihood in nats.

    Args:
        grid: ends of the intervals, rising.
        edges: between the bins of a tally's risks, rising within (0, 1).
    """

    def __init__(self, grid: Sequence[float], edges: Sequence[float]) -> None:
        self.width, self._edges = len(grid), tuple(edges)
        self._grid = torch.tensor(list(grid), dtype=torch.float64)

    def layer(self, inputs: int, *, deep: bool) -> nn.Module:
        """Return the last layer: proportional odds of all intervals, or a hazard of its own for each after others."""
        return super().layer(inputs, deep=deep) if deep else Proportional(inputs, self.width)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss."""
        return self._losses(outputs, targets).mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return loss and C-index; the C-index is None where no two rows can be compared."""
        logits = outputs.detach().double()
        loss = self._losses(logits, targets).mean().item()
        if not math.isfinite(loss):
            return {"loss": loss, "c_index": None}
        times, seen = self._told(targets)
        return {"loss": loss, "c_index": concordance(times, seen, self._risks(logits))}

    def tested(self, targets: Tensor) -> Tally:
        """Return the test rows without and with an event."""
        events = int(self._told(targets)[1].sum())
        return np.array([len(targets) - events, events], dtype=np.int64)

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> Tally:
        """Return rows, loss sum (2^-16), and counts of rows with and without an event by time and risk.

        There are at most as many cells as there may be bins: the square root of it groups of intervals, times bins of
        risk. The risk is the share of intervals that a row is not expected to get through.
        """
        logits = outputs.detach().double()
        times, seen = self._told(targets)
        groups, risks = shape_of(bins, self.width, len(self._edges) + 1)
        at = np.minimum(np.searchsorted(self._grid.numpy(), times), self.width - 1) * groups // self.width
        cells = at * risks + binned(np.nan_to_num(self._risks(logits)) / self.width, self._edges, risks)
        table = np.zeros((2, MOST_BINS), dtype=np.int64)
        for side, chosen in enumerate((seen, ~seen)):
            table[side, : groups * risks] = np.bincount(cells[chosen], minlength=groups * risks)
        return np.concatenate([[len(times), fixed(self._losses(logits, targets).sum().item())], table.reshape(-1)])

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return loss and C-index; the latter counts pairs in different groups of intervals only."""
        rows, loss = int(totals[0]), int(totals[1])
        groups, risks = shape_of(bins, self.width, len(self._edges) + 1)
        table = np.array([int(number) for number in totals[2:]], dtype=object).reshape(2, MOST_BINS)
        events, others = table[:, : groups * risks].reshape(2, groups, risks)
        known = min(groups, risks) > 1
        return {
            "loss": unfixed(loss) / rows if rows else None,
            "c_index": concordance_of_counts(events, others) if known else None,
        }

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the chance that the event has not happened at each end of the grid, ``float64[n, intervals]``."""
        return torch.cumprod(torch.sigmoid(-outputs.detach().double()), dim=1).numpy()

    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64]:
        """Return each row's negative log-likelihood."""
        alive = torch.cat([torch.ones(len(scores), 1, dtype=torch.float64), torch.from_numpy(scores)], dim=1)
        kept = (alive[:, 1:] / alive[:, :-1].clamp_min(torch.finfo(torch.float64).tiny)).clamp(_TINY, 1 - _TINY)
        return self._losses(torch.log1p(-kept) - torch.log(kept), targets).numpy()

    def slope(self, outputs: Tensor, targets: Tensor, intercept: float) -> float | None:
        """Return the slope of the rows' summed loss."""
        logits = outputs.double() + intercept
        lived, event = self._marks(targets, logits.dtype)
        return float((torch.sigmoid(logits) * lived - event).sum())

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        lived, event = self._marks(targets, logits.dtype)
        each = functional.binary_cross_entropy_with_logits(logits, event, reduction="none")
        return (each * lived).sum(dim=1)

    def _marks(self, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return for each row and interval whether it counts, and whether its event is in it, ``[n, intervals]``."""
        grid = self._grid.to(targets.device)
        times, seen = targets[:, 0:1].double(), targets[:, 1:2] > 0
        begins = torch.cat([grid.new_zeros(1), grid[:-1]])
        event = seen & (times <= grid) & ((times > begins) | ((times == 0) & (begins == 0)))
        lived = (times >= grid) | event
        return lived.to(dtype), event.to(dtype)

    def _told(self, targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return times, and whether the event was seen within the grid; what is beyond its end was not."""
        times, last = targets[:, 0].double().numpy(), float(self._grid[-1])
        seen = (targets[:, 1].numpy() > 0) & (times <= last)
        return np.minimum(times, last), seen

    @staticmethod
    def _risks(logits: Tensor) -> NDArray[np.float64]:
        """Return the number of intervals that a row is not expected to get through, ``float64[n]``."""
        survival = torch.cumprod(torch.sigmoid(-logits), dim=1)
        return (1 - survival).sum(dim=1).numpy()


def shape_of(bins: int, intervals: int, risks: int) -> tuple[int, int]:
    """Return into how many groups of intervals and bins of risk a tally counts, which are ``bins`` cells at most.

    >>> shape_of(64, 20, 8), shape_of(12, 20, 8), shape_of(64, 3, 8), shape_of(1, 20, 8)
    ((8, 8), (3, 4), (3, 8), (1, 1))
    """
    groups = max(1, min(math.isqrt(max(bins, 1)), intervals))
    return groups, max(1, min(bins // groups, risks))
