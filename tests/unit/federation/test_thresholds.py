"""The threshold of two classes: chosen on validation rows by its definition, and judged on test rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from moonflower.client.objectives.classes import TwoClasses
from moonflower.client.tasks import load_task
from moonflower.configs.schema import Label
from moonflower.errors import InputError
from moonflower.federation import thresholds
from moonflower.federation.evidence import Judged, evidence

TABULAR = "moonflower.client.tasks.tabular:task"
YES = Label("y", ("no", "yes"))


def rare(rows: int = 3000, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth of a sound model whose positives are rare."""
    draws = np.random.default_rng(seed)
    logit = draws.normal(-3.5, 1.2, rows)
    chance = 1 / (1 + np.exp(-logit))
    return chance, draws.random(rows) < chance


def test_it_has_the_highest_sum_of_sensitivity_and_specificity() -> None:
    scores, truth = rare()
    found = thresholds.chosen(scores, truth, 0.5)
    sums = {one: (scores[truth] > one).mean() + (scores[~truth] <= one).mean() for one in np.arange(0.01, 0.99, 0.01)}
    assert found is not None
    best = max(sums.values())
    assert (scores[truth] > found).mean() + (scores[~truth] <= found).mean() >= best - 0.01


def test_none_is_chosen_where_rows_are_few_or_little_is_gained() -> None:
    scores, truth = rare()
    found = thresholds.chosen(scores, truth, 0.5)
    assert found is not None
    assert thresholds.chosen(scores, truth, found) is None
    few = np.flatnonzero(truth)[:9]
    rows = np.concatenate([few, np.flatnonzero(~truth)])
    assert thresholds.chosen(scores[rows], truth[rows], 0.5) is None
    assert thresholds.chosen(np.full(len(scores), 0.3), truth, 0.5) is None


def test_a_threshold_is_judged_on_other_rows_than_it_was_chosen_on() -> None:
    scores, truth = rare()
    others = rare(seed=4)
    of = {"A": slice(0, len(truth))}
    rows = Judged(truth.astype(np.int64), YES, of, {"federated": {"A": scores}}, validation=others)
    found = evidence(rows, [{"name": "A", "federated": {"loss": 1.0}}], {"federated": {"loss": 1.0}})
    now, better = found["thresholds"]
    assert (now["threshold"], now["by"], better["by"]) == (0.5, "in use", "validation rows")
    assert better["threshold"] == thresholds.chosen(*others, 0.5)
    said = scores > better["threshold"]
    for name, rate in (
        ("sensitivity", said[truth].mean()),
        ("specificity", (~said[~truth]).mean()),
        ("precision", truth[said].mean()),
    ):
        assert better[name]["value"] == pytest.approx(rate)
        assert better[name]["low"] < rate < better[name]["high"]
    assert np.sum(better["confusion"]) == len(truth)
    assert found["confusion"] == now["confusion"]


def test_a_model_and_its_report_take_the_tasks_threshold() -> None:
    """Accuracies, tallies and predicted classes are those of the recipe's threshold."""
    objective = TwoClasses((0.5,), (), threshold=0.2)
    logits = torch.logit(torch.tensor([[0.1], [0.3], [0.6]], dtype=torch.float64))
    targets = torch.tensor([0, 1, 0])
    assert objective.metrics(logits, targets)["accuracy"] == pytest.approx(2 / 3)
    assert objective.tally(logits, targets, 1)[2] == 2
    assert load_task(TABULAR, {"threshold": 0.2}).threshold == 0.2


@pytest.mark.parametrize("given", [0.0, 1.0, 2, "half", True])
def test_what_is_no_threshold_is_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"\[task\] threshold = .*; expected a number between 0 and 1"):
        load_task(TABULAR, {"threshold": given})
