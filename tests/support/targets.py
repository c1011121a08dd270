"""Every kind of target, with crafted outputs of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from moonflower.client.objectives import Settings, objective_of
from moonflower.client.tasks.tabular import EDGES
from moonflower.configs.schema import CountTarget, Label, NumberTarget, Target, TimeTarget

GRID = (1.0, 2.0, 4.0, 8.0)
ROWS = 400


def targets_of(target: Target, draws: np.random.Generator) -> torch.Tensor:
    if isinstance(target, Label):
        return torch.from_numpy(draws.integers(0, len(target.classes), ROWS))
    if isinstance(target, NumberTarget):
        return torch.from_numpy(draws.normal(50, 10, ROWS).clip(0, 100))
    if isinstance(target, CountTarget):
        return torch.from_numpy(draws.poisson(3, ROWS).astype(float))
    return torch.from_numpy(np.column_stack([draws.exponential(4, ROWS).round(2), draws.random(ROWS) < 0.7]))


KINDS: dict[str, tuple[Target, dict[str, Any], Settings]] = {
    "two": (Label("y", (0, 1)), {}, Settings(EDGES)),
    "many": (Label("y", ("a", "b", "c")), {}, Settings(EDGES)),
    "number": (NumberTarget("y", 0, 100), {"y": [48.0, 12.0]}, Settings(EDGES)),
    "absolute": (NumberTarget("y", 0, 100), {"y": [48.0, 12.0]}, Settings(EDGES, loss="absolute")),
    "quantile": (NumberTarget("y", 0, 100), {"y": [48.0, 12.0]}, Settings(EDGES, loss="quantile", quantile=0.8)),
    "count": (CountTarget("y", 50), {"y": [2.5, 2.0]}, Settings(EDGES)),
    "time": (TimeTarget("y", "seen", GRID), {}, Settings(EDGES)),
}


def made(kind: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    target, scaling, settings = KINDS[kind]
    objective = objective_of(target, scaling, settings)
    draws = np.random.default_rng(3)
    targets = targets_of(target, draws)
    outputs = torch.from_numpy(draws.normal(0, 1, (ROWS, objective.width)))
    return objective, outputs, targets
