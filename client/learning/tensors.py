"""A task's model as tensors: how it is made, which tensors travel, and how a vector becomes a model again."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...canonical import canonical
from ...configs.schema import Schema
from ...configs.training import TrainingSettings
from ...errors import InputError
from ...protocol.model_version import BFLOAT16, Layout, TensorSpec, Version
from ..tasks import Task
from .inventory import inventory
from .learner import Vector
from .optim import Steps
from .rows import Rows

_CHUNK = 8192
"""Rows of one evaluation step, which bounds the memory of a large model's activations."""
_HALVES = (torch.float16, torch.bfloat16)


def check_fits(version: Version, model: nn.Module, personal: Iterable[str] = ()) -> None:
    """Check that a version is one of a task's model, so that runs can start from it.

    Args:
        version: the version to train further.
        model: as version 0 of the circle has it.
        personal: patterns of the names of tensors that never leave a member.

    Raises:
        InputError: ``data.model``: it is of another model; the message names the first tensor that differs.
    """
    private = private_of(model, personal)
    frozen = {name: tensor_digest(as_array(value)) for name, value in frozen_of(model, private).items()}
    own: dict[str, Any] = {spec.name: list(spec.shape) for spec in layout_of(model, private)}
    theirs: dict[str, Any] = {spec.name: list(spec.shape) for spec in version.layout}
    own |= frozen
    theirs |= {name: tensor_digest(value) for name, value in version.frozen.items()}
    odd = next((name for name in dict.fromkeys((*own, *theirs)) if own.get(name) != theirs.get(name)), None)
    if odd is not None or layout_of(model) != version.layout:
        what = f"tensor {odd!r} differs" if odd is not None else "its tensors are in another order"
        raise InputError("data.model", f"version {version.sha256[:16]} does not fit this task and schema: {what}")


def fresh_model(task: Task, schema: Schema, draw: str) -> nn.Module:
    """Return the task's model as ``draw`` makes it; the global torch generator is left unchanged."""
    number = torch_seed(f"start|{draw}".encode())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)  # torch.manual_seed keeps a stack trace per call for absent devices
        return task.model(schema, torch.Generator().manual_seed(number))


def layout_of(model: nn.Module, private: Collection[str] = ()) -> Layout:
    """Return what travels: trainable parameters and floating buffers, in state-dict order, without ``private`` ones.

    Tied tensors are in it once, under the name of a trainable parameter or else under their first name. Empty tensors
    are not in it.

    Raises:
        InputError: ``config.task``: the model cannot be trained, sent and come back; the message names the tensor.
    """
    moving, _ = inventory(model)
    return tuple(TensorSpec(name, tuple(value.shape)) for name, value in moving.items() if name not in private)


def private_of(model: nn.Module, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the tensors that would travel, but fit a pattern, and so stay with the member.

    Raises:
        InputError: ``config.value``: a pattern fits no such tensor, or the patterns fit all of them.
    """
    names, private = [spec.name for spec in layout_of(model)], set[str]()
    for pattern in patterns:
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            shown = ", ".join(names[:8])
            raise InputError("config.value", f"training.personal: no tensor fits {pattern!r}; the model has {shown}")
        private.update(fitting)
    if private and len(private) == len(names):
        raise InputError(
            "config.value", "training.personal fits all tensors of the model; expected one or more to travel"
        )
    return tuple(name for name in names if name in private)


def frozen_of(model: nn.Module, private: Collection[str] = ()) -> dict[str, Tensor]:
    """Return what does not travel, by name: frozen parameters, integer buffers and ``private`` ones; no empty ones.

    Tied tensors are in it once, and not at all if they travel.

    Raises:
        InputError: ``config.task``: as :func:`layout_of`, such as for a frozen tensor that no version can hold.
    """
    moving, frozen = inventory(model)
    frozen = {**frozen, **{name: value for name, value in moving.items() if name in private}}
    return frozen


def as_array(value: Tensor) -> NDArray[Any]:
    """Return a tensor as an array over the same memory; bfloat16 becomes patterns (``BFLOAT16``)."""
    plain = value.detach()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(BFLOAT16)
    array: NDArray[Any] = plain.numpy()
    return array


def as_tensor(value: NDArray[Any]) -> Tensor:
    """Return a copy of an array, which :func:`as_array` made, as a tensor."""
    copy = np.array(value)
    if copy.dtype == BFLOAT16:
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)


def tensor_digest(value: NDArray[Any]) -> str:
    """Return the SHA-256 over type, shape and little-endian bytes of an array, 64 hex digits."""
    plain = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    kind = "bfloat16" if value.dtype == BFLOAT16 else value.dtype.name
    about = canonical([kind, list(value.shape)])
    return hashlib.sha256(about + b"\n" + plain.tobytes()).hexdigest()


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]


def check_trainable(task: Task, model: nn.Module, training: TrainingSettings) -> None:
    """Check that a model can be trained as a recipe says.

    Raises:
        InputError: ``config.value``: optimiser, scheduler or option is unknown or does not suit the model, a personal
            pattern fits no tensor or all, or the recipe does not say who trains.
    """
    private_of(model, training.personal)
    if task.trains != (training.loop == "own"):
        brings = "brings its own train" if task.trains else "has no train of its own"
        wanted = "own" if task.trains else "moonflower"
        raise InputError(
            "config.value", f'training.loop = "{training.loop}", and the task {brings}; expected loop = "{wanted}"'
        )
    if training.loop == "moonflower":
        Steps(parameters_of(model), training, training.steps)


def check_hidden(model: nn.Module, other: Callable[[], nn.Module]) -> None:
    """Check that no buffer outside the state dict is random: no version carries it, so predictions would differ.

    Args:
        model: as one seed makes it.
        other: makes the model from another seed; called only if there is such a buffer.

    Raises:
        InputError: ``config.task``: the message names the buffer.
    """
    kept = model.state_dict()
    hidden = {name: value for name, value in model.named_buffers(remove_duplicate=False) if name not in kept}
    again = dict(other().named_buffers(remove_duplicate=False)) if hidden else {}
    for name, value in hidden.items():
        if name not in again or not _same(value, again[name]):
            raise InputError(
                "config.task",
                f"buffer {name!r} of the task's model depends on the seed and is not in its state dict; "
                "expected persistent=True",
            )


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values; NaN equals NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def flatten(state: Mapping[str, Tensor], layout: Layout) -> Vector:
    """Return the tensors of ``layout`` as one ``float32[n]``; float64 is rounded."""
    return torch.cat([state[spec.name].detach().reshape(-1).float().cpu() for spec in layout]).numpy()


def trained(state: Mapping[str, Tensor], layout: Layout, base: Vector) -> Vector:
    """Return the tensors of ``layout`` after training from ``base``, as one ``float32[n]``.

    The vector is the master copy of tensors in half precision: they hold a rounded ``base``, and what training changed
    in them is added to it. So rounding alone is no change, and it does not lose what ``base`` holds.
    """
    after, start = flatten(state, layout), 0
    for spec in layout:
        kind, piece = state[spec.name].dtype, slice(start, start + spec.size)
        if kind in _HALVES:
            rounded = torch.from_numpy(np.array(base[piece], dtype=np.float32)).to(kind).float().numpy()
            after[piece] = base[piece] + (after[piece] - rounded)
        start += spec.size
    return after


def load(model: nn.Module, origin: Mapping[str, Tensor], layout: Layout, vector: Vector) -> None:
    """Set the model to ``vector``, and what does not travel to ``origin``.

    Raises:
        ValueError: the vector's length is not the layout's.
    """
    size = sum(spec.size for spec in layout)
    if vector.shape != (size,):
        raise ValueError(f"vector has shape {vector.shape}, the model takes {size} numbers")
    state, start = model.state_dict(), 0
    with torch.no_grad():
        for name, kept in origin.items():
            state[name].copy_(kept)
        for spec in layout:  # one tensor at a time: a second whole vector would take much memory
            piece = np.array(vector[start : start + spec.size], dtype=np.float32)
            state[spec.name].copy_(torch.from_numpy(piece.reshape(spec.shape)))
            start += spec.size


def outputs(model: nn.Module, rows: Rows, device: torch.device | None = None) -> Tensor:
    """Return the model's outputs on prepared rows, in evaluation mode and without gradients, on the processor."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(chunk.inputs.to(device)).cpu() for chunk in rows.chunks(_CHUNK)])


def torch_seed(seed: bytes) -> int:
    """Return a seed for torch, of 63 bits, from any bytes."""
    return int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") >> 1
