"""Intervals against published numbers and against their definitions; counts and curves of crafted rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from moonflower.client.objectives.ranking import concordance
from moonflower.client.tasks import load_task
from moonflower.configs.schema import Label, Numeric, Schema
from moonflower.federation import intervals
from moonflower.federation.evidence import Judged, evidence
from support.targets import KINDS, made

YES = Label("y", ("no", "yes"))


def drawn() -> np.random.Generator:
    return np.random.default_rng(7)


def chances(rows: int = 120) -> tuple[Any, Any, Any]:
    """Return which rows are positive, and the scores of a good and of a weaker model; some of them are equal."""
    rng = drawn()
    truth = rng.random(rows) < 0.4
    good, weak = (1 / (1 + np.exp(-(truth * lift + rng.normal(size=rows)))) for lift in (1.5, 0.7))
    return truth, good.round(2), weak.round(2)


@pytest.mark.parametrize(
    ("successes", "rows", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(successes: int, rows: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998)."""
    found = intervals.wilson(successes, rows)
    assert found == pytest.approx((low, high), abs=6e-5)
    assert intervals.wilson(0, 0) is None


def kernel(truth: Any, scores: Any) -> Any:
    """Return for each pair of a positive and a negative row whether they are in order, equal scores as half."""
    positive, negative = scores[truth][:, None], scores[~truth][None, :]
    return (positive > negative) + 0.5 * (positive == negative)


def test_delongs_interval_of_a_difference_follows_its_definition() -> None:
    truth, good, weak = chances()
    pairs = kernel(truth, good) - kernel(truth, weak)
    variance = sum(np.var(pairs.mean(axis=1 - axis), ddof=1) / pairs.shape[axis] for axis in (0, 1))
    found = intervals.auc_difference(good, weak, truth)
    assert found is not None
    assert found.value == pytest.approx(pairs.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * variance**0.5, rel=1e-4)
    turned = intervals.auc_difference(weak, good, truth)
    assert turned is not None
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert intervals.auc_difference(good, good, truth) is None, "without a difference there is no spread"


def test_the_interval_of_an_auc_stays_within_its_bounds_and_holds_the_auc() -> None:
    truth, good, weak = chances(40)
    for scores in (good, weak, 1 - good):
        found = intervals.auc(scores, truth)
        assert found is not None
        assert 0 < found[0] < kernel(truth, scores).mean() < found[1] < 1


@pytest.mark.parametrize("positives", [0, 1, 39, 40])
def test_one_row_of_a_class_gives_no_interval(positives: int) -> None:
    truth = np.arange(40) < positives
    first, second = drawn().random((2, 40))
    assert intervals.auc(first, truth) is None
    assert intervals.auc_difference(first, second, truth) is None


def test_a_perfect_order_gives_no_interval() -> None:
    truth = np.arange(20) < 8
    assert intervals.auc(truth * 0.5 + 0.2, truth) is None


def test_the_bootstrap_agrees_with_the_normal_law_and_repeats_itself() -> None:
    rows = drawn().normal(0.1, 1.0, size=900)
    found, again = intervals.mean_difference(rows), intervals.mean_difference(rows)
    assert found == again
    assert found is not None
    assert found.value == pytest.approx(rows.mean())
    half = 1.96 * rows.std() / 30
    assert (found.low, found.high) == pytest.approx((rows.mean() - half, rows.mean() + half), abs=0.012)
    assert intervals.mean_difference(rows[:1]) is None
    assert intervals.mean_difference(np.array([1.0, np.inf])) is None


def test_the_area_under_the_roc_curve_is_the_auc() -> None:
    truth, good, _ = chances()
    curve = np.array(intervals.roc(good, truth, points=10_000))
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    area = sum((x - u) * (y + v) / 2 for (u, v), (x, y) in itertools.pairwise(curve.tolist()))
    assert area == pytest.approx(kernel(truth, good).mean(), abs=1e-4)
    few = intervals.roc(good, truth, points=11)
    assert len(few) == 11
    assert (few[0], few[-1]) == ([0, 0], [1, 1])


def test_bins_of_the_calibration_curve_hold_all_rows() -> None:
    truth, good, _ = chances()
    bins = intervals.calibration(good, truth, 7)
    assert sum(one["rows"] for one in bins) == 120
    assert sum(one["rows"] * one["share"] for one in bins) == pytest.approx(truth.sum(), abs=1e-2)
    assert all(one["low"] <= one["share"] <= one["high"] for one in bins)
    assert [one["score"] for one in bins] == sorted(one["score"] for one in bins)


def told(scores: Any, targets: Any) -> dict[str, float]:
    """Return the metrics that a task has of scores."""
    said = scores.argmax(axis=1) if scores.ndim == 2 else scores > 0.5
    area = kernel(targets == 1, scores).mean() if scores.ndim == 1 else None
    loss = float(intervals.losses(scores, targets).mean())
    return {"loss": loss, "accuracy": float((said == targets).mean()), "auc": area}  # type: ignore[dict-item]


def test_evidence_counts_each_member_and_compares_on_the_same_rows() -> None:
    truth, good, weak = chances()
    targets, of = truth.astype(np.int64), {"A": slice(0, 70), "B": slice(70, 120), "C": slice(120, 120)}
    ways = {"federated": good, "alone": weak}
    rows = Judged(targets, YES, of, {w: {n: s[at] for n, at in of.items()} for w, s in ways.items()})
    nothing = dict.fromkeys(("alone", "federated"))
    members = [
        {"name": name, **({w: told(s[at], targets[at]) for w, s in ways.items()} if name != "C" else nothing)}
        for name, at in of.items()
    ]
    found = evidence(rows, members, {"federated": told(good, targets), "pooled": None})
    assert (found["classes"], found["positive"]) == (["no", "yes"], "yes")
    assert [one["rows"] for one in found["members"]] == [70, 50, 0]
    assert [sum(one["per_class"]) for one in found["members"]] == [70, 50, 0]
    assert found["overall"]["per_class"] == [int((~truth).sum()), int(truth.sum())]
    confusion = np.array(found["confusion"])
    assert confusion.sum() == 120
    assert np.trace(confusion) / 120 == pytest.approx(told(good, targets)["accuracy"])
    first, _, last = found["members"]
    for metric in ("loss", "auc"):
        gap = first["difference"][metric]
        assert gap["value"] == pytest.approx(members[0]["federated"][metric] - members[0]["alone"][metric])
        assert gap["low"] < gap["value"] < gap["high"]
    assert last["difference"] == {"loss": None, "auc": None}
    assert last["intervals"]["federated"] == dict.fromkeys(("accuracy", "auc", "average_precision"))


def test_another_loss_than_the_log_loss_has_no_interval() -> None:
    truth, good, weak = chances()
    targets, of = truth.astype(np.int64), {"A": slice(0, 120)}
    rows = Judged(targets, YES, of, {"federated": {"A": good}, "alone": {"A": weak}})
    hinge = {"loss": 0.1, "accuracy": 0.777, "auc": None}
    found = evidence(rows, [{"name": "A", "federated": hinge, "alone": hinge}], {"federated": hinge})
    assert found["members"][0]["difference"]["loss"] is None
    assert found["members"][0]["intervals"]["federated"] == dict.fromkeys(("accuracy", "auc", "average_precision"))


def test_several_classes_have_a_confusion_matrix_and_no_curve() -> None:
    targets = drawn().integers(3, size=90)
    scores = drawn().dirichlet(np.ones(3), size=90)
    rows = Judged(targets, Label("y", ("a", "b", "c")), {"A": slice(0, 90)}, {"federated": {"A": scores}})
    metrics = told(scores, targets)
    found = evidence(rows, [{"name": "A", "federated": metrics}], {"federated": metrics})
    assert (found["positive"], found["roc"], found["calibration"]) == (None, None, None)
    assert np.trace(np.array(found["confusion"])) / 90 == pytest.approx(metrics["accuracy"])
    assert found["overall"]["intervals"]["federated"]["accuracy"][0] < metrics["accuracy"]
    assert found["overall"]["intervals"]["federated"]["auc"] is None


def test_intervals_of_numbers_cover_what_a_large_table_says() -> None:
    """Of 400 tables of 80 rows, about 95 % hold the value of the model over all rows there could be."""
    draws, held = drawn(), {"mse": 0, "mae": 0, "r2": 0}
    for _ in range(400):
        truth = draws.normal(0, 2, 80)
        apart = draws.normal(0, 1, 80)
        found = {
            "mse": intervals.mean(apart**2),
            "mae": intervals.mean(np.abs(apart)),
            "r2": intervals.explained(apart**2, (truth - truth.mean()) ** 2),
        }
        for name, value in (("mse", 1.0), ("mae", (2 / np.pi) ** 0.5), ("r2", 0.75)):
            ends = found[name]
            assert ends is not None
            held[name] += ends[0] <= value <= ends[1]
    assert all(0.9 * 400 < count < 0.99 * 400 for count in held.values()), held


def test_the_interval_of_a_c_index_is_that_of_resampled_rows() -> None:
    draws, rows = drawn(), 200
    risks = draws.normal(size=rows)
    times = draws.exponential(np.exp(-risks)).round(2)
    seen = draws.random(rows) < 0.6
    found = intervals.concordance(times, seen, risks)
    assert found is not None
    value = concordance(times, seen, risks)
    assert found[0] < value < found[1]
    resampled = []
    for _ in range(300):
        chosen = draws.integers(rows, size=rows)
        resampled.append(concordance(times[chosen], seen[chosen], risks[chosen]))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert found == pytest.approx((low, high), abs=0.03)
    assert intervals.concordance(times, np.zeros(rows, dtype=bool), risks) is None


@pytest.mark.parametrize("kind", ["two", "many", "number", "absolute", "quantile", "count", "time"])
def test_every_kind_says_how_sure_a_difference_is(kind: str) -> None:
    """The rows' losses follow from scores, and their mean is the loss that the task says."""
    target, scaling, settings = KINDS[kind]
    schema = Schema((Numeric("a", 0, 1),), target)
    options = {"loss": settings.loss, "quantile": settings.quantile} if kind in ("absolute", "quantile") else {}
    task = load_task("moonflower.client.tasks.tabular:task", options).bound(schema, scaling)
    objective, outputs, targets = made(kind)
    worse = outputs + 0.3 * torch.from_numpy(drawn().normal(size=outputs.shape))
    scores = {way: {"A": objective.scores(one)} for way, one in (("federated", outputs), ("alone", worse))}
    metrics = {way: objective.metrics(one, targets) for way, one in (("federated", outputs), ("alone", worse))}
    rows = Judged(targets.numpy(), target, {"A": slice(0, len(targets))}, scores, task)
    found = evidence(rows, [{"name": "A", **metrics}], metrics)
    gap = found["members"][0]["difference"]["loss"]
    assert gap["value"] == pytest.approx(metrics["federated"]["loss"] - metrics["alone"]["loss"], abs=1e-6)
    assert gap["low"] < gap["value"] < gap["high"]
    for name, ends in found["overall"]["intervals"]["federated"].items():
        if name in metrics["federated"] and ends is not None:
            assert ends[0] <= metrics["federated"][name] <= ends[1], name
    assert [*found["overall"]["intervals"]["federated"]] == {
        "number": ["r2", "rmse", "mae"], "count": ["d2", "rmse", "mae"], "time": ["c_index"]
    }.get(target.kind, ["accuracy", "auc"] + (["average_precision"] if kind == "two" else []))  # fmt: skip


def test_calibration_of_numbers_and_of_times() -> None:
    draws = drawn()
    truth = draws.normal(10, 3, 100)
    bins = intervals.calibration_of_numbers(truth + 1, truth, 5)
    assert [one["rows"] for one in bins] == [20] * 5
    assert all(one["score"] == pytest.approx(one["share"] + 1) for one in bins)
    assert all(one["low"] < one["share"] < one["high"] for one in bins)
    times, alive = draws.exponential(2.0, 100), np.full(100, 0.6)
    (whole,) = intervals.calibration_of_times(alive, times, np.ones(100, dtype=bool), 1.0, 1)
    assert (whole["rows"], whole["score"]) == (100, pytest.approx(0.6))
    assert whole["share"] == pytest.approx((times > 1.0).mean()), "without censoring it is the share"
    worked = np.array([6.0, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35])
    seen = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    (published,) = intervals.calibration_of_times(np.full(21, 0.5), worked, seen, 23.0, 1)
    assert published["share"] == pytest.approx(0.4482, abs=5e-5), "the treated arm of Freireich et al. (1963)"
    assert (published["high"] - published["low"]) / 2 / 1.96 == pytest.approx(0.1346, abs=1e-4)
