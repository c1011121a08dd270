"""The training loop that comes with moonflower: epochs of equal parts, a step for each part.

An epoch orders the rows anew and cuts them into ``parts`` whose sizes differ by one at most. A step's gradient is the
sum over its part divided by (rows / parts), so that to first order an update does not depend on which rows share a part
(rule 5). Where a part is taken in chunks, their gradients are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...configs.training import TrainingSettings
from ..tasks import Task
from .optim import Steps
from .rows import Rows
from .splits import parts_of

LOSS_SCALE = 1024.0
"""Factor of the loss in float16, so that small gradients do not vanish. It is a constant: one that adapts would skip
steps, and so rows, as a member's own gradients say."""
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Epochs:
    """What one round trains.

    Attributes:
        task: has the loss.
        model: on the device, with the base's numbers.
        parameters: that are trained.
        rows: prepared, at least one.
        training: epochs, parts, optimiser.
        order: draws the order of the rows in each epoch.
        device: that computes.
        progress: called with the share of the round that is done.
        pull: weight of the pull towards the numbers with which the round begins, or towards ``anchors``.
        anchors: tensors like ``parameters``; None for the parameters at the beginning.
    """

    task: Task
    model: nn.Module
    parameters: Sequence[nn.Parameter]
    rows: Rows
    training: TrainingSettings
    order: np.random.Generator
    device: torch.device
    progress: Progress
    pull: float = 0.0
    anchors: Sequence[Tensor] | None = None

    def run(self) -> None:
        """Train the model in place; it may diverge.

        Raises:
            InputError: ``config.value``: optimiser or scheduler.
        """
        training, rows = self.training, self.rows
        count = training.local_epochs * min(training.parts, len(rows))
        steps, done = Steps(self.parameters, training, count), 0
        anchors = self.anchors or ([p.detach().clone() for p in self.parameters] if self.pull else ())
        self.model.train()
        with _Even(self.model) as even:
            for _ in range(training.local_epochs):
                for part in parts_of(self.order.permutation(len(rows)), training.parts):
                    steps.clear()
                    for chunk in chunks_of(part, rows.most(training.chunk_rows)):
                        even.take(len(chunk))
                        self._gradients(
                            rows.take(chunk).loaded().to(self.device), len(chunk) * training.parts / len(rows)
                        )
                    self._finish(anchors)
                    steps.step()
                    done += 1
                    self.progress(done / count)
        steps.clear()

    def _gradients(self, chunk: Rows, weight: float) -> None:
        """Add the gradients of a chunk's mean loss, times ``weight``."""
        precision = self.training.precision
        if precision == "float32":
            loss = self.task.loss(self.model, chunk)
        else:
            with torch.autocast(self.device.type, getattr(torch, precision)):
                loss = self.task.loss(self.model, chunk)
        loss = loss * weight
        (loss * LOSS_SCALE if precision == "float16" else loss).backward()  # type: ignore[no-untyped-call]

    def _finish(self, anchors: Sequence[Tensor]) -> None:
        """Turn the summed gradients into those of a step: scaled back, pulled towards the anchors, and not too long."""
        with torch.no_grad():
            if self.training.precision == "float16":
                for parameter in self.parameters:
                    if parameter.grad is not None:
                        parameter.grad.div_(LOSS_SCALE)
            for parameter, anchor in zip(self.parameters, anchors, strict=False):
                pull = self.pull * (parameter - anchor)
                parameter.grad = pull if parameter.grad is None else parameter.grad + pull
        if self.training.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm, foreach=False)


def chunks_of(part: np.ndarray, most: int) -> list[np.ndarray]:
    """Return a part in chunks of at most ``most`` rows, whose sizes differ by one at most; 0 for a single chunk.

    >>> [len(chunk) for chunk in chunks_of(np.arange(17), 8)]
    [6, 6, 5]
    """
    return [part] if not most else np.array_split(part, -(-len(part) // most))


class _Even:
    """Makes normalising layers keep the mean over all rows of a round, so that every part counts the same.

    With the layers' own momentum the last part would count most, and the buffers would show the order of the rows to
    first order.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        self._own = [layer.momentum for layer in self._layers]
        self._seen = 0

    def take(self, rows: int) -> None:
        """Prepare for ``rows`` rows."""
        self._seen += rows
        for layer in self._layers:
            layer.momentum = rows / self._seen

    def __enter__(self) -> _Even:
        return self

    def __exit__(self, *_: object) -> None:
        for layer, momentum in zip(self._layers, self._own, strict=True):
            layer.momentum = momentum
