"""Using a model version: the file is enough, and imports nothing that its owner did not allow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from moonflower.client.learning.predict import load_model, open_version, predict_with
from moonflower.client.learning.rows import Rows, Split
from moonflower.client.learning.tables import Format
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.secret import NodeSecret
from moonflower.client.tasks import Task, load_task
from moonflower.configs.schema import Categorical, Label, Numeric, Schema
from moonflower.configs.training import TrainingSettings
from moonflower.errors import InputError, Refused
from moonflower.protocol.model_version import Version, build

SCHEMA = Schema((Numeric("x", 0, 10), Categorical("c", ("a", "b"))), Label("y", ("no", "yes")))
TASK: dict[str, Any] = {"ref": "moonflower.client.tasks.tabular:task", "hidden": [4]}
FRAME = pd.DataFrame({"x": [1.0, 9.0, None, 5.0], "c": ["a", "b", "a", None], "y": ["no", "yes", "no", "yes"]})


def learner() -> TorchLearner:
    task: Task = load_task(TASK["ref"], {"hidden": [4]})
    rows = Rows(task.inputs(FRAME, SCHEMA), task.targets(FRAME, SCHEMA))
    return TorchLearner(task, Split(rows, rows, rows), SCHEMA, seed=3, secret=NodeSecret.for_practice(3, "a"))


def version(**changes: Any) -> Version:
    """A model version as a run writes it, with changes to its manifest."""
    made = learner()
    vector = made.fit(TrainingSettings(rounds=2))[0]
    manifest = {
        "format": 1, "federation": "test", "task": TASK, "schema": SCHEMA.to_dict(),
        "scaling": made.scaling(made.summary().tolist()), "package": "0.1.0", **changes,
    }  # fmt: skip
    return build(made.layout, vector, {key: value for key, value in manifest.items() if value != "gone"})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(version().data)
    return path


def test_predictions_are_those_of_the_trained_model(model: Path) -> None:
    predictor = load_model(model)
    scores = predictor.predict(FRAME.drop(columns="y").assign(more=1))
    assert scores.shape == (4,)
    assert scores.dtype == np.float64
    assert ((scores > 0) & (scores < 1)).all()
    made = learner()
    trained = made.fit(TrainingSettings(rounds=2))[0]
    assert {**predictor.metrics(FRAME)} == made.evaluate(trained, "test")
    assert np.array_equal(predictor.predict(FRAME.iloc[[2]]), scores[[2]])
    assert len(predictor.predict(FRAME.iloc[:0])) == 0


def test_metrics_of_a_file_are_those_of_its_table(model: Path, tmp_path: Path) -> None:
    predictor, data = load_model(model), tmp_path / "rows.csv"
    FRAME.to_csv(data, index=False)
    assert predictor.metrics(data) == predictor.metrics(str(data)) == predictor.metrics(FRAME)
    FRAME.drop(columns="y").to_csv(data, index=False)
    with pytest.raises(InputError, match="and not 'y', which the label is in"):
        predictor.metrics(data)
    with pytest.raises(InputError, match=r"none\.csv does not exist"):
        predictor.metrics(tmp_path / "none.csv")


def test_a_file_in_scores_out(model: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "new.csv", tmp_path / "scores.csv"
    FRAME.drop(columns="y").to_csv(data, index=False)
    result = predict_with(load_model(model), data, out)
    written = pd.read_csv(out)
    assert list(written) == ["score", "class"]
    assert written["score"].tolist() == load_model(model).predict(FRAME).tolist() == result["score"].tolist()
    assert written["class"].tolist() == ["yes" if score > 0.5 else "no" for score in written["score"]]
    with pytest.raises(InputError, match="cannot be written") as refusal:
        predict_with(load_model(model), data, tmp_path / "no" / "out.csv")
    assert refusal.value.code == "config.out"


def test_a_file_in_another_format_scores_the_same(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "new.csv"
    FRAME.drop(columns="y").to_csv(data, index=False, sep=";", decimal=",")
    found = predict_with(load_model(model), data, given=Format(separator=";", decimal=","))
    assert found["score"].tolist() == load_model(model).predict(FRAME).tolist()


def test_more_classes_get_a_column_each() -> None:
    task = load_task("moonflower.client.tasks.digits:task", {"channels": 1})
    schema = task.schema()
    assert schema is not None
    frame = pd.DataFrame({column.name: [0.0, 16.0] for column in schema.columns})
    empty = Rows(task.inputs(frame, schema), task.inputs(frame, schema)[:, 0, 0, 0].long())
    made = TorchLearner(task, Split(empty, empty, empty), schema, seed=1, secret=NodeSecret.for_practice(1, "a"))
    manifest = {
        "format": 1, "federation": "d", "schema": None, "scaling": {}, "package": "0.1.0",
        "task": {"ref": "moonflower.client.tasks.digits:task", "channels": 1},
    }  # fmt: skip
    predictor = open_version(build(made.layout, made.start(), manifest))
    table = predictor.table(frame)
    assert list(table) == [*(f"score_{digit}" for digit in range(10)), "class"]
    assert table.filter(like="score_").sum(axis=1).tolist() == pytest.approx([1, 1])
    assert predictor.predict(frame).shape == (2, 10)


def test_a_model_file_cannot_import_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_task.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    planted = version(task={"ref": "planted_task:task"})
    for refs in (None, [], ["moonflower.client.tasks.tabular:task"]):
        with pytest.raises(Refused, match="the model's task 'planted_task:task' is not allowed here") as refusal:
            open_version(planted, allow=refs)
        assert refusal.value.code == "task.refused"
    with pytest.raises(Refused):
        open_version(version(task={"ref": "moonflower.client.tasks.tabular:load_task"}))
    assert "planted_task" not in sys.modules
    with pytest.raises(Refused):
        open_version(version(), allow=["mine.tasks:task"])
    assert len(open_version(version(), allow=[TASK["ref"]]).predict(FRAME)) == 4


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"format": 2}, "data.model", "its format is 2; expected 1"),
        ({"scaling": "gone"}, "data.model", "its manifest has no 'scaling'"),
        ({"scaling": []}, "data.model", "task or scaling in its manifest is not a table"),
        ({"task": {"hidden": []}}, "data.model", "task or scaling in its manifest is not a table"),
        ({"schema": None}, "data.model", "it has no schema, and its task has none of its own"),
        ({"schema": {}}, "config.schema", "the model's schema: the schema has no 'columns'"),
        ({"task": {**TASK, "hidden": [5]}}, "data.model", "its tensors are not those of its task's model"),
        ({"task": {**TASK, "width": 5}}, "config.task", "has no option 'width'"),
    ],
)
def test_manifests_that_do_not_fit(changes: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        open_version(version(**changes))
    assert refusal.value.code == code
    assert message in str(refusal.value)


def test_scaling_of_other_columns_is_refused_when_used() -> None:
    with pytest.raises(InputError, match="scaling of column 'x' is not a mean and a spread") as refusal:
        open_version(version(scaling={"z": [0.0, 1.0]})).predict(FRAME)
    assert refusal.value.code == "data.model"


def test_files_that_are_no_model(model: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"junk")
    for path, code, part in [
        (tmp_path / "modl.safetensors", "data.file", "did you mean 'model.safetensors'?"),
        (tmp_path, "data.file", "cannot be read"),
        (junk, "data.model", "not a moonflower model version"),
    ]:
        with pytest.raises(InputError) as refusal:
            load_model(path)
        assert refusal.value.code == code
        assert part in str(refusal.value)
    sick = version()
    vector = sick.vector.copy()
    vector[0] = np.nan
    with pytest.raises(InputError, match="a number in it is not finite"):
        open_version(build(sick.layout, vector, sick.manifest))


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"x": 11.0}, "data.value", "new.csv: column 'x' has 4 cells outside the range; expected numbers from 0 to 10"),
        ({"c": "bb"}, "data.category",
            "new.csv: column 'c' has 4 cells with words that the schema does not list; expected one of: a, b"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_the_schema(
    model: Path, tmp_path: Path, change: dict[str, Any], code: str, message: str
) -> None:
    FRAME.assign(**change).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(InputError) as refusal:
        predict_with(load_model(model), tmp_path / "new.csv")
    assert (refusal.value.code, str(refusal.value)) == (code, message)
