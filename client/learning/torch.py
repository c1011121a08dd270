"""A member's training: a vector in, a vector out, the same bits for the same inputs.

What travels is a flat ``float32[n]``: trainable floating parameters and floating buffers, in state-dict order. It is
the master copy of layers in half precision. The rest of the state dict, frozen parameters and integer buffers, stays
where it is. Before every use it is set back to the start, so that no call depends on an earlier one and a restarted
node gives the same update. A version carries all of it, and members compare its digests, so a model predicts elsewhere
what it predicted in the run.

Tensors that the recipe calls ``personal`` are trained, but never travel. They come with a call and go back with its
result, and the node keeps them.

The start is drawn from the circle's recipe, the same at every member. Batches and dropout follow from the node's secret
(rule 8), seed and round. So members with equal rows differ, and a round that is repeated trains the same update.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...configs.schema import Schema
from ...configs.training import TrainingSettings
from ...errors import InputError
from ..secret import NodeSecret
from ..tasks import MAX_COUNT, METRICS, Metrics, Task
from .devices import exact, steady
from .epochs import Epochs
from .learner import DITTO, NOTHING, Part, Personal, Trained, Vector
from .own_train import OwnTraining, Told, evaluated
from .pretrained import Pretrained, start_model
from .rows import Rows, Split
from .tensors import (
    as_array,
    check_hidden,
    check_trainable,
    flatten,
    fresh_model,
    frozen_of,
    layout_of,
    load,
    outputs,
    parameters_of,
    private_of,
    tensor_digest,
    trained,
)

_SUMMARY_ROWS = 1 << 22
EVALUATE_S = 600.0
"""Time that a task's own ``evaluate`` may take where no recipe says otherwise."""


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
        device: that computes.
        personal: patterns of the names of tensors that never leave the member.

    Raises:
        InputError: ``config.task``: the model has no trainable parameter, a tensor that cannot travel or that no
            version can hold (``inventory.py``), or a random tensor outside its state dict. ``config.checkpoint``:
            ``pretrained`` does not fit the model. ``config.value``: a personal pattern fits no tensor, or all.
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
        device: torch.device | None = None,
        personal: Iterable[str] = (),
    ) -> None:
        self.task, self.schema, self.seed, self.secret = task.bound(schema, {}), schema, seed, secret
        self.draw, self.device = draw or str(seed), device or torch.device("cpu")
        self._raw = split
        self._ready: Split | None = None
        self._scaling: dict[str, Any] = {}
        self._pretrained = pretrained
        model = start_model(task, schema, self.draw, pretrained)
        self._whole = tuple(spec.name for spec in layout_of(model))
        self._private = private_of(model, personal)
        self.layout = layout_of(model, self._private)
        self._origin = {name: value.detach().clone() for name, value in frozen_of(model, self._private).items()}
        check_hidden(model, lambda: fresh_model(task, schema, f"{self.draw}, another"))
        self.model = model.to(self.device)
        self._parameters = parameters_of(self.model)
        if not any(parameter.numel() for parameter in self._parameters):
            raise InputError("config.task", "the task's model has no trainable parameter; expected one or more")
        self._size = sum(p.numel() for p in self._parameters)

    @property
    def rows(self) -> int:
        """Number of training rows, at least 1."""
        return len(self._raw.train)

    @property
    def judges(self) -> bool:
        """Whether there are validation rows to judge candidates by."""
        return bool(len(self._raw.validation))

    @property
    def scaled(self) -> Mapping[str, Any]:
        """The scaling with which the parts are prepared; empty before :meth:`prepare`."""
        return self._scaling

    @property
    def personal(self) -> tuple[str, ...]:
        """Names of the tensors that are trained and never leave the member."""
        return self._private

    @property
    def repeats(self) -> bool:
        """Whether the same training gives the same bits again: not on a GPU, and not by a task's own code."""
        return exact(self.device) and not self.task.trains

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

    def check(self, training: TrainingSettings) -> None:
        """Check that this model can be trained as a recipe says.

        Raises:
            InputError: ``config.value``: optimiser, scheduler or an option is unknown or does not suit the model, or
                the recipe does not say who trains.
        """
        check_trainable(self.task, self.model, training)

    def start(self) -> Vector:
        """Return the start vector, ``float32[n]``; it depends on task, schema, draw and checkpoint file only."""
        return flatten(start_model(self.task, self.schema, self.draw, self._pretrained).state_dict(), self.layout)

    def summary(self) -> NDArray[np.int64]:
        """Return the statistics of the training rows, ``int64[k]`` in ``[0, 2^38)``, to be summed.

        Raises:
            InputError: ``data.value``: a number outside, such as from more than 2^22 rows.
        """
        parts = (self.task.summary(chunk, self.schema) for chunk in self._raw.train.chunks(_SUMMARY_ROWS))
        return _counts(functools.reduce(np.add, parts), "summary")

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
        self.task = self.task.bound(self.schema, scaling)
        raw = self._raw
        self._ready = Split(self._prepared(raw.train), self._prepared(raw.validation), self._prepared(raw.test))

    def train(self, base: Vector, training: TrainingSettings, number: int, personal: Personal = NOTHING) -> Trained:
        """Return the vector after a round's training from ``base``, by the task's own ``train`` or by the usual loop.

        Args:
            base: ``float32[n]``.
            training: epochs, parts, optimiser and so on.
            number: of the round; with secret and seed it seeds every random draw.
            personal: this member's own tensors with which the round begins.

        Returns:
            The vector, ``float32[n]``, which may hold NaN or infinities when training diverged, and the member's own
            tensors after the round.

        Raises:
            InputError: ``config.value``: optimiser or scheduler. Refused: ``update.failed``: the task's own ``train``.
        """
        drawn = f"{self.seed}|{number}".encode()
        with self._steady(self.secret.keyed("dropout", drawn)):
            self._load(base, personal)
            self._run(training, drawn)
            vector = trained(self.model.state_dict(), self.layout, base)
            own = self._personal()
            if training.ditto:
                own |= self._ditto(base, training, drawn, personal)
        return Trained(vector, own)

    def _run(self, training: TrainingSettings, drawn: bytes, anchors: Sequence[Tensor] | None = None) -> None:
        """Train the model in place, with every random draw from the node's secret and ``drawn``."""
        rows = self._part("train")
        if training.loop == "own":
            seed = self.secret.keyed("own train", drawn)
            OwnTraining(self.task, self.model, rows, training, self.device, seed, Told()).run()
            return
        order = np.random.default_rng(int.from_bytes(self.secret.keyed("batches", drawn), "big"))
        pull = training.mu if anchors is None else training.ditto
        parts = (self.task, self.model, self._parameters, rows, training, order, self.device, Told())
        Epochs(*parts, pull, anchors).run()

    def _ditto(self, base: Vector, training: TrainingSettings, drawn: bytes, personal: Personal) -> dict[str, Any]:
        """Train this member's own whole model for a round, pulled towards the base, and return its tensors."""
        self._load(base, personal)
        anchors = [parameter.detach().clone() for parameter in self._parameters]
        self._load(base, personal, ditto=True)
        self._run(training, drawn + b"|ditto", anchors)
        state = self.model.state_dict()
        return {DITTO + name: _kept(state[name]) for name in self._whole}

    def _personal(self) -> dict[str, NDArray[Any]]:
        state = self.model.state_dict()
        return {name: _kept(state[name]) for name in self._private}

    def evaluate(self, vector: Vector, part: Part | Rows, personal: Personal = NOTHING) -> Metrics:
        """Return the task's metrics of ``vector`` on a part of this member's rows, or on other raw rows.

        All of ``METRICS`` are present. A metric is None if the rows leave it undefined, as when there are no rows. NaN
        and infinities come from the model.
        """
        rows = self._part(part) if isinstance(part, str) else self._prepared(part)
        with self._steady():
            self._load(vector, personal)
            return self._metrics(rows)

    def tested(self) -> NDArray[np.int64]:
        """Return how many test rows of each kind there are, ``int64[c]`` in ``[0, 2^38)``, to be summed.

        Raises:
            InputError: ``data.value``: a number outside.
        """
        return _counts(self.task.tested(self._raw.test.targets), "count of test rows")

    def bins(self, tested: Sequence[int]) -> int:
        """Return into how many bins a tally may count scores; 0 = too few test rows."""
        return self.task.bins(tested)

    def tally(self, vector: Vector, bins: int, personal: Personal = NOTHING) -> NDArray[np.int64]:
        """Return the counts of the test rows, ``int64[m]`` in ``[0, 2^38)``, to be summed over members.

        Args:
            vector: ``float32[n]``.
            bins: number of bins for scores, 1 or more.
            personal: this member's own tensors.

        Raises:
            InputError: ``data.value``: a number outside.
        """
        rows = self._part("test")
        with self._steady():
            self._load(vector, personal)
            if self.task.evaluates:
                return _counts(self.task.counted(self._metrics(rows), len(rows)), "tally")
            outputs = self._outputs(rows if len(rows) else self._part("train").take(np.arange(1)))[: len(rows)]
            return _counts(self.task.tally(outputs, rows.targets, bins), "tally")

    def scores(self, vector: Vector, part: Part, personal: Personal = NOTHING) -> NDArray[np.float64]:
        """Return the task's scores of ``vector`` on a part of this member's rows, as :meth:`Task.scores` gives them."""
        rows = self._part(part)
        with self._steady():
            self._load(vector, personal)
            return self.task.scores(self._outputs(rows))

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics of all members' test rows from the summed tallies over ``bins`` bins."""
        return self.task.overall([int(total) for total in totals], bins)

    def personalised(self, vector: Vector, personal: Personal = NOTHING) -> Metrics | None:
        """Return the metrics on this member's test rows with everything that is its own; None if nothing is.

        Its own are the tensors of ``personal`` patterns, its whole model of Ditto, and the part that the task fits.
        """
        rows, private = self._part("test"), self.private(vector, personal)
        with self._steady():
            self._load(vector, personal, ditto=True)
            if private is None and not self._private and not _has_ditto(personal):
                return None
            return self._metrics(rows, private)

    def private(self, vector: Vector, personal: Personal = NOTHING) -> Any:
        """Return the part that the task fits on this member's own training rows, JSON-able; None if there is none."""
        with self._steady():
            self._load(vector, personal, ditto=True)
            self.model.eval()
            return self.task.personalise(self.model, self._part("train"))

    def fit(self, training: TrainingSettings, scaling: Mapping[str, Any] = NOTHING) -> tuple[Vector, Personal]:
        """Return the vector and the own tensors after all rounds on this learner's rows alone.

        This prepares the learner anew with the statistics of its rows, so use a separate learner for a baseline. With
        one member's rows it is the ``alone`` baseline, with all members' rows the ``pooled`` one. Its losses are in the
        unit of ``scaling``, that of the run with which it is compared.
        """
        training = training.model_copy(update={"ditto": 0.0})
        self.prepare({**self.scaling(self.summary().tolist()), **self.task.unit(self.schema, scaling)})
        after = Trained(self.start(), NOTHING)
        for number in range(1, training.rounds + 1):
            after = self.train(after.vector, training, number, after.personal)
        return after.vector, after.personal

    def _part(self, name: Part) -> Rows:
        if self._ready is None:
            raise RuntimeError("call Learner.prepare before training and evaluation")
        rows: Rows = getattr(self._ready, name)
        return rows

    def _prepared(self, rows: Rows) -> Rows:
        return rows.ready(lambda raw: self.task.prepare(raw, self.schema, self._scaling))

    def _steady(self, seed: bytes = b"evaluate") -> contextlib.AbstractContextManager[None]:
        return steady(self.device, self._size, seed)

    def _load(self, vector: Vector, personal: Personal = NOTHING, ditto: bool = False) -> None:
        """Set the model to a vector and the member's own tensors; with ``ditto`` to its own whole model, if it has one.

        Raises:
            InputError: ``data.model``: an own tensor has another shape than the model's.
        """
        load(self.model, self._origin, self.layout, vector)
        names = {name: name for name in self._private}
        if ditto and _has_ditto(personal):
            names = {name: DITTO + name for name in self._whole}
        state = self.model.state_dict()
        with torch.no_grad():
            for name, kept in names.items():
                if kept in personal:
                    value = torch.from_numpy(np.array(personal[kept]))
                    if value.shape != state[name].shape:
                        raise InputError("data.model", f"this member's own tensor {name!r} has another shape")
                    state[name].copy_(value)

    def _outputs(self, rows: Rows) -> Tensor:
        return outputs(self.model, rows, self.device)

    def _metrics(self, rows: Rows, private: Any = None) -> Metrics:
        shown = rows if len(rows) else self._part("train").take(np.arange(1))
        if self.task.evaluates:
            metrics = evaluated(self.task, self.model, shown, self.device, EVALUATE_S)
        else:
            outputs = self._outputs(shown)
            if private is not None:
                outputs = self.task.apply(private, outputs)
            metrics = self.task.metrics(outputs, shown.targets)
        return {**dict.fromkeys(METRICS), **(metrics if len(rows) else dict.fromkeys(metrics))}


def _kept(value: Tensor) -> NDArray[Any]:
    """Return a copy of a tensor as a member keeps it; half precision becomes float32."""
    return (value.detach().float() if value.element_size() < 4 else value.detach()).cpu().numpy().copy()


def _has_ditto(personal: Personal) -> bool:
    return any(name.startswith(DITTO) for name in personal)


def _counts(counts: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    if counts.ndim != 1 or counts.dtype != np.int64:
        raise InputError("data.value", f"the task's {what} is {counts.dtype}{list(counts.shape)}; expected int64[k]")
    if counts.size and not 0 <= counts.min() <= counts.max() <= MAX_COUNT:
        raise InputError(
            "data.value",
            f"the task's {what} holds a number outside 0 to {MAX_COUNT}; expected counts, or fewer rows",
        )
    return counts
