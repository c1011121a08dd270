"""Models of other libraries in a whole federation: trained, voted on, and used in a fresh predictor."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from moonflower import load_model, simulate
from support import CONFIGS

LINEAR = 'ref = "moonflower.client.tasks.estimators:task"\noptions = { C = 0.3 }'
NAIVE = 'ref = "moonflower.client.tasks.naive_bayes:task"'


@pytest.mark.parametrize(("task", "rounds"), [(LINEAR, 3), (NAIVE, 1)], ids=["linear", "naive"])
def test_it_reaches_the_same_model_on_all_rows(tmp_path: Path, task: str, rounds: int) -> None:
    text = (CONFIGS / "heart.toml").read_text(encoding="utf-8").replace('"data/', f'"{CONFIGS}/data/')
    text = re.sub(r"(?ms)^\[task\].*?(?=^\[)", f"[task]\n{task}\n\n", text)
    text = re.sub(r"(?m)^(clip|max_step|max_rows|rounds|report_every) = .*\n", "", text)
    config = tmp_path / "heart.toml"
    config.write_text(text.replace("[training]", f'[training]\nloop = "own"\nrounds = {rounds}'), encoding="utf-8")
    done = simulate(config, out=tmp_path / "run")
    whole = done.result["overall"]
    assert whole["federated"]["auc"] == pytest.approx(whole["pooled"]["auc"], abs=0.01)
    assert whole["federated"]["loss"] == pytest.approx(whole["pooled"]["loss"], abs=0.02)
    frame = pd.read_csv(CONFIGS / "data" / "heart.csv.gz")
    model = load_model(tmp_path / "run" / "models" / f"{done.result['model']['sha256']}.safetensors")
    assert model.metrics(frame)["auc"] > 0.85
