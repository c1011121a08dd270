"""Hints about columns before training: each kind is found and told without a cell, and sound columns give none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from moonflower.client.learning.cast import prepare
from moonflower.client.learning.rows import Rows
from moonflower.client.learning.suspects import SAMPLE, suspects, told
from moonflower.configs.schema import Categorical, CountTarget, Label, NumberTarget, Numeric, Schema, TimeTarget
from moonflower.doctor import checks

ROWS = 400
YES = Label("y", (0, 1))


def members(values: np.ndarray, targets: np.ndarray, parts: int = 1) -> dict[str, Rows]:
    which = np.arange(len(values)) % parts
    return {
        f"m{part}": Rows(torch.from_numpy(values[which == part][:, None]), torch.from_numpy(targets[which == part]))
        for part in range(parts)
    }


def codes(column: Numeric | Categorical, values: np.ndarray, label: object = YES, parts: int = 1) -> list[str]:
    draws = np.random.default_rng(3)
    targets = draws.integers(0, 2, len(values)) if isinstance(label, Label) else draws.normal(50, 9, len(values))
    found = suspects(Schema((column,), label), members(values.astype(float), targets, parts))  # type: ignore[arg-type]
    return [hint.code for hint in found]


def test_a_sound_column_gives_no_hint() -> None:
    values = np.random.default_rng(1).normal(50, 10, ROWS).round(1)
    assert codes(Numeric("bmi", 0, 100), values, parts=3) == []
    assert codes(Categorical("c", ("a", "b")), (values > 50) * 1.0) == []
    assert codes(Numeric("bmi", 0, 100), values, NumberTarget("y", 0, 100)) == []


def test_every_kind_of_hint() -> None:
    values = np.random.default_rng(1).normal(50, 10, ROWS).round(1)
    assert codes(Numeric("a", 0, 100), np.full(ROWS, np.nan)) == ["empty"]
    assert codes(Numeric("a", 0, 100), np.where(values > 50, 7.0, np.nan)) == ["same"]
    assert codes(Numeric("a", 0, 100), np.where(np.arange(ROWS) % 3, np.nan, values), parts=3) == ["site"]
    assert codes(Numeric("a", 0, 1e4), np.random.default_rng(2).permutation(ROWS) + 100) == ["id"]
    assert codes(Numeric("zip_code", 0, 1e5), np.arange(ROWS) % 97 + 10_000) == ["id"]


@pytest.mark.parametrize(
    ("column", "label", "of"),
    [
        (Numeric("a", -10, 10), YES, lambda y, noise: y * 6 + noise),
        (Numeric("a", -10, 10), YES, lambda y, noise: 3 - y * 6 + noise),
        (Numeric("a", 0, 9), Label("y", ("u", "v", "w")), lambda y, noise: y * 2),
        (Categorical("a", ("p", "q")), YES, lambda y, noise: 1 - y),
        (Numeric("a", -1e3, 1e3), NumberTarget("y", 0, 9), lambda y, noise: -3 * y + 0.01 * noise),
        (Numeric("a", -1e3, 1e3), CountTarget("y", 9), lambda y, noise: y * 2.5),
    ],
)
def test_a_copy_of_the_label(column: Numeric, label: object, of: object) -> None:
    draws = np.random.default_rng(4)
    targets = draws.integers(0, 3 if isinstance(label, Label) and len(label.classes) == 3 else 2, ROWS)
    if not isinstance(label, Label):
        targets = draws.gamma(2, 1, ROWS).clip(0, 9)
    values = np.asarray(of(targets, draws.normal(0, 1, ROWS)), dtype=float)  # type: ignore[operator]
    found = suspects(Schema((column,), label), members(values, targets, parts=2))  # type: ignore[arg-type]
    assert [hint.code for hint in found] == ["copy"]
    assert told(found[0]) == (
        "column 'a': it alone tells the label nearly without fault: a copy, or known only afterwards; "
        "schema infer --drop a leaves it out"
    )


def test_rows_that_are_no_table_and_times_are_passed_over() -> None:
    images = {"m": Rows(torch.zeros(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64))}
    assert suspects(Schema((Numeric("a", 0, 1),), YES), images) == []
    assert suspects(Schema((), YES), {"m": Rows(torch.zeros(5, 3), torch.zeros(5))}) == []
    times = np.column_stack([np.arange(1.0, 41), np.ones(40)])
    table = {"m": Rows(torch.arange(40.0).double()[:, None] / 3, torch.from_numpy(times))}
    assert suspects(Schema((Numeric("a", 0, 40),), TimeTarget("y", "seen", (20.0, 40.0))), table) == []


def test_a_large_table_is_sampled() -> None:
    values = np.zeros((SAMPLE * 3, 1))
    table = Rows(torch.from_numpy(values), torch.arange(SAMPLE * 3) % 2)
    assert [hint.code for hint in suspects(Schema((Numeric("a", -1, 1),), YES), {"m": table})] == ["same"]


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """A run config over a table in which one column copies the label and another holds one value, 41.5."""
    draws = np.random.default_rng(5)
    targets = draws.integers(0, 2, 300)
    frame = pd.DataFrame({"age": draws.normal(60, 9, 300), "after": targets * 5.0, "ward": 41.5, "y": targets})
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.toml").write_text(
        'label = {name = "y", classes = [0, 1]}\ncolumns = [{name = "age", min = 0, max = 120}, '
        '{name = "after", min = 0, max = 5}, {name = "ward", min = 0, max = 50}]\n',
        encoding="utf-8",
    )
    config = tmp_path / "run.toml"
    config.write_text(
        'federation.name = "leaky"\ntask.ref = "moonflower.client.tasks.tabular:task"\n'
        'data = { path = "t.csv", label = "y", schema = "t.toml" }\n'
        'simulate = { partition = "random", members = 3 }\n',
        encoding="utf-8",
    )
    return config


def test_a_simulation_says_so_before_it_trains(leaky: Path, caplog: pytest.LogCaptureFixture) -> None:
    cast = prepare(leaky)
    with caplog.at_level(logging.WARNING):
        cast.warn()
    said = [record.getMessage() for record in caplog.records]
    assert [message.partition(":")[0] for message in said] == ["column 'after'", "column 'ward'"]
    assert "41.5" not in "".join(said)


def test_doctor_says_so(leaky: Path) -> None:
    data = next(step for step in checks.steps(leaky) if step.name == "data").look()
    assert data.status == "warning"
    assert "column 'after'" in data.found
    assert "41.5" not in data.found
