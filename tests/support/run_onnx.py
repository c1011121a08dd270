"""A process that has ONNX: ``run_onnx.py FOLDER TABLE TASK…``, which says how far an ONNX file is from our own outputs.

It makes an ONNX file of every version in the folder, and runs it on more rows than it was made with. Files of ONNX that
are there already are run as they are.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from moonflower import load_model
from moonflower.client.learning.export import onnx_file
from moonflower.client.learning.predict import Predictor
from moonflower.client.learning.rows import Rows
from moonflower.client.learning.tensors import outputs
from moonflower.client.tasks import own_tasks


def difference(predictor: Predictor, data: bytes, frame: pd.DataFrame) -> float | str:
    """Return the largest difference between a file's outputs and the model's own; or what the runtime cannot do."""
    rows = predictor.prepared(frame)
    assert len(rows) > 2
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        return str(error)
    worst = 0.0
    for count in (1, len(rows)):
        (found,) = session.run(["outputs"], {"inputs": rows[:count].numpy()})
        own = outputs(predictor.model, Rows(rows[:count], torch.zeros(count))).numpy()
        assert found.shape == own.shape
        worst = max(worst, float(np.abs(found - own).max()))
    return worst


def main(folder: Path, table: Path, tasks: list[str]) -> dict[str, Any]:
    """Return, for every version: the difference, and the metadata of its ONNX file."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        predictor, there = load_model(file, allow=[*own_tasks(), *tasks]), file.with_suffix(".onnx")
        data = there.read_bytes() if there.exists() else onnx_file(predictor, predictor.version.sha256)
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        shape = [side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
        metadata = {one.key: one.value for one in model.metadata_props}
        found[file.stem] = {
            "difference": difference(predictor, data, pd.read_csv(table)), "shape": shape, "metadata": metadata,
        }  # fmt: skip
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
