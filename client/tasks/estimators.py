"""scikit-learn's linear models on a table: its solvers train, and a linear layer of the same numbers is what travels.

So everything after a member's training is what it is for any model: sealed sums, tallies, votes, export and predict.
A round starts every solver at the base, and nothing of an estimator is kept between rounds.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...configs.schema import CountTarget, Label, NumberTarget, Schema
from ...configs.training import TrainingSettings
from ...errors import InputError, nearest
from . import Rows
from .tabular import Tabular


@dataclass(frozen=True)
class _Kind:
    """An estimator: what it fits.

    Attributes:
        targets: the kinds of label.
        two: whether it fits two classes only, as the chances of more would not sum to 1.
        by_row: whether it takes a step for each row, in passes; others solve for all rows together.
    """

    targets: type
    two: bool = False
    by_row: bool = False


KINDS: Mapping[str, _Kind] = {
    "LogisticRegression": _Kind(Label),
    "SGDClassifier": _Kind(Label, two=True, by_row=True),
    "SGDRegressor": _Kind(NumberTarget, by_row=True),
    "PoissonRegressor": _Kind(CountTarget),
}
_OURS = (
    "warm_start", "max_iter", "random_state", "fit_intercept", "shuffle", "verbose", "n_jobs", "class_weight", "loss",
    "tol",
)  # fmt: skip
"""Options that follow from the recipe, the label or the node, not from ``options``."""


class Estimator(Tabular):
    """A linear model that an estimator of scikit-learn trains; the recipe says ``training.loop = "own"``.

    ``training.local_epochs`` is the estimator's ``max_iter`` in a round. The two that step row by row take
    ``training.lr`` as their constant rate, unless ``options`` say otherwise. What they fit is the loss that the report
    shows, plus the estimator's own penalty.

    Args:
        estimator: a key of :data:`KINDS`.
        options: of its constructor, such as ``{ C = 0.5 }``.
        more: options of :class:`Tabular` but ``hidden``.
    """

    def __init__(self, estimator: str = "LogisticRegression", options: Mapping[str, Any] | None = None, **more: Any):
        if estimator not in KINDS:
            raise InputError("config.task", f"[task] estimator = {estimator!r}; {nearest(str(estimator), KINDS)}")
        allowed = [*inspect.signature(Tabular).parameters.keys() - {"hidden", "loss", "quantile"}]
        for name in more:
            if name not in allowed:
                raise InputError("config.task", f"the task has no option {name!r}; {nearest(name, allowed)}")
        super().__init__(**more)
        self.kind, self.name, self.options = KINDS[estimator], estimator, dict(options or {})
        known = [name for name in inspect.signature(self._class()).parameters if name not in _OURS]
        for name in self.options:
            if name not in known:
                raise InputError("config.task", f"{estimator} has no option {name!r} here; {nearest(name, known)}")

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return the linear layer.

        Raises:
            InputError: ``config.task``: the estimator does not fit the label.
        """
        label = schema.label
        fits = isinstance(label, self.kind.targets)
        if isinstance(label, Label) and self.kind.two:
            fits = fits and len(label.classes) == 2
        if not fits:
            good = [name for name, kind in KINDS.items() if isinstance(label, kind.targets) and not kind.two]
            wanted = f"expected {' or '.join(good)}" if good else "expected a kind with an estimator"
            raise InputError("config.task", f"{self.name} does not fit label {label.name!r} ({label.kind}); {wanted}")
        return super().model(schema, generator)

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
        """Train the layer in place for a round, from the numbers that it has."""
        layer = _layer(model)
        fitted = self._class()(**self._arguments(settings, generator))
        inputs, targets, weights = self._table(rows.loaded(), layer.out_features)
        self._begin(fitted, layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", _convergence())  # a round is a part of the way
            if self.kind.by_row:
                classes = {"classes": np.array([0, 1])} if self.kind.targets is Label else {}
                for epoch in range(settings.local_epochs):
                    fitted.partial_fit(inputs, targets, sample_weight=weights, **(classes if not epoch else {}))
                    progress((epoch + 1) / settings.local_epochs)
            else:
                fitted.fit(inputs, targets, sample_weight=weights)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.atleast_2d(fitted.coef_)))
            layer.bias.copy_(torch.from_numpy(np.atleast_1d(fitted.intercept_)))

    def _class(self) -> Any:
        from sklearn import linear_model  # takes a second, and only this task needs it

        return getattr(linear_model, self.name)

    def _arguments(self, settings: TrainingSettings, generator: torch.Generator) -> dict[str, Any]:
        given: dict[str, Any] = {"warm_start": True, "max_iter": settings.local_epochs}
        if not self.kind.by_row:
            given["tol"] = 1e-12  # when to stop must not depend on a member's own rows
        if self.kind.by_row:
            drawn = int(torch.randint(2**31 - 1, (), generator=generator))
            given |= {"random_state": drawn, "learning_rate": "constant", "eta0": settings.lr}
        if self.name == "SGDClassifier":
            given["loss"] = "log_loss"
        return given | self.options

    def _begin(self, fitted: Any, layer: nn.Linear) -> None:
        """Give the estimator the layer's numbers."""
        weight, bias = (tensor.detach().cpu().numpy().astype(np.float64) for tensor in (layer.weight, layer.bias))
        if self.kind.targets is Label:
            fitted.classes_ = np.arange(max(2, layer.out_features))
            fitted.coef_, fitted.intercept_ = weight.copy(), bias.copy()
        else:
            fitted.coef_ = weight[0].copy()
            fitted.intercept_ = bias.copy() if self.kind.by_row else float(bias[0])

    def _table(
        self, rows: Rows, width: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
        """Return inputs, targets in the objective's unit, and weights of the rows.

        A member may have no row of a class, of which a solver must still hear: one row of weight 0 for each class.
        """
        inputs = rows.inputs.cpu().numpy().astype(np.float64)
        targets = self.objective.units(rows.targets.cpu()).numpy().astype(np.float64)
        if self.kind.targets is not Label:
            return inputs, targets, None
        by_class = np.array(self.settings.weights or [1.0] * max(2, width))
        weights = by_class[targets.astype(np.int64)]
        if self.kind.by_row:
            return inputs, targets, weights
        silent = len(by_class)
        return (
            np.concatenate([inputs, np.zeros((silent, inputs.shape[1]))]),
            np.concatenate([targets, np.arange(silent)]),
            np.concatenate([weights, np.zeros(silent)]),
        )


def _layer(model: nn.Module) -> nn.Linear:
    return next(module for module in model.modules() if isinstance(module, nn.Linear))


def _convergence() -> type[Warning]:
    from sklearn.exceptions import ConvergenceWarning

    found: type[Warning] = ConvergenceWarning
    return found


task = Estimator
