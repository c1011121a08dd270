"""Binary classification of a table's rows: logistic regression, or a network with hidden layers.

Statistics and tallies are whole numbers, so that sums over members are exact: the federation's means, spreads
and AUC are the same to the bit whether one member holds the rows or many do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...configs.schema import Numeric, Schema
from ...errors import InputError, nearest
from . import FRACTION_BITS, METRICS, MOST_BINS, Metrics, Rows, Task, fixed, rows_weights, weights_of

EDGES = tuple(at / 8 for at in range(1, 8))
"""Between the bins of the score histograms, where ``edges`` says nothing else. What bins cost is measured in
docs/protocol.md, rule 10."""
_UNIT = 2**16
"""Steps of a numeric column's range."""
_RIDGE = 1.0
"""Pull b²/2 on the private intercept: with one class only it would run to infinity."""
_PERSONALISE = ("none", "intercept")


class Tabular(Task):
    """Numbers standardised, missing ones imputed with the mean; categories one-hot, all zero where missing.

    Args:
        hidden: widths of the hidden layers, 1 to 4096; none = logistic regression.
        personalise: ``intercept``: a scalar on the logit that each member fits on its own rows and keeps; or
            ``none``.
        missing_indicator: one more input a column that says whether the cell is missing. On the heart data it
            lifts the federation's AUC by .009 (mean of 5 folds), but the personalised loss by nothing, which
            suggests that gaps tell the hospitals apart rather than the patients.
        class_weights: weight of a row by its class, two numbers above 0; none for equal weights. Loss, votes and
            reports count each row with it.
        edges: between the bins in which a report counts scores, rising within (0, 1), at most 63; ``moonflower
            simulate`` proposes those of equally full bins.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (),
        personalise: str = "none",
        missing_indicator: bool = False,
        edges: Sequence[float] = EDGES,
        class_weights: Sequence[float] = (),
    ) -> None:
        if not isinstance(hidden, (list, tuple)) or len(hidden) > 8:
            raise InputError("config.task", f"[task] hidden = {hidden!r}; expected a list of at most 8 widths")
        for width in hidden:
            if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= 4096:
                raise InputError("config.task", f"[task] hidden holds {width!r}; expected whole numbers from 1 to 4096")
        if personalise not in _PERSONALISE:
            raise InputError(
                "config.task", f"[task] personalise = {personalise!r}; {nearest(str(personalise), _PERSONALISE)}"
            )
        if not isinstance(missing_indicator, bool):
            raise InputError("config.task", f"[task] missing_indicator = {missing_indicator!r}; expected true or false")
        self.edges = _edges(edges)
        self.weights = weights_of(class_weights, 2)
        self.hidden = tuple(hidden)
        self.missing_indicator = missing_indicator
        self.intercept = personalise == "intercept"

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return the network, ``float32[n, inputs]`` to logits ``float32[n, 1]``.

        Raises:
            InputError: ``config.task``: the label has more than two classes.
        """
        if len(schema.label.classes) != 2:
            raise InputError(
                "config.task",
                f"label {schema.label.name!r} has {len(schema.label.classes)} classes; expected 2",
            )
        inputs = sum(1 if isinstance(c, Numeric) else len(c.categories) for c in schema.columns)
        if self.missing_indicator:
            inputs += len(schema.columns)
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise((inputs, *self.hidden, 1)):
            layers += [nn.Linear(width, following), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """Return the mean binary cross-entropy in nats, each row with the weight of its class."""
        logits = model(batch.inputs).squeeze(-1)
        return functional.binary_cross_entropy_with_logits(
            logits, batch.targets.to(logits.dtype), weight=rows_weights(self.weights, batch.targets, logits.dtype)
        )

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return loss, accuracy, AUC and average precision; None without rows, or with one class."""
        if not len(targets):
            return dict.fromkeys(METRICS)
        logits, truth = outputs.detach().double().reshape(-1), targets.numpy() == 1
        weight = rows_weights(self.weights, targets, torch.float64)
        loss = functional.binary_cross_entropy_with_logits(logits, targets.double(), weight=weight).item()
        accuracy = float(((logits.numpy() > 0) == truth).mean())
        if not math.isfinite(loss):
            return dict(zip(METRICS, (loss, accuracy, None, None), strict=True))
        distinct, group = np.unique(logits.numpy(), return_inverse=True)
        counts = [np.bincount(group[side], minlength=len(distinct)) for side in (truth, ~truth)]
        auc, precision = ranking(counts[0], counts[1])
        return dict(zip(METRICS, (loss, accuracy, auc, precision), strict=True))

    def summary(self, rows: Rows, schema: Schema) -> NDArray[np.int64]:
        """Return count, sum, and sum of squares (upper and lower half) of every numeric column, in order.

        A value x enters as the whole number k = 2^16 (x - min) / (max - min), rounded to even row by row, so
        that sums do not depend on who holds which row.
        """
        totals: list[int] = []
        for values, column in zip(rows.inputs.numpy().T, schema.columns, strict=True):
            if isinstance(column, Numeric):
                present = values[~np.isnan(values)]
                units = np.rint((present - column.min) / (column.max - column.min) * _UNIT).astype(np.int64)
                squares = units * units
                totals += [
                    len(units),
                    int(units.sum()),
                    int((squares >> 16).sum()),
                    int((squares & 0xFFFF).sum()),
                ]
        return np.array(totals, dtype=np.int64)

    def scaling(self, totals: Sequence[int], schema: Schema) -> dict[str, Any]:
        """Return ``{column: [mean, spread]}`` of the numeric columns.

        Whole numbers up to one division and one square root, so the same bits everywhere. A column without
        spread gets its range as spread; one without values the middle of its range as mean. Both are rounded, the
        spread to 10 bits and the mean to 1/64 of it: exact ones are fractions that give the number of rows away.
        """
        out: dict[str, Any] = {}
        numeric = [column for column in schema.columns if isinstance(column, Numeric)]
        for i, column in enumerate(numeric):
            count, total, upper, lower = (int(number) for number in totals[4 * i : 4 * i + 4])
            width = (column.max - column.min) / _UNIT
            deviation = count * ((upper << 16) + lower) - total * total  # count² times the variance, exactly
            fraction, exponent = math.frexp(math.sqrt(deviation) / count if deviation > 0 else _UNIT)
            spread = math.ldexp(round(fraction * 1024) / 1024, exponent)
            grid = spread / 64
            mean = round((total / count if count else _UNIT / 2) / grid) * grid
            out[column.name] = [column.min + mean * width, spread * width]
        return out

    def possible(self, totals: Sequence[int], rows: int, schema: Schema) -> bool:
        """Return whether there are numbers k in [0, 2^16], at most ``rows`` a column, with these counts and sums.

        Each k is at most 2^16, so the sum is at most 2^16 times the count, and the squares 2^16 times the sum; and
        sum² ≤ count · squares. That bounds the spread by half the column's range.
        """
        for i in range(sum(isinstance(column, Numeric) for column in schema.columns)):
            count, total, upper, lower = (int(number) for number in totals[4 * i : 4 * i + 4])
            squares = (upper << 16) + lower
            if min(count, total, upper, lower) < 0 or count > rows:
                return False
            if total > count * _UNIT or squares > total * _UNIT or total * total > count * squares:
                return False
        return True

    def prepare(self, rows: Rows, schema: Schema, scaling: Mapping[str, Any]) -> Rows:
        """Return the features, ``float32[n, inputs]``: numbers and one-hot categories in schema order.

        Raises:
            InputError: ``data.model``: the scaling does not fit the schema.
        """
        parts: list[NDArray[np.float64]] = []
        for values, column in zip(rows.inputs.numpy().T, schema.columns, strict=True):
            if isinstance(column, Numeric):
                mean, spread = _pair(scaling, column.name)
                parts.append(np.nan_to_num((values - mean) / spread, nan=0.0)[:, None])
            else:
                parts.append((values[:, None] == np.arange(len(column.categories))).astype(np.float64))
            if self.missing_indicator:
                parts.append(np.isnan(values).astype(np.float64)[:, None])
        return replace(rows, inputs=torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32)))

    def tested(self, targets: Tensor) -> NDArray[np.int64]:
        """Return the test rows of the negative and of the positive class."""
        positive = int((targets == 1).sum())
        return np.array([len(targets) - positive, positive], dtype=np.int64)

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> NDArray[np.int64]:
        """Return rows, loss sum (2^-16), correct rows, and score histograms of positives and negatives.

        Where fewer bins are allowed than there are, neighbours are counted together, and the last ones stay empty.
        """
        logits, truth = outputs.detach().double().reshape(-1), targets.numpy() == 1
        weight = rows_weights(self.weights, targets, torch.float64)
        loss = functional.binary_cross_entropy_with_logits(
            logits, targets.double(), weight=weight, reduction="sum"
        ).item()
        correct = int(((logits.numpy() > 0) == truth).sum())
        chances = torch.sigmoid(torch.nan_to_num(logits)).numpy()
        most = len(self.edges) + 1
        found = np.searchsorted(np.array(self.edges), chances, side="right") * min(bins, most) // most
        histograms = [np.bincount(found[truth], minlength=most), np.bincount(found[~truth], minlength=most)]
        return np.concatenate([[len(truth), fixed(loss), correct], *histograms], dtype=np.int64)

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return loss, accuracy, AUC and average precision of all members' test rows; None without rows.

        With one bin there is no order of scores, so no AUC and no average precision.
        """
        rows, loss, correct = (int(number) for number in totals[:3])
        counts = np.array([int(number) for number in totals[3:]], dtype=object)
        most = len(self.edges) + 1
        auc, average = ranking(counts[:most], counts[most:]) if min(bins, most) > 1 else (None, None)
        return {
            "loss": loss / 2**FRACTION_BITS / rows if rows else None,
            "accuracy": correct / rows if rows else None,
            "auc": auc,
            "average_precision": average,
        }

    def personalise(self, model: nn.Module, rows: Rows) -> float | None:
        """Return the intercept b, or None without one.

        It minimises the rows' summed loss plus b²/2, by bisection on the slope in [-32, 32].
        """
        if not self.intercept:
            return None
        with torch.no_grad():
            made = [model(chunk.inputs) for chunk in rows.chunks(max(1, len(rows)))]
            logits = torch.cat(made).double().reshape(-1).numpy()
        truth = rows.targets.numpy().astype(np.float64)
        low, high = -32.0, 32.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            slope = (0.5 * (1 + np.tanh((logits + middle) / 2)) - truth).sum() + _RIDGE * middle
            low, high = (low, middle) if slope > 0 else (middle, high)
        return (low + high) / 2

    def apply(self, private: float, outputs: Tensor) -> Tensor:
        """Return the logits with the intercept added.

        Raises:
            InputError: ``data.model``: it is no finite number.
        """
        if isinstance(private, bool) or not isinstance(private, (int, float)) or not math.isfinite(private):
            raise InputError("data.model", "the private part of the model is not a finite number")
        return outputs + private


def _edges(given: Sequence[float]) -> tuple[float, ...]:
    """Return the edges of bins.

    Raises:
        InputError: ``config.task``: not numbers that rise within (0, 1), or too many.
    """
    good = isinstance(given, (list, tuple)) and 0 < len(given) < MOST_BINS
    if good and all(isinstance(one, float) and 0 < one < 1 for one in given):
        edges = tuple(given)
        if all(one < other for one, other in itertools.pairwise(edges)):
            return edges
    raise InputError(
        "config.task", f"[task] edges = {given!r}; expected 1 to {MOST_BINS - 1} numbers that rise within (0, 1)"
    )


def ranking(positives: NDArray[Any], negatives: NDArray[Any]) -> tuple[float | None, float | None]:
    """Return AUC and average precision from the counts at each distinct score, lowest score first.

    Whole numbers up to the last division, so that the same counts give the same bits. Scores that are equal
    count as half in order (Mann and Whitney); average precision is the step sum that scikit-learn reports.

    Args:
        positives: ``int[k]``, rows of the positive class at each score.
        negatives: ``int[k]``, the others.

    >>> ranking(np.array([0, 1, 1]), np.array([1, 1, 0]))
    (0.875, 0.8333333333333333)
    """
    all_positive, all_negative = int(positives.sum()), int(negatives.sum())
    if not (all_positive and all_negative):
        return None, None
    below = np.cumsum(negatives) - negatives
    pairs = int((positives * (2 * below + negatives)).sum())
    found, false = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    hits = positives[::-1] > 0
    precision = (found[hits] / (found + false)[hits]).astype(np.float64)
    average = math.fsum(precision * positives[::-1][hits]) / all_positive
    return pairs / (2 * all_positive * all_negative), average


def _pair(scaling: Mapping[str, Any], name: str) -> tuple[float, float]:
    pair = scaling.get(name)
    if (
        not isinstance(pair, (list, tuple))
        or len(pair) != 2
        or not all(isinstance(number, float) and math.isfinite(number) for number in pair)
        or pair[1] <= 0
    ):
        raise InputError("data.model", f"scaling of column {name!r} is not a mean and a spread; expected two numbers")
    return pair[0], pair[1]


task = Tabular
