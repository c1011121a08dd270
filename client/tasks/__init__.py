"""Tasks: a task says how rows become inputs, and has the model, the loss and the metrics.

Your own task is one object with ``model``, ``loss`` and ``metrics``. If its rows do not come from one table of the
schema's columns, it also has ``data`` and ``inputs``. Everything else has a default. See ``digits.py`` for a worked
example. :func:`load_task` makes the object from ``[task]``: ``ref`` names a factory, usually the class itself, and the
table's other keys are its keyword arguments.

The framework calls, in this order:

1. ``data``, then a split;
2. ``summary`` of the training rows, summed over all members under encryption;
3. ``possible`` and ``scaling`` of the sums;
4. ``prepare`` of every part;
5. ``model``, then ``loss`` on the rows of a step;
6. ``metrics`` on whole parts;
7. ``tally`` of the test rows, summed under encryption, then ``overall`` of the sums.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...configs.schema import Schema, load_schema
from ...configs.settings import DataSettings
from ...configs.training import TrainingSettings
from ...errors import InputError, nearest
from ..learning.intake import table_rows
from ..learning.rows import Rows, decimal_of, features, need
from ..objectives.base import FRACTION_BITS, MAX_COUNT, MOST_BINS, ROWS_A_BIN, Metrics, fixed
from ..objectives.classes import rows_weights

__all__ = [
    "FRACTION_BITS", "MAX_COUNT", "METRICS", "MOST_BINS", "ROWS_A_BIN", "Metrics", "Rows", "Task", "fixed", "load_task",
    "own_tasks", "rows_weights", "schema_for", "weights_of",
]  # fmt: skip

METRICS = ("loss", "accuracy", "auc", "average_precision")
"""Metrics that every report shows. A task may leave some out, which are then None, and may add others."""


class Task:
    """Base class of tasks: methods that you must write raise NotImplementedError, the others have a default."""

    def schema(self) -> Schema | None:
        """Return the task's own schema, or None if ``[data] schema`` names a file."""
        return None

    def data(self, settings: DataSettings, schema: Schema) -> Any:
        """Return all rows that ``[data]`` names, raw: here as :meth:`inputs` and :meth:`targets` make them.

        Returns:
            :class:`Rows`, a pair of tensors, or a dataset of ``torch.utils.data`` whose items are pairs of an input and
            a target. A dataset is read when its rows are used, so it may be larger than memory.

        Raises:
            InputError: ``data.*`` or ``config.value``: ``[data]`` contradicts the schema.
        """
        names = {column.name for column in schema.columns}
        both = sorted(names.intersection(settings.drop))
        if both:
            raise InputError("config.value", f"[data] drop names {both[0]!r}, which the schema lists as a feature")
        if settings.label != schema.label.name:
            raise InputError(
                "config.value",
                f"[data] label = {settings.label!r}; expected the schema's, {schema.label.name!r}",
            )
        return table_rows(self, settings, schema)

    def inputs(self, frame: Any, schema: Schema, where: str = "data") -> Tensor:
        """Return the raw inputs of a table's rows; ``predict`` uses it too, so it must not need a label.

        Args:
            frame: ``pandas.DataFrame`` of n rows, which may be a piece of a table; columns that are not in the schema
                are ignored.
            schema: the columns.
            where: name of the table in messages.

        Returns:
            ``float64[n, columns]``: numbers, category indices, NaN where missing.
        """
        if not schema.columns:
            raise InputError("config.schema", "the schema lists no columns; expected one or more to read a table")
        return torch.from_numpy(features(frame, schema, where))

    def targets(self, frame: Any, schema: Schema, where: str = "data") -> Tensor:
        """Return what to predict in every row of a table: ``int64[n]`` class indices, ``float64[n]`` or ``[n, 2]``."""
        need(list(map(str, frame.columns)), schema.label.columns, where, "the label is in")
        return torch.from_numpy(schema.label.read(frame, where, decimal_of(frame)))

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return a fresh model whose numbers depend only on ``schema`` and ``generator``.

        The global torch generator is seeded around the call too, so default initialisation works.
        """
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """Return the mean loss over a batch of prepared rows, a scalar that can be differentiated."""
        raise NotImplementedError

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
        """Train ``model`` in place for a round, instead of moonflower's loop; the recipe says ``loop = "own"``.

        Do not keep anything from one round for the next one. The framework takes the travelling tensors before and
        after.

        Args:
            model: on the device, with the base's numbers.
            rows: this member's prepared training rows; also a dataset for ``torch.utils.data.DataLoader``.
            settings: ``[training]``; what they mean here is this method's own decision.
            device: of the site.
            generator: for shuffling; it comes from the node's secret, as do the seeds of the global generators.
            progress: call it with the share that is done, 0 to 1.
        """
        raise NotImplementedError

    def evaluate(self, model: nn.Module, rows: Rows, *, device: torch.device) -> Metrics:
        """Return the metrics of ``model`` on prepared rows, one or more, instead of :meth:`metrics`; with a loss."""
        raise NotImplementedError

    @property
    def trains(self) -> bool:
        """Whether this task brings its own :meth:`train`."""
        return type(self).train is not Task.train

    @property
    def evaluates(self) -> bool:
        """Whether this task brings its own :meth:`evaluate`."""
        return type(self).evaluate is not Task.evaluate

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return the metrics of ``outputs = model(inputs)`` over one row or more.

        ``loss`` should be among them, because the gate uses it by default. A metric that the rows leave undefined is
        None.
        """
        raise NotImplementedError

    def bound(self, schema: Schema, scaling: Mapping[str, Any]) -> Task:
        """Return this task as it is for a schema and a scaling, which its loss and metrics may depend on; here itself.

        Args:
            schema: the columns.
            scaling: as :meth:`scaling` returned it; empty before it is known.

        Raises:
            InputError: ``config.task``: the task does not fit the schema.
        """
        return self

    def bins(self, tested: Sequence[int]) -> int:
        """Return into how many bins a tally may count scores; 0 = there is no tally: too few test rows.

        Args:
            tested: the sums of :meth:`tested` over all members.
        """
        return min(MOST_BINS, min(tested) // ROWS_A_BIN)

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return probabilities: ``float64[n]`` of the positive class, or ``float64[n, classes]``."""
        logits = outputs.detach().double()
        one = logits.ndim == 1 or logits.shape[-1] == 1
        chances = torch.sigmoid(logits.reshape(len(logits))) if one else torch.softmax(logits, dim=-1)
        return chances.numpy()

    threshold = 0.5
    """A score above it says the second of two classes."""

    def row_losses(self, scores: NDArray[np.float64], targets: Tensor) -> NDArray[np.float64] | None:
        """Return each row's loss from its score (:meth:`scores`) and target, ``float64[n]``; None if that is not known.

        With it a simulation says how sure a difference of two models' losses is.
        """
        return None

    def summary(self, rows: Rows, schema: Schema) -> NDArray[np.int64]:
        """Return statistics of a member's raw training rows that make sense summed over members.

        Returns:
            ``int64[k]``, every number in ``[0, MAX_COUNT]``; k depends on the schema only.
        """
        return np.zeros(0, dtype=np.int64)

    def scaling(self, totals: Sequence[int], schema: Schema) -> dict[str, Any]:
        """Return what :meth:`prepare` needs from the summed statistics: JSON-able, the same everywhere."""
        return {}

    def unit(self, schema: Schema, scaling: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of a scaling that set the unit of losses; models that are compared share them."""
        return {}

    def possible(self, totals: Sequence[int], rows: int, schema: Schema) -> bool:
        """Return whether the summed statistics can be those of ``rows`` training rows.

        Every member checks the sums that it opened. If the answer is no, no version follows from them.
        """
        return True

    def prepare(self, rows: Rows, schema: Schema, scaling: Mapping[str, Any]) -> Rows:
        """Return raw rows as the model takes them. Here: inputs in float64 become float32, the type of most models."""
        return replace(rows, inputs=rows.inputs.float()) if rows.inputs.dtype == torch.float64 else rows

    def tested(self, targets: Tensor) -> NDArray[np.int64]:
        """Return how many test rows a member has of each kind that a tally tells apart, such as a class.

        The counts are summed once in a circle. The smallest sum limits how finely :meth:`tally` may count.

        Returns:
            ``int64[c]``, every number in ``[0, MAX_COUNT]``; c depends on the task only, 1 or more. Here: all rows.
        """
        return np.array([len(targets)], dtype=np.int64)

    def tally(self, outputs: Tensor, targets: Tensor, bins: int) -> NDArray[np.int64]:
        """Return counts of a member's test rows that make sense summed over members; n may be 0.

        Args:
            outputs: of the model.
            targets: of the same rows.
            bins: number of bins for scores, 1 or more: at most one for every ten rows of a kind.

        Returns:
            ``int64[m]``, every number in ``[0, MAX_COUNT]``; m depends on the task only. Here: rows, and loss
            and accuracy times rows in units of 2^-16.
        """
        rows = len(targets)
        return self.counted(self.metrics(outputs, targets) if rows else {}, rows)

    def counted(self, metrics: Metrics, rows: int) -> NDArray[np.int64]:
        """Return rows, and loss and accuracy times rows in units of 2^-16: the tally of a task that counts no more."""
        sums = [fixed((metrics.get(name) or 0.0) * rows) for name in ("loss", "accuracy")]
        return np.array([rows, *sums], dtype=np.int64)

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics over all members' test rows from the summed tallies over ``bins`` bins."""
        rows, *sums = totals
        means = [total / 2**FRACTION_BITS / rows if rows else None for total in sums]
        return dict(zip(METRICS, (*means, None, None), strict=True))

    def personalise(self, model: nn.Module, rows: Rows) -> Any:
        """Return a private part fitted on the member's own prepared training rows, JSON-able, never sent; or None."""
        return None

    def apply(self, private: Any, outputs: Tensor) -> Tensor:
        """Return the model's outputs with the private part applied."""
        return outputs


def weights_of(given: Sequence[float], classes: int | None = None) -> tuple[float, ...]:
    """Return the weights of classes as a task's option gives them; empty for equal weights.

    Args:
        given: the option.
        classes: how many there are; None if only the schema says so.

    Raises:
        InputError: ``config.task``: not as many numbers above 0 as there are classes.
    """
    good = isinstance(given, (list, tuple)) and (classes is None or len(given) in (0, classes))
    if not good or not all(isinstance(one, (int, float)) and 0 < one < 1e6 for one in given):
        count = "one number" if classes is None else f"{classes} numbers"
        each = " for each class" if classes is None else ""
        raise InputError("config.task", f"[task] class_weights = {given!r}; expected {count} above 0{each}")
    return tuple(map(float, given))


def schema_for(task: Task, settings: DataSettings) -> Schema:
    """Return the schema of a run: the file that ``[data]`` names, or else the task's own.

    Raises:
        InputError: ``config.*``: there is no schema, or its file is wrong.
    """
    if settings.schema_path is not None:
        return load_schema(settings.schema_path)
    own = task.schema()
    if own is None:
        raise InputError(
            "config.value",
            "[data] schema is missing; expected a schema file",
            hint="moonflower schema infer writes one",
        )
    return own


def load_task(ref: str, options: Mapping[str, Any]) -> Task:
    """Return the task that ``[task]`` names.

    This imports code. If ``ref`` comes from elsewhere, check it against an allow-list first (rule 9).

    Args:
        ref: ``package.module:attribute``, a factory of tasks; or ``package.module``, a script (``learning/script.py``).
        options: its keyword arguments, from TOML or JSON.

    Raises:
        InputError: ``config.task``: module, attribute or option is unknown, or the task refuses an option's value.
    """
    module_name, _, attribute = ref.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise InputError(
                "config.task", f"task module {module_name!r} needs {error.name!r}, which is not installed"
            ) from None
        raise InputError("config.task", f"there is no task {ref!r}; {nearest(ref, own_tasks())}") from None
    except Exception as error:  # a module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise InputError("config.task", f"task module {module_name!r} cannot be imported: {reason}") from error
    if not attribute:
        from ..learning.script import Script  # which needs this module

        return Script(module, options)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [name for name, value in vars(module).items() if _makes_tasks(value)]
        raise InputError(
            "config.task", f"module {module_name!r} has no task {attribute!r}; {nearest(attribute, public)}"
        )
    try:
        parameters = inspect.signature(factory).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = [] if takes_all else [name for name in options if name not in parameters]
        task = None if unknown else factory(**options)
    except (TypeError, ValueError) as error:
        raise InputError("config.task", f"task {ref!r} refuses its options: {error}") from None
    if unknown:
        raise InputError("config.task", f"task {ref!r} has no option {unknown[0]!r}; {nearest(unknown[0], parameters)}")
    if not isinstance(task, Task):
        raise InputError("config.task", f"{ref!r} makes a {type(task).__name__!r}; expected a moonflower Task")
    return task


def _makes_tasks(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value is not Task


def own_tasks() -> list[str]:
    """Return the references of moonflower's own tasks."""
    return [f"{__name__}.{module.name}:task" for module in pkgutil.iter_modules(__path__)]
