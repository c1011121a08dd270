"""Predictions from a model version: it carries task, schema, scaling and every number, so one file is enough.

A model file comes from elsewhere. It must not make this machine import code that the machine's owner did not name. So
its task reference is looked up in an allow-list before anything is imported, and everything is checked before use.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, nn

from ... import files
from ...configs.schema import Label, Schema, TimeTarget
from ...errors import InputError, Refused, nearest
from ...protocol.model_version import Version, parse
from ..tasks import Metrics, Task, load_task, own_tasks
from .rows import Rows
from .sources import read_table
from .tables import Format
from .tensors import as_tensor, fresh_model, frozen_of, layout_of, load, outputs

logger = logging.getLogger(__name__)
_KEYS = {"format", "federation", "task", "schema", "scaling", "package"}
_FORMAT = 1


@dataclass(frozen=True)
class Predictor:
    """A model version, ready to use.

    Attributes:
        version: the parsed file.
        task: the task that it was trained for.
        schema: columns that a table needs.
        scaling: the federation's means and spreads, as the task wrote them.
        model: the network, with the version's numbers.
        private: what a member's own file has of the part that its task fitted; None in any other file.
    """

    version: Version
    task: Task
    schema: Schema
    scaling: dict[str, Any]
    model: nn.Module
    private: Any = None

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Return the probabilities of every row of a table; it needs no label column, and extra columns are ignored.

        Returns:
            ``float64[n]``, of the second class; with more than two classes ``float64[n, classes]``.

        Raises:
            InputError: ``data.column``, ``data.value`` or ``data.category``.
        """
        return self._scores(frame, "data")

    def metrics(self, frame: pd.DataFrame | Path | str) -> Metrics:
        """Return the task's metrics on a table with a label column and one row or more.

        Args:
            frame: the table, or the path of a CSV (also .gz) or Parquet file.

        Raises:
            InputError: as :meth:`predict`; ``data.file``, ``data.empty``: the file cannot be read or has no rows.
        """
        if not isinstance(frame, pd.DataFrame):
            frame = read_table(Path(frame))
        rows = Rows(self.task.inputs(frame, self.schema), self.task.targets(frame, self.schema))
        ready = self.task.prepare(rows, self.schema, self.scaling)
        return self.task.metrics(self._outputs(ready), ready.targets)

    def table(self, frame: pd.DataFrame, where: str = "data") -> pd.DataFrame:
        """Return what the model says about every row.

        Columns are ``score, class`` or ``score_A, score_B, …, class`` for classes, and ``prediction`` for numbers and
        counts. For times it is ``survival_T`` for each end T of the grid: the chance that the event comes later.
        """
        scores, label = self._scores(frame, where), self.schema.label
        if isinstance(label, TimeTarget):
            return pd.DataFrame({f"survival_{end:g}": scores[:, at] for at, end in enumerate(label.grid)})
        if not isinstance(label, Label):
            return pd.DataFrame({"prediction": scores})
        classes = label.classes
        if scores.ndim == 1:
            named, best = {"score": scores}, (scores > self.task.threshold).astype(np.int64)
        else:
            named, best = {f"score_{c}": scores[:, i] for i, c in enumerate(classes)}, scores.argmax(axis=1)
        return pd.DataFrame({**named, "class": [classes[i] for i in best]})

    def prepared(self, frame: pd.DataFrame, where: str = "data") -> Tensor:
        """Return every row of a table as the model takes it; a label column is not needed.

        Raises:
            InputError: as :meth:`predict`.
        """
        inputs = self.task.inputs(frame, self.schema, where)
        return self.task.prepare(Rows(inputs, inputs.new_zeros(len(inputs)).long()), self.schema, self.scaling).inputs

    def _scores(self, frame: pd.DataFrame, where: str) -> NDArray[np.float64]:
        ready = self.prepared(frame, where)
        return self.task.scores(self._outputs(Rows(ready, ready.new_zeros(len(ready)))))

    def _outputs(self, rows: Rows) -> Tensor:
        made = outputs(self.model, rows)
        return made if self.private is None else self.task.apply(self.private, made)


def load_model(path: Path | str, *, allow: Collection[str] | None = None) -> Predictor:
    """Return the model version in the file ``path``, ready to predict; log a warning if it is marked as not released.

    Args:
        path: a ``.safetensors`` file that a run or ``moonflower model export`` wrote.
        allow: task references that may be imported; None = moonflower's own tasks.

    Raises:
        InputError: ``data.file``: cannot be read; ``data.model``: not a usable model version.
        Refused: ``task.refused``: the task is not in ``allow``; nothing was imported.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*.safetensors")]
        raise InputError("data.file", f"model file {path} does not exist; {nearest(path.name, beside)}") from None
    except OSError as error:
        raise InputError("data.file", f"model file {path} cannot be read: {error.strerror}") from None
    try:
        predictor = open_version(parse(data), allow=allow)
    except InputError as error:
        raise InputError(error.code, f"model file {path}: {error}", hint=error.hint) from None
    if predictor.version.unreleased:
        logger.warning("model file %s is not released: approvers have not agreed that it may be used", path)
    return predictor


def open_version(version: Version, *, allow: Collection[str] | None = None) -> Predictor:
    """Return a parsed model version, ready to predict; arguments and errors are as in :func:`load_model`."""
    manifest = version.manifest
    if manifest.get("format") != _FORMAT:
        raise _bad(f"its format is {manifest.get('format')!r}; expected {_FORMAT}")
    for key in sorted(_KEYS):
        if key not in manifest:
            raise _bad(f"its manifest has no {key!r}")
    options, scaling = manifest["task"], manifest["scaling"]
    if not isinstance(options, dict) or not isinstance(options.get("ref"), str) or not isinstance(scaling, dict):
        raise _bad("task or scaling in its manifest is not a table")
    ref = options["ref"]
    allowed = own_tasks() if allow is None else list(allow)
    if ref not in allowed:
        raise Refused(
            "task.refused",
            f"the model's task {ref!r} is not allowed here; {nearest(ref, allowed)}",
            hint="a task is code: allow it only when you trust the package that is installed under that name",
        )
    task = load_task(ref, {key: value for key, value in options.items() if key != "ref"})
    schema = task.schema() if manifest["schema"] is None else Schema.from_dict(manifest["schema"], "the model's schema")
    if schema is None:
        raise _bad("it has no schema, and its task has none of its own")
    model = fresh_model(task, schema, "")  # names and shapes: every number comes from the version, none from a file
    private = _personal(manifest, model)
    layout = layout_of(model, private)
    if layout != version.layout:
        raise _bad("its tensors are not those of its task's model")
    if not np.isfinite(version.vector).all():
        raise _bad("a number in it is not finite")
    load(model, _frozen(version, model, private), layout, version.vector)
    if private and "member" not in manifest:
        logger.warning(
            "%s are each member's own, and have their start values here: a member uses the version with its own "
            "(moonflower predict --client)",
            ", ".join(private[:4]),
        )
    return Predictor(version, task.bound(schema, scaling), schema, scaling, model, manifest.get("private"))


def predict_with(
    predictor: Predictor,
    data_path: Path,
    out: Path | None = None,
    given: Format = Format(),  # noqa: B008
) -> pd.DataFrame:
    """Return score and class of every row of a CSV or Parquet file, and write them to ``out`` as CSV.

    Args:
        predictor: the model version.
        data_path: the rows; the file needs the schema's columns, no label.
        out: CSV file to write, in the rows' order; None writes no file.
        given: format of a CSV; what it leaves open is found by looking.

    Raises:
        InputError: ``data.*``; ``config.out``: ``out`` cannot be written.
    """
    result = predictor.table(read_table(data_path, given), where=data_path.name)
    if out is not None:
        try:
            files.replace(out, result.to_csv(index=False).encode())
        except OSError as error:
            raise InputError("config.out", f"--out {out} cannot be written: {error.strerror or error}") from None
    return result


def _personal(manifest: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Return the names of a model's personal tensors, which are among those that would travel."""
    names, known = manifest.get("personal", []), {spec.name for spec in layout_of(model)}
    if not isinstance(names, list) or not all(isinstance(name, str) and name in known for name in names):
        raise _bad("its personal tensors are not those of its task's model")
    return names


def _frozen(version: Version, model: nn.Module, private: Collection[str]) -> dict[str, Tensor]:
    """Return the version's frozen tensors, which are exactly those of its task's model.

    Raises:
        InputError: ``data.model``: a tensor is missing, unknown, or of another type or shape; the message names it.
    """
    frozen = {name: as_tensor(value) for name, value in version.frozen.items()}
    wanted = frozen_of(model, private)
    for name in sorted({*frozen, *wanted}):
        if name not in frozen:
            raise _bad(f"it lacks {name!r}, a frozen tensor of its task's model")
        if name not in wanted:
            raise _bad(f"it has a frozen tensor {name!r}, which its task's model does not have")
        tensor, expected = frozen[name], wanted[name]
        if (tensor.dtype, tensor.shape) != (expected.dtype, expected.shape):
            raise _bad(f"its frozen tensor {name!r} is not of the type and shape that its task's model has")
    return frozen


def _bad(problem: str) -> InputError:
    return InputError("data.model", f"not a usable moonflower model version: {problem}")
