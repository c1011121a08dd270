"""A learner over a few made-up rows."""

from __future__ import annotations

import numpy as np
import torch
from moonflower.client.learning.rows import Rows, Split
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.secret import NodeSecret
from moonflower.client.tasks import Task
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.schema import Categorical, Label, Numeric, Schema
from moonflower.configs.training import TrainingSettings

SCHEMA = Schema((Numeric("x", 0, 10), Categorical("c", ("a", "b"))), Label("y", (0, 1)))

TRAINING = TrainingSettings(rounds=3, local_epochs=2, parts=5)


def rows(count: int, seed: int = 1) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, count)
    inputs = np.column_stack([np.where(rng.random(count) < 0.1, np.nan, x), rng.integers(0, 2, count)])
    return Rows(torch.from_numpy(inputs), torch.from_numpy((x + rng.normal(0, 2, count) > 5).astype(np.int64)))


def secret_of(member: str, seed: int = 7) -> NodeSecret:
    return NodeSecret.for_practice(seed, member)


def learner(
    count: int = 40, *, task: Task | None = None, member: str = "a", seed: int = 7, **parts: Rows
) -> TorchLearner:
    whole = {"train": rows(count), "validation": rows(10, 2), "test": rows(20, 3), **parts}
    made = TorchLearner(
        task or Tabular(personalise="intercept"), Split(**whole), SCHEMA, seed=seed, secret=secret_of(member)
    )
    made.prepare(made.scaling(made.summary().tolist()))
    return made
