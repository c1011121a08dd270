"""Handwritten digits: a worked example of a task of one's own.

It trains a small convolutional network on scikit-learn's bundled 1,797 images. A task needs ``model``,
``loss`` and ``metrics``; this one also brings its own rows and the schema that describes them, so that a
config needs no file. With ``[data] path`` it reads a table of the same 64 pixel columns instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...configs.schema import Label, Numeric, Schema
from ...configs.settings import DataSettings
from . import Metrics, Rows, Task, rows_weights, weights_of

_PIXELS = tuple(Numeric(f"pixel_{row}_{column}", 0.0, 16.0) for row in range(8) for column in range(8))


class Digits(Task):
    """The task ``moonflower.client.tasks.digits:task``.

    Args:
        channels: width of the first layer, 1 to 1024.
        class_weights: weight of an image by its digit, ten numbers above 0; none for equal weights.
    """

    def __init__(self, channels: int = 16, class_weights: Sequence[float] = ()) -> None:
        if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= 1024:
            raise ValueError(f"channels = {channels!r}; expected a whole number from 1 to 1024")
        self.channels = channels
        self.weights = weights_of(class_weights, 10)

    def schema(self) -> Schema:
        """Return 64 pixels from 0 to 16, and ten classes."""
        return Schema(_PIXELS, Label("target", tuple(range(10))))

    def data(self, settings: DataSettings, schema: Schema) -> Rows:
        """Return the bundled images, or those in the table that ``[data]`` names."""
        if settings.path is not None:
            rows: Rows = super().data(settings, schema)
            return rows
        from sklearn.datasets import load_digits  # takes a second, and only this line needs it

        frame = load_digits(as_frame=True).frame
        return Rows(self.inputs(frame, schema), self.targets(frame, schema))

    def inputs(self, frame: Any, schema: Schema, where: str = "data") -> Tensor:
        """Return the images, ``float32[n, 1, 8, 8]`` in [0, 1]; a missing pixel is black."""
        pixels = torch.nan_to_num(super().inputs(frame, schema, where)) / 16
        return pixels.float().reshape(-1, 1, 8, 8)

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return two convolutions and a linear layer, from images to logits ``float32[n, 10]``."""
        width = self.channels
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * width, len(schema.label.classes)),
        )  # fmt: skip

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """Return the mean cross-entropy in nats, each row with the weight of its class."""
        return self._mean(model(batch.inputs), batch.targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Return loss and accuracy."""
        right = (outputs.argmax(dim=1) == targets).double().mean()
        return {"loss": self._mean(outputs.double(), targets).item(), "accuracy": right.item()}

    def _mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = functional.cross_entropy(outputs, targets, reduction="none")
        weights = rows_weights(self.weights, targets, outputs.dtype)
        return (losses if weights is None else losses * weights).mean()


task = Digits
