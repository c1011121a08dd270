"""Every kind of target: losses and metrics against references, exact sums, and counts that tell of no row."""

from __future__ import annotations

import itertools
import math
import tomllib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moonflower.client.objectives import Settings, objective_of
from moonflower.client.objectives.ranking import concordance
from moonflower.client.objectives.times import Proportional
from moonflower.client.tasks.tabular import EDGES
from moonflower.configs.schema import CountTarget, Label, NumberTarget, Schema, Target, TimeTarget
from moonflower.errors import InputError
from sklearn import metrics as sk
from support.targets import GRID, KINDS, ROWS, made


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_that_is_trained_is_the_loss_that_is_voted_on_and_tallied(kind: str) -> None:
    objective, outputs, targets = made(kind)
    loss = objective.loss(outputs, targets).item()
    assert objective.metrics(outputs, targets)["loss"] == pytest.approx(loss)
    tally = objective.tally(outputs, targets, 8)
    assert tally.dtype == np.int64
    assert tally.min() >= 0
    overall = objective.overall(tally.tolist(), 8)
    assert overall["loss"] == pytest.approx(loss, abs=1e-3)
    assert loss >= 0, "a share of the best loss says nothing where a loss may be below 0"


@pytest.mark.parametrize("kind", KINDS)
def test_sums_over_members_are_the_sums_over_all_rows(kind: str) -> None:
    objective, outputs, targets = made(kind)
    whole = objective.tally(outputs, targets, 8)
    parts = [slice(0, 90), slice(90, 91), slice(91, ROWS)]
    summed = np.sum([objective.tally(outputs[at], targets[at], 8) for at in parts], axis=0)
    assert np.abs(whole - summed).max() <= len(parts), "fixed-point sums differ by the rounding of a member at most"
    exact = objective.metrics(outputs, targets)
    for name, value in objective.overall(summed.tolist(), 8).items():
        close = {"auc": 0.05, "macro_auc": 0.05, "average_precision": 0.1, "c_index": 0.08}.get(name, 2e-3)
        assert value == pytest.approx(exact[name], abs=close, rel=1e-3), name
    assert set(objective.overall([0] * len(whole), 8).values()) <= {None}
    assert len(objective.tally(outputs[:0], targets[:0], 8)) == len(whole), "a member without test rows gives zeros"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("many", "absolute", "quantile")])
def test_the_intercept_gives_the_lowest_loss(kind: str) -> None:
    objective, outputs, targets = made(kind)
    found = objective.intercept(outputs, targets)

    def pulled(intercept: float) -> float:
        return float(objective.loss(outputs + intercept, targets)) * ROWS + intercept**2 / 2

    assert found is not None
    assert pulled(found) <= min(pulled(found - 1e-3), pulled(found + 1e-3))


def test_quantiles_are_met_by_the_intercept_and_many_classes_have_none() -> None:
    objective, outputs, targets = made("quantile")
    shift = objective.intercept(outputs * 0, targets)
    assert objective.metrics(outputs * 0 + shift, targets)["coverage"] == pytest.approx(0.8, abs=0.02)
    assert made("many")[0].intercept(*made("many")[1:]) is None


def test_numbers_and_counts_agree_with_scikit_learn() -> None:
    objective, outputs, targets = made("number")
    said, found = objective.scores(outputs), objective.metrics(outputs, targets)
    assert found["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(targets, said)))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(targets, said))
    assert found["r2"] == pytest.approx(sk.r2_score(targets, said))
    objective, outputs, targets = made("quantile")
    pinball = sk.mean_pinball_loss(targets, objective.scores(outputs), alpha=0.8)
    assert objective.metrics(outputs, targets)["loss"] * 12.0 == pytest.approx(pinball)
    objective, outputs, targets = made("count")
    said, found = objective.scores(outputs), objective.metrics(outputs, targets)
    assert found["deviance"] == pytest.approx(sk.mean_poisson_deviance(targets, said))
    assert found["d2"] == pytest.approx(sk.d2_tweedie_score(targets, said, power=1))


def test_macro_auc_agrees_with_scikit_learn() -> None:
    objective, outputs, targets = made("many")
    expected = sk.roc_auc_score(targets, objective.scores(outputs), multi_class="ovr", average="macro")
    assert objective.metrics(outputs, targets)["macro_auc"] == pytest.approx(expected)


def slow(times: Any, seen: Any, risks: Any) -> float | None:
    points = pairs = 0.0
    for i, j in itertools.permutations(range(len(times)), 2):
        if seen[i] and (times[i] < times[j] or (times[i] == times[j] and not seen[j])):
            pairs += 1
            points += 1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0
    return points / pairs if pairs else None


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40), st.data())
def test_the_c_index_is_that_of_its_definition_however_rows_are_blocked(rows: Any, data: Any) -> None:
    times, seen, risks = (np.array(column) for column in zip(*rows, strict=True))
    block = data.draw(st.integers(1, 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moonflower.client.objectives.ranking._BLOCK", block)
        found = concordance(times.astype(float), seen, risks.astype(float))
    expected = slow(times, seen, risks)
    assert found == (None if expected is None else pytest.approx(expected))


def test_hazards_are_those_of_a_life_table() -> None:
    """Without inputs, the best hazards are events over rows at risk in each interval."""
    objective, _, targets = made("time")
    model = Proportional(1, len(GRID)).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = objective.loss(model(torch.zeros(ROWS, 1, dtype=torch.float64)), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    times, seen = targets[:, 0].numpy(), targets[:, 1].numpy() > 0
    begins = (-1.0, *GRID[:-1])  # what happens at time 0 is in the first interval
    table = []
    for begin, end in zip(begins, GRID, strict=True):
        events = (seen & (times > begin) & (times <= end)).sum()
        table.append(events / (events + (times >= end).sum() - (seen & (times == end)).sum()))
    hazards = torch.sigmoid(model.baseline.detach()).numpy()
    assert hazards == pytest.approx(np.array(table), abs=1e-3)
    survival = objective.scores(model(torch.zeros(1, 1, dtype=torch.float64)))
    assert survival[0] == pytest.approx(np.cumprod(1 - np.array(table)), abs=1e-3)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (Label("y", (0, 1)), {"loss": "absolute"}, "loss = 'absolute' does not fit label 'y', whose kind is 'classes'"),
        (NumberTarget("y", 0, 1), {"weights": (1.0, 2.0)}, "class_weights does not fit label 'y'"),
        (NumberTarget("y", 0, 1), {"loss": "square"}, "loss = 'square'; did you mean 'squared'?"),
        (NumberTarget("y", 0, 1), {"loss": "quantile", "quantile": 1.0}, "quantile = 1.0; expected a number between"),
        (CountTarget("y", 9), {"loss": "quantile"}, "loss = 'quantile' does not fit label 'y', whose kind is 'count'"),
        (TimeTarget("y", "e", GRID), {"weights": (1.0,)}, "class_weights does not fit label 'y', whose kind is 'time'"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_the_label_is_refused(target: Target, options: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        objective_of(target, {}, Settings(EDGES, **options))
    assert refusal.value.code == "config.task"
    assert message in str(refusal.value)


def test_a_target_is_read_from_its_table_and_survives_its_own_toml(tmp_path: Any) -> None:
    frame = pd.DataFrame({"y": ["1", "2.5", "8"], "e": ["yes", "no", "yes"], "n": ["0", "3", "4"]})
    numbers, counts = NumberTarget("y", 0, 10), CountTarget("n", 4)
    times = TimeTarget("y", "e", GRID, happened="yes")
    assert numbers.read(frame, "d").tolist() == [1, 2.5, 8]
    assert counts.read(frame, "d").tolist() == [0, 3, 4]
    assert times.read(frame, "d").tolist() == [[1, 1], [2.5, 0], [8, 1]]
    for target in (numbers, counts, times, Label("y", ("no", "yes"))):
        schema = Schema((), target)
        again = Schema.from_dict(tomllib.loads(schema.dump()))
        assert again == schema
        assert again.digest() == schema.digest()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"name": "y", "kind": "numbers", "min": 0, "max": 1}, "kind = 'numbers'; did you mean 'number'?"),
        ({"name": "y", "kind": "number", "min": 1, "max": 1}, "min 1 is not below max 1"),
        ({"name": "y", "kind": "count", "max": 0}, "max = 0; expected a whole number from 1"),
        ({"name": "y", "kind": "time", "event": "e", "grid": [2, 1]}, "expected 2 to 64 rising times above 0"),
        ({"name": "y", "kind": "time", "event": "y", "grid": [1, 2]}, "event names the same column"),
        ({"name": "y", "kind": "time", "grid": [1, 2]}, "label has no 'event'"),
        ({"name": "y", "kind": "count", "max": 3, "min": 0}, "unknown key 'min'"),
    ],
)
def test_a_label_of_another_form_is_refused(label: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Schema.from_dict({"label": label, "columns": []})
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "cells", "message"),
    [
        (CountTarget("y", 9), ["1", "2.5"], "column 'y' has 1 cell without a whole number; expected counts"),
        (NumberTarget("y", 0, 9), ["1", ""], "column 'y' has 1 empty cell; expected a number in every row"),
        (TimeTarget("y", "e", GRID), ["1", ""], "column 'y' has 1 empty cell; expected a time in every row"),
    ],
)
def test_a_cell_that_is_no_target_is_refused_without_its_value(target: Target, cells: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        target.read(pd.DataFrame({"y": cells, "e": ["0", "1"]}), "d")
    assert message in str(refusal.value)
