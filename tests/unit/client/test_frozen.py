"""What does not travel is in the version: a model predicts elsewhere, to the bit, what it predicted in the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from moonflower import simulate
from moonflower.client.learning.cast import prepare
from moonflower.client.learning.predict import Predictor, load_model, open_version
from moonflower.client.learning.rows import Rows, Split
from moonflower.client.learning.tensors import outputs, tensor_digest
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.secret import NodeSecret
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.schema import Label, Numeric, Schema
from moonflower.configs.training import TrainingSettings
from moonflower.errors import InputError
from moonflower.protocol.model_version import Version, build, candidate, marked, parse
from moonflower.server.records.models import Models
from numpy.typing import NDArray
from support.tasks import Mixed
from torch import nn

REF = "support.tasks:Mixed"
SCHEMA = Schema((Numeric("x", 0, 10), Numeric("z", 0, 1)), Label("y", (0, 1)))
KEPT = ["0.bias", "0.weight", "1.num_batches_tracked", "small", "table"]


class Drawn(Mixed):
    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        net = super().model(schema, generator)
        net.register_buffer("drawn", torch.rand(2), persistent=False)
        return net


class Turning(Mixed):
    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        net = super().model(schema, generator)
        net.register_parameter("turn", nn.Parameter(torch.rand(2) * 1j, requires_grad=False))
        return net


def learner(task: Tabular | None = None, *, seed: int = 7, name: str = "a") -> TorchLearner:
    rng = np.random.default_rng(1)
    rows = Rows(torch.from_numpy(rng.uniform(0, 1, (40, 2))), torch.from_numpy(rng.integers(0, 2, 40)))
    secret = NodeSecret.for_practice(seed, name)
    return TorchLearner(task or Mixed(), Split(rows, rows, rows), SCHEMA, seed=seed, secret=secret)


def version(frozen: Mapping[str, NDArray[Any]] | None = None) -> Version:
    """A version as a run with seed 7 begins, with changes to its frozen tensors."""
    made = learner()
    manifest = {
        "format": 1, "federation": "test", "task": {"ref": REF}, "schema": SCHEMA.to_dict(),
        "scaling": made.scaling(made.summary().tolist()), "package": "0.1.0",
    }  # fmt: skip
    return build(made.layout, made.start(), manifest, frozen=made.frozen if frozen is None else frozen)


def opened(one: Version) -> Predictor:
    return open_version(one, allow=[REF])


def test_an_exported_model_predicts_what_the_run_predicted(tmp_path: Path, heart: Path) -> None:
    left = ('crypto.clip="auto"', "gate.max_step=0.0")
    overrides = (f"task.ref={REF}", 'task.personalise="none"', "training.rounds=3", "training.parts=4", *left)
    done = simulate(heart, out=tmp_path / "run", overrides=overrides)
    promoted = Models(tmp_path / "run" / "models").read(done.result["model"]["sha256"])
    cast = prepare(heart, overrides)
    for one in (promoted, marked(promoted)):
        (tmp_path / "model.safetensors").write_bytes(one.data)
        there = load_model(tmp_path / "model.safetensors", allow=[REF])
        for member in done.result["members"]:
            name = member["name"]
            test = there.task.prepare(cast.splits[name].test, there.schema, there.scaling)
            made = outputs(there.model, test)
            assert there.task.metrics(made, test.targets) == member["federated"]
            own = cast.learner(name, cast.splits[name])
            own.prepare(there.scaling)
            own.evaluate(one.vector, "test")
            assert torch.equal(outputs(own.model, test), made)
    assert not np.array_equal(promoted.vector, own.start())
    assert list(promoted.frozen) == KEPT


def test_frozen_values_follow_from_the_seed_alone() -> None:
    one, other = learner(name="a"), learner(name="b")
    assert sorted(one.frozen) == KEPT
    assert one.frozen_digests == other.frozen_digests
    another = learner(seed=8).frozen_digests
    assert one.frozen_digests["0.weight"] != another["0.weight"]
    assert one.frozen_digests["1.num_batches_tracked"] == another["1.num_batches_tracked"]
    before = one.frozen_digests
    one.fit(TrainingSettings(rounds=1, parts=2))
    assert one.frozen_digests == before
    assert one.model.state_dict()["1.num_batches_tracked"] > 0


def test_a_digest_is_over_type_shape_and_bytes() -> None:
    values = [np.zeros(4, dtype=kind) for kind in ("f4", "i4", "f8", "?", "u1")]
    values += [np.zeros((2, 2), dtype="f4"), np.zeros(2, dtype="f8"), np.array(0, dtype="f4"), np.ones(4, dtype="f4")]
    assert len({tensor_digest(value) for value in values}) == len(values)
    assert tensor_digest(np.arange(6, dtype=">i4").reshape(2, 3)) == tensor_digest(
        np.arange(6, dtype="<i4").reshape(2, 3)
    )
    turned = np.arange(6, dtype="f4").reshape(3, 2).T
    assert tensor_digest(turned) == tensor_digest(turned.copy())


def test_any_reader_finds_frozen_tensors_under_their_names() -> None:
    made = version()
    read = safetensors.numpy.load(made.data)
    for name, value in learner().frozen.items():
        assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape)
        assert np.array_equal(read[name], value)
        assert np.array_equal(made.frozen[name], value)
    assert {*read} == {*KEPT, *made.tensors()}


def test_candidates_and_copies_keep_them_byte_for_byte() -> None:
    base = version()
    for one in (candidate(base, base.vector + 1), marked(base), parse(base.data)):
        assert {name: value.tobytes() for name, value in one.frozen.items()} == {
            name: value.tobytes() for name, value in base.frozen.items()
        }
    assert candidate(base, base.vector).sha256 == base.sha256
    numbers = {name: np.ones_like(base.vector) for name in ("velocity", "age")}
    state = build(base.layout, base.vector, base.manifest, numbers, base.frozen)
    after = candidate(state, base.vector + 1, {name: value * 2 for name, value in numbers.items()})
    assert [after.state[name].max() for name in ("age", "velocity")] == [2, 2]
    assert after.data[-40:] == state.data[-40:]
    assert np.array_equal(after.frozen["0.weight"], base.frozen["0.weight"])


def test_a_version_with_other_frozen_tensors_is_refused() -> None:
    kept = learner().frozen
    assert sorted(opened(version()).model.state_dict()) == sorted(learner().model.state_dict())
    cases: list[tuple[dict[str, NDArray[Any]], str]] = [
        ({}, "it lacks '0.bias', a frozen tensor of its task's model"),
        ({n: v for n, v in kept.items() if n != "table"}, "it lacks 'table', a frozen tensor"),
        ({**kept, "more": kept["table"]}, "it has a frozen tensor 'more', which its task's model does not have"),
        ({**kept, "nothing": kept["table"]}, "it has a frozen tensor 'nothing'"),
        ({**kept, "small": kept["small"].astype("f4")}, "its frozen tensor 'small' is not of the type and shape"),
        ({**kept, "table": np.ones(4, dtype=bool)}, "its frozen tensor 'table' is not of the type and shape"),
    ]
    for frozen, words in cases:
        with pytest.raises(InputError, match=words) as raised:
            opened(version(frozen))
        assert raised.value.code == "data.model"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Drawn(), "buffer 'drawn' of the task's model depends on the seed and is not in its state dict"),
        (
            Turning(),
            "tensor 'turn' of the task's model is complex64; expected one of float64, float32, ",
        ),
    ],
)
def test_models_that_no_version_can_hold(task: Tabular, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        learner(task)
    assert raised.value.code == "config.task"
