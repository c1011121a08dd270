"""Tasks of tests that a run names by ``module:attribute``."""

from __future__ import annotations

from typing import Any

import torch
from moonflower.client.learning.learner import Vector
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.tasks.digits import Digits
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.schema import Numeric, Schema
from moonflower.protocol.model_version import Version, build
from torch import Tensor, nn

from support.kinds import MODELS


class Mixed(Tabular):
    """A frozen random layer, batch statistics with their counter, and frozen tensors of other types."""

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        width = sum(1 if isinstance(c, Numeric) else len(c.categories) for c in schema.columns)
        net = nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        net[0].requires_grad_(False)
        net.register_buffer("table", torch.rand(3) > 0.5)
        net.register_parameter("small", nn.Parameter(torch.rand(2, 2).half(), requires_grad=False))
        net.register_buffer("nothing", torch.zeros(0, dtype=torch.int64))
        net.register_buffer("mask", torch.tensor([0.0, float("nan")]), persistent=False)
        return net


class Normalised(Digits):
    """Digits as pixels of 0 to 255, through layers that normalise: their running variances are thousands."""

    def inputs(self, frame: Any, schema: Any, where: str = "data") -> Tensor:
        return super().inputs(frame, schema, where) * 255

    def model(self, schema: Any, generator: torch.Generator) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4),
            nn.Flatten(), nn.Linear(32, len(schema.label.classes)),
        )  # fmt: skip


class Kinds(Tabular):
    """A model of ``support.kinds``, on rows of ``support.learners.SCHEMA``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        return MODELS[self.kind]()


KINDS = f"{__name__}:Kinds"


def version_of(made: TorchLearner, vector: Vector, kind: str) -> Version:
    """Return a version of a model of a kind."""
    manifest = {
        "format": 1, "federation": "test", "task": {"ref": KINDS, "kind": kind}, "schema": made.schema.to_dict(),
        "scaling": made.scaling(made.summary().tolist()), "package": "0.1.0",
    }  # fmt: skip
    return build(made.layout, vector, manifest, frozen=made.frozen)
