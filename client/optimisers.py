"""How a candidate follows from base, state and opened mean: a pure function, the same bits at every opener.

Plain averaging is the first. An optimiser works entry by entry, so that a large model is taken in parts: in NumPy
float64, one operation after another, rounded to float32 once at the end (rule 4). What it remembers from round to round
is its state, which is part of the version file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..crypto.quantise import Floats, apply_mean
from .learning.learner import Vector

State = Mapping[str, Vector]


class Optimiser(Protocol):
    """A rule for candidates."""

    @property
    def state(self) -> tuple[str, ...]:
        """Names of what it remembers, each as long as the model's vector, zero at the start; in lower case."""

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
