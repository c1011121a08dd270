"""scikit-learn's linear models and naive Bayes as tasks: the same model as scikit-learn's own on all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from moonflower.client.learning.rows import Rows
from moonflower.client.learning.tensors import fresh_model
from moonflower.client.tasks import Task, load_task
from moonflower.client.tasks.naive_bayes import LEARNED
from moonflower.configs.schema import Categorical, CountTarget, Label, NumberTarget, Numeric, Schema, TimeTarget
from moonflower.configs.training import TrainingSettings
from moonflower.errors import InputError
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.naive_bayes import GaussianNB

LINEAR, NAIVE = "moonflower.client.tasks.estimators:task", "moonflower.client.tasks.naive_bayes:task"
COLUMNS = (Numeric("a", -8, 8), Numeric("b", 0, 10))
LABELS = {
    "two": Label("y", (0, 1)),
    "many": Label("y", ("u", "v", "w")),
    "number": NumberTarget("y", -40, 40),
    "count": CountTarget("y", 40),
}
ROWS = 600


def table(kind: str) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(5)
    inputs = np.column_stack([draws.normal(0, 1.5, ROWS).clip(-8, 8), draws.gamma(2, 1, ROWS).clip(0, 10)])
    score = inputs @ [0.8, -0.4] + 0.3
    if kind == "two":
        return inputs, (draws.random(ROWS) < 1 / (1 + np.exp(-score))).astype(np.int64)
    if kind == "many":
        return inputs, np.digitize(score + draws.logistic(0, 1, ROWS), [-0.8, 0.7]).astype(np.int64)
    return inputs, draws.poisson(np.exp(score * 0.4)) * 1.0 if kind == "count" else score + draws.normal(0, 1, ROWS)


def trained(
    task: Task, schema: Schema, inputs: Any, targets: Any, **settings: Any
) -> tuple[Task, torch.nn.Module, Rows]:
    """Return the bound task, its model after a round on these rows, and the rows as the model takes them."""
    raw = Rows(torch.from_numpy(inputs), torch.from_numpy(targets))
    scaling = task.scaling(task.summary(raw, schema).tolist(), schema)
    bound, model = task.bound(schema, scaling), fresh_model(task, schema, "1")
    ready = raw.ready(lambda rows: bound.prepare(rows, schema, scaling))
    training = TrainingSettings(loop="own", **settings)
    drawn = torch.Generator().manual_seed(1)
    bound.train(model, ready, training, device=torch.device("cpu"), generator=drawn, progress=lambda share: None)
    return bound, model, ready


@pytest.mark.parametrize("kind", LABELS)
def test_a_solvers_round_gives_what_the_solver_gives(kind: str) -> None:
    """Of every kind of target: chances, numbers or counts of the same estimator on the same inputs."""
    inputs, targets = table(kind)
    name = {"number": "SGDRegressor", "count": "PoissonRegressor"}.get(kind, "LogisticRegression")
    options = {"alpha": 1e-3} if kind in ("number", "count") else {"C": 0.5}
    task = load_task(LINEAR, {"estimator": name, "options": options})
    schema = Schema(COLUMNS, LABELS[kind])
    bound, model, ready = trained(task, schema, inputs, targets, local_epochs=200, lr=0.002)
    said = bound.scores(model(ready.inputs))
    x = ready.inputs.numpy().astype(np.float64)
    if kind == "number":
        np.testing.assert_allclose(said, Ridge(1e-3 * ROWS).fit(x, targets).predict(x), atol=0.15)
    elif kind == "count":
        mean = np.exp(np.log(targets.mean()))
        np.testing.assert_allclose(
            said, PoissonRegressor(alpha=1e-3 * mean, max_iter=200).fit(x, targets).predict(x), rtol=0.01
        )
    else:
        reference = LogisticRegression(C=0.5, max_iter=200).fit(x, targets).predict_proba(x)
        np.testing.assert_allclose(said, reference[:, 1] if kind == "two" else reference, atol=2e-3)


@pytest.mark.parametrize("name", ["LogisticRegression", "SGDClassifier"])
def test_a_member_without_a_row_of_a_class_trains(name: str) -> None:
    inputs, targets = table("two")
    task = load_task(LINEAR, {"estimator": name, "class_weights": [1.0, 5.0]})
    only = targets == 0
    bound, model, ready = trained(task, Schema(COLUMNS, LABELS["two"]), inputs[only], targets[only], local_epochs=50)
    assert bound.scores(model(ready.inputs)).mean() < 0.1


def test_a_round_goes_on_from_the_base_and_the_seed_is_the_nodes() -> None:
    inputs, targets = table("two")
    schema = Schema(COLUMNS, LABELS["two"])
    task = load_task(LINEAR, {"estimator": "SGDClassifier"})
    once, again = (trained(task, schema, inputs, targets, lr=1e-3)[1].state_dict() for _ in range(2))
    assert all(torch.equal(once[key], again[key]) for key in once)
    start = fresh_model(task, schema, "1").state_dict()
    moved = sum(float((once[key] - start[key]).abs().max()) for key in once)
    assert 0 < moved < 2 * ROWS * 1e-3 * 8, "a pass at a small rate goes a short way from the base"


@pytest.mark.parametrize("kind", ["two", "many"])
def test_naive_bayes_is_scikit_learns(kind: str) -> None:
    inputs, targets = table(kind)
    schema = Schema(COLUMNS, LABELS[kind])
    bound, model, ready = trained(load_task(NAIVE, {"calibrate": False}), schema, inputs, targets)
    said = bound.scores(model(ready.inputs))
    reference = GaussianNB().fit(inputs, targets).predict_proba(inputs)
    np.testing.assert_allclose(said, reference[:, 1] if kind == "two" else reference, atol=0.03)
    assert (np.round(said, 6) != np.round(said.mean(axis=0), 6)).any()


def test_naive_bayes_of_members_is_naive_bayes_of_all_rows_to_the_bit() -> None:
    """Whoever holds which row, also where one member has only one class and cells are missing."""
    inputs, targets = table("many")
    categories = np.where(np.arange(ROWS) % 7 == 0, np.nan, np.arange(ROWS) % 3)
    inputs = np.column_stack([np.where(np.arange(ROWS) % 5 == 0, np.nan, inputs[:, 0]), categories, inputs[:, 1]])
    schema = Schema((COLUMNS[0], Categorical("c", ("p", "q", "r")), COLUMNS[1]), LABELS["many"])
    task = load_task(NAIVE, {})
    parts = [targets == 0, (targets > 0) & (inputs[:, 2] > 1), (targets > 0) & (inputs[:, 2] <= 1)]
    rows = [Rows(torch.from_numpy(inputs[part]), torch.from_numpy(targets[part])) for part in parts]
    totals = sum(task.summary(one, schema) for one in rows)
    whole = Rows(torch.from_numpy(inputs), torch.from_numpy(targets))
    assert totals.tolist() == task.summary(whole, schema).tolist()
    assert task.possible(totals.tolist(), ROWS, schema)
    assert not task.possible(totals.tolist(), ROWS - 1, schema)
    assert not task.possible([*totals.tolist()[:-1], ROWS], ROWS, schema)
    bound, model, ready = trained(task, schema, inputs, targets)
    assert np.isfinite(bound.scores(model(ready.inputs))).all()
    for part in parts:  # a member's model is that of all rows: it follows from the sums alone
        own = fresh_model(task, schema, "1")
        bound.train(
            own, ready.take(np.flatnonzero(part)), TrainingSettings(), device=torch.device("cpu"),
            generator=torch.Generator(), progress=lambda share: None,
        )  # fmt: skip
        assert all(torch.equal(own.state_dict()[key], model.state_dict()[key]) for key in LEARNED)


def test_columns_that_tell_the_same_do_not_make_naive_bayes_too_sure() -> None:
    inputs, targets = table("two")
    five = np.repeat(inputs, 5, axis=1)
    schema = Schema(
        tuple(Numeric(f"{one.name}{at}", one.min, one.max) for one in COLUMNS for at in range(5)), LABELS["two"]
    )
    losses = {}
    for calibrate in (False, True):
        bound, model, ready = trained(load_task(NAIVE, {"calibrate": calibrate}), schema, five, targets)
        losses[calibrate] = bound.metrics(model(ready.inputs), ready.targets)["loss"]
    entropy = -np.mean(np.log(np.where(targets == 1, targets.mean(), 1 - targets.mean())))
    assert losses[True] < 0.9 * entropy < losses[False]


def test_a_missing_number_says_nothing() -> None:
    inputs, targets = table("two")
    schema = Schema((*COLUMNS, Numeric("empty", 0, 1)), LABELS["two"])
    empty = np.column_stack([inputs, np.full(ROWS, np.nan)])
    bound, model, ready = trained(load_task(NAIVE, {}), schema, empty, targets)
    reference, smaller, fewer = trained(load_task(NAIVE, {}), Schema(COLUMNS, LABELS["two"]), inputs, targets)
    np.testing.assert_allclose(bound.scores(model(ready.inputs)), reference.scores(smaller(fewer.inputs)), atol=1e-6)


@pytest.mark.parametrize(
    ("ref", "options", "said"),
    [
        (LINEAR, {"estimator": "Lasso"}, "expected one of: LogisticRegression, PoissonRegressor, SGD"),
        (LINEAR, {"estimator": "SGDRegresor"}, "did you mean 'SGDRegressor'"),
        (LINEAR, {"options": {"c": 1.0}}, "LogisticRegression has no option 'c' here"),
        (LINEAR, {"options": {"max_iter": 5}}, "no option 'max_iter' here"),
        (LINEAR, {"hidden": [8]}, "no option 'hidden'"),
        (NAIVE, {"smoothing": 0.0}, "[task] smoothing = 0.0; expected a number above 0"),
        (NAIVE, {"hidden": [8]}, "hidden"),
    ],
)  # fmt: skip
def test_options_that_are_none_are_refused(ref: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        load_task(ref, options)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("ref", "options", "label", "said"),
    [
        (LINEAR, {}, LABELS["number"], "LogisticRegression does not fit label 'y' (number); expected SGDRegressor"),
        (LINEAR, {"estimator": "SGDClassifier"}, LABELS["many"], "expected LogisticRegression"),
        (LINEAR, {}, TimeTarget("y", "seen", (1.0, 2.0)), "expected a kind with an estimator"),
        (NAIVE, {}, LABELS["count"], "naive Bayes does not fit label 'y' (count); expected classes"),
    ],
)  # fmt: skip
def test_a_label_that_does_not_fit_is_refused(ref: str, options: dict[str, Any], label: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        fresh_model(load_task(ref, options), Schema(COLUMNS, label), "1")
    assert said in str(refused.value)
