"""Clips by groups of tensors, variances that stay above 0, and what a practice finds and proposes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moonflower import simulate
from moonflower.client.learning.calibrate import calibrated, rounded_up
from moonflower.client.learning.cast import prepare
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.scales import Floors, scale_of, stretched
from moonflower.configs.settings import CryptoSettings, parse
from moonflower.errors import InputError
from moonflower.federation.proposal import RoundOne, proposal
from moonflower.protocol.model_version import TensorSpec
from moonflower.protocol.model_version import parse as parse_version
from support import CONFIGS
from support.plain import fedavg, learners_of

LAYOUT = (
    TensorSpec("0.weight", (2, 3)),
    TensorSpec("0.bias", (2,)),
    TensorSpec("1.running_mean", (2,)),
    TensorSpec("1.running_var", (2,)),
    TensorSpec("2.weight", (1, 2)),
)
BUFFERS = frozenset({"1.running_mean", "1.running_var"})


@dataclass(frozen=True)
class Model:
    """What a scale looks at of a learner."""

    layout: Any = LAYOUT
    buffers: Any = BUFFERS
    floors: Any = None


def groups(clip: Any) -> list[tuple[int, str, float]]:
    scale = scale_of(Model(), CryptoSettings(clip=clip))  # type: ignore[arg-type]
    return [(one.values, one.group, one.clip) for one in scale.stretches]


def test_buffers_are_a_group_of_their_own_under_one_clip() -> None:
    assert groups(2.0) == [(8, "*", 2.0), (4, "* (buffers)", 2.0), (2, "*", 2.0)]


def test_the_longest_pattern_counts_and_the_alphabet_decides_between_equals() -> None:
    found = groups({"*": 1.0, "*.running_*": 5.0, "*.running_var": 9.0, "0.*": 3.0})
    assert found == [
        (8, "0.*", 3.0),
        (2, "*.running_* (buffers)", 5.0),
        (2, "*.running_var (buffers)", 9.0),
        (2, "*", 1.0),
    ]
    assert groups({"0.*": 3.0, "*.b*": 4.0, "*": 1.0})[:2] == [(6, "0.*", 3.0), (2, "*.b*", 4.0)]
    same = {"1.ru*": 4.0, "*.r*n": 3.0, "*": 1.0}  # equally long, and a running mean fits both
    assert groups(same) == groups(dict(reversed(same.items()))), "a recipe's bytes keep no other order"


def test_a_tensor_without_a_clip_and_a_clip_without_a_tensor_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"crypto.clip has no pattern for tensor '0.weight'; expected one"):
        stretched(LAYOUT, BUFFERS, {"1.*": 1.0}, 16)
    with pytest.raises(InputError, match=r"crypto.clip: no tensor matches '3.\*'; the model has 0.weight, 0.bias"):
        stretched(LAYOUT, BUFFERS, {"3.*": 1.0, "*": 1.0}, 16)


@pytest.mark.parametrize("clip", [0, -1.0, 1e7, float("nan"), "automatic", {"*": 0.0}, {"*": "auto"}, [1.0], None])
def test_a_clip_of_another_kind_is_refused_in_one_sentence(clip: Any) -> None:
    with pytest.raises(InputError, match=r"clip") as refusal:
        parse(CryptoSettings, {"clip": clip}, where="the config")
    assert "expected a number above 0" in str(refusal.value)


def test_a_variance_keeps_a_sixteenth_of_itself() -> None:
    floors = Floors(Model(floors={"1.running_var": 0.0}))  # type: ignore[arg-type]
    base = np.arange(14, dtype=np.float32)
    base[10:12] = (0.0008, 4.0)
    candidate = np.full(14, -0.0002, dtype=np.float32)
    candidate[11] = 3.0
    floors.keep(base, candidate)
    assert candidate[10:12].tolist() == [np.float32(0.0008) / 16, 3.0]
    assert (np.delete(candidate, [10, 11]) == np.float32(-0.0002)).all(), "only variances have a bound"


def test_two_digits_round_up() -> None:
    assert [rounded_up(value) for value in (1.0, 1.01, 0.0999, 99.1, 5e-7)] == [1.0, 1.1, 0.1, 100.0, 5e-7]


def test_a_practice_finds_what_its_config_leaves_open(heart: Path) -> None:
    left = ('crypto.clip="auto"', "gate.max_step=0.0", "training.max_rows=0")
    found = prepare(heart, left).settings
    assert 0.5 < found.crypto.clip < 5  # type: ignore[operator]
    assert 1 < found.gate.max_step < 20
    assert found.training.max_rows == 200
    assert prepare(heart, left).settings == found, "the same config gives the same recipe"
    stated = prepare(heart).settings
    assert (stated.crypto.clip, stated.gate.max_step) == (2.0, 1.3)
    cast = prepare(heart)
    learner = cast.learner(cast.names[0], cast.splits[cast.names[0]])
    assert calibrated(stated, learner, cast.rehearsed().first) == stated


@pytest.mark.parametrize("left", [(), ('crypto.clip="auto"', "gate.max_step=0.0")])
def test_round_1_is_trained_once_whoever_needs_it(heart: Path, tmp_path: Path, monkeypatch: Any, left: Any) -> None:
    trained: list[int] = []
    train = TorchLearner.train
    monkeypatch.setattr(TorchLearner, "train", lambda self, *given: trained.append(given[2]) or train(self, *given))
    free = ("gate.max_step=2.0", *left)
    done = simulate(heart, out=tmp_path / "o", overrides=("training.rounds=2", *free), baselines=False)
    assert done.error is None
    assert done.result["proposal"]["crypto"]["clip"] > 0
    assert sorted(trained) == [1] * 4 + [2] * 4, "not in a rehearsal, in the run and for the proposal"


def test_a_length_is_proposed_in_the_units_of_the_proposed_clips(heart: Path) -> None:
    """A run under one clip measures variances of thousands; beside clips of their own it is another length."""
    one = prepare(heart)
    assert proposal(one, RoundOne(one), 0.5, None, {})["gate"]["max_step"] == 1.5
    grouped = prepare(CONFIGS / "digits.toml", ('task.ref="support.tasks:Normalised"', "crypto.clip=50000.0"))
    said = proposal(grouped, RoundOne(grouped), 6000.0, None, {})
    assert isinstance(said["crypto"]["clip"], dict)
    assert said["gate"]["max_step"] < 100


DIGITS = (
    'crypto.clip="auto"',
    "gate.max_step=0.0",
    'task.ref="support.tasks:Normalised"',
    "training.rounds=4",
    "training.local_epochs=1",
    "training.report_every=0",
    "gate.min_gain=0.0",
)


def test_buffers_get_clips_of_their_own() -> None:
    clips = prepare(CONFIGS / "digits.toml", DIGITS).settings.crypto.clip
    assert isinstance(clips, dict)
    assert sorted(clips) == ["*", "0.running_mean", "0.running_var", "2.running_mean", "2.running_var"]
    assert clips["0.running_var"] > 1000 * clips["2.running_var"], "one step for both would swallow one of them"


@pytest.mark.parametrize("name", ["heart", "digits"])
def test_nothing_is_swallowed(name: str, tmp_path: Path) -> None:
    """Heart at lr .0001 stood still and was promoted each round; digits with BatchNorm lost all its updates.

    The version of each round is beside plain FedAvg of as many, whatever the gate called it.
    """
    small = ("training.lr=0.0001", "training.rounds=4", "training.report_every=0", "gate.min_gain=0.0")
    config, overrides = CONFIGS / f"{name}.toml", DIGITS if name == "digits" else small
    done = simulate(config, out=tmp_path / "o", overrides=overrides)
    best = max(one["round"] for one in done.result["rounds"] if one["status"] == "promoted")
    assert all(one["status"] in ("promoted", "kept") for one in done.result["rounds"])
    plain = fedavg(config, [*overrides, f"training.rounds={best}"])
    found = done.result["overall"]["federated"]
    assert found["loss"] == pytest.approx(plain["loss"], abs=0.01)
    assert found["accuracy"] == pytest.approx(plain["accuracy"], abs=0.01)
    version = parse_version(Path(done.result["model"]["path"]).read_bytes())
    assert all((value >= 0).all() for key, value in version.tensors().items() if key.endswith("running_var"))
    assert (version.vector != next(iter(learners_of(config, overrides).values())).start()).mean() > 0.9
