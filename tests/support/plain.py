"""Federated averaging in plain torch, in floats, to compare with: the same batches, and nothing of ours in the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from moonflower.client.learning.cast import Cast, prepare
from moonflower.client.learning.rows import Rows
from moonflower.client.learning.torch import TorchLearner
from torch import nn


def learners_of(config: Any, overrides: Any = ()) -> dict[str, TorchLearner]:
    """Return the members' learners, with the scaling of all rows."""
    return _learners(prepare(config, overrides))


def _learners(cast: Cast) -> dict[str, TorchLearner]:
    made = {name: cast.learner(name, cast.splits[name]) for name in cast.names}
    totals = sum(learner.summary() for learner in made.values())
    for learner in made.values():
        learner.prepare(learner.scaling(totals.tolist()))  # type: ignore[union-attr]
    return made


def fedavg(config: Any, overrides: Any = ()) -> dict[str, Any]:
    """Plain FedAvg in floats, and its metrics over all test rows."""
    cast = prepare(config, overrides)
    learners, training = _learners(cast), cast.settings.training
    vector = next(iter(learners.values())).start()
    rows = [learner.rows for learner in learners.values()]
    for number in range(1, training.rounds + 1):
        trained = [local_epochs(learner, vector, training, number) for learner in learners.values()]
        vector = np.average(np.array(trained, dtype=np.float64), axis=0, weights=rows).astype(np.float32)
    everybody = Rows.concat([learner._raw.test for learner in learners.values()])
    return next(iter(learners.values())).evaluate(vector, everybody)


def local_epochs(learner: TorchLearner, base: Any, training: Any, number: int) -> Any:
    """Return what a member's local epochs make of ``base``, by torch's own optimiser."""
    rows, drawn = learner._part("train"), f"{learner.seed}|{number}".encode()
    order = np.random.default_rng(int.from_bytes(learner.secret.keyed("batches", drawn), "big"))
    with learner._steady(learner.secret.keyed("dropout", drawn)):
        learner._load(base, {})
        model = learner.model.train()
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._NormBase):
                layer.momentum = None  # the mean over all batches
        kinds = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
        optimizer = kinds[training.optimizer](model.parameters(), lr=training.lr, **training.optimizer_options)
        for _ in range(training.local_epochs):
            for batch in np.array_split(order.permutation(len(rows)), training.parts):
                optimizer.zero_grad()
                loss = learner.task.loss(model, rows.take(batch))
                (loss * len(batch) * training.parts / len(rows)).backward()
                optimizer.step()
        state = model.state_dict()
        return torch.cat([state[spec.name].detach().reshape(-1).float() for spec in learner.layout]).numpy()
