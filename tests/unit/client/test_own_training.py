"""A task's own train and evaluate: what they get, and what happens to those that do something wrong."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from moonflower.client.learning.learner import Trained
from moonflower.client.learning.own_train import carefully
from moonflower.client.learning.rows import Rows
from moonflower.client.learning.script import Script
from moonflower.client.purposes import Updates
from moonflower.client.tasks import load_task
from moonflower.client.tasks.tabular import Tabular
from moonflower.client.trained_once import TrainedOnce
from moonflower.configs.settings import DataSettings
from moonflower.configs.training import TrainingSettings
from moonflower.errors import InputError, Overrun, Refused
from support.learners import SCHEMA, learner, rows
from torch import nn
from torch.utils.data import DataLoader

OWN = TrainingSettings(loop="own", rounds=2, parts=5)
HASTY = OWN.model_copy(update={"train_timeout_s": 0.3})
CANARY = "patient 63"


def by_loader(model: nn.Module, rows: Rows, settings: Any, generator: torch.Generator, **_: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
    for inputs, targets in DataLoader(rows, batch_size=7, shuffle=True, generator=generator):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], targets.float()).backward()
        optimizer.step()


class Own(Tabular):
    """A task that trains by the function that it is given."""

    def __init__(self, how: Callable[..., None], frozen: bool = False) -> None:
        super().__init__(hidden=(4,))
        self.how, self.frozen = how, frozen

    def model(self, schema: Any, generator: torch.Generator) -> nn.Module:
        net = super().model(schema, generator)
        net[0].requires_grad_(not self.frozen)  # type: ignore[index]
        return net

    def train(self, model: nn.Module, rows: Rows, settings: TrainingSettings, **given: Any) -> None:
        self.how(model, rows, settings, **given)


def test_it_trains_the_model_and_a_retry_gives_the_same_bits() -> None:
    drawn = list[float]()

    def how(model: nn.Module, rows: Rows, settings: Any, **given: Any) -> None:
        by_loader(model, rows, settings, **given)
        drawn.extend([random.random(), float(np.random.rand()), float(torch.rand(1))])

    made, before = learner(task=Own(how)), random.getstate()
    base = made.start()
    first, again, other = (made.train(base, OWN, number).vector for number in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert not np.array_equal(first, base)
    assert drawn[:3] == drawn[3:6]  # every global generator is seeded from the node's secret
    assert drawn[0] != drawn[6]
    assert random.getstate() == before
    assert not made.repeats  # its author promised nothing, so its result is kept


def endless(*_: Any, **__: Any) -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def raising(*_: Any, **__: Any) -> None:
    raise ValueError(CANARY)


def changing(model: Any, *_: Any, **__: Any) -> None:
    with torch.no_grad():
        model[0].weight.add_(1)


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize(
    ("how", "frozen", "message"),
    [
        (endless, False, r"^the task's train took longer than training.train_timeout_s = 0.3$"),
        (raising, False, r"^the task's train failed: ValueError in test_own_training.py, line \d+$"),
        (changing, True, r"^the task's train changed '0.weight', a frozen parameter of its model$"),
    ],
)
def test_what_a_train_does_wrong_is_one_sentence(how: Any, frozen: bool, message: str, thread: bool) -> None:
    """In the main thread by an alarm, elsewhere by a watchdog. The text of an error may hold a row; it is left out."""
    made = learner(task=Own(how, frozen))
    caught = list[BaseException]()

    def run() -> None:
        try:
            made.train(made.start(), HASTY, 1)
        except BaseException as error:
            caught.append(error)

    worker = threading.Thread(target=run)
    (worker.start(), worker.join(20)) if thread else run()
    assert isinstance(caught[0], Refused)
    with pytest.raises(Refused, match=message) as refusal:
        raise caught[0]
    assert refusal.value.code == "update.failed"
    assert made.train(made.start(), OWN.model_copy(update={"loop": "moonflower"}), 1)  # nothing is left behind


def test_the_alarm_ends_with_the_block() -> None:
    with carefully("train", 0.05):
        pass
    time.sleep(0.15)
    with pytest.raises(Refused, match="took longer"), carefully("train", 0.05):
        time.sleep(5)
    with pytest.raises(InputError, match="as it is"), carefully("train", 5):
        raise InputError("config.task", "as it is")
    assert not issubclass(Overrun, Exception)  # or a script's own except would stop it


def test_a_recipe_says_who_trains() -> None:
    plain, own = learner(), learner(task=Own(by_loader))
    plain.check(TrainingSettings())
    own.check(OWN)
    with pytest.raises(InputError, match='and the task brings its own train; expected loop = "own"'):
        own.check(TrainingSettings())
    with pytest.raises(InputError, match='and the task has no train of its own; expected loop = "moonflower"'):
        plain.check(OWN)


def test_training_that_cannot_be_repeated_is_done_once_in_a_round(tmp_path: Any) -> None:
    counted = list[int]()

    def how(model: Any, *_: Any, **__: Any) -> None:
        counted.append(1)
        with torch.no_grad():
            model[0].weight.add_(len(counted))

    made = learner(task=Own(how))
    once = TrainedOnce(tmp_path / "sealed" / "trained")

    def trained(round_: int, kept: TrainedOnce = once) -> Any:
        context = type("C", (), {"run": "r", "round": round_, "purpose": "update"})
        base = type("B", (), {"identity": "a", "vector": made.start()})
        at: Any = type("At", (), {"learner": made, "context": context, "once": kept.get})
        at.offer, at.personal = type("O", (), {"training": OWN}), lambda _: {}
        return Updates()._trained(at, base).vector  # type: ignore[arg-type]

    first = trained(1)
    restarted = TrainedOnce(tmp_path / "sealed" / "trained")
    assert trained(1, restarted).tobytes() == first.tobytes()
    assert len(counted) == 1
    assert (tmp_path / "sealed" / "trained").stat().st_mode & 0o777 == 0o600
    assert trained(2, restarted).tobytes() != first.tobytes()
    assert trained(1, restarted).tobytes() != first.tobytes()  # only the newest is kept
    restarted.drop()
    assert not list((tmp_path / "sealed").iterdir())
    broken = Trained(np.array([1, np.nan], dtype=np.float32), {})
    assert restarted.get("a" * 64, lambda: broken) is broken
    assert not list((tmp_path / "sealed").iterdir())  # it is never sealed, so the next number may train anew


# Scripts


def script(**functions: Any) -> ModuleType:
    module = ModuleType("my_script")
    vars(module).update(functions)
    return module


def net(width: int = 3) -> nn.Module:
    return nn.Linear(width, 1)


def judged(model: nn.Module, rows: Rows) -> dict[str, float]:
    with torch.no_grad():
        made = model(rows.inputs.float().nan_to_num())[:, 0]
    return {"loss": float(nn.functional.mse_loss(made, rows.targets.float())), "accuracy": 0.5}


def fitted(model: nn.Module, rows: Rows, settings: Any, rate: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(rate)


def test_a_script_is_three_functions_that_name_what_they_want() -> None:
    task = Script(script(model=net, train=fitted, evaluate=judged), {"width": 2, "rate": 0.25})
    made = learner(task=task)
    moved = made.train(made.start(), OWN, 1).vector - made.start()
    assert moved == pytest.approx(np.full(3, -0.25))
    found = made.evaluate(made.start(), "test")
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(made.overall(made.tally(made.start(), 8).tolist(), 8)["loss"], abs=1e-4)
    assert task.schema() is None  # its rows are those of a table


def test_a_script_with_data_of_its_own_says_what_its_classes_are() -> None:
    pair = torch.zeros(6, 2), torch.arange(6) % 3
    named = {"model": net, "train": fitted, "evaluate": judged}
    task = Script(script(**named, data=lambda: pair, classes=3), {"width": 2})
    assert task.schema().label.classes == (0, 1, 2)  # type: ignore[union-attr]
    assert task.data(DataSettings(), SCHEMA) is pair
    with pytest.raises(InputError, match="has data but no classes"):
        Script(script(**named, data=lambda: pair), {}).schema()


@pytest.mark.parametrize(
    ("functions", "options", "message"),
    [
        ({"train": fitted, "evaluate": judged}, {}, "script 'my_script' has no function model; expected model, train"),
        ({"model": lambda depth: net}, {}, "model of script 'my_script' wants 'depth'; expected some of schema"),
        ({}, {"widht": 3}, r"names the option 'widht' of \[task\]; did you mean 'width'\?"),
        ({"model": lambda: 3}, {}, "the script's model is int; expected a torch.nn.Module"),
    ],
)
def test_a_script_that_lacks_something_is_told_what(functions: Any, options: Any, message: str) -> None:
    whole = {**({} if len(functions) > 1 else {"model": net, "train": fitted, "evaluate": judged}), **functions}
    with pytest.raises(InputError, match=message) as refusal:
        Script(script(**whole), options).model(SCHEMA, torch.Generator())
    assert refusal.value.code == "config.task"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "returned NoneType; expected a table of numbers with a loss"),
        ({"accuracy": 1.0}, "returned no loss but accuracy; expected a table"),
        ({"loss": "low"}, "returned 'loss' as str; expected a table"),
    ],
)
def test_an_evaluate_that_gives_no_loss_is_refused(found: Any, message: str) -> None:
    made = learner(task=Script(script(model=net, train=fitted, evaluate=lambda model, rows: found), {}))
    with pytest.raises(Refused, match=message):
        made.evaluate(made.start(), "test")


@pytest.mark.parametrize("of", [torch.tensor, np.float32, np.array, lambda value: torch.tensor([value])])
def test_a_script_may_give_its_metrics_as_it_computed_them(of: Any) -> None:
    def found(model: nn.Module, rows: Rows) -> dict[str, Any]:
        return {"loss": of(0.5), "accuracy": of(0.25), "auc": None}

    made = learner(task=Script(script(model=net, train=fitted, evaluate=found), {}))
    assert made.evaluate(made.start(), "test") == {
        "loss": 0.5, "accuracy": 0.25, "auc": None, "average_precision": None,
    }  # fmt: skip
    several = Script(script(model=net, train=fitted, evaluate=lambda rows: {"loss": torch.zeros(2)}), {})
    with pytest.raises(Refused, match="returned 'loss' as Tensor"):
        learner(task=several).evaluate(made.start(), "test")


def test_a_class_is_a_function_too_and_the_model_is_on_its_device_after_evaluate() -> None:
    moved = list[Any]()

    class Net(nn.Linear):
        def __init__(self, width: int = 3) -> None:
            super().__init__(width, 1)

        def to(self, *where: Any, **more: Any) -> Any:
            moved.extend(where)
            return super().to(*where, **more)

    class Pairs:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, at: int) -> Any:
            return torch.zeros(2), at % 2

    task = Script(script(model=Net, train=fitted, evaluate=judged, data=Pairs, classes=["no", "yes"]), {"width": 2})
    assert isinstance(task.data(DataSettings(), SCHEMA), Pairs)
    assert task.schema().label.classes == ("no", "yes")  # type: ignore[union-attr]
    task.evaluate(task.model(SCHEMA, torch.Generator()), rows(3), device=torch.device("cpu"))
    assert moved == [torch.device("cpu")]  # a trainer takes it to a device of its own choice


def test_a_module_is_loaded_by_its_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_script.py").write_text(
        "from torch import nn\n"
        "def model(): return nn.Linear(1, 1)\n"
        "def train(model): pass\n"
        "def evaluate(model): return {'loss': 0}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = load_task("a_script", {})
    assert task.trains
    assert task.evaluates
