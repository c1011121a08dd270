"""Naive Bayes on a table: what it learns of each class follows from sums that members open together once, so exactly.

Numbers are Gaussian in each class, as in scikit-learn's ``GaussianNB``; categories have a chance in each class; a cell
that is missing says nothing. All members set this part from the opened sums, so one round is the whole training.

Columns that tell the same make its chances far too sure, so each member also fits a scale and an offset of the logits
on its own rows. These few numbers are all that an update tells of its member.

The sums are those of every class. A class that one member alone has rows of shows this member's own means and spreads
to all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...configs.schema import Label, Numeric, Schema
from ...configs.training import TrainingSettings
from ...errors import InputError
from ..objectives.standard import SUMS, pair_of, possible, standard, sums_of
from . import Rows
from .tabular import EDGES, Tabular

BY_CLASS = ""
"""Key of the classes in a scaling; no column has an empty name."""
LEARNED = ("prior", "mean", "log_spread", "chance")
"""The tensors that follow from the sums."""
CHUNK_ROWS = 1 << 16
_GRID = 64.0
"""Logarithms of chances are rounded to 1/64: exact ones are fractions that give the number of rows away."""


class Naive(nn.Module):
    """Scaled and shifted joint log-likelihoods of the classes; of two classes that of the second less the first's.

    Args:
        numbers: columns of numbers, the first inputs.
        categories: one-hot inputs after them.
        classes: 2 or more.
        generator: draws the start.
    """

    def __init__(self, numbers: int, categories: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.1 * torch.randn(shape, generator=generator))

        self.prior, self.chance = drawn(classes), drawn(classes, categories)
        self.mean, self.log_spread = drawn(classes, numbers), drawn(classes, numbers)
        self.scale, self.offset = drawn(), drawn(classes if classes > 2 else 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[n, classes]``, or ``[n, 1]`` of two classes; ``inputs`` has NaN where a number is missing."""
        return self.scale * self.joint(inputs) + self.offset

    def joint(self, inputs: Tensor) -> Tensor:
        """Return the same before scale and offset: what the opened sums alone say."""
        numbers = inputs[:, None, : self.mean.shape[1]]
        apart = (torch.nan_to_num(numbers) - self.mean) * torch.exp(-self.log_spread)
        density = -0.5 * apart * apart - self.log_spread
        known = torch.where(torch.isnan(numbers), torch.zeros_like(density), density).sum(dim=2)
        joint = self.prior + known + inputs[:, self.mean.shape[1] :] @ self.chance.T
        return joint if len(self.prior) > 2 else joint[:, 1:] - joint[:, :1]


class NaiveBayes(Tabular):
    """Naive Bayes for two or more classes; the recipe says ``training.loop = "own"``, and one round is enough.

    Args:
        calibrate: whether members fit scale and offset; without, they are 1 and 0.
        smoothing: rows that are added to every category in every class, above 0.
        least_spread: smallest spread of a number in a class, as a share of its spread over all rows.
        edges, threshold: as in :class:`Tabular`.
    """

    def __init__(
        self,
        calibrate: bool = True,
        smoothing: float = 1.0,
        least_spread: float = 0.1,
        edges: Sequence[float] = EDGES,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(edges=edges, threshold=threshold)
        for name, value in (("smoothing", smoothing), ("least_spread", least_spread)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1000:
                raise InputError("config.task", f"[task] {name} = {value!r}; expected a number above 0, at most 1000")
        if not isinstance(calibrate, bool):
            raise InputError("config.task", f"[task] calibrate = {calibrate!r}; expected true or false")
        self.calibrate = calibrate
        self.smoothing, self.least_spread = float(smoothing), float(least_spread)
        self._learned: dict[str, NDArray[np.float32]] = {}

    def bound(self, schema: Schema, scaling: Mapping[str, Any]) -> NaiveBayes:
        """Return the task as it is for a schema and a scaling, of which it knows the whole model."""
        one = super().bound(schema, scaling)
        assert isinstance(one, NaiveBayes)  # a copy of this one
        one._learned = {name: np.array(value, np.float32) for name, value in dict(scaling.get(BY_CLASS, {})).items()}
        return one

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return the model.

        Raises:
            InputError: ``config.task``: the label has no classes.
        """
        label = schema.label
        if not isinstance(label, Label):
            raise InputError(
                "config.task", f"naive Bayes does not fit label {label.name!r} ({label.kind}); expected classes"
            )
        return Naive(len(_numbers(schema)), sum(_widths(schema)), len(label.classes), generator)

    def summary(self, rows: Rows, schema: Schema) -> NDArray[np.int64]:
        """Return, for each class, the sums of every number, and the rows and how many of them have each category."""
        targets, inputs = rows.targets.numpy(), rows.inputs.numpy()
        return np.concatenate([_sums(inputs[targets == one], schema) for one in range(_classes(schema))])

    def scaling(self, totals: Sequence[int], schema: Schema) -> dict[str, Any]:
        """Return mean and spread of every number over all rows, and what the model learns of every class.

        Whole numbers until the end; what follows is rounded, as :func:`standard` says.
        """
        by_class = np.array([int(total) for total in totals], dtype=object).reshape(_classes(schema), -1)
        overall = _Sums.of(by_class.sum(axis=0), schema)
        pairs = {
            column.name: standard(overall.numbers[at], column.min, column.max)
            for at, column in enumerate(_numbers(schema))
        }
        learned: dict[str, list[Any]] = {"prior": [], "mean": [], "log_spread": [], "chance": []}
        for one in by_class:
            sums = _Sums.of(one, schema)
            learned["prior"].append(
                _log((sums.rows + self.smoothing) / (overall.rows + self.smoothing * len(by_class)))
            )
            means, spreads = self._gaussian(sums, pairs, schema)
            learned["mean"].append(means)
            learned["log_spread"].append(spreads)
            chances: list[float] = []
            for counts in sums.categories:
                whole = sum(counts) + self.smoothing * len(counts)
                chances += [_log((count + self.smoothing) / whole) for count in counts]
            learned["chance"].append(chances)
        return {**pairs, BY_CLASS: learned}

    def _gaussian(
        self, sums: _Sums, pairs: Mapping[str, list[float]], schema: Schema
    ) -> tuple[list[float], list[float]]:
        """Return means and logarithms of spreads in a class, in the unit of the prepared inputs."""
        means, spreads = [], []
        for column, total in zip(_numbers(schema), sums.numbers, strict=True):
            middle, unit = pairs[column.name]
            mean, spread = standard(total, column.min, column.max) if total[0] else (middle, unit)
            flat = total[0] * ((total[2] << 16) + total[3]) == total[1] ** 2  # one value: standard gives the range
            means.append((mean - middle) / unit)
            spreads.append(_log(max(0.0 if total[0] and flat else spread / unit, self.least_spread)))
        return means, spreads

    def possible(self, totals: Sequence[int], rows: int, schema: Schema) -> bool:
        """Return whether there are ``rows`` rows, and at most as many numbers and categories, with these sums."""
        by_class = np.array([int(total) for total in totals], dtype=object).reshape(_classes(schema), -1)
        found = [_Sums.of(one, schema) for one in by_class]
        fit = all(
            sums.rows >= 0
            and all(possible(one, sums.rows) for one in sums.numbers)
            and all(min(counts) >= 0 and sum(counts) <= sums.rows for counts in sums.categories)
            for sums in found
        )
        return fit and sum(sums.rows for sums in found) <= rows

    def prepare(self, rows: Rows, schema: Schema, scaling: Mapping[str, Any]) -> Rows:
        """Return the features, ``float32[n, inputs]``: first the numbers, NaN where missing, then one-hot categories.

        Raises:
            InputError: ``data.model``: the scaling does not fit the schema.
        """
        numbers: list[NDArray[np.float64]] = []
        categories: list[NDArray[np.float64]] = []
        for values, column in zip(rows.inputs.numpy().T, schema.columns, strict=True):
            if isinstance(column, Numeric):
                mean, spread = pair_of(scaling, column.name)
                numbers.append((values - mean)[:, None] / spread)
            else:
                categories.append((values[:, None] == np.arange(len(column.categories))).astype(np.float64))
        whole = np.concatenate([*numbers, *categories, np.empty((len(rows), 0))], axis=1, dtype=np.float32)
        return replace(rows, inputs=torch.from_numpy(whole))

    def train(
        self,
        model: nn.Module,
        rows: Rows,
        settings: TrainingSettings,
        *,
        device: torch.device,
        generator: torch.Generator,
        progress: Callable[[float], None],
    ) -> None:
        """Set the model to what the opened sums say, and fit scale and offset on these rows."""
        assert isinstance(model, Naive)  # as self.model makes it
        if not all(name in self._learned for name in LEARNED):
            raise InputError("data.model", "the scaling does not hold what naive Bayes learned of each class")
        with torch.no_grad():
            for name in LEARNED:
                parameter = model.get_parameter(name)
                parameter.copy_(torch.from_numpy(self._learned[name]).reshape(parameter.shape))
            model.scale.fill_(1.0)
            model.offset.zero_()
            joint = torch.cat([model.joint(chunk.inputs.to(device)) for chunk in rows.chunks(CHUNK_ROWS)])
        if self.calibrate:
            targets = torch.cat([chunk.targets for chunk in rows.chunks(CHUNK_ROWS)]).to(device)
            scale, offset = self._calibrated(joint.double(), targets)
            with torch.no_grad():
                model.scale.copy_(scale)
                model.offset.copy_(offset)

    def _calibrated(self, joint: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and offset of the lowest summed loss plus (scale - 1)²/2 and half the offset's squares."""
        scale = torch.ones((), dtype=torch.float64, device=joint.device, requires_grad=True)
        offset = torch.zeros(joint.shape[1], dtype=torch.float64, device=joint.device, requires_grad=True)
        solver = torch.optim.LBFGS([scale, offset], max_iter=50, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            pull = ((scale - 1) ** 2 + (offset**2).sum()) / (2 * len(joint))
            found = self.objective.loss(scale * joint + offset, targets) + pull
            found.backward()  # type: ignore[no-untyped-call]
            return found

        solver.step(loss)  # type: ignore[no-untyped-call]
        return scale.detach(), offset.detach()


class _Sums:
    """The opened sums of one class.

    Attributes:
        rows: of the class.
        numbers: for each column of numbers the four of ``sums_of``.
        categories: for each other column how many rows have each category.
    """

    def __init__(self, rows: int, numbers: list[list[int]], categories: list[list[int]]) -> None:
        self.rows, self.numbers, self.categories = rows, numbers, categories

    @classmethod
    def of(cls, totals: NDArray[np.object_], schema: Schema) -> _Sums:
        """Return the sums that :func:`_sums` put in a row."""
        left = [int(total) for total in totals]
        rows, left = left[0], left[1:]
        numbers = [left[SUMS * at : SUMS * (at + 1)] for at in range(len(_numbers(schema)))]
        left, categories = left[SUMS * len(numbers) :], []
        for width in _widths(schema):
            categories.append(left[:width])
            left = left[width:]
        return cls(rows, numbers, categories)


def _sums(inputs: NDArray[np.float64], schema: Schema) -> NDArray[np.int64]:
    numbers: list[int] = []
    categories: list[int] = []
    for values, column in zip(inputs.T, schema.columns, strict=True):
        if isinstance(column, Numeric):
            numbers += sums_of(values, column.min, column.max)
        else:
            known = values[~np.isnan(values)].astype(np.int64)
            categories += np.bincount(known, minlength=len(column.categories)).tolist()
    return np.array([len(inputs), *numbers, *categories], dtype=np.int64)


def _numbers(schema: Schema) -> list[Numeric]:
    return [column for column in schema.columns if isinstance(column, Numeric)]


def _widths(schema: Schema) -> list[int]:
    return [len(column.categories) for column in schema.columns if not isinstance(column, Numeric)]


def _classes(schema: Schema) -> int:
    return len(schema.label.classes) if isinstance(schema.label, Label) else 1


def _log(value: float) -> float:
    return round(math.log(value) * _GRID) / _GRID


task = NaiveBayes
