"""The interface of everything that learns: a :class:`Learner`. ``torch.py`` has the first one; others can be added.

Rules: a vector in, a vector out, the same bits for the same inputs. No call depends on an earlier call, except on
:meth:`Learner.prepare`, so that a restarted node gives the same update.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ...configs.schema import Schema
from ...configs.training import TrainingSettings
from ...protocol.model_version import Layout
from ..tasks import Metrics
from .rows import Rows

Part = Literal["train", "validation", "test"]
Vector = NDArray[np.float32]
Personal = Mapping[str, NDArray[Any]]
"""A member's own tensors by name, which never leave it; empty before its first round."""
NOTHING: Personal = MappingProxyType({})
DITTO = "ditto/"
"""Prefix of the names of a member's own whole model; no tensor of a model has a slash in its name."""


@dataclass(frozen=True)
class Trained:
    """What a round's training gives.

    Attributes:
        vector: ``float32[n]``.
        personal: the member's own tensors after it.
    """

    vector: Vector
    personal: Personal


class Learner(Protocol):
    """One member's rows, model and training; for one thread at a time."""

    @property
    def rows(self) -> int:
        """Number of training rows, at least 1."""

    @property
    def judges(self) -> bool:
        """Whether there are validation rows to judge candidates by."""

    @property
    def schema(self) -> Schema:
        """The columns that all members share."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the tensors that travel, in the order in which a vector holds them."""

    @property
    def buffers(self) -> Collection[str]:
        """Names of the tensors that travel but have no gradient."""

    @property
    def floors(self) -> Mapping[str, float]:
        """Lower bounds that values keep, by the name of a tensor that travels; the same at every member."""

    @property
    def frozen(self) -> Mapping[str, NDArray[Any]]:
        """The start value of every tensor that a prediction needs and that does not travel, by name."""

    @property
    def frozen_digests(self) -> Mapping[str, str]:
        """Name of each frozen tensor → SHA-256 over its type, shape and bytes, 64 hex digits."""

    def start(self) -> Vector:
        """Return the start vector, ``float32[n]``; it depends on task, schema and draw only."""

    def summary(self) -> NDArray[np.int64]:
        """Return the statistics of the training rows, ``int64[k]`` in ``[0, 2^38)``, to be summed over members."""

    def scaling(self, totals: Sequence[int]) -> dict[str, Any]:
        """Return means and spreads from the summed statistics, JSON-able; the same bits at every member."""

    def possible(self, totals: Sequence[int], rows: int) -> bool:
        """Return whether summed statistics are possible for this number of rows; the same at every member."""

    def prepare(self, scaling: Mapping[str, Any]) -> None:
        """Fix the scaling; call this before training and evaluation."""

    def check(self, training: TrainingSettings) -> None:
        """Check that the model can be trained as a recipe says.

        Raises:
            InputError: ``config.value``.
        """

    @property
    def personal(self) -> tuple[str, ...]:
        """Names of the tensors that are trained and never leave the member."""

    @property
    def repeats(self) -> bool:
        """Whether the same training gives the same bits again."""

    def train(self, base: Vector, training: TrainingSettings, number: int, personal: Personal = NOTHING) -> Trained:
        """Return the vector after a round's training from ``base``; the round's ``number`` seeds every random draw."""

    def evaluate(self, vector: Vector, part: Part | Rows, personal: Personal = NOTHING) -> Metrics:
        """Return a vector's metrics on a part of this member's rows, or on other raw rows; None where undefined."""

    def personalised(self, vector: Vector, personal: Personal = NOTHING) -> Metrics | None:
        """Return the metrics on this member's test rows with all that is its own; None if nothing is."""

    def private(self, vector: Vector, personal: Personal = NOTHING) -> Any:
        """Return the part that the task fits on this member's own training rows, JSON-able; None if there is none."""

    def fit(self, training: TrainingSettings, scaling: Mapping[str, Any] = NOTHING) -> tuple[Vector, Personal]:
        """Return the vector and the own tensors after all rounds on these rows alone; this prepares the learner.

        Args:
            training: as in a run.
            scaling: of the run that it is compared with, whose unit of losses it takes.
        """

    def tested(self) -> NDArray[np.int64]:
        """Return how many test rows of each kind there are, ``int64[c]`` in ``[0, 2^38)``, to be summed."""

    def bins(self, tested: Sequence[int]) -> int:
        """Return into how many bins a tally may count scores; 0 = too few test rows.

        Args:
            tested: the sums of :meth:`tested` over all members.
        """

    def tally(self, vector: Vector, bins: int, personal: Personal = NOTHING) -> NDArray[np.int64]:
        """Return the counts of the test rows, ``int64[m]`` in ``[0, 2^38)``, to be summed over members."""

    def overall(self, totals: Sequence[int], bins: int) -> Metrics:
        """Return the metrics of all members' test rows from the summed tallies."""
