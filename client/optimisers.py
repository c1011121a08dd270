"""Optimisers: pure functions from base, state and opened mean to a candidate, with the same bits at every opener.

Plain averaging is the first. An optimiser works entry by entry, so that a large model can be taken in parts: in NumPy
float64, one operation after another, rounded to float32 once at the end (rule 4). Its state lasts from round to round
and is part of the version file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..crypto.quantise import Floats, apply_mean
from .learning.learner import Vector

State = Mapping[str, Vector]


class Optimiser(Protocol):
    """A rule that makes candidates."""

    @property
    def state(self) -> tuple[str, ...]:
        """Names of its state vectors, in lower case; each is as long as the model's vector and starts at zero."""

    def step(self, base: Vector, state: State, mean: Floats) -> tuple[Vector, State]:
        """Return a part of the candidate, and of the state that goes with it.

        Args:
            base: ``float32[k]``, a part of the base.
            state: ``float32[k]`` by name, of the same part.
            mean: ``float64[k]``, of the opened mean update.
        """


class Averaging:
    """Federated averaging: base plus mean."""

    state: tuple[str, ...] = ()

    def step(self, base: Vector, state: State, mean: Floats) -> tuple[Vector, State]:
        """Return base plus mean, elementwise in float64, rounded once; no state."""
        return apply_mean(base, mean), {}
