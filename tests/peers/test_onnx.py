"""ONNX files of our models in onnxruntime: the same outputs on prepared rows, any number of them, and what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from moonflower import load_model, simulate
from moonflower.client.learning.tensors import flatten, fresh_model, layout_of
from moonflower.client.tasks.digits import Digits
from moonflower.protocol.model_version import build
from support import CONFIGS, PATIENCE_S, ROOT, peers
from support.kinds import MODELS
from support.learners import SCHEMA, learner, rows
from support.tasks import KINDS, Kinds, version_of

PACKAGES = ("onnx", "onnxruntime", "onnxscript", "flatbuffers", "ml_dtypes", "onnx-ir")
"""Those of the extra that the environment of tests lacks, and what they need: they are installed beside it."""
TESTS = ROOT / "tests"
HALF = 1e-3  # float16 has 11 bits, and a runtime may add up in another order


def _install(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    peers.done([*pip, "--no-deps", "--constraint", str(ROOT / "constraints.txt"), "--target", ".", *PACKAGES], folder)


def said(*line: str | Path, folder: Path) -> str:
    """Return what Python with ONNX prints."""
    site = peers.installed("onnx", _install)
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(TESTS), str(site)]
    done = subprocess.run(
        [sys.executable, *map(str, line)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True, text=True, cwd=folder, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(folder: Path, table: Path) -> dict[str, Any]:
    return dict(json.loads(said(TESTS / "support" / "run_onnx.py", folder, table, KINDS, folder=folder)))


def test_every_kind_of_model_gives_our_outputs(tmp_path: Path) -> None:
    for kind in MODELS:
        made = learner(task=Kinds(kind))
        (tmp_path / f"{kind}.safetensors").write_bytes(version_of(made, made.start(), kind).data)
    inputs = rows(20, 3).inputs.numpy()
    words = [("a", "b")[int(which)] for which in inputs[:, 1]]
    pd.DataFrame({"x": inputs[:, 0], "c": words}).to_csv(tmp_path / "rows.csv", index=False)
    found = run(tmp_path, tmp_path / "rows.csv")
    assert sorted(found) == sorted(MODELS)
    for kind, one in found.items():
        if kind.endswith("bfloat16"):
            assert "Could not find an implementation" in one["difference"], "the file is right; its CPU code is missing"
        else:
            assert one["difference"] < (HALF if kind.endswith("float16") else 1e-6), kind
        assert one["shape"][0] == "rows", "any number of rows"
        assert json.loads(one["metadata"]["moonflower.schema"]) == json.loads(json.dumps(SCHEMA.to_dict()))


def test_a_model_is_exported_with_what_says_where_it_is_from(tmp_path: Path, heart: Path) -> None:
    out, table = tmp_path / "run", CONFIGS / "data" / "heart.csv.gz"
    done = simulate(heart, out=out, overrides=("training.rounds=2", "training.local_epochs=1"))
    sha256 = done.result["model"]["sha256"]
    for form in ("safetensors", "onnx"):
        line = ["-m", "moonflower", "model", "export", sha256, "--unreleased", "--state", str(out)]
        assert said(*line, "--format", form, "--out", f"m.{form}", folder=tmp_path) == f"m.{form}\n"
    one = run(tmp_path, table)["m"]
    assert one["difference"] < 1e-6
    predictor, metadata = load_model(tmp_path / "m.safetensors"), one["metadata"]
    assert json.loads(metadata["moonflower.scaling"]) == predictor.scaling
    assert metadata["moonflower.version"] == sha256 != predictor.version.sha256, "the marked copy has another"
    assert (metadata["moonflower.federation"], metadata["moonflower.release"]) == ("heart", "unreleased")
    assert "prepared rows" in metadata["moonflower.note"]
    card = json.loads((tmp_path / "m.onnx.card.json").read_text())
    assert (card["file"]["format"], card["file"]["unreleased"], card["sha256"]) == ("onnx", True, sha256)


def test_images_too(tmp_path: Path) -> None:
    task = Digits()
    schema, pixels = task.schema(), np.arange(64 * 3).reshape(3, 64) % 17
    model = fresh_model(task, schema, "7")
    layout = layout_of(model)
    manifest = {
        "format": 1, "federation": "digits", "task": {"ref": "moonflower.client.tasks.digits:task"},
        "schema": schema.to_dict(), "scaling": {}, "package": "0.1.0",
    }  # fmt: skip
    (tmp_path / "digits.safetensors").write_bytes(build(layout, flatten(model.state_dict(), layout), manifest).data)
    pd.DataFrame(pixels, columns=[column.name for column in schema.columns]).to_csv(tmp_path / "r.csv", index=False)
    one = run(tmp_path, tmp_path / "r.csv")["digits"]
    assert (one["difference"] < 1e-6, one["shape"]) == (True, ["rows", 1, 8, 8])
