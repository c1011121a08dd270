"""Classes: two, with scores of the positive one, or more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .base import MOST_BINS, ROWS_A_BIN, Metrics, Objective, Tally, fixed, unfixed
from .ranking import ranking

_TINY = 1e-16
"""Least distance of a chance from 0 and 1 when its logarithm is taken."""


class TwoClasses(Objective):
    """Logits of the positive class, ``[n, 1]``; binary cross-entropy in nats, each row with the weight of its class.

    Args:
        edges: between the bins of a tally's scores, rising within (0, 1).
        weights: of the two classes; empty for equal ones.
        threshold: a score above it says the positive class, for the accuracy.
    """

    def __init__(self, edges: Sequence[float], weights: Sequence[float], threshold: float = 0.5) -> None:
        self._edges, self._weights = tuple(edges), tuple(weights)
        self._line = math.log(threshold / (1 - threshold))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy."""
        return self._entropy(outputs.squeeze(-1), targets, "mean")

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return loss, accuracy, AUC and average precision; the last two are None with one class."""
        logits, truth = outputs.detach().double().reshape(-1), targets.numpy() == 1
        loss = self._entropy(logits, targets, "mean").item()
        accuracy = float(((logits.numpy() > self._line) == truth).mean())
        auc = average = None
        if math.isfinite(loss):
            distinct, group = np.unique(logits.numpy(), return_inverse=True)
            auc, average = ranking(*(np.bincount(group[side], minlength=len(distinct)) for side in (truth, ~truth)))
        return {"loss": loss, "accuracy": accuracy, "auc": auc, "average_precision": average}

    def tested(self, targets: Tensor) -> Tally:
        """Return the test rows of the negative and of the positive class."""
        positive = int((targets == 1).sum())
        return np.array([len(targets) - positive, positive], dtype=np.int64)

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> Tally:
        """Return rows, loss sum (2^-16), correct rows, and score histograms of positives and negatives.

        Where fewer bins are allowed than there are, neighbours are counted together, and the last ones stay empty.
        """
        logits, truth = outputs.detach().double().reshape(-1), targets.numpy() == 1
        loss = self._entropy(logits, targets, "sum").item()
        correct = int(((logits.numpy() > self._line) == truth).sum())
        found = binned(torch.sigmoid(torch.nan_to_num(logits)).numpy(), self._edges, bins)
        most = len(self._edges) + 1
        histograms = [np.bincount(found[side], minlength=most) for side in (truth, ~truth)]
        return np.concatenate([[len(truth), fixed(loss), correct], *histograms], dtype=np.int64)

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return loss, accuracy, AUC and average precision; with one bin there is no order of scores, so no AUC."""
        rows, loss, correct = (int(number) for number in totals[:3])
        counts = np.array([int(number) for number in totals[3:]], dtype=object)
        most = len(self._edges) + 1
        auc, average = ranking(counts[:most], counts[most:]) if min(bins, most) > 1 else (None, None)
        return {
            "loss": unfixed(loss) / rows if rows else None,
            "accuracy": correct / rows if rows else None,
            "auc": auc,
            "average_precision": average,
        }

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the chance of the positive class, ``float64[n]``."""
        return torch.sigmoid(outputs.detach().double().reshape(len(outputs))).numpy()

    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64]:
        """Return each row's cross-entropy, with the weight of its class."""
        chances = torch.from_numpy(scores).clamp(_TINY, 1 - _TINY)
        return self._entropy(torch.log(chances) - torch.log1p(-chances), targets, "none").numpy()

    def slope(self, outputs: Tensor, targets: Tensor, intercept: float) -> float | None:
        """Return the slope of the rows' summed loss, without weights of classes."""
        logits, truth = outputs.double().reshape(-1).numpy(), targets.numpy().astype(np.float64)
        return float((0.5 * (1 + np.tanh((logits + intercept) / 2)) - truth).sum())

    def _entropy(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weights = rows_weights(self._weights, targets, logits.dtype)
        return functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), weight=weights, reduction=reduction
        )


class Classes(Objective):
    """Logits of each class, ``[n, classes]``; cross-entropy in nats, each row with the weight of its class.

    Args:
        classes: 3 or more.
        edges: between the bins of a tally's scores, rising within (0, 1).
        weights: of the classes; empty for equal ones.
    """

    RANKED = 32
    """Most classes of which a tally counts scores."""

    def __init__(self, classes: int, edges: Sequence[float], weights: Sequence[float]) -> None:
        self.width = classes
        self._edges, self._weights = tuple(edges), tuple(weights)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return self._entropies(outputs, targets).mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return loss, accuracy and macro AUC: the mean over the classes of the AUC of each against all others.

        Classes without a row are left out of the mean; with one class it is None.
        """
        logits = outputs.detach().double()
        loss = self._entropies(logits, targets).mean().item()
        right = (logits.argmax(dim=1) == targets).double().mean().item()
        areas: list[float] = []
        if math.isfinite(loss):
            chances, truth = torch.softmax(logits, dim=1).numpy(), targets.numpy()
            for one in range(self.width):
                distinct, group = np.unique(chances[:, one], return_inverse=True)
                sides = (np.bincount(group[side], minlength=len(distinct)) for side in (truth == one, truth != one))
                area, _ = ranking(*sides)
                areas += [] if area is None else [area]
        return {"loss": loss, "accuracy": right, "macro_auc": math.fsum(areas) / len(areas) if areas else None}

    def tested(self, targets: Tensor) -> Tally:
        """Return the test rows of each class."""
        return np.bincount(targets.numpy(), minlength=self.width).astype(np.int64)

    def bins(self, tested: Sequence[int]) -> int:
        """Return into how many bins scores may be counted: 1, which means none, if a class has few test rows."""
        enough = sum(tested) >= ROWS_A_BIN
        return max(min(MOST_BINS, min(tested) // ROWS_A_BIN), 1) if enough else 0

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> Tally:
        """Return rows, loss sum (2^-16), correct rows, and for each class histograms of its own and of other rows.

        The histograms are empty with one bin, or with more than 32 classes.
        """
        logits, truth = outputs.detach().double(), targets.numpy()
        loss, right = self._entropies(logits, targets).sum().item(), int((logits.argmax(dim=1) == targets).sum())
        most = len(self._edges) + 1
        ranked = self.width if self.width <= self.RANKED else 0
        table = np.zeros((ranked, 2, most), dtype=np.int64)
        chances = torch.softmax(torch.nan_to_num(logits), dim=1).numpy()
        for one in range(ranked if bins > 1 else 0):
            found = binned(chances[:, one], self._edges, bins)
            table[one] = [np.bincount(found[side], minlength=most) for side in (truth == one, truth != one)]
        return np.concatenate([[len(truth), fixed(loss), right], table.reshape(-1)], dtype=np.int64)

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return loss, accuracy and macro AUC."""
        rows, loss, right = (int(number) for number in totals[:3])
        table = np.array([int(number) for number in totals[3:]], dtype=object).reshape(-1, 2, len(self._edges) + 1)
        areas = [area for own, others in table if (area := ranking(own, others)[0]) is not None] if bins > 1 else []
        return {
            "loss": unfixed(loss) / rows if rows else None,
            "accuracy": right / rows if rows else None,
            "macro_auc": math.fsum(areas) / len(areas) if areas else None,
        }

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the chance of each class, ``float64[n, classes]``."""
        return torch.softmax(outputs.detach().double(), dim=1).numpy()

    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64]:
        """Return each row's cross-entropy, with the weight of its class."""
        return self._entropies(torch.log(torch.from_numpy(scores).clamp_min(_TINY)), targets).numpy()

    def _entropies(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = functional.cross_entropy(logits, targets, reduction="none")
        weights = rows_weights(self._weights, targets, logits.dtype)
        return losses if weights is None else losses * weights


def binned(scores: NDArray[np.float64], edges: Sequence[float], bins: int) -> NDArray[np.int64]:
    """Return the bin of each score: neighbours are counted together where fewer bins are allowed than there are.

    >>> binned(np.array([0.1, 0.4, 0.9]), (0.25, 0.5, 0.75), 2).tolist()
    [0, 0, 1]
    """
    most = len(edges) + 1
    found: NDArray[np.int64] = np.searchsorted(np.array(edges), scores, side="right") * min(bins, most) // most
    return found


def rows_weights(weights: Sequence[float], targets: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return the weight of each row by its class, ``[n]``; None for equal weights."""
    return torch.tensor(weights, dtype=dtype, device=targets.device)[targets] if weights else None
