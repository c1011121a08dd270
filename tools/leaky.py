"""What ``leaks.py`` attacks: members at work without sealing, and copies of them with a rule taken out.

An opened sum is exactly the sum of its members' whole numbers, so nothing is sealed here. The attacker is the
coordinator with all members but two, ``UNKNOWN``: it knows everything of its own members, every opened sum, every
version and every word, and it chooses whatever the rules leave to a run.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from moonflower.client.learning.cast import Cast
from moonflower.client.learning.learner import Trained
from moonflower.client.learning.rows import Rows, Split
from moonflower.client.learning.splits import split
from moonflower.client.learning.tensors import flatten
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.scales import scale_of
from moonflower.client.secret import NodeSecret
from moonflower.client.tasks import Task
from moonflower.configs.training import TrainingSettings
from moonflower.crypto import coins
from moonflower.crypto.quantise import Contribution, Scale
from numpy.typing import NDArray
from support.federation import NAMES, cast

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
UNKNOWN = ("Cleveland", "Hungary")
HELPERS = ("Switzerland", "VA Long Beach")


DRAW = 2  # of secrets under which the first unknown member has more training rows than the second, as some attacks want


def secret_of(name: str, draw: int = DRAW) -> NodeSecret:
    """The secret of a node, that nobody else has; ``draw``: of another world."""
    return NodeSecret(hashlib.sha256(f"leaks|{draw}|{name}".encode()).digest(), practice=False)


class OldLearner(TorchLearner):
    """Training as it was: batches of a size, each step the mean over its own batch, in an order that everybody knows.

    Attributes:
        name: of the member.
        size: rows of a batch.
        steps: of an epoch, at most: rows beyond are left out; 0 for no bound.
        rates: of the steps of an epoch, the last one for all that follow; empty for the recipe's.
    """

    name, size, steps = "", 32, 0
    rates: tuple[float, ...] = ()

    def batches(self, name: str, number: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch."""
        drawn = hashlib.sha256(f"{self.seed}|{name}|{number}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(drawn, "big")).permutation(self.rows)
        found = [order[at : at + self.size] for at in range(0, len(order), self.size)]
        return found[: self.steps or None]

    def train(self, base: Any, training: TrainingSettings, number: int, personal: Any = None) -> Trained:
        """Return the vector after ``local_epochs`` of plain steps."""
        rows = self._part("train")
        self._load(base)
        self.model.train()
        for _ in range(training.local_epochs):
            for at, part in enumerate(self.batches(self.name, number)):
                rate = self.rates[min(at, len(self.rates) - 1)] if self.rates else training.lr
                gradients = torch.autograd.grad(self.task.loss(self.model, rows.take(part)), self._parameters)
                with torch.no_grad():
                    for parameter, gradient in zip(self._parameters, gradients, strict=True):
                        parameter.sub_(gradient, alpha=rate)
        return Trained(flatten(self.model.state_dict(), self.layout), {})


@dataclass
class World:
    """Members with their rows, and what they seal.

    Attributes:
        cast: who takes part, with what.
        learners: by name.
        scaling: of all rows.
        total: training rows of all, as they were counted.
    """

    cast: Cast
    learners: dict[str, TorchLearner]
    scaling: dict[str, Any]
    total: int

    @property
    def base(self) -> Any:
        """Version 0."""
        return self.learners[UNKNOWN[0]].start()

    @property
    def scale(self) -> Scale:
        """By which updates travel."""
        return scale_of(self.learners[UNKNOWN[0]], self.cast.settings.crypto)

    def share(self, name: str, claimed: int = 0) -> float:
        """A member's share; ``claimed``: rows that another member claims beyond its own."""
        return self.learners[name].rows / (self.total + claimed)

    def update(self, name: str, base: Any, seed: int, number: int) -> Any:
        """What training changes, ``float32[n]``."""
        learner = self.learners[name]
        learner.seed = seed
        return learner.train(base, self.cast.settings.training, number).vector - base

    def whole(self, name: str, update: Any, share: float = 0.0, scale: Scale | None = None) -> Ints:
        """What a member seals of an update."""
        given = Contribution((), update, share or self.share(name), scale or self.scale, secret_of(name).value)
        return np.concatenate([part for _, part in given.integers()])

    def both(self, base: Any, seed: int, number: int, claimed: int = 0) -> tuple[Floats, Floats]:
        """What is left of an opened sum without what the helpers know, and what the first unknown member put into it.

        In units of the model, as each is part of the mean.
        """
        step = self.scale.steps(0, self.scale.size) * (self.total + claimed) / self.total
        parts = [
            self.whole(name, self.update(name, base, seed, number), self.share(name, claimed)) * step
            for name in UNKNOWN
        ]
        return np.asarray(parts[0] + parts[1]), np.asarray(parts[0])

    def mean(self, base: Any, seed: int, number: int) -> Floats:
        """The opened mean of everybody's update."""
        parts = [self.whole(name, self.update(name, base, seed, number)) for name in NAMES]
        return np.asarray(np.sum(parts, axis=0) * self.scale.steps(0, self.scale.size))

    def rows(self, name: str, part: str = "train") -> Rows:
        """Prepared rows."""
        found: Rows = self.learners[name]._part(part)  # type: ignore[arg-type]
        return found

    def gradients(self, name: str, base: Any, part: str = "train") -> Floats:
        """The gradient of the loss of each row of a part, ``float64[rows, n]``, for models without buffers."""
        learner, rows = self.learners[name], self.rows(name, part)
        learner._load(base)
        learner.model.train()
        found = []
        for at in range(len(rows)):
            loss = learner.task.loss(learner.model, rows.take(np.array([at])))
            parts = torch.autograd.grad(loss, learner._parameters)
            found.append(np.concatenate([one.numpy().ravel() for one in parts]))
        return np.array(found, dtype=np.float64)


def world(
    *overrides: str,
    kind: type[TorchLearner] = TorchLearner,
    draw: int = DRAW,
    task: Task | None = None,
    rows: Mapping[str, Split] | None = None,
) -> World:
    """Return members on the heart data.

    Args:
        overrides: of the preset.
        kind: how they train.
        draw: of their secrets, so of which rows are whose.
        task: another than the preset's.
        rows: others than these, by name.
    """
    made = cast("training.local_epochs=5", *overrides)
    made = replace(made, splits={name: (rows or {}).get(name) or dealt(made, name, draw) for name in NAMES})
    learners = {}
    for name in NAMES:
        secret = secret_of(name, draw)
        learners[name] = kind(task or made.task, made.splits[name], made.schema, seed=7, secret=secret, draw=made.draw)
        if isinstance(learners[name], OldLearner):
            learners[name].name = name  # type: ignore[attr-defined]
    first = learners[NAMES[0]]
    scaling = first.scaling(np.sum([one.summary() for one in learners.values()], axis=0).tolist())
    for one in learners.values():
        one.prepare(scaling)
    return World(made, learners, scaling, sum(one.rows for one in learners.values()))


def dealt(made: Cast, name: str, draw: int, test_fraction: float = 0.2) -> Split:
    """The parts of a member's rows under its secret."""
    parts = made.splits[name]
    whole = Rows.concat([parts.train, parts.validation, parts.test])
    data = made.settings.data.model_copy(update={"test_fraction": test_fraction})
    return split(whole, data, secret=secret_of(name, draw), member=name)


@contextlib.contextmanager
def coins_of(count: int) -> Iterator[None]:
    """Let members throw so many coins a value; 0 for rounding alone."""
    before = coins.COINS, coins.MOST
    coins.COINS, coins.MOST = count, count / 2
    try:
        yield
    finally:
        coins.COINS, coins.MOST = before


def cosine(one: Any, other: Any) -> float:
    """How alike two vectors are; 0 for none."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) or 1.0))


def guess(target: Floats, views: Sequence[Floats], folds: int = 8) -> float:
    """How well the best linear guess from some views fits what nobody may read: the cosine on lanes held out.

    The weights are found by least squares on the other lanes, where the attacker is *told* the answer: no attacker has
    that, so none of those that add views up with weights does better.
    """
    seen = np.array(views, dtype=np.float64).T
    fold = np.random.default_rng(0).permutation(len(target)) % folds
    found = np.empty(len(target))
    for at in range(folds):
        weights = np.linalg.lstsq(seen[fold != at], target[fold != at], rcond=1e-13)[0]
        found[fold == at] = seen[fold == at] @ weights
    return cosine(found, target)


def auc(scores: Floats, marked: NDArray[np.bool_]) -> float:
    """How well scores tell marked ones from others; .5 is chance."""
    order = scores[marked][:, None] - scores[~marked][None]
    return float(((order > 0) + 0.5 * (order == 0)).mean())


def tpr(inside: Floats, outside: Floats, fpr: float = 0.01) -> float:
    """The share of those inside that score above all but ``fpr`` of those outside."""
    return float((np.asarray(inside) > np.quantile(outside, 1 - fpr)).mean())
