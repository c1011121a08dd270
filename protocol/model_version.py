"""A model version as bytes: a canonical safetensors file, named by its SHA-256.

The file is what openers sign (rule 4), what a base is proved by (rule 3) and what ``predict`` loads, so its
bytes must be the same everywhere: the header is canonical JSON, tensors are float32 in layout order, and the
metadata key ``moonflower`` holds the manifest (task, schema, scaling). A candidate keeps its base's header
byte for byte and changes the numbers only. The one other key that there may be marks a copy of a version that nobody
released; it has another digest than the version, so no proof and no approval is about it.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..canonical import canonical, parse_canonical
from ..errors import InputError

MAX_HEADER_BYTES = 4 << 20
_KEY = "moonflower"
_STATE = "__optimiser__."  # before the name of a state; no tensor of a model may be called so
_MARK = {"moonflower.release": "unreleased"}


@dataclass(frozen=True)
class TensorSpec:
    """Name and shape of one tensor; every tensor travels as float32."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)


Layout = tuple[TensorSpec, ...]
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Version:
    """A parsed model version.

    Attributes:
        sha256: 64 hex digits, digest of the whole file.
        data: the file.
        manifest: what ``predict`` needs: format, federation, task, schema, scaling, package.
        layout: the tensors, in file order.
        vector: ``float32[n]``, all tensors flattened and joined; read-only view of ``data``.
        state: what the optimiser remembers, by name, ``float32[n]`` each; read-only views of ``data``.
        unreleased: it is a copy that was marked as not released; False says nothing.
    """

    sha256: str
    data: bytes
    manifest: dict[str, Any]
    layout: Layout
    vector: NDArray[np.float32]
    state: Mapping[str, NDArray[np.float32]]
    unreleased: bool = False

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return each tensor by name, as read-only views."""
        out, start = {}, 0
        for spec in self.layout:
            out[spec.name] = self.vector[start : start + spec.size].reshape(spec.shape)
            start += spec.size
        return out


def build(
    layout: Layout, vector: Vector, manifest: dict[str, Any], state: Mapping[str, Vector] | None = None
) -> Version:
    """Return the version with these numbers and this manifest.

    Args:
        layout: tensors in order.
        vector: ``float32[n]`` with n the sum of their sizes; all finite.
        manifest: JSON-able.
        state: the optimiser's, ``float32[n]`` by name.

    Raises:
        ValueError: the vector or a state does not fit the layout.
    """
    return _build(layout, vector, state or {}, {_KEY: canonical(manifest).decode()})


def marked(version: Version) -> Version:
    """Return a copy of a version that says of itself that it is not released; another file, with another digest."""
    metadata = {_KEY: canonical(version.manifest).decode(), **_MARK}
    return _build(version.layout, version.vector, version.state, metadata)


def _build(layout: Layout, vector: Vector, state: Mapping[str, Vector], metadata: dict[str, str]) -> Version:
    header: dict[str, Any] = {"__metadata__": metadata}
    specs = (*layout, *(TensorSpec(_STATE + name, vector.shape) for name in sorted(state)))
    start = 0
    for spec in specs:
        end = start + 4 * spec.size
        header[spec.name] = {"dtype": "F32", "shape": list(spec.shape), "data_offsets": [start, end]}
        start = end
    if len(header) != len(specs) + 1 or any(spec.name.startswith(_STATE) for spec in layout):
        raise ValueError(f"two tensors share a name, or one is called __metadata__ or {_STATE}…")
    size = sum(spec.size for spec in layout)
    if {vector.shape, *(one.shape for one in state.values())} != {(size,)}:
        raise ValueError(f"vector has shape {vector.shape}, the layout holds {size} numbers; so must every state")
    text = canonical(header)
    text += b" " * (-len(text) % 8)
    numbers = (_numbers(vector), *(_numbers(state[name]) for name in sorted(state)))
    return parse(b"".join((len(text).to_bytes(8, "little"), text, *numbers)))


def candidate(base: Version, vector: Vector, state: Mapping[str, Vector] | None = None) -> Version:
    """Return ``base`` with other numbers: same header, byte for byte.

    Raises:
        ValueError: the vector has another length than the base's, or the state is not of the same names.
    """
    state = state or {}
    if {vector.shape, *(one.shape for one in state.values())} != {base.vector.shape} or {*state} != {*base.state}:
        raise ValueError(f"vector {vector.shape} or state {sorted(state)} does not fit base {base.vector.shape}")
    header = base.data[: len(base.data) - 4 * len(base.vector) * (1 + len(base.state))]
    return parse(b"".join((header, _numbers(vector), *(_numbers(state[name]) for name in sorted(state)))))


def parse(data: bytes) -> Version:
    """Return the version whose file is ``data``; everything is checked before anything is used.

    Raises:
        InputError: ``data.model``: not a canonical version file.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _bad(f"header of {length} bytes in a file of {len(data)}")
    text = data[8 : 8 + length]
    try:
        header = parse_canonical(text.rstrip(b" "))
        metadata = header.pop("__metadata__")
        manifest = json.loads(metadata.pop(_KEY))
        if metadata not in ({}, _MARK):
            raise _bad("its metadata holds more than a manifest")
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        layout, start = [], 0
        for name, entry in entries:
            spec = TensorSpec(name, tuple(int(side) for side in entry["shape"]))
            end = start + 4 * spec.size
            if entry != {"dtype": "F32", "shape": list(spec.shape), "data_offsets": [start, end]} or end <= start:
                raise _bad(f"tensor {name!r} is not float32 in place")
            layout.append(spec)
            start = end
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        raise _bad("its header is not a canonical safetensors header with a moonflower manifest") from None
    if not isinstance(manifest, dict) or len(data) != 8 + length + start or length % 8:
        raise _bad(f"{len(data) - 8 - length} bytes of numbers, the header announces {start}")
    own = tuple(spec for spec in layout if not spec.name.startswith(_STATE))
    size = sum(spec.size for spec in own)
    states = layout[len(own) :]
    if (*own, *states) != tuple(layout) or any(spec.shape != (size,) for spec in states):
        raise _bad("an optimiser's state is not as long as its tensors, or not behind them")
    numbers = np.frombuffer(data, dtype="<f4", offset=8 + length)
    state = {
        spec.name.removeprefix(_STATE): numbers[size * at : size * (at + 1)] for at, spec in enumerate(states, start=1)
    }
    sha256 = hashlib.sha256(data).hexdigest()
    return Version(sha256, data, manifest, own, numbers[:size], state, bool(metadata))


def _numbers(vector: NDArray[np.float32]) -> memoryview:
    """Return the bytes of a vector, copied only where they are not in order already."""
    return np.ascontiguousarray(vector, dtype="<f4").data.cast("B")


def _bad(found: str) -> InputError:
    return InputError("data.model", f"not a moonflower model version: {found}")
