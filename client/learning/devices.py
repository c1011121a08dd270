"""Where a member computes: its processor, or a GPU of its own machine. A site's own choice, and no part of a recipe."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from ...errors import InputError
from .tensors import torch_seed

KINDS = ("auto", "cpu", "cuda", "mps")
_ONE_THREAD = 1 << 20
"""Models with fewer numbers run on one thread: faster, and the bits do not depend on the machine's cores."""


def found() -> tuple[str, ...]:
    """Return the devices of this machine that torch can use, the one that ``auto`` chooses first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(kind for kind, available in there.items() if available)


def device_of(name: str) -> torch.device:
    """Return the device that a site names.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` and so on, or ``mps``.

    Raises:
        InputError: ``config.device``: torch does not find it on this machine.
    """
    there = found()
    kind, _, number = name.partition(":")
    if name == "auto":
        return torch.device(there[0])
    few = kind == "cuda" and number.isdigit() and int(number) >= torch.cuda.device_count()
    if kind not in there or few or (number and not (kind == "cuda" and number.isdigit())):
        raise InputError(
            "config.device", f"device = {name!r} is not on this machine; expected auto or one of {', '.join(there)}"
        )
    return torch.device(name)


def exact(device: torch.device) -> bool:
    """Return whether the same training gives the same bits again on this device."""
    return device.type == "cpu"


@contextlib.contextmanager
def steady(device: torch.device, size: int, seed: bytes = b"evaluate") -> Iterator[None]:
    """Seed all global generators for the block, and set them back after it; run small models on one thread.

    Args:
        device: that the block computes on.
        size: numbers of the model.
        seed: any bytes.
    """
    threads, number = torch.get_num_threads(), torch_seed(seed)
    kept = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif device.type == "mps":
            torch.mps.manual_seed(number)
        random.seed(number)
        np.random.seed(int.from_bytes(hashlib.sha256(seed).digest()[8:12], "big"))
        if size < _ONE_THREAD and threads != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
