"""Server optimisers: pure functions from base, state and opened mean to a candidate, the same bits at every opener.

An optimiser works entry by entry, so that a large model can be taken in parts: in NumPy float64 by + − × ÷ √, one
operation after another, rounded to float32 once at the end (rule 4). Its state lasts from round to round and is part
of the version file. It acts on what was opened, and never on a member's own value.

The rules are those of McMahan et al. 2017 (FedAvg), Hsu et al. 2019 (FedAvgM) and Reddi et al. 2021, "Adaptive
Federated Optimization", algorithm 2 (FedAdagrad, FedAdam, FedYogi), without bias correction, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ..configs.training import TrainingSettings
from ..crypto.quantise import Floats, apply_mean
from .learning.learner import Vector

State = Mapping[str, Vector]
MOMENT, SPREAD = "first_moment", "second_moment"
USUAL_RATE: Mapping[str, float] = {"average": 1.0, "momentum": 1.0, "adam": 0.03, "yogi": 0.03, "adagrad": 0.03}
"""Server optimiser → its rate where the recipe says 0."""
BETA, BETA1, BETA2, TAU = 0.9, 0.9, 0.99, 1e-3


class Optimiser(Protocol):
    """A rule that makes candidates."""

    @property
    def state(self) -> tuple[str, ...]:
        """Names of its state vectors, in lower case; each is as long as the model's vector and starts at zero."""

    def step(self, base: Vector, state: State, mean: Floats, rate: float) -> tuple[Vector, State]:
        """Return a part of the candidate, and of the state that goes with it.

        Args:
            base: ``float32[k]``, a part of the base.
            state: ``float32[k]`` by name, of the same part.
            mean: ``float64[k]``, of the opened mean update.
            rate: of this round, above 0.
        """


class Averaging:
    """FedAvg: base plus rate times mean."""

    state: ClassVar[tuple[str, ...]] = ()

    def step(self, base: Vector, state: State, mean: Floats, rate: float) -> tuple[Vector, State]:
        """Return base plus rate times mean; no state."""
        return apply_mean(base, mean if rate == 1.0 else mean * rate), {}


@dataclass(frozen=True)
class Momentum:
    """FedAvgM: the mean is added to ``beta`` times what was added before.

    Attributes:
        beta: in [0, 1).
    """

    beta: float = BETA
    state: ClassVar[tuple[str, ...]] = (MOMENT,)

    def step(self, base: Vector, state: State, mean: Floats, rate: float) -> tuple[Vector, State]:
        """Return base plus rate times velocity, and the velocity."""
        velocity = state[MOMENT].astype(np.float64) * self.beta
        velocity = velocity + mean
        return apply_mean(base, velocity * rate), {MOMENT: _rounded(velocity)}


@dataclass(frozen=True)
class Adaptive:
    """FedAdagrad, FedAdam and FedYogi: each value has a step of its own, by how far it moved before.

    Attributes:
        spread: (spread, squares, 1 - beta2) → the new spread.
        beta1: of the first moment, in [0, 1).
        beta2: of the second moment, in [0, 1).
        tau: added to the root of the second moment, > 0; values that move less than this hardly move.
    """

    spread: Callable[[Floats, Floats, float], Floats]
    beta1: float = BETA1
    beta2: float = BETA2
    tau: float = TAU
    state: ClassVar[tuple[str, ...]] = (MOMENT, SPREAD)

    def step(self, base: Vector, state: State, mean: Floats, rate: float) -> tuple[Vector, State]:
        """Return base plus rate times first moment over (root of the second moment + tau), and both moments."""
        moment = state[MOMENT].astype(np.float64) * self.beta1
        moment = moment + mean * (1.0 - self.beta1)
        spread = self.spread(state[SPREAD].astype(np.float64), mean * mean, 1.0 - self.beta2)
        move = moment * rate
        move = move / (np.sqrt(spread) + self.tau)
        return apply_mean(base, move), {MOMENT: _rounded(moment), SPREAD: _rounded(spread)}


def _adagrad(spread: Floats, squares: Floats, share: float) -> Floats:
    return spread + squares


def _adam(spread: Floats, squares: Floats, share: float) -> Floats:
    return spread * (1.0 - share) + squares * share


def _yogi(spread: Floats, squares: Floats, share: float) -> Floats:
    return spread - squares * share * np.sign(spread - squares)


def _rounded(values: Floats) -> Vector:
    with np.errstate(over="ignore", under="ignore"):  # the gate refuses a candidate that is not finite
        return values.astype(np.float32)


def optimiser_of(training: TrainingSettings) -> Optimiser:
    """Return the server optimiser of a recipe; its options were checked with the settings."""
    options = dict(training.server_optimizer_options)
    if training.server_optimizer == "average":
        return Averaging()
    if training.server_optimizer == "momentum":
        return Momentum(**options)
    rules = {"adam": _adam, "yogi": _yogi, "adagrad": _adagrad}
    return Adaptive(rules[training.server_optimizer], **options)


def rate_of(training: TrainingSettings, round_: int) -> float:
    """Return the server's rate in a round, from 1: the first one times ``server_decay`` for each round after it.

    >>> rate_of(TrainingSettings(server_lr=0.5, server_decay=0.5), 3)
    0.125
    """
    rate = training.server_lr or USUAL_RATE[training.server_optimizer]
    if training.server_decay != 1.0:
        for _ in range(1, round_):  # one multiplication after another: a power differs between machines
            rate *= training.server_decay
    return rate
