"""The seams, from outside: a purpose, a step and an optimiser that no file of the package knows run a federation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moonflower import simulate
from moonflower.client.learning.learner import Learner, Vector
from moonflower.client.optimisers import State
from moonflower.client.purposes import Conclusion, Given, Kit, MemberRound, Statistics, Tallies, Updates
from moonflower.client.steps import STEPS, Update
from moonflower.crypto.quantise import Contribution, Floats, OpenedSum
from moonflower.protocol import model_version
from moonflower.protocol.context import RoundContext
from moonflower.protocol.purposes import FIRST, Purpose, by_name
from moonflower.protocol.statement import Statement
from moonflower.server.records.models import Models
from moonflower.server.records.source import opened

SHORT = ("training.rounds=3", "training.local_epochs=1", "training.report_every=2")
CLASSES = 2


class Census:
    """A sealed count of training rows by class."""

    purpose = Purpose("census", "report", "nothing", based=False)

    def size(self, learner: Learner) -> int:
        return CLASSES

    def contribute(self, at: MemberRound) -> Given:
        return Given(Contribution(tuple(_by_class(at.learner))))

    def conclude(self, at: MemberRound, headers: Mapping[str, str], sums: OpenedSum) -> Conclusion:
        good = sums.finish().in_range
        counts = {f"class_{label}": float(count) for label, count in enumerate(sums.counters)}
        said = Statement.of(at.context, headers, sha256="", in_range=good, metrics=counts)
        return Conclusion(said)


def _by_class(learner: Any) -> list[int]:
    found = Counter(learner._raw.train.targets.tolist())
    return [found[label] for label in range(CLASSES)]


@dataclass(frozen=True)
class Halve:
    """A step that halves every update."""

    def __call__(self, update: Update, context: RoundContext) -> Update:
        return replace(update, vector=update.vector * np.float32(0.5))


class Heavy:
    """Averaging with momentum: what a server optimiser with a state looks like."""

    state = ("velocity",)

    def step(self, base: Vector, state: State, mean: Floats, rate: float) -> tuple[Vector, State]:
        velocity = state["velocity"].astype(np.float64) * 0.5 + mean
        return (base.astype(np.float64) + velocity).astype(np.float32), {"velocity": velocity.astype(np.float32)}


KIT = Kit((Statistics(), Updates(), Tallies(), Census()), (Halve(), *STEPS), lambda _: Heavy())


def test_a_purpose_a_step_and_an_optimiser_from_outside_run_a_federation(heart: Path, tmp_path: Path) -> None:
    done = simulate(heart, out=tmp_path / "kit", overrides=SHORT, kit=KIT)
    assert done.error is None
    assert done.result["audit"]["verified"]
    with opened(tmp_path / "kit") as log:
        entries = [record.entry for record in log.records]
    counted = [entry for entry in entries if b'"event":"sum_opened"' in entry]
    assert len(counted) == 2  # in round 2, and at the end
    assert all(b'"class_0":' in entry and b'"purpose":"census"' in entry for entry in counted)
    last = Models(tmp_path / "kit" / "models").read(done.result["model"]["sha256"])
    assert {*last.state} == {"velocity"}
    assert np.abs(last.state["velocity"]).max() > 0
    plain = simulate(heart, out=tmp_path / "plain", overrides=SHORT)
    ours, theirs = (Models(tmp_path / name / "models").read(_second(tmp_path / name)) for name in ("kit", "plain"))
    assert np.allclose(*_moved(tmp_path, ours, theirs), atol=5e-4)  # a step of quantisation is 2.4e-4
    assert plain.result["model"]["sha256"] != done.result["model"]["sha256"]


def _second(folder: Path) -> str:
    """Return the version that the first round made."""
    with opened(folder) as log:
        entries = [record.entry.decode() for record in log.records]
    return next(entry for entry in entries if '"event":"promoted"' in entry).partition('"sha256":"')[2][:64]


def _moved(tmp_path: Path, ours: model_version.Version, theirs: model_version.Version) -> tuple[Vector, Vector]:
    """Return how far round 1 moved with the step, and half of how far without it."""
    start = Models(tmp_path / "kit" / "models").read(_start(tmp_path / "kit")).vector
    return ours.vector - start, (theirs.vector - start) / 2


def _start(folder: Path) -> str:
    with opened(folder) as log:
        entries = [record.entry.decode() for record in log.records]
    return next(entry for entry in entries if '"event":"statistics_opened"' in entry).partition('"sha256":"')[2][:64]


def test_the_census_is_of_the_rows_that_members_train_on(heart: Path, tmp_path: Path) -> None:
    done = simulate(heart, out=tmp_path / "o", overrides=(*SHORT, "training.rounds=1"), kit=KIT)
    rows = sum(member["rows"] for member in done.result["members"])
    with opened(tmp_path / "o") as log:
        (entry,) = [record.entry.decode() for record in log.records if b'"event":"sum_opened"' in record.entry]
    counts = [float(entry.partition(f'"class_{label}":')[2].partition(",")[0].rstrip("}")) for label in range(CLASSES)]
    assert min(counts) > 0
    assert sum(counts) < rows  # validation and test rows are not in it


def test_a_member_without_the_purpose_does_not_take_part(heart: Path, tmp_path: Path) -> None:
    assert {*KIT.known} == {*FIRST, "census"}
    with pytest.raises(ValueError, match="share a name"):
        by_name([Census.purpose, Census.purpose])


def test_the_state_of_an_optimiser_is_part_of_the_version() -> None:
    layout = (model_version.TensorSpec("a", (2,)), model_version.TensorSpec("b", ()))
    vector, state = np.arange(3, dtype=np.float32), {"velocity": np.ones(3, dtype=np.float32)}
    made = model_version.build(layout, vector, {"format": 1}, state)
    assert (made.layout, made.vector.tolist()) == (layout, [0, 1, 2])
    assert made.state["velocity"].tolist() == [1, 1, 1]
    assert made.sha256 != model_version.build(layout, vector, {"format": 1}).sha256
    after = model_version.candidate(made, vector + 1, {"velocity": vector})
    assert (after.vector.tolist(), after.state["velocity"].tolist()) == ([1, 2, 3], [0, 1, 2])
    assert model_version.marked(after).state["velocity"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="does not fit"):
        model_version.candidate(made, vector)
    with pytest.raises(ValueError, match="share a name"):
        model_version.build((model_version.TensorSpec("__optimiser__.a", (3,)),), vector, {})
