"""A script as a task: a module with three functions, ``model``, ``train`` and ``evaluate``.

The functions name the arguments that they want, and get these only:

- ``model(schema, generator)`` returns the network;
- ``train(model, rows, settings, device, generator, progress)`` trains it in place for one round;
- ``evaluate(model, rows, device)`` returns a table of numbers with a ``loss``, such as ``{"loss": …, "accuracy": …}``;
- ``data(path)``, if there is one, returns all rows: a dataset, or a pair of tensors. Without it the rows are those of
  the table that ``[data]`` names.

Any function may also name keys of ``[task]``. A module with ``data`` says with ``classes`` what it predicts: a number,
or a list of names. ``scores``, if there is one, turns the model's outputs into probabilities.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...configs.schema import Label, Schema
from ...configs.settings import DataSettings
from ...configs.training import TrainingSettings
from ...errors import InputError, nearest
from ..tasks import Metrics, Task
from .rows import Rows

NEEDED = ("model", "train", "evaluate")
_GIVES: Mapping[str, tuple[str, ...]] = {
    "model": ("schema", "generator"),
    "train": ("model", "rows", "settings", "device", "generator", "progress"),
    "evaluate": ("model", "rows", "device"),
    "data": ("path",),
    "scores": ("outputs",),
}
"""Function → the arguments that it may name."""


class Script(Task):
    """The task of a script.

    Args:
        module: the script.
        options: keys of ``[task]``, each of which a function of the script names.

    Raises:
        InputError: ``config.task``: a function is missing or wants something that nobody gives, or no function names an
            option.
    """

    def __init__(self, module: ModuleType, options: Mapping[str, Any]) -> None:
        self._module, self._options = module, dict(options)
        self._functions = {name: getattr(module, name, None) for name in _GIVES}
        for name in NEEDED:
            if not callable(self._functions[name]):
                raise InputError(
                    "config.task", f"script {module.__name__!r} has no function {name}; expected {', '.join(NEEDED)}"
                )
        named = {
            parameter
            for name, function in self._functions.items()
            if callable(function)
            for parameter in self._check(name, function)
        }
        for option in options:
            if option not in named:
                what = f"no function of script {module.__name__!r} names the option {option!r} of [task]"
                raise InputError("config.task", f"{what}; {nearest(option, named - {*sum(_GIVES.values(), ())})}")

    def schema(self) -> Schema | None:
        """Return a schema of no columns, with the script's ``classes``; None if the rows come from a table."""
        if self._functions["data"] is None:
            return None
        classes = self._options.get("classes", getattr(self._module, "classes", None))
        if isinstance(classes, int) and not isinstance(classes, bool):
            classes = list(range(classes))
        if not isinstance(classes, (list, tuple)):
            raise InputError(
                "config.task",
                f"script {self._module.__name__!r} has data but no classes; expected a number or a list of names, such "
                "as classes = 10",
            )
        return Schema((), Label("label", tuple(classes)))

    def data(self, settings: DataSettings, schema: Schema) -> Any:
        """Return the rows of the script's ``data``, or those of the table that ``[data]`` names."""
        if self._functions["data"] is None:
            return super().data(settings, schema)
        return self._call("data", path=settings.path)

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return the script's network."""
        made = self._call("model", schema=schema, generator=generator)
        if not isinstance(made, nn.Module):
            raise InputError("config.task", f"the script's model is {type(made).__name__}; expected a torch.nn.Module")
        return made

    def train(
        self,
        model: nn.Module,
        rows: Rows,
        settings: TrainingSettings,
        *,
        device: torch.device,
        generator: torch.Generator,
        progress: Callable[[float], None],
    ) -> None:
        """Train the network in place, as the script does."""
        given = {"model": model, "rows": rows, "settings": settings}
        self._call("train", **given, device=device, generator=generator, progress=progress)

    def evaluate(self, model: nn.Module, rows: Rows, *, device: torch.device) -> Metrics:
        """Return what the script says about the network; a tensor or array of one element counts as a number."""
        found: Any = self._call("evaluate", model=model, rows=rows, device=device)
        model.to(device)  # where a trainer may have taken it from
        return {name: _number(value) for name, value in found.items()} if isinstance(found, Mapping) else found

    def scores(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the probabilities of the script's ``scores``, or those of a sigmoid or softmax."""
        if self._functions["scores"] is None:
            return super().scores(outputs)
        return np.asarray(self._call("scores", outputs=outputs), dtype=np.float64)

    def _check(self, name: str, function: Callable[..., Any]) -> list[str]:
        """Return the parameters that a function names, after checking that somebody gives them."""
        parameters = inspect.signature(function).parameters
        for parameter in parameters.values():
            known = parameter.name in _GIVES[name] or parameter.name in self._options
            needs = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
            if needs and not known:
                gives = ", ".join(_GIVES[name])
                raise InputError(
                    "config.task",
                    f"{name} of script {self._module.__name__!r} wants {parameter.name!r}; expected some of {gives}, "
                    f"or a key {parameter.name} under [task]",
                )
        return list(parameters)

    def _call(self, name: str, **given: Any) -> Any:
        function = self._functions[name]
        assert function is not None
        wanted = inspect.signature(function).parameters
        both = {**self._options, **given}
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.values()):
            return function(**both)
        return function(**{key: value for key, value in both.items() if key in wanted})


def _number(value: Any) -> Any:
    one = isinstance(value, np.generic) or (isinstance(value, Tensor | np.ndarray) and np.prod(value.shape) == 1)
    return value.item() if one else value


def is_script(module: ModuleType) -> bool:
    """Return whether a module has a function of a script."""
    return any(callable(getattr(module, name, None)) for name in NEEDED)
