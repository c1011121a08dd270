"""A member's optimiser and scheduler: those of ``torch.optim``, by name. Both begin anew in each round.

Nothing may act on a member's own values for longer than a round, and no step may depend on how good the member's own
loss is (``docs/protocol.md``, recipe). So a scheduler runs over the steps of one round, and whatever looks at the loss
is refused.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...configs.training import TrainingSettings
from ...errors import InputError, nearest

_REFUSED = {
    "lbfgs": "it ends a step when the member's own loss says so",
    "sparseadam": "it needs sparse gradients",
    "reducelronplateau": "it follows the member's own loss",
    "lambdalr": "its option is a function",
    "multiplicativelr": "its option is a function",
    "sequentiallr": "its option is a list of schedulers",
    "chainedscheduler": "its option is a list of schedulers",
}
_OURS = ("lr", "params", "optimizer", "foreach", "fused", "capturable", "differentiable", "maximize", "last_epoch")
"""Arguments that no recipe sets."""
_LENGTHS = ("T_max", "T_0", "total_iters", "total_steps")
"""Arguments of schedulers whose usual value is the number of steps in a round."""


class Steps:
    """An optimiser over a model's parameters, with its scheduler, for one round.

    Args:
        parameters: that are trained.
        training: names both, with their options.
        steps: that the round will take.

    Raises:
        InputError: ``config.value``: torch has no such optimiser, scheduler or option, or refuses a value.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], training: TrainingSettings, steps: int) -> None:
        self.parameters = parameters
        kind = _lean(_named(training.optimizer, "optimizer", torch.optim, Optimizer))
        options = _options(kind, training.optimizer_options, "optimizer")
        if "foreach" in inspect.signature(kind).parameters:
            options["foreach"] = False  # one parameter after another, so that the bits do not depend on torch's choice
        self._optimizer: Optimizer = _made(kind, "optimizer", parameters, lr=training.lr, **options)
        self._scheduler: LRScheduler | None = None
        if training.scheduler:
            scheduler = _named(training.scheduler, "scheduler", torch.optim.lr_scheduler, LRScheduler)
            lengths = {name: steps for name in _LENGTHS if name in inspect.signature(scheduler).parameters}
            peak = {"max_lr": training.lr} if "max_lr" in inspect.signature(scheduler).parameters else {}
            chosen = _options(scheduler, training.scheduler_options, "scheduler")
            self._scheduler = _made(scheduler, "scheduler", self._optimizer, **{**lengths, **peak, **chosen})

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Take a step along the gradients."""
        self._optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()


def _named(name: str, key: str, module: Any, base: type) -> Any:
    """Return a class of torch by its name, whatever its case."""
    kinds = {
        word.lower(): kind
        for word, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base and not word.startswith("_")
    }
    found, where = kinds.get(name.lower()), "training." + key
    if name.lower() in _REFUSED and found is not None:
        raise InputError("config.value", f"{where} = {name!r} cannot be used: {_REFUSED[name.lower()]}")
    if found is None:
        known = sorted(word for word in kinds if word not in _REFUSED)
        raise InputError("config.value", f"{where} = {name!r}, which torch does not have; {nearest(name, known)}")
    return found


def _options(kind: Any, given: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the options of an optimiser or scheduler, with tuples for lists."""
    where = "training." + key + "_options"
    known = [name for name in inspect.signature(kind).parameters if name not in _OURS]
    for name in given:
        if name not in known:
            raise InputError(
                "config.value",
                f"{where}.{name}: {kind.__name__} has no such option; {nearest(name, known)}",
            )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _made(kind: Any, key: str, *args: Any, **options: Any) -> Any:
    where = "training." + key
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(*args, **options)
    except (TypeError, ValueError, RuntimeError, AttributeError, ZeroDivisionError, KeyError) as error:
        raise InputError("config.value", f"{where}: {kind.__name__} refuses its options: {error}") from None


@cache
def _lean(kind: type[Optimizer]) -> type[Optimizer]:
    """Return an optimiser class without the wrappers that import torch's compiler.

    They cost more than a second and 800 modules when an optimiser is first used. What they wrap is unchanged. It has to
    run without gradients.
    """
    plain = inspect.unwrap(kind.step)

    def step(self: Optimizer, closure: None = None) -> None:
        with torch.no_grad():
            plain(self)

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it for its profiler
    return type(kind.__name__, (kind,), {"step": step, "add_param_group": inspect.unwrap(Optimizer.add_param_group)})
