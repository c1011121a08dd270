"""Rows in a node's state folder: a safetensors file for each part of a snapshot, in pieces if it is large."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .. import files
from .learning.rows import Rows
from .learning.spool import SPOOL_BYTES, Spool, SpooledRows

_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def keep_rows(place: Path, rows: Rows) -> None:
    """Write raw rows into a file of mode 0600.

    Raises:
        OSError: it cannot be written.
    """
    if not isinstance(rows, SpooledRows):
        tensors = {"inputs": rows.inputs.contiguous(), "targets": rows.targets.contiguous()}
        files.replace(place, save(tensors), 0o600)
        return
    targets = np.ascontiguousarray(rows.targets.numpy())
    one = rows[0][0].numpy()
    width = len(rows) * one.nbytes
    about = {
        "inputs": _about(one.dtype, (len(rows), *one.shape), 0, width),
        "targets": _about(targets.dtype, targets.shape, width, width + targets.nbytes),
    }
    head = json.dumps(about).encode()
    head += b" " * (-len(head) % 8)
    with files.writing(place) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(len(head).to_bytes(8, "little") + head)
        for chunk in rows.chunks(len(rows)):
            file.write(np.ascontiguousarray(chunk.inputs.numpy()).reshape(-1).view(np.uint8).data)
        file.write(targets.reshape(-1).view(np.uint8).data)


def kept_rows(place: Path) -> Rows | None:
    """Return the rows in a file, in memory unless there are too many; None if there are none."""
    try:
        if place.stat().st_size > SPOOL_BYTES:
            return _spooled(place)
        arrays = load(place.read_bytes())
        return Rows(arrays["inputs"], arrays["targets"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _about(dtype: np.dtype, shape: tuple[int, ...], start: int, end: int) -> dict[str, Any]:
    return {"dtype": _NAMES[dtype.str], "shape": list(shape), "data_offsets": [start, end]}


def _spooled(place: Path) -> SpooledRows:
    """Return the rows in a large file, which stay there until they are no longer used, even if it is deleted.

    Raises:
        KeyError, ValueError: not such a file.
    """
    with place.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 1 << 20:
            raise ValueError("not a file of rows")
        about = json.loads(file.read(size))
        inputs, targets = about["inputs"], about["targets"]
        start = 8 + size
        file.seek(start + targets["data_offsets"][0])
        found = np.fromfile(file, _KINDS[targets["dtype"]], math.prod(targets["shape"])).reshape(targets["shape"])
        rows, *shape = inputs["shape"]
        spool = Spool(file, start + inputs["data_offsets"][0], rows, shape, np.dtype(_KINDS[inputs["dtype"]]))
    return SpooledRows(spool, torch.from_numpy(found), np.arange(rows))
