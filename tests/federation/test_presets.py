"""The bundled data of other kinds: each preset learns what its kind can learn, and its model predicts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from moonflower import load_model, simulate
from support import CONFIGS

EDGE = {  # preset → metric, and the least of it after the rounds
    "cars": ("r2", 0.7, 30),
    "actg": ("c_index", 0.62, 10),
    "rand": ("d2", 0.06, 5),
    "anes": ("macro_auc", 0.7, 8),
}


@pytest.mark.parametrize("preset", EDGE)
def test_a_preset_learns_and_its_model_predicts(preset: str, tmp_path: Path) -> None:
    metric, least, rounds = EDGE[preset]
    marks = ("data.test_column=fold", "data.test_value=0", f"training.rounds={rounds}", "training.report_every=0")
    done = simulate(CONFIGS / f"{preset}.toml", out=tmp_path / "o", overrides=marks, baselines=False)
    assert done.error is None
    assert done.result["overall"]["federated"][metric] > least
    model = load_model(done.result["model"]["path"])
    table = pd.read_csv(CONFIGS / "data" / f"{preset}.csv.gz", dtype=str, keep_default_na=False)
    test = table[table["fold"] == "0"]
    assert model.metrics(test)[metric] == pytest.approx(done.result["overall"]["federated"][metric], abs=1e-6)
    said = model.table(test.drop(columns=list(model.schema.label.columns)))
    assert len(said) == len(test)
    shown = {
        "cars": "prediction", "rand": "prediction", "actg": "survival_90", "anes": "score_0",
    }  # fmt: skip
    assert shown[preset] in said
    assert said.select_dtypes("number").notna().all().all()


def test_losses_of_all_ways_are_in_one_unit(tmp_path: Path) -> None:
    """A squared loss is in spreads: those of the federation, also where a member or a pool trains alone."""
    done = simulate(
        CONFIGS / "cars.toml", out=tmp_path / "o", overrides=("training.rounds=2", "training.report_every=0")
    )
    units = [
        member[way]["rmse"] ** 2 / member[way]["loss"]
        for member in done.result["members"]
        for way in ("alone", "federated", "pooled")
    ]
    assert len(units) == 9
    assert units == pytest.approx([units[0]] * 9, rel=1e-3)
