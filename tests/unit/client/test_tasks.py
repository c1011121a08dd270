"""Tasks: sums over members are exact, metrics agree with scikit-learn's, and every refusal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.client.learning.rows import Rows
from moonflower.client.objectives.ranking import ranking
from moonflower.client.tasks import MAX_COUNT, METRICS, Task, fixed, load_task, own_tasks, schema_for
from moonflower.client.tasks.digits import Digits
from moonflower.client.tasks.tabular import EDGES, Tabular
from moonflower.configs.schema import Categorical, Label, Numeric, Schema
from moonflower.configs.settings import DataSettings
from moonflower.errors import InputError

TABULAR = "moonflower.client.tasks.tabular:task"
SCHEMA = Schema((Numeric("age", 0, 100), Categorical("sex", ("f", "m")), Numeric("bp", 50, 250)), Label("y", (0, 1)))


def raw(cells: list[tuple[float, float, float]], targets: list[int] | None = None) -> Rows:
    inputs = torch.tensor(cells, dtype=torch.float64).reshape(-1, 3)
    return Rows(inputs, torch.tensor(targets if targets is not None else [0] * len(cells), dtype=torch.int64))


cells = st.tuples(
    st.floats(0, 100) | st.just(math.nan),
    st.sampled_from([0.0, 1.0, math.nan]),
    st.floats(50, 250) | st.just(math.nan),
)


def refused(code: str, message: str, call: Any, *arguments: Any) -> None:
    with pytest.raises(InputError) as refusal:
        call(*arguments)
    assert (refusal.value.code, str(refusal.value)) == (code, message)


# Finding a task


@pytest.mark.parametrize(
    ("ref", "options", "message"),
    [
        ("nowhere:it", {}, f"there is no task 'nowhere:it'; expected one of: {', '.join(own_tasks())}"),
        (
            "moonflower.client.tasks.tabula:task", {},
            f"there is no task 'moonflower.client.tasks.tabula:task'; did you mean '{TABULAR}'? "
            f"(one of: {', '.join(own_tasks())})",
        ),
        (
            TABULAR, {"hiden": []},
            f"task '{TABULAR}' has no option 'hiden'; did you mean 'hidden'? (one of: class_weights, edges, hidden, "
            f"loss, missing_indicator, personalise, quantile, threshold)",
        ),
        (TABULAR, {"hidden": 32}, "[task] hidden = 32; expected a list of at most 8 widths"),
        (TABULAR, {"hidden": [0]}, "[task] hidden holds 0; expected whole numbers from 1 to 4096"),
        (TABULAR, {"hidden": [True]}, "[task] hidden holds True; expected whole numbers from 1 to 4096"),
        (TABULAR, {"missing_indicator": 1}, "[task] missing_indicator = 1; expected true or false"),
        (
            TABULAR, {"personalise": "interceptor"},
            "[task] personalise = 'interceptor'; did you mean 'intercept'? (one of: intercept, none)",
        ),
        (
            "moonflower.client.tasks.digits:task", {"channels": 0},
            "task 'moonflower.client.tasks.digits:task' refuses its options: "
            "channels = 0; expected a whole number from 1 to 1024",
        ),
        ("builtins:object", {}, "'builtins:object' makes a 'object'; expected a moonflower Task"),
        ("builtins:dict", {},
            "task 'builtins:dict' refuses its options: no signature found for builtin type <class "
            "'dict'>"),
    ],
)  # fmt: skip
def test_unknown_tasks_and_options_are_refused(ref: str, options: dict[str, Any], message: str) -> None:
    refused("config.task", message, load_task, ref, options)


def test_missing_attribute_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"has no task 'tsk'; did you mean 'task'\?") as refusal:
        load_task("moonflower.client.tasks.tabular:tsk", {})
    assert refusal.value.code == "config.task"


def test_own_tasks_load_and_find_their_schema() -> None:
    for ref in own_tasks():
        assert isinstance(load_task(ref, {}), Task)
    own = schema_for(Digits(), DataSettings())
    assert (len(own.columns), own.label.classes) == (64, tuple(range(10)))
    refused(
        "config.value",
        "[data] schema is missing; expected a schema file",
        schema_for,
        Tabular(),
        DataSettings(),
    )


def test_data_settings_that_contradict_the_schema() -> None:
    refused("config.value", "[data] drop names 'age', which the schema lists as a feature",
            Tabular().data, DataSettings(drop=("age",)), SCHEMA)  # fmt: skip
    refused(
        "config.value",
        "[data] label = 'z'; expected the schema's, 'y'",
        Tabular().data,
        DataSettings(label="z"),
        SCHEMA,
    )
    three = Schema(SCHEMA.columns, Label("y", (0, 1, 2)))
    message = "[task] class_weights has 2 numbers; expected 3, the classes of 'y'"
    refused("config.task", message, Tabular(class_weights=[1.0, 2.0]).model, three, torch.Generator())


# Sums over members


@given(st.lists(cells, max_size=40), st.integers(0, 40))
def test_summaries_add_up_exactly(table: list[tuple[float, float, float]], cut: int) -> None:
    task = Tabular()
    parts = [task.summary(raw(part), SCHEMA) for part in (table[:cut], table[cut:])]
    whole = task.summary(raw(table), SCHEMA)
    assert (parts[0] + parts[1]).tolist() == whole.tolist()
    assert whole.dtype == np.int64
    assert (whole >= 0).all()


@given(st.lists(st.lists(cells, max_size=12), min_size=1, max_size=5))
def test_what_members_can_add_up_to_is_possible(members: list[list[tuple[float, float, float]]]) -> None:
    sums = sum(Tabular().summary(raw(table), SCHEMA) for table in members)
    assert Tabular().possible(list(map(int, sums)), sum(map(len, members)), SCHEMA)


COUNT, UNIT = 10, 2**16
GOOD = (COUNT, 5 * UNIT, 3 * UNIT, 7)  # the sum of squares is 3 * 2^32 + 7


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    ("totals", "possible"),
    [
        (GOOD, True),
        ((0, 0, 0, 0), True),
        ((COUNT, COUNT * UNIT, COUNT * UNIT, 0), True),
        ((COUNT + 1, *GOOD[1:]), False),
        ((COUNT, COUNT * UNIT + 1, COUNT * UNIT, 0), False),
        ((COUNT, 5 * UNIT, 5 * UNIT, 0), True),
        ((COUNT, 5 * UNIT, 5 * UNIT, 1), False),
        ((COUNT, 5 * UNIT, 5 * UNIT // 2, 0), True),
        ((COUNT, 5 * UNIT, 5 * UNIT // 2 - 1, UNIT - 1), False),
        ((0, 1, 0, 1), False),
        ((COUNT, -1, 0, 1), False),
        ((COUNT, 0, 0, -1), False),
        ((-1, 0, 0, 0), False),
    ],
)
def test_statistics_that_no_rows_have_are_impossible(at: int, totals: tuple[int, ...], possible: bool) -> None:
    """Each of two columns, and each inequality at its edge: count ≤ rows, sum, squares, and sum² ≤ count · squares."""
    both = [GOOD, GOOD]
    both[at] = totals
    whole = [number for column in both for number in column]
    assert Tabular().possible(whole, COUNT, SCHEMA) is possible
    assert Digits().possible(whole, COUNT, SCHEMA), "a task without statistics has none that are impossible"


@given(st.lists(cells, min_size=1, max_size=40))
def test_scaling_is_mean_and_spread(table: list[tuple[float, float, float]]) -> None:
    task = Tabular()
    scaling = task.scaling(task.summary(raw(table), SCHEMA).tolist(), SCHEMA)
    for column, position in (("age", 0), ("bp", 2)):
        spec = SCHEMA.columns[position]
        assert isinstance(spec, Numeric)
        step = (spec.max - spec.min) / 2**16
        present = np.array([row[position] for row in table if not math.isnan(row[position])])
        mean, spread = scaling[column]
        if not len(present):
            assert (mean, spread) == ((spec.min + spec.max) / 2, spec.max - spec.min)
            continue
        assert abs(mean - present.mean()) <= step + spread / 128
        assert abs(spread - present.std()) <= step + spread / 1024 or spread == spec.max - spec.min
        assert spread > 0


def test_the_scaling_gives_no_count_away() -> None:
    """Many numbers of rows lead to the same mean and spread: a fraction could be read back."""
    found = {
        count: str(
            Tabular().scaling(Tabular().summary(raw([(40, 1, 100), (41, 0, 101)] * count), SCHEMA).tolist(), SCHEMA)
        )
        for count in range(20, 30)
    }
    assert len(set(found.values())) == 1
    skewed = {
        count: str(
            Tabular().scaling(Tabular().summary(raw([(40, 1, 100)] * count + [(80, 0, 90)]), SCHEMA).tolist(), SCHEMA)
        )
        for count in range(500, 520)
    }
    assert len(set(skewed.values())) < 20


def test_prepared_rows_are_standardised_and_one_hot() -> None:
    rows = raw([(40, 1, 100), (math.nan, math.nan, math.nan)])
    ready = Tabular().prepare(rows, SCHEMA, {"age": [20.0, 10.0], "bp": [100.0, 5.0]})
    assert ready.inputs.dtype == torch.float32
    assert ready.inputs.tolist() == [[2, 0, 1, 0], [0, 0, 0, 0]]
    flagged = Tabular(missing_indicator=True).prepare(rows, SCHEMA, {"age": [20.0, 10.0], "bp": [100.0, 5.0]})
    assert flagged.inputs.tolist() == [[2, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0, 1]]


@pytest.mark.parametrize("pair", [None, [1.0], [1.0, 0.0], [1.0, -1.0], [math.nan, 1.0], ["1", 1.0]])
def test_scaling_that_does_not_fit_is_refused(pair: Any) -> None:
    refused("data.model", "scaling of column 'age' is not a mean and a spread; expected two numbers",
            Tabular().prepare, raw([(1, 1, 60)]), SCHEMA, {"age": pair, "bp": [1.0, 1.0]})  # fmt: skip


scored = st.lists(st.tuples(st.floats(-30, 30), st.integers(0, 1)), min_size=1, max_size=60)


@given(scored)
@settings(max_examples=40)
def test_metrics_agree_with_scikit_learn(rows: list[tuple[float, int]]) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score  # takes a second, and only this test needs it

    logits = torch.tensor([row[0] for row in rows], dtype=torch.float64)
    targets = torch.tensor([row[1] for row in rows])
    found = Tabular().metrics(logits[:, None], targets)
    assert tuple(found) == METRICS
    signs = np.where(targets.numpy() == 1, -1.0, 1.0)
    assert found["loss"] == pytest.approx(np.logaddexp(0, signs * logits.numpy()).mean())
    if 0 < targets.sum() < len(targets):
        assert found["auc"] == pytest.approx(roc_auc_score(targets.numpy(), logits.numpy()), abs=1e-12)
        expected = average_precision_score(targets.numpy(), logits.numpy())
        assert found["average_precision"] == pytest.approx(expected, abs=1e-12)
    else:
        assert (found["auc"], found["average_precision"]) == (None, None)


@given(scored, st.integers(0, 60), st.integers(1, 70))
@settings(max_examples=50)
def test_tallies_add_up_and_give_the_metrics_back(rows: list[tuple[float, int]], cut: int, bins: int) -> None:
    task = Tabular()
    logits = torch.tensor([[row[0]] for row in rows])
    targets = torch.tensor([row[1] for row in rows])
    parts = [task.tally(logits[:cut], targets[:cut], bins), task.tally(logits[cut:], targets[cut:], bins)]
    whole = task.tally(logits, targets, bins)
    total = (parts[0] + parts[1]).tolist()
    assert total[2:] == whole.tolist()[2:]
    assert abs(total[1] - whole[1]) <= 1  # the loss is rounded once a member
    found, exact = task.overall(total, bins), task.metrics(logits, targets)
    assert found["accuracy"] == pytest.approx(exact["accuracy"])
    assert found["loss"] == pytest.approx(exact["loss"], abs=1e-4)
    assert (found["auc"] is None) == (exact["auc"] is None or bins == 1)
    used = np.array(total[3:]).reshape(2, -1)
    assert not used[:, bins:].any(), "more bins are filled than are allowed"


def test_bins_have_the_edges_of_the_recipe_and_neighbours_are_counted_together() -> None:
    task = Tabular(edges=[0.1, 0.5, 0.9])
    chances = torch.tensor([0.05, 0.1, 0.3, 0.5, 0.7, 0.95]).double()
    outputs, targets = torch.logit(chances)[:, None], torch.tensor([0, 1, 0, 1, 1, 1])
    assert task.tally(outputs, targets, 64)[3:].tolist() == [0, 1, 2, 1, 1, 1, 0, 0]
    assert task.tally(outputs, targets, 2)[3:].tolist() == [1, 3, 0, 0, 2, 0, 0, 0]
    assert task.tested(targets).tolist() == [2, 4]
    assert task.overall(task.tally(outputs, targets, 1).tolist(), 1)["auc"] is None


@pytest.mark.parametrize(
    "edges",
    [[], [0.0], [1.0], [0.5, 0.5], [0.6, 0.4], [float("nan")], ["0.5"], "0.5", 3, [at / 65 for at in range(1, 65)]],
)
def test_edges_out_of_order_or_range_are_refused(edges: Any) -> None:
    with pytest.raises(InputError, match=r"\[task\] edges = .*expected 1 to 63 numbers that rise within \(0, 1\)"):
        Tabular(edges=edges)


def test_no_rows_at_all() -> None:
    task = Tabular()
    empty = torch.zeros(0, 1)
    assert task.metrics(empty, torch.zeros(0).long()) == dict.fromkeys(METRICS)
    tally = task.tally(empty, torch.zeros(0).long(), 8)
    assert (len(tally), tally.sum()) == (3 + 2 * (len(EDGES) + 1), 0)
    assert task.overall(tally.tolist(), 8) == dict.fromkeys(METRICS)
    assert Task().overall([0, 0, 0], 8) == dict.fromkeys(METRICS)
    assert (task.tested(torch.zeros(0).long()).tolist(), Task().tested(torch.zeros(3)).tolist()) == ([0, 0], [3])


def test_a_broken_model_shows_as_such_and_does_not_break_the_tally() -> None:
    outputs, targets = torch.full((4, 1), math.nan), torch.tensor([0, 1, 0, 1])
    found = Tabular().metrics(outputs, targets)
    assert math.isnan(found["loss"] or 0)
    assert found["auc"] is None
    tally = Tabular().tally(outputs, targets, 8)
    assert 0 <= tally.min() <= tally.max() == MAX_COUNT


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1, max_size=20))
def test_ranking_of_large_counts_is_exact(counts: list[tuple[int, int]]) -> None:
    positives, negatives = (np.array([c[i] for c in counts], dtype=object) for i in (0, 1))
    auc, average = ranking(positives, negatives)
    if positives.sum() and negatives.sum():
        turned, _ = ranking(negatives, positives)
        assert 0 <= (auc or 0) <= 1
        assert (auc or 0) + (turned or 0) == pytest.approx(1)
        assert 0 < (average or 0) <= 1
    else:
        assert (auc, average) == (None, None)


def test_fixed_point_stays_in_range() -> None:
    assert [fixed(value) for value in (0.0, 0.25, -1.0, math.inf, math.nan)] == [
        0,
        2**14,
        0,
        MAX_COUNT,
        MAX_COUNT,
    ]


# The private intercept


def test_intercept_finds_the_shift_and_stays_finite_with_one_class() -> None:
    task = Tabular(personalise="intercept")
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    rows = Rows(torch.zeros(1000, 1), (torch.arange(1000) < 900).long())
    assert task.personalise(model, rows) == pytest.approx(math.log(9), abs=0.03)
    for target in (0, 1):
        one = task.personalise(model, Rows(torch.zeros(5, 1), torch.full((5,), target)))
        assert one is not None
        assert 0 < abs(one) < 3
        assert (one > 0) == bool(target)
    assert Tabular().personalise(model, rows) is None


def test_digits_task_is_a_worked_example() -> None:
    task = Digits(channels=2)
    schema = task.schema()
    frame = pd.DataFrame({column.name: [0.0, 16.0] for column in schema.columns} | {"target": [3, 7]})
    images, targets = task.inputs(frame, schema), task.targets(frame, schema)
    assert (images.shape, images.dtype, images.max()) == ((2, 1, 8, 8), torch.float32, 1)
    outputs = task.model(schema, torch.Generator())(images)
    scores = task.scores(outputs)
    assert scores.shape == (2, 10)
    assert np.allclose(scores.sum(axis=1), 1)
    found = task.metrics(outputs, targets)
    totals = task.tally(outputs, targets, 8).tolist()
    assert totals[0] == 2
    assert task.overall(totals, 8)["loss"] == pytest.approx(found["loss"], abs=1e-4)


@pytest.mark.parametrize(("task", "classes"), [(Tabular, 2), (Digits, 10)])
def test_rows_count_with_the_weight_of_their_class(task: Any, classes: int) -> None:
    """In loss, metrics and tally, so that votes are about what is trained."""
    plain, weighted = task(), task(class_weights=[1.0] * (classes - 1) + [3.0])
    outputs = torch.randn(6, 1 if classes == 2 else classes, dtype=torch.float64)
    targets = torch.tensor([0, 1, 0, 1, 0, 1]) * (classes - 1)
    one, other = (plain.metrics(outputs[targets == at], targets[targets == at])["loss"] for at in (0, classes - 1))
    assert weighted.metrics(outputs, targets)["loss"] == pytest.approx((one + 3 * other) / 2)
    assert weighted.tally(outputs, targets, 1)[1] / 2**16 / 6 == pytest.approx((one + 3 * other) / 2, abs=1e-4)
    model = torch.nn.Identity()
    assert weighted.loss(model, Rows(outputs, targets)).item() == pytest.approx((one + 3 * other) / 2)
    for wrong in ([0.0] * classes, ["a"] * classes, 3):
        with pytest.raises(InputError, match=r"expected .* above 0"):
            task(class_weights=wrong)
    with pytest.raises(InputError, match=f"expected {classes}"):
        task(class_weights=[1.0]).model(Schema(SCHEMA.columns, Label("y", tuple(range(classes)))), torch.Generator())
