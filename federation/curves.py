"""The curve of a simulation: the loss of every version on the rows by which the gate's votes judged it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..client.learning.cast import Cast
from ..client.learning.learner import Vector
from ..client.learning.rows import Split
from ..client.learning.splits import joined
from ..client.learning.torch import TorchLearner
from ..protocol.model_version import Version
from ..server.records.models import Models
from .baselines import attempt

NEW = frozenset({"promoted", "kept"})


class Curve:
    """Measures each version that rounds train from, as it is logged. Only a simulation has all validation rows at hand.

    Args:
        cast: the simulation's members.
        models: folder of the versions.

    Attributes:
        own: member → its own validation loss of a version, by its digest. Where members have tensors of their own, only
            they can judge.
        points: ``[number, loss]`` of each round that made a version, in order; the loss is None where it is undefined.
        failures: why a version could not be measured.
    """

    def __init__(self, cast: Cast, models: Path) -> None:
        self._cast, self._models = cast, Models(models)
        self.own: Mapping[str, Callable[[str], float | None]] = {}
        self.points: list[tuple[int, float | None]] = []
        self.failures: list[str] = []
        self._newest: tuple[str, float | None] = ("", None)

    @cached_property
    def everyone(self) -> TorchLearner:
        """A learner that judges by all members' validation and test rows, and holds one training row.

        Its scaling is that of the version that was measured last.
        """
        parts = [self._cast.splits[name] for name in self._cast.names]
        validation, test = (joined([getattr(one, part) for one in parts]) for part in ("validation", "test"))
        return self._cast.learner("pooled", Split(parts[0].train.take(np.arange(1)), validation, test))

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Take an entry of the log."""
        if entry["event"] in NEW:
            version = self._models.read(entry["details"]["sha256"])
            self.points.append((entry["number"], self.loss(version.vector, version)))

    @property
    def last(self) -> float | None:
        """The newest loss; None before the first version."""
        return self.points[-1][1] if self.points else None

    def loss(self, vector: Vector, version: Version) -> float | None:
        """Return the loss of a version on all members' validation rows; None if it is undefined or infinite."""
        if self._newest[0] != version.sha256:
            self._newest = version.sha256, self._measured(vector, version)
        return self._newest[1]

    def _measured(self, vector: Vector, version: Version) -> float | None:
        if self.everyone.personal:
            return self._mean(version.sha256)
        self.everyone.prepare(version.manifest["scaling"])
        judge = partial(self.everyone.evaluate, vector, "validation")
        measured = (attempt("judging a version on validation rows", judge, self.failures) or {}).get("loss")
        return measured if measured is not None and math.isfinite(measured) else None

    def _mean(self, sha256: str) -> float | None:
        """Return the mean of the members' own losses of a version, by their validation rows."""
        rows = {name: len(split.validation) for name, split in self._cast.splits.items()}
        losses = {name: loss(sha256) for name, loss in self.own.items() if rows[name]}
        known = {name: loss for name, loss in losses.items() if loss is not None}
        if not known or len(known) < len(losses):
            return None
        return math.fsum(loss * rows[name] for name, loss in known.items()) / sum(rows[name] for name in known)
