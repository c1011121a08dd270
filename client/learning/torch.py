"""A member's training: a vector in, a vector out, the same bits for the same inputs.

What travels is a flat ``float32[n]``: trainable floating parameters and floating buffers, in state-dict order. It is
the master copy of layers in half precision. The rest of the state dict, frozen parameters and integer buffers, stays
where it is. Before every use it is set back to the start, so that no call depends on an earlier one and a restarted
node gives the same update. A version carries all of it, and members compare its digests, so a model predicts elsewhere
what it predicted in the run.

The start is drawn from the circle's recipe, the same at every member. Batches and dropout follow from the node's secret
(rule 8), seed and round. So members with equal rows differ, and a round that is repeated trains the same update.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...configs.schema import Schema
from ...configs.settings import TrainingSettings
from ...errors import InputError
from ..secret import NodeSecret
from ..tasks import MAX_COUNT, METRICS, Metrics, Task
from .learner import Part, Vector
from .pretrained import Pretrained, start_model
from .rows import Rows, Split
from .splits import parts_of
from .tensors import (
    as_array,
    check_hidden,
    flatten,
    fresh_model,
    frozen_of,
    layout_of,
    load,
    outputs,
    tensor_digest,
    torch_seed,
    trained,
)

_ONE_THREAD = 1 << 20
"""Models with fewer numbers run on one thread: faster, and the bits do not depend on the machine's cores."""


class TorchLearner:
    """One member's rows, model and training; for one thread at a time.

    Args:
        task: what is trained.
        split: the member's raw rows.
        schema: of the rows.
        seed: of the run.
        secret: the node's own; with seed and round it seeds every random draw of training.
        draw: seed of the start; by default the run's seed.
        pretrained: tensors that the start has from a file.

    Raises:
        InputError: ``config.task``: the model has no trainable parameter, a tensor that cannot travel or that no
            version can hold (``inventory.py``), or a random tensor outside its state dict. ``config.checkpoint``:
            ``pretrained`` does not fit the model.
    """

    def __init__(
        self,
        task: Task,
        split: Split,
        schema: Schema,
        *,
        seed: int,
        secret: NodeSecret,
        draw: str = "",
        pretrained: Pretrained | None = None,
    ) -> None:
        self.task, self.schema, self.seed, self.secret = task, schema, seed, secret
        self.draw = draw or str(seed)
        self._raw = split
        self._ready: Split | None = None
        self._scaling: dict[str, Any] = {}
        self._pretrained = pretrained
        self.model = start_model(task, schema, self.draw, pretrained)
        self.layout = layout_of(self.model)
        self._origin = {name: value.detach().clone() for name, value in frozen_of(self.model).items()}
        check_hidden(self.model, lambda: fresh_model(task, schema, f"{self.draw}, another"))
        self._parameters = [p for p in self.model.parameters() if p.requires_grad and p.is_floating_point()]
        if not any(parameter.numel() for parameter in self._parameters):
            raise InputError("config.task", "the task's model has no trainable parameter; expected one or more")
        self._size = sum(spec.size for spec in self.layout)

    @property
    def rows(self) -> int:
        """Number of training rows, at least 1."""
        return len(self._raw.train)

    @property
    def judges(self) -> bool:
        """Whether there are validation rows to judge candidates by."""
        return bool(len(self._raw.validation))

    @property
    def buffers(self) -> frozenset[str]:
        """Names of the buffers that travel."""
        return frozenset(name for name, _ in self.model.named_buffers(remove_duplicate=False))

    @property
    def floors(self) -> dict[str, float]:
        """Lower bounds that values keep: 0 for the running variances of normalising layers."""
        named = self.model.named_buffers(remove_duplicate=False)
        return {name: 0.0 for name, _ in named if name.rpartition(".")[2] == "running_var"}

    @property
    def frozen(self) -> dict[str, NDArray[Any]]:
        """The start value of every tensor of the state dict that does not travel, by name; for reading only."""
        return {name: as_array(value) for name, value in self._origin.items()}

    @property
    def frozen_digests(self) -> dict[str, str]:
        """Name of each frozen tensor → SHA-256 over its type, shape and bytes, 64 hex digits."""
        return {name: tensor_digest(value) for name, value in self.frozen.items()}

    def start(self) -> Vector:
        """Return the start vector, ``float32[n]``; it depends on task, schema, draw and checkpoint file only."""
        return flatten(start_model(self.task, self.schema, self.draw, self._pretrained).state_dict(), self.layout)

    def summary(self) -> NDArray[np.int64]:
        """Return the statistics of the training rows, ``int64[k]`` in ``[0, 2^38)``, to be summed.

        Raises:
            InputError: ``data.value``: a number outside, such as from more than 2^22 rows.
        """
        return _counts(self.task.summary(self._raw.train, self.schema), "summary")

    def data_digest(self) -> str:
        """Return the SHA-256 of all the member's rows; order and split do not change it."""
        parts = [Rows(part.inputs, part.targets) for part in (self._raw.train, self._raw.validation, self._raw.test)]
        whole = Rows.concat([part for part in parts if len(part)])
        rows = [whole.inputs.reshape(len(whole), -1).double(), whole.targets.reshape(len(whole), -1).double()]
        table = torch.cat(rows, dim=1).numpy()
        return hashlib.sha256(b"".join(sorted(row.tobytes() for row in table))).hexdigest()

    def scaling(self, totals: Sequence[int]) -> dict[str, Any]:
        """Return means and spreads from the summed statistics, JSON-able; the same bits at every member."""
        return self.task.scaling([int(total) for total in totals], self.schema)

    def possible(self, totals: Sequence[int], rows: int) -> bool:
        """Return whether summed statistics are possible for this number of rows."""
        return self.task.possible([int(total) for total in totals], rows, self.schema)

    def prepare(self, scaling: Mapping[str, Any]) -> None:
        """Fix the scaling and prepare all parts with it; call this before training and evaluation."""
        if self._ready is not None and self._scaling == scaling:
            return
        self._scaling = dict(scaling)
        raw = self._raw
        self._ready = Split(self._prepared(raw.train), self._prepared(raw.validation), self._prepared(raw.test))

    def train(self, base: Vector, training: TrainingSettings, number: int) -> Vector:
        """Return the vector after ``local_epochs`` of plain SGD from ``base``.

        Each epoch orders the rows anew, cuts them into ``parts`` whose sizes differ by one at most, and takes a step
        with each. A step's gradient is the sum over its part divided by (rows / parts), so that to first order an
        update does not depend on which rows share a part (rule 5). Parts without a row are skipped.

        Args:
            base: ``float32[n]``.
            training: epochs, learning rate, parts; FedProx' mu adds mu/2 |w - base|² to the loss.
            number: of the round; with secret and seed it seeds the order of the rows and dropout.

        Returns:
            ``float32[n]``; may hold NaN or infinities when training diverged.
        """
        rows = self._part("train")
        drawn = f"{self.seed}|{number}".encode()
        order = np.random.default_rng(int.from_bytes(self.secret.keyed("batches", drawn), "big"))
        with _steady(self._size, self.secret.keyed("dropout", drawn)), _Even(self.model) as even:
            self._load(base)
            self.model.train()
            anchors = [p.detach().clone() for p in self._parameters] if training.mu else []
            for _ in range(training.local_epochs):
                for part in parts_of(order.permutation(len(rows)), training.parts):
                    even.take(len(part))
                    self._step(rows.take(part), len(part) * training.parts / len(rows), training, anchors)
            return trained(self.model.state_dict(), self.layout, base)

    def evaluate(self, vector: Vector, part: Part | Rows) -> Metrics:
        """Return the task's metrics of ``vector`` on a part of this member's rows, or on other raw rows.

        All of ``METRICS`` are present. A metric is None if the rows leave it undefined, as when there are no rows. NaN
        and infinities come from the model.
        """
        rows = self._part(part) if isinstance(part, str) else self._prepared(part)
        with _steady(self._size):
            self._load(vector)
            return self._metrics(rows, None)

    def tested(self) -> NDArray[np.int64]:
        """Return how many test rows of each kind there are, ``int64[c]`` in ``[0, 2^38)``, to be summed.

        Raises:
            InputError: ``data.value``: a number outside.
        """
        return _counts(self.task.tested(self._raw.test.targets), "count of test rows")

    def tally(self, vector: Vector, bins: int) -> NDArray[np.int64]:
        """Return the counts of the test rows, ``int64[m]`` in ``[0, 2^38)``, to be summed over members.

        Args:
            vector: ``float32[n]``.
            bins: number of bins for scores, 1 or more.

        Raises:
            InputError: ``data.value``: a number outside.
        """
        rows = self._part("test")
        with _steady(self._size):
            self._load(vector)
            outputs = self._outputs(rows if len(rows) else _slice(self._part("train"), 0, 1))[: len(rows)]
            return _counts(self.task.tally(outputs, rows.targets, bins), "tally")

    def scores(self, vector: Vector, part: Part) -> NDArray[np.float64]:
        """Return the task's scores of ``vector`` on a part of this member's rows, as :meth:`Task.scores` gives them."""
        rows = self._part(part)
        with _steady(self._size):
            self._load(vector)
            return self.task.scores(self._outputs(rows))

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics of all members' test rows from the summed tallies over ``bins`` bins."""
        return self.task.overall([int(total) for total in totals], bins)

    def personalised(self, vector: Vector) -> Metrics | None:
        """Return the metrics on this member's test rows with the private part; None if the task has no such part."""
        rows, own = self._part("test"), self._part("train")
        with _steady(self._size):
            self._load(vector)
            self.model.eval()
            private = self.task.personalise(self.model, own)
            if private is None:
                return None
            return self._metrics(rows, private)

    def fit(self, training: TrainingSettings) -> Vector:
        """Return the vector after all rounds on this learner's rows alone, scaled by their own statistics.

        This prepares the learner anew, so use a separate learner for a baseline. With one member's rows it is the
        ``alone`` baseline, with all members' rows the ``pooled`` one.
        """
        self.prepare(self.scaling(self.summary().tolist()))
        vector = self.start()
        for number in range(1, training.rounds + 1):
            vector = self.train(vector, training, number)
        return vector

    def _part(self, name: Part) -> Rows:
        if self._ready is None:
            raise RuntimeError("call Learner.prepare before training and evaluation")
        rows: Rows = getattr(self._ready, name)
        return rows

    def _prepared(self, rows: Rows) -> Rows:
        ready = self.task.prepare(rows, self.schema, self._scaling)
        return Rows(ready.inputs, ready.targets)  # groups are not needed any more, and cost time in every batch

    def _load(self, vector: Vector) -> None:
        load(self.model, self._origin, self.layout, vector)

    def _outputs(self, rows: Rows) -> Tensor:
        return outputs(self.model, rows.inputs)

    def _metrics(self, rows: Rows, private: Any) -> Metrics:
        shown = rows if len(rows) else _slice(self._part("train"), 0, 1)
        outputs = self._outputs(shown)
        if private is not None:
            outputs = self.task.apply(private, outputs)
        metrics = self.task.metrics(outputs, shown.targets)
        return {**dict.fromkeys(METRICS), **(metrics if len(rows) else dict.fromkeys(metrics))}

    def _step(self, part: Rows, weight: float, training: TrainingSettings, anchors: Sequence[Tensor]) -> None:
        """Take a step with the mean loss over a part, times ``weight``."""
        loss = self.task.loss(self.model, part) * weight
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        with torch.no_grad():
            for i, (parameter, gradient) in enumerate(zip(self._parameters, gradients, strict=True)):
                if anchors:
                    pull = training.mu * (parameter - anchors[i])
                    gradient = pull if gradient is None else gradient + pull
                if gradient is not None:
                    parameter.sub_(gradient, alpha=training.lr)


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
        """Prepare for a part of ``rows`` rows."""
        self._seen += rows
        for layer in self._layers:
            layer.momentum = rows / self._seen

    def __enter__(self) -> _Even:
        return self

    def __exit__(self, *_: object) -> None:
        for layer, momentum in zip(self._layers, self._own, strict=True):
            layer.momentum = momentum


@contextlib.contextmanager
def _steady(size: int, seed: bytes = b"evaluate") -> Iterator[None]:
    """Seed torch's global generator for the block (dropout), and run small models on one thread."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed))
        if size < _ONE_THREAD and threads != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def _slice(rows: Rows, first: int, end: int) -> Rows:
    return Rows(rows.inputs[first:end], rows.targets[first:end])


def _counts(counts: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    if counts.ndim != 1 or counts.dtype != np.int64:
        raise InputError("data.value", f"the task's {what} is {counts.dtype}{list(counts.shape)}; expected int64[k]")
    if counts.size and not 0 <= counts.min() <= counts.max() <= MAX_COUNT:
        raise InputError(
            "data.value",
            f"the task's {what} holds a number outside 0 to {MAX_COUNT}; expected counts, or fewer rows",
        )
    return counts
