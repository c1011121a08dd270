"""Federated averaging in plain floats, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from moonflower.client.code import code_of
from moonflower.client.learning.rows import Rows
from moonflower.client.learning.splits import partition, split
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.secret import NodeSecret
from moonflower.client.tasks import load_task, schema_for
from moonflower.configs.recipe import draw_of, recipe_of
from moonflower.version import NUMERICS


def learners_of(settings: Any) -> dict[str, TorchLearner]:
    task = load_task(settings.task.ref, settings.task.options)
    schema = schema_for(task, settings.data)
    seed = settings.training.seed
    members = partition(task.data(settings.data, schema), settings.data, settings.simulate, seed)
    recipe = recipe_of(settings.in_practice(), schema, code_of(settings.task.ref), NUMERICS)
    made, draw = {}, draw_of(recipe, tuple(members))
    for name, rows in members.items():
        secret = NodeSecret.for_practice(seed, name)
        parts = split(rows, settings.data, secret=secret, member=name)
        made[name] = TorchLearner(task, parts, schema, seed=seed, secret=secret, draw=draw)
    totals = sum(learner.summary() for learner in made.values())
    for learner in made.values():
        learner.prepare(learner.scaling(totals.tolist()))
    return made


def fedavg(settings: Any) -> dict[str, Any]:
    """Plain FedAvg in floats, and its metrics over all test rows."""
    learners = learners_of(settings)
    vector = next(iter(learners.values())).start()
    rows = [learner.rows for learner in learners.values()]
    for number in range(1, settings.training.rounds + 1):
        trained = [learner.train(vector, settings.training, number).vector for learner in learners.values()]
        vector = np.average(np.array(trained, dtype=np.float64), axis=0, weights=rows).astype(np.float32)
    everybody = Rows.concat([learner._raw.test for learner in learners.values()])
    return next(iter(learners.values())).evaluate(vector, everybody)
