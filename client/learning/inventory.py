"""What a model's state dict holds: which tensors travel, which stay, and what no version could bring back.

A version has to give the same model elsewhere. So whatever it could not carry is refused here, by name, before
anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...errors import InputError
from ...protocol.model_version import FROZEN_TYPES

TRAINED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of tensors that travel; all of them travel as float32."""
_FROZEN = tuple(torch.bfloat16 if kind == "BF16" else getattr(torch, code.name) for kind, code in FROZEN_TYPES.items())
Place = tuple[int, torch.Size, tuple[int, ...], torch.dtype]
"""Where a tensor's numbers are: address, shape, strides and type. Tied tensors have the same place."""


def inventory(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors that travel and those that do not, by name, in state-dict order, without empty ones.

    Trainable parameters and floating buffers travel. Tied tensors, which are several names of the same memory, are
    there once: under the name of a trainable parameter, or else under their first name.

    Raises:
        InputError: ``config.task``: a tensor is not initialised, complex, quantised, sparse, of an unknown type or
            outside the state dict, shares a part of its memory with another one, or is frozen and holds NaN.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in (*parameters.items(), *model.named_buffers(remove_duplicate=False)):
        if is_lazy(value):
            raise _bad(name, "is not initialised (lazy)", "a layer whose shape is given")
    state = _state_of(model)
    tied: dict[Place, list[str]] = {}
    for name, value in state.items():
        tied.setdefault(place_of(value), []).append(name)
    _check_apart({names[0]: state[names[0]] for names in tied.values()})
    _check_kept(model, parameters, tied)
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    moving: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    owners = {min(names, key=lambda name: name not in trainable): names for names in tied.values()}
    for own in (name for name in state if name in owners):
        floating = state[own].is_floating_point() or own in trainable
        travels = floating and any(name in trainable or name not in parameters for name in owners[own])
        (moving if travels else frozen)[own] = state[own]
    for name, value in moving.items():
        if value.dtype not in TRAINED:
            raise _bad(name, f"is {_kind(value)} and to be trained", f"one of {_kinds(TRAINED)}")
    for name, value in frozen.items():
        if value.dtype not in _FROZEN:
            raise _bad(name, f"is {_kind(value)}", f"one of {_kinds(_FROZEN)}")
        if value.is_floating_point() and bool(torch.isnan(value).any()):
            raise _bad(name, "holds NaN and is not trained", "numbers")
    return moving, frozen


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict without empty tensors, after a check that it holds plain tensors only."""
    kept: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise _bad(name, f"is of type {type(value).__name__}", "tensors only in the state dict")
        if value.layout is not torch.strided:
            raise _bad(name, "is sparse", "a dense tensor")
        if value.is_meta:
            raise _bad(name, "has no numbers (it is on the device meta)", "a tensor in memory")
        if not value.numel():
            continue
        if any(step == 0 and side > 1 for side, step in zip(value.shape, value.stride(), strict=True)):
            raise _bad(name, "repeats its memory (expand)", "a number in memory for each element (clone)")
        kept[name] = value
    return kept


def place_of(value: Tensor) -> Place:
    """Return where a tensor's numbers are; for tensors that are not empty."""
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _check_apart(distinct: Mapping[str, Tensor]) -> None:
    """Check that no two tensors share a part of their memory: to set one would change the other."""
    shared: dict[int, list[str]] = {}
    for name, value in distinct.items():
        shared.setdefault(value.untyped_storage().data_ptr(), []).append(name)
    for names in shared.values():
        if len(names) == 1:
            continue
        taken = torch.zeros(distinct[names[0]].untyped_storage().nbytes(), dtype=torch.bool)
        for name in names:
            value = distinct[name]
            width = value.element_size()
            strides = (*(step * width for step in value.stride()), 1)
            own = taken.as_strided((*value.shape, width), strides, value.storage_offset() * width)
            if own.any():
                raise _bad(name, "shares a part of its memory with another one", "the same whole tensor, or its own")
            own.fill_(True)


def _check_kept(model: nn.Module, parameters: Mapping[str, Tensor], tied: Mapping[Place, list[str]]) -> None:
    """Check that the state dict holds, by their memory, all parameters, its own buffers, and whatever is trainable."""
    named = {name for names in tied.values() for name in names}
    buffers = ((name, value) for name, value in model.named_buffers(remove_duplicate=False) if name in named)
    trainable = ((name, value) for name, value in _attributes(model) if value.requires_grad and value.is_leaf)
    for name, value in (*parameters.items(), *buffers, *trainable):
        if value.numel() and place_of(value) not in tied:
            raise _bad(name, "is not in the state dict itself", "a registered parameter, and no copy in the state dict")


def _attributes(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in plain attributes of a model's modules, also in lists and dicts, by name."""
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            for one in inner:
                if isinstance(one, Tensor) and not is_lazy(one):
                    yield f"{prefix}.{name}" if prefix else name, one


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _kinds(types: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(kind).removeprefix("torch.") for kind in types)


def _bad(name: str, what: str, expected: str) -> InputError:
    return InputError("config.task", f"tensor {name!r} of the task's model {what}; expected {expected}")
