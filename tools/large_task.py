"""A task with a model of many parameters and next to no rows: what travels is large, and training takes no time."""

from __future__ import annotations

from moonflower.client.tasks import Rows, Task
from moonflower.configs.schema import Schema
from torch import Generator, Tensor, nn

WIDTH = 2048


class task(Task):
    """Square layers, one behind the other.

    Args:
        layers: of 2048 × 2048 weights, 4.2 million parameters each.
    """

    def __init__(self, layers: int = 1) -> None:
        self.layers = layers

    def model(self, schema: Schema, generator: Generator) -> nn.Module:
        square = [part for _ in range(self.layers) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        return nn.Sequential(nn.Linear(len(schema.columns), WIDTH), nn.ReLU(), *square, nn.Linear(WIDTH, 1))

    def inputs(self, frame: object, schema: Schema, where: str = "data") -> Tensor:
        return super().inputs(frame, schema, where).nan_to_num(0.0)

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        outputs = model(batch.inputs.float())[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(outputs, batch.targets.float())

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float | None]:
        loss = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0].float(), targets.float())
        return {"loss": float(loss), "accuracy": None, "auc": None, "average_precision": None}

    def prepare(self, rows: Rows, schema: Schema, scaling: object) -> Rows:
        return Rows(rows.inputs.float() / 1000, rows.targets, rows.groups)
