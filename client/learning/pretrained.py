"""Version 0 from a file: every member has it, its digest is in the recipe, and its tensors replace drawn ones.

The file comes from outside. It is read without running anything that it says: safetensors, or a ``state_dict`` of torch
with ``weights_only``. Its bytes are read once, and what is used is what was hashed.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ...configs.recipe import CHECKPOINT_KINDS
from ...configs.schema import Schema
from ...errors import InputError, nearest
from ..tasks import Task
from .inventory import inventory, place_of
from .tensors import fresh_model

_CODE = "config.checkpoint"


@dataclass(frozen=True)
class Pretrained:
    """The tensors of a checkpoint file.

    Attributes:
        path: of the file, for messages.
        sha256: of the file, 64 hex digits.
        tensors: by name; dense, in any type.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]

    def into(self, model: nn.Module) -> None:
        """Copy every tensor of the file into a model. The model's other tensors keep their numbers.

        Floating types are converted to the model's. Tied names may all be in the file if they agree.

        Raises:
            InputError: ``config.checkpoint``: the model has no such tensor, or another shape or type; a number is not
                finite where it travels, is NaN, or is too large for the model's type; tied tensors disagree.
                ``config.task``: the model itself cannot be trained.
        """
        inventory(model)
        state = model.state_dict()
        for name, value in self.tensors.items():
            self._check(name, value, state)
        with torch.no_grad():
            for name, value in self.tensors.items():
                state[name].copy_(value)
        for name, value in self.tensors.items():
            if value.numel() and not torch.equal(state[name], value.to(state[name].dtype)):
                same = [one for one in self.tensors if one != name and place_of(state[one]) == place_of(state[name])]
                raise self._bad(f"its tensors {name!r} and {same[0]!r} differ, and the task's model has one for both")
        for name, value in inventory(model)[0].items():
            if not torch.isfinite(value).all():
                raise self._bad(f"its tensor {name!r} holds a number that is not finite")

    def _check(self, name: str, value: Tensor, state: Mapping[str, Tensor]) -> None:
        """Check that a tensor of the file fits the model's."""
        if name not in state:
            raise self._bad(f"it holds a tensor {name!r}, which the task's model does not have; {nearest(name, state)}")
        own = state[name]
        if value.shape != own.shape:
            raise self._bad(
                f"its tensor {name!r} has the shape {list(value.shape)}; the task's model has {list(own.shape)}"
            )
        if value.dtype != own.dtype and not (value.is_floating_point() and own.is_floating_point()):
            raise self._bad(f"its tensor {name!r} is {value.dtype}; the task's model has {own.dtype}")
        if not value.is_floating_point():
            return
        if torch.isnan(value).any():
            raise self._bad(f"its tensor {name!r} holds NaN")
        if (torch.isinf(value.to(own.dtype)) & ~torch.isinf(value)).any():
            raise self._bad(f"its tensor {name!r} holds a number that is too large for {own.dtype}")

    def _bad(self, problem: str) -> InputError:
        return InputError(_CODE, f"checkpoint file {self.path}: {problem}")


def load_pretrained(path: Path | None, sha256: str) -> Pretrained | None:
    """Return the checkpoint file with a digest; None where a recipe has none, whatever the path.

    Args:
        path: this machine's file, from ``[data] checkpoint``.
        sha256: that the recipe names, 64 hex digits, or "".

    Raises:
        InputError: ``config.checkpoint``: no path, a file that cannot be read, or another file.
    """
    if not sha256:
        return None
    if path is None:
        raise InputError(
            _CODE,
            f"the recipe starts from a checkpoint file with SHA-256 {sha256[:16]}…, and [data] of this config names "
            'none; expected the line checkpoint = "FILE"',
            hint="all members have the same file: ask whoever proposed the circle for it",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(_CODE, f"checkpoint file {path} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(
            _CODE, f"checkpoint file {path} has SHA-256 {found[:16]}…; the recipe expects {sha256[:16]}…, another file"
        )
    return Pretrained(path, found, _tensors(path, data))


def start_model(task: Task, schema: Schema, draw: str, pretrained: Pretrained | None) -> nn.Module:
    """Return the model of version 0: drawn, then with the tensors of the checkpoint file, if there is one.

    Raises:
        InputError: as :meth:`Pretrained.into`.
    """
    model = fresh_model(task, schema, draw)
    if pretrained is not None:
        pretrained.into(model)
    return model


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """Return the tensors in a file's content, by name.

    Raises:
        InputError: ``config.checkpoint``: no file of its kind, or more in it than dense tensors under names.
    """
    try:
        if path.suffix.lower() == CHECKPOINT_KINDS[0]:
            found: Any = safetensors.torch.load(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise InputError(_CODE, f"checkpoint file {path} is not what its name says: {reason}") from None
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found) or not found:
        raise InputError(_CODE, f"checkpoint file {path} holds a {type(found).__name__}; expected a state_dict")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise InputError(_CODE, f"checkpoint file {path}: {name!r} is not a plain tensor; expected a state_dict")
    return {name: value.detach() for name, value in found.items()}
