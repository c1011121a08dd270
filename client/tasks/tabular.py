"""A table's rows: a linear model, or a network with hidden layers, for every kind of target.

The schema's label says what is predicted: one of two classes, one of many, a number, a count, or the time to an event.
``client/objectives`` has the loss and the metrics of each. Statistics and tallies are whole numbers, so that sums over
members are exact: the federation's means, spreads and metrics are the same to the bit whether one member holds the rows
or many do.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...configs.schema import CountTarget, Label, NumberTarget, Numeric, Schema
from ...errors import InputError, nearest
from ..objectives import Objective, Settings, objective_of
from ..objectives.standard import SUMS, pair_of, possible, standard, sums_of
from . import METRICS, MOST_BINS, Metrics, Rows, Task, weights_of

EDGES = tuple(at / 8 for at in range(1, 8))
"""Between the bins of the score histograms, where ``edges`` says nothing else. What bins cost is measured in
docs/protocol.md, rule 10."""
_PERSONALISE = ("none", "intercept")
_BINARY = Label("y", (0, 1))
"""The label of a task that is bound to no schema yet."""


class Tabular(Task):
    """Numbers standardised, missing ones imputed with the mean; categories one-hot, all zero where missing.

    Args:
        hidden: widths of the hidden layers, 1 to 4096; none = a linear model.
        personalise: ``intercept``: a number that is added to what the model says, which each member fits on its own
            rows and keeps; or ``none``.
        missing_indicator: one more input a column that says whether the cell is missing. On the heart data it
            lifts the federation's AUC by .009 (mean of 5 folds), but the personalised loss by nothing, which
            suggests that gaps tell the hospitals apart rather than the patients.
        class_weights: weight of a row by its class, a number above 0 for each class; none for equal weights. Loss,
            votes and reports count each row with it.
        threshold: of two classes, a score above it says the positive one, in accuracies and in predictions;
            ``moonflower simulate`` proposes one where another than .5 is better.
        edges: between the bins in which a report counts scores, rising within (0, 1), at most 63; ``moonflower
            simulate`` proposes those of equally full bins.
        loss: of numbers: ``squared``, ``absolute`` or ``quantile``.
        quantile: of ``loss = "quantile"``, between 0 and 1.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (),
        personalise: str = "none",
        missing_indicator: bool = False,
        edges: Sequence[float] = EDGES,
        class_weights: Sequence[float] = (),
        loss: str = "squared",
        quantile: float = 0.5,
        threshold: float = 0.5,
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
        if not isinstance(threshold, float) or not 0 < threshold < 1:
            raise InputError("config.task", f"[task] threshold = {threshold!r}; expected a number between 0 and 1")
        self.threshold = threshold
        self.edges = _edges(edges)
        weights = weights_of(class_weights)
        self.settings = Settings(self.edges, weights, str(loss), quantile, threshold)
        self.class_weights = weights
        self.hidden = tuple(hidden)
        self.missing_indicator = missing_indicator
        self.personal_intercept = personalise == "intercept"
        self.objective: Objective = objective_of(
            _BINARY, {}, Settings(self.edges, weights if len(weights) == 2 else ())
        )

    def bound(self, schema: Schema, scaling: Mapping[str, Any]) -> Tabular:
        """Return the task with the objective of the schema's label.

        Raises:
            InputError: ``config.task``: an option that does not fit the label.
        """
        one = copy.copy(self)
        one.objective = objective_of(schema.label, scaling, self.settings)
        return one

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return the network, ``float32[n, inputs]`` to ``float32[n, k]``: what k numbers are, the objective says.

        Raises:
            InputError: ``config.task``: an option that does not fit the label.
        """
        objective = objective_of(schema.label, {}, self.settings)
        inputs = sum(1 if isinstance(c, Numeric) else len(c.categories) for c in schema.columns)
        if self.missing_indicator:
            inputs += len(schema.columns)
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise((inputs, *self.hidden)):
            layers += [nn.Linear(width, following), nn.ReLU()]
        return nn.Sequential(*layers, objective.layer((inputs, *self.hidden)[-1], deep=bool(self.hidden)))

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """Return the mean loss of the objective."""
        return self.objective.loss(model(batch.inputs), batch.targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return the metrics of the objective; None without rows."""
        return self.objective.metrics(outputs, targets) if len(targets) else dict.fromkeys(METRICS)

    def summary(self, rows: Rows, schema: Schema) -> NDArray[np.int64]:
        """Return the sums of every numeric column in order, and of a label that is a number or a count."""
        inputs = rows.inputs.numpy().T
        columns = [
            (values, column.min, column.max)
            for values, column in zip(inputs, schema.columns, strict=True)
            if isinstance(column, Numeric)
        ]
        target = _standardised(schema)
        if target is not None:
            columns.append((rows.targets.numpy().astype(np.float64), *target))
        totals = [total for values, low, high in columns for total in sums_of(values, low, high)]
        return np.array(totals, dtype=np.int64)

    def scaling(self, totals: Sequence[int], schema: Schema) -> dict[str, Any]:
        """Return ``{column: [mean, spread]}`` of the numeric columns, and of a label that is a number or a count."""
        return {
            name: standard(totals[SUMS * at : SUMS * (at + 1)], low, high)
            for at, (name, low, high) in enumerate(_ranges(schema))
        }

    def unit(self, schema: Schema, scaling: Mapping[str, Any]) -> dict[str, Any]:
        """Return mean and spread of a label that is a number, in whose spread losses are."""
        name = schema.label.name
        return {name: scaling[name]} if isinstance(schema.label, NumberTarget) and name in scaling else {}

    def possible(self, totals: Sequence[int], rows: int, schema: Schema) -> bool:
        """Return whether there are numbers, at most ``rows`` a column, with these counts and sums."""
        return all(possible(totals[SUMS * at : SUMS * (at + 1)], rows) for at, _ in enumerate(_ranges(schema)))

    def prepare(self, rows: Rows, schema: Schema, scaling: Mapping[str, Any]) -> Rows:
        """Return the features, ``float32[n, inputs]``: numbers and one-hot categories in schema order.

        Raises:
            InputError: ``data.model``: the scaling does not fit the schema.
        """
        parts: list[NDArray[np.float64]] = []
        for values, column in zip(rows.inputs.numpy().T, schema.columns, strict=True):
            if isinstance(column, Numeric):
                mean, spread = pair_of(scaling, column.name)
                parts.append(np.nan_to_num((values - mean) / spread, nan=0.0)[:, None])
            else:
                parts.append((values[:, None] == np.arange(len(column.categories))).astype(np.float64))
            if self.missing_indicator:
                parts.append(np.isnan(values).astype(np.float64)[:, None])
        return replace(rows, inputs=torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32)))

    def tested(self, targets: Tensor) -> NDArray[np.int64]:
        """Return the test rows of each kind that a tally tells apart."""
        return self.objective.tested(targets)

    def bins(self, tested: Sequence[int]) -> int:
        """Return into how many bins a tally may count."""
        return self.objective.bins(tested)

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> NDArray[np.int64]:
        """Return the counts of the objective."""
        return self.objective.tally(outputs, targets, bins)

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics of all members' test rows."""
        return self.objective.overall(totals, bins)

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return what the model says: chances of classes, numbers, expected counts, or chances to live past a time."""
        return self.objective.scores(outputs)

    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64]:
        """Return each row's loss."""
        return self.objective.row_losses(scores, targets)

    def personalise(self, model: nn.Module, rows: Rows) -> float | None:
        """Return the intercept b, or None without one. It minimises the rows' summed loss plus b²/2."""
        if not self.personal_intercept:
            return None
        with torch.no_grad():
            made = [model(chunk.inputs) for chunk in rows.chunks(max(1, len(rows)))]
        return self.objective.intercept(torch.cat(made), rows.targets)

    def apply(self, private: float, outputs: Tensor) -> Tensor:
        """Return the outputs with the intercept added.

        Raises:
            InputError: ``data.model``: it is no finite number.
        """
        if isinstance(private, bool) or not isinstance(private, (int, float)) or not math.isfinite(private):
            raise InputError("data.model", "the private part of the model is not a finite number")
        return outputs + private


def _standardised(schema: Schema) -> tuple[float, float] | None:
    """Return the range of a label whose mean and spread the federation sums; None for other kinds."""
    label = schema.label
    if isinstance(label, NumberTarget):
        return label.min, label.max
    return (0.0, float(label.max)) if isinstance(label, CountTarget) else None


def _ranges(schema: Schema) -> list[tuple[str, float, float]]:
    """Return name and range of everything that is summed, in order."""
    found = [(column.name, column.min, column.max) for column in schema.columns if isinstance(column, Numeric)]
    target = _standardised(schema)
    return found if target is None else [*found, (schema.label.name, *target)]


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


task = Tabular
