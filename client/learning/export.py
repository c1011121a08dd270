"""A model version in the formats of others: tensors for torch alone, or an ONNX file for runtimes without Python.

Neither carries the member's way from rows to numbers. What a model of these formats takes are *prepared* rows: the
task's ``inputs``, then ``prepare`` with the federation's scaling. What it gives are the model's own outputs, mostly
logits; ``Task.scores`` says what makes scores of them (sigmoid or softmax unless the task says otherwise).
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...configs.schema import Column, Date, Numeric, Schema
from ...errors import InputError, MoonflowerError
from .inventory import Place, place_of
from .predict import Predictor

_MOST_BYTES = (1 << 31) - 1
"""Size of the largest ONNX file: it is one protobuf message."""
_KEY = "moonflower."
_NOTE = (
    "Input: prepared rows, as the task makes them with this scaling. Output: what the task's model gives, not yet "
    "scores: mostly logits, for a sigmoid (one column) or a softmax (several)."
)


def torch_file(predictor: Predictor) -> bytes:
    """Return the model's whole state dict as ``torch.save`` writes it: plain tensors in their own types.

    ``torch.load(weights_only=True)`` reads it, and ``load_state_dict(strict=True)`` of the same model takes it. Tied
    tensors have all their names, over one memory; empty ones are there, too.
    """
    copies: dict[Place, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, value in predictor.model.state_dict().items():
        own = value.detach().clone()
        state[name] = copies.setdefault(place_of(value), own) if value.numel() else own
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def onnx_file(predictor: Predictor, sha256: str) -> bytes:
    """Return the model as an ONNX file: input ``inputs``, output ``outputs``, with any number of rows.

    Its metadata says federation, version, task, schema and scaling (``moonflower.…``, the last three as JSON), and how
    to use it; the copy of a version that is not released has the mark ``moonflower.release = unreleased``.

    Args:
        predictor: the model, with its task.
        sha256: of the version as members signed it, 64 hex digits.

    Raises:
        InputError: ``config.value``: ONNX is not installed; ``config.task``: the task makes no prepared row of the
            schema's middle values, or its model cannot be written as ONNX.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        what = f"--format onnx needs {' and '.join(missing)}; expected the packages of ONNX beside torch"
        raise InputError("config.value", what, hint='pip install "moonflower[onnx]"')
    rows, manifest = _example(predictor), predictor.version.manifest
    predictor.model.eval()
    try:
        with _silent():
            program = torch.onnx.export(
                predictor.model,
                (rows,),
                dynamo=True,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("rows")},),
                input_names=["inputs"],
                output_names=["outputs"],
            )
        assert program is not None
        about = {
            "federation": manifest["federation"],
            "version": sha256,
            "task": json.dumps(manifest["task"]),
            "schema": json.dumps(predictor.schema.to_dict()),
            "scaling": json.dumps(predictor.scaling),
            "note": _NOTE,
        }
        if predictor.version.unreleased:
            about["release"] = "unreleased"
        program.model.metadata_props.update({_KEY + key: value for key, value in about.items()})
        data: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # the exporter may raise anything
        reason = str(error).strip().partition("\n")[0][:200]
        problem = f"the task's model cannot be written as ONNX: {type(error).__name__}: {reason}"
        raise InputError("config.task", problem, hint="--format torch writes its tensors") from error
    if len(data) > _MOST_BYTES:
        raise InputError("config.task", f"the ONNX file would have {len(data)} bytes; expected at most {_MOST_BYTES}")
    return data


def middle(schema: Schema) -> dict[str, Any]:
    """Return a made-up row of a schema: numbers and dates in the middle of their range, and the first category.

    >>> from ...configs.schema import Categorical, Label
    >>> middle(Schema((Numeric("age", 20, 80), Categorical("sex", ("f", "m"))), Label("ill", (0, 1))))
    {'age': 50.0, 'sex': 'f'}
    """
    return {column.name: _middle(column) for column in schema.columns}


def _middle(column: Column) -> float | str:
    if isinstance(column, Date):
        return column.middle
    return column.min / 2 + column.max / 2 if isinstance(column, Numeric) else column.categories[0]


def _example(predictor: Predictor) -> Tensor:
    """Return two prepared rows: with one, the exporter would take the number of rows for fixed."""
    row = middle(predictor.schema)
    frame = pd.DataFrame({name: [value, value] for name, value in row.items()})
    try:
        prepared = predictor.prepared(frame, "the schema's middle")
    except Exception as error:  # a task may raise anything
        reason = str(error) if isinstance(error, MoonflowerError) else f"{type(error).__name__}: {error}"
        raise InputError(
            "config.task", f"the task makes no prepared row of its schema's middle values: {reason}"
        ) from error
    if not isinstance(prepared, Tensor) or len(prepared) != len(frame):
        raise InputError("config.task", "the task's prepare does not return one row of a tensor for each row")
    return prepared


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the exporter says about itself from people: old calls in its own code, packages that it could use."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
