"""The usual loop: optimisers, schedules, chunks, precision; and where it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from moonflower.client.learning.devices import device_of, found
from moonflower.client.learning.epochs import Epochs
from moonflower.client.learning.optim import Steps
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.settings import RunSettings, parse
from moonflower.configs.training import TrainingSettings
from moonflower.errors import InputError
from support.learners import TRAINING, learner, rows
from torch import nn

OPTIMISERS = ["SGD", "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]


@pytest.mark.parametrize("name", [*OPTIMISERS, "Rprop"])
def test_its_steps_are_those_of_torch(name: str) -> None:
    """The optimiser runs without the wrappers of torch's compiler; a plain one beside it takes the same steps."""
    torch.manual_seed(1)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    steps = Steps(list(ours.parameters()), TrainingSettings(optimizer=name.lower(), lr=0.1), 4)
    plain = getattr(torch.optim, name)(theirs.parameters(), lr=0.1, foreach=False)
    inputs = torch.randn(5, 3)
    for _ in range(4):
        steps.clear()
        plain.zero_grad()
        ours(inputs).pow(2).mean().backward()
        theirs(inputs).pow(2).mean().backward()
        steps.step()
        plain.step()
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"scheduler": "CosineAnnealingLR"}, [0.1, 0.0854, 0.05, 0.0146]),
        ({"scheduler": "steplr", "scheduler_options": {"step_size": 2, "gamma": 0.5}}, [0.1, 0.1, 0.05, 0.05]),
        ({"scheduler": "OneCycleLR", "optimizer": "adam"}, [0.004, 0.0812, 0.0283, 0.0]),
    ],
)
def test_a_schedule_runs_over_the_steps_of_a_round(settings: Any, rates: list[float]) -> None:
    steps = Steps(list(nn.Linear(2, 1).parameters()), TrainingSettings(**settings, lr=0.1), 4)
    seen = list[float]()
    for parameter in steps.parameters:
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(4):
        seen.append(steps._optimizer.param_groups[0]["lr"])
        steps.step()
    assert seen == pytest.approx(rates, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamm"}, r"training.optimizer = 'adamm', which torch does not have; did you mean 'adam'\?"),
        ({"optimizer": "lbfgs"}, "training.optimizer = 'lbfgs' cannot be used: it ends a step when"),
        ({"optimizer": "sparseadam"}, "cannot be used: it needs sparse gradients"),
        ({"optimizer_options": {"momentun": 0.9}}, r"training.optimizer_options.momentun: SGD has no such option"),
        ({"optimizer_options": {"lr": 0.9}}, "training.optimizer_options.lr: SGD has no such option"),
        ({"optimizer": "adam", "optimizer_options": {"betas": [2, 0.9]}}, "Adam refuses its options: Invalid beta"),
        ({"optimizer": "adam", "optimizer_options": {"betas": 3}}, "Adam refuses its options: "),
        ({"optimizer": "muon"}, "Muon refuses its options: Muon only supports 2D parameters"),
        ({"scheduler": "ReduceLROnPlateau"}, "cannot be used: it follows the member's own loss"),
        ({"scheduler": "steplr"}, "training.scheduler: StepLR refuses its options: .*step_size"),
        ({"scheduler": "cosine"}, "training.scheduler = 'cosine', which torch does not have"),
    ],
)
def test_what_torch_does_not_know_is_refused_before_a_round(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        learner().check(TrainingSettings(**settings))
    assert refusal.value.code == "config.value"


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"optimizer": "adam", "local_epochs": 1, "parts": 3},
            r"optimizer = 'adam' with local_epochs x parts = 3; expected at least 4",
        ),
        (
            {"max_grad_norm": 1.0, "local_epochs": 1, "parts": 1},
            "max_grad_norm with local_epochs x parts = 1; expected at least 4 steps",
        ),
        ({"loop": "own", "ditto": 0.1}, "ditto and loop = "),
        ({"server_optimizer_options": {"beta": 0.5}}, "server_optimizer 'average' has no option 'beta'"),
        ({"server_optimizer": "adam", "server_optimizer_options": {"beta1": 1.0}}, "beta1 = 1; expected at least 0"),
        ({"server_optimizer": "adam", "server_optimizer_options": {"tau": 0.0}}, "tau = 0; expected a number above 0"),
        ({"server_optimizer": "sgd"}, "training.server_optimizer = 'sgd'; expected one of: adagrad, adam, average"),
    ],
)
def test_settings_that_contradict_the_rules_are_refused(training: Any, message: str) -> None:
    raw = {"federation": {"name": "a"}, "task": {"ref": "a:b"}, "training": training}
    with pytest.raises(InputError, match=message):
        parse(RunSettings, raw, where="x")


def test_a_part_in_chunks_is_the_same_step() -> None:
    made = learner(41)
    base = made.start()
    whole = made.train(base, TRAINING, 1).vector
    assert made.train(base, TRAINING.model_copy(update={"chunk_rows": 3}), 1).vector == pytest.approx(whole, abs=1e-6)


def test_a_long_gradient_is_cut_and_weights_decay() -> None:
    made = learner()
    base = made.start() + np.float32(1)
    long, cut = (
        made.train(base, TRAINING.model_copy(update={"max_grad_norm": most}), 1).vector for most in (0.0, 1e-3)
    )
    assert np.linalg.norm(cut - base) <= 10 * 0.1 * 1e-3 * 1.01 < np.linalg.norm(long - base)
    decayed = made.train(base, TRAINING.model_copy(update={"optimizer_options": {"weight_decay": 1.0}}), 1).vector
    assert np.linalg.norm(decayed) < np.linalg.norm(long)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_computes_coarsely_and_keeps_weights_whole(precision: Any) -> None:
    made = learner(task=Tabular(hidden=(8,)))
    base = made.start()
    exact = made.train(base, TRAINING, 1).vector
    mixed = made.train(base, TRAINING.model_copy(update={"precision": precision}), 1).vector
    assert mixed == pytest.approx(exact, abs=0.02)
    assert not np.array_equal(mixed, exact)


def test_progress_is_told_step_by_step() -> None:
    told, model = list[float](), nn.Linear(3, 1)
    ready = learner()._part("train")
    training = TrainingSettings(local_epochs=2, parts=3)
    about: Any = (Tabular(), model, list(model.parameters()), ready, training, np.random.default_rng(1))
    Epochs(*about, torch.device("cpu"), told.append).run()
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])


def test_a_device_is_the_sites_own() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type == found()[0]
    for name in ("tpu", "cpu:1", "cuda:99", "mps:0"):
        with pytest.raises(InputError, match=f"device = '{name}' is not on this machine; expected auto or one of"):
            device_of(name)


@pytest.mark.skipif(found()[0] == "cpu", reason="torch finds no GPU on this machine")
def test_a_gpu_trains_what_the_processor_trains() -> None:
    from moonflower.client.learning.torch import TorchLearner

    there = learner(task=Tabular(hidden=(8,)))
    here = TorchLearner(
        Tabular(hidden=(8,)), there._raw, there.schema, seed=7, secret=there.secret, device=device_of("auto")
    )
    here.prepare(here.scaling(here.summary().tolist()))
    base = there.start()
    assert here.train(base, TRAINING, 1).vector == pytest.approx(there.train(base, TRAINING, 1).vector, abs=1e-4)
    assert not here.repeats
    assert len(rows(3)) == 3
