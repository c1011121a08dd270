"""A model version as bytes: a canonical safetensors file, named by its SHA-256.

Openers sign the file (rule 4), it proves a base (rule 3), and ``predict`` loads it. Its bytes must therefore be the
same everywhere: the header is canonical JSON, tensors are float32 in layout order, and the metadata key ``moonflower``
holds the manifest (task, schema, scaling). A candidate keeps its base's header and frozen tensors byte for byte and
changes the other numbers only. Another metadata key marks a copy of a version that is not released. The copy's digest
differs from the version's, so no proof and no approval covers it.

The file holds first the tensors that travel, then the optimiser's state, then the frozen tensors. No training changes
the frozen tensors, but a prediction needs them. They have their own names, sorted, and their own types, and the
metadata key ``moonflower.frozen`` lists them. They are in every version of every round, so a large frozen backbone is
stored and sent that often. NumPy has no bfloat16, so such a tensor is an array of 16-bit patterns, of the type
``BFLOAT16``. Empty tensors hold no number and are left out; so is a second name of the same tensor.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..canonical import canonical, digest, parse_canonical, parse_json
from ..errors import InputError

MAX_HEADER_BYTES = 4 << 20
_KEY = "moonflower"
_STATE = "__optimiser__."  # prefix of a state's name, which no tensor of a model may have
_MARK = {"moonflower.release": "unreleased"}
_FROZEN = "moonflower.frozen"
MAX_DIMENSIONS = 64  # as in NumPy and torch
BFLOAT16: np.dtype[Any] = np.dtype([("bfloat16", "<u2")])
"""The upper 16 bits of a float32 as a pattern: the field's name tells such an array from one of whole numbers."""
FROZEN_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16, "BOOL": np.dtype("|b1"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("|i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("|u1"),
}  # fmt: skip
"""Types of frozen tensors: safetensors' name → NumPy's, little-endian in the file."""
_TYPE_OF = {code: name for name, code in FROZEN_TYPES.items()}


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
        state: the optimiser's state by name, ``float32[n]`` each; read-only views of ``data``.
        frozen: the frozen tensors by name; read-only views of ``data``, perhaps not aligned.
        unreleased: the file is a copy that is marked as not released. False does not mean that it is released.
    """

    sha256: str
    data: bytes
    manifest: dict[str, Any]
    layout: Layout
    vector: NDArray[np.float32]
    state: Mapping[str, NDArray[np.float32]]
    frozen: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    unreleased: bool = False

    @cached_property
    def identity(self) -> str:
        """SHA-256 over what determines a member's update: layout, numbers and scaling; 64 hex digits.

        Two files with the same identity are the same base, whatever else differs. The optimiser's state is left out: it
        acts on what was opened, so the same numbers with another state are the same base.
        """
        about = {
            "layout": [[spec.name, list(spec.shape)] for spec in self.layout],
            "scaling": self.manifest.get("scaling"),
            "numbers": hashlib.sha256(self.vector.tobytes()).hexdigest(),
        }
        return digest(about)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the tensors that travel, by name, as read-only views."""
        out, start = {}, 0
        for spec in self.layout:
            out[spec.name] = self.vector[start : start + spec.size].reshape(spec.shape)
            start += spec.size
        return out


def build(
    layout: Layout,
    vector: Vector,
    manifest: dict[str, Any],
    state: Mapping[str, Vector] | None = None,
    frozen: Mapping[str, NDArray[Any]] | None = None,
) -> Version:
    """Return the version with these numbers and this manifest.

    Args:
        layout: tensors in order.
        vector: ``float32[n]`` with n the sum of their sizes; all finite.
        manifest: JSON-able.
        state: the optimiser's, ``float32[n]`` by name.
        frozen: tensors that do not travel, by name; not empty, each of a type in ``FROZEN_TYPES``.

    Raises:
        ValueError: the vector or a state does not fit the layout; a frozen tensor is empty, of another type, or has the
            name of another tensor.
    """
    return _build(layout, vector, state or {}, frozen or {}, {_KEY: canonical(manifest).decode()})


def marked(version: Version) -> Version:
    """Return a copy of a version, marked as not released. It is another file with another digest."""
    metadata = {_KEY: canonical(version.manifest).decode(), **_MARK}
    return _build(version.layout, version.vector, version.state, version.frozen, metadata)


def _build(
    layout: Layout,
    vector: Vector,
    state: Mapping[str, Vector],
    frozen: Mapping[str, NDArray[Any]],
    metadata: dict[str, str],
) -> Version:
    kept = {name: frozen[name] for name in sorted(frozen)}
    for name, value in kept.items():
        if value.dtype not in _TYPE_OF or not value.size:
            got = f"frozen tensor {name!r} is {value.dtype}{list(value.shape)}"
            raise ValueError(f"{got}; expected a tensor that is not empty, of a type in {', '.join(FROZEN_TYPES)}")
    if kept:
        metadata = {**metadata, _FROZEN: canonical(list(kept)).decode()}
    states = [TensorSpec(_STATE + name, vector.shape) for name in sorted(state)]
    specs = [(spec.name, "F32", spec.shape, 4 * spec.size) for spec in (*layout, *states)]
    specs += [(name, _TYPE_OF[value.dtype], value.shape, value.nbytes) for name, value in kept.items()]
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, kind, shape, size in specs:
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    if len(header) != len(specs) + 1 or any(name.startswith(_STATE) for name in (*kept, *(s.name for s in layout))):
        raise ValueError(f"two tensors share a name, or one is called __metadata__ or {_STATE}…")
    length = sum(spec.size for spec in layout)
    if {vector.shape, *(values.shape for values in state.values())} != {(length,)}:
        raise ValueError(f"vector has shape {vector.shape}; expected ({length},) as in the layout, also for states")
    text = canonical(header)
    text += b" " * (-len(text) % 8)
    numbers = [_numbers(vector), *(_numbers(state[name]) for name in sorted(state))]
    rest = [_numbers(value, FROZEN_TYPES[_TYPE_OF[value.dtype]]) for value in kept.values()]
    return parse(b"".join((len(text).to_bytes(8, "little"), text, *numbers, *rest)))


def candidate(base: Version, vector: Vector, state: Mapping[str, Vector] | None = None) -> Version:
    """Return ``base`` with other numbers, and with the same header and frozen tensors, byte for byte.

    Raises:
        ValueError: the vector's or a state's shape differs from the base's, or the states have other names.
    """
    state = state or {}
    if {vector.shape, *(values.shape for values in state.values())} != {base.vector.shape} or {*state} != {*base.state}:
        raise ValueError(f"vector {vector.shape} or state {sorted(state)} does not fit base {base.vector.shape}")
    end = len(base.data) - sum(value.nbytes for value in base.frozen.values())
    header = base.data[: end - 4 * len(base.vector) * (1 + len(base.state))]
    numbers = (_numbers(vector), *(_numbers(state[name]) for name in sorted(state)))
    return parse(b"".join((header, *numbers, memoryview(base.data)[end:])))


@lru_cache(maxsize=2)
def parse(data: bytes) -> Version:
    """Return the version whose file is ``data``, after checking all of it. The newest two are remembered.

    Raises:
        InputError: ``data.model``: not a canonical version file.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _bad(f"header of {length} bytes in a file of {len(data)}")
    try:
        header = parse_canonical(data[8 : 8 + length].rstrip(b" "))
        metadata = header.pop("__metadata__")
        manifest = parse_json(metadata.pop(_KEY).encode())
        listed = parse_canonical(metadata.pop(_FROZEN).encode()) if _FROZEN in metadata else None
        if metadata not in ({}, _MARK):
            raise _bad("its metadata holds more than a manifest and moonflower's marks")
        places = _places(header)
        moving = places[: len(places) - len(listed or ())]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        raise _bad("its header is not a canonical safetensors header with a moonflower manifest") from None
    end = places[-1].end if places else 0
    if not isinstance(manifest, dict) or len(data) != 8 + length + end or length % 8:
        raise _bad(f"{len(data) - 8 - length} bytes of numbers, its header promises {end}")
    names = [place.spec.name for place in places[len(moving) :]]
    if listed is not None and (listed != sorted(names) or names != listed or not names):
        raise _bad("its list of frozen tensors differs from the tensors behind all others, sorted by name")
    own = tuple(place.spec for place in moving if not place.spec.name.startswith(_STATE))
    size = sum(spec.size for spec in own)
    states = [place.spec for place in moving[len(own) :]]
    order = sorted(spec.name for spec in states if spec.shape == (size,) and spec.name.startswith(_STATE))
    if order != [spec.name for spec in states] or any(name.startswith(_STATE) for name in names):
        raise _bad("an optimiser's state does not have the length of its tensors, or does not come after them")
    if any(place.kind != "F32" for place in moving):
        raise _bad("a tensor that travels is not float32")
    numbers = np.frombuffer(data, dtype="<f4", offset=8 + length, count=size * (1 + len(states)))
    state = {
        spec.name.removeprefix(_STATE): numbers[size * at : size * (at + 1)] for at, spec in enumerate(states, start=1)
    }
    frozen = {place.spec.name: _value(data, 8 + length, place) for place in places[len(moving) :]}
    sha256 = hashlib.sha256(data).hexdigest()
    return Version(sha256, data, manifest, own, numbers[:size], state, frozen, bool(metadata))


@dataclass(frozen=True)
class _Place:
    """One tensor in a file: its type, name and shape, and where its bytes are, counted from the header's end."""

    kind: str
    spec: TensorSpec
    start: int
    end: int


def _places(header: Mapping[str, Any]) -> list[_Place]:
    """Return the tensors of a header in file order, checked: not empty, contiguous, each of a known type."""
    places: list[_Place] = []
    start = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        kind, spec = entry["dtype"], TensorSpec(name, tuple(int(side) for side in entry["shape"]))
        if min(spec.shape, default=1) < 1:
            raise _bad(f"tensor {name!r} is empty")
        if len(spec.shape) > MAX_DIMENSIONS:
            raise _bad(f"tensor {name!r} has {len(spec.shape)} dimensions; expected at most {MAX_DIMENSIONS}")
        end = start + FROZEN_TYPES[kind].itemsize * spec.size
        if canonical(entry) != canonical({"dtype": kind, "shape": spec.shape, "data_offsets": [start, end]}):
            raise _bad(f"tensor {name!r} does not have the offsets of its type, shape and place")
        places.append(_Place(kind, spec, start, end))
        start = end
    return places


def _value(data: bytes, begin: int, place: _Place) -> NDArray[Any]:
    """Return a frozen tensor as a read-only view of the file."""
    kind = FROZEN_TYPES[place.kind]
    flat = np.frombuffer(data, dtype=kind, offset=begin + place.start, count=place.spec.size)
    if kind == np.bool_ and flat.view(np.uint8).max() > 1:
        raise _bad(f"tensor {place.spec.name!r} holds a boolean that is neither 0 nor 1")
    if has_nan(flat):
        raise _bad(f"frozen tensor {place.spec.name!r} holds NaN")
    return flat.reshape(place.spec.shape)


def has_nan(values: NDArray[Any]) -> bool:
    """Return whether an array of a type in ``FROZEN_TYPES`` holds NaN; it makes no copy, and infinities are none."""
    if values.dtype == BFLOAT16:  # NaN is above infinity as a pattern, with either sign
        above = values.view("<i2").max(initial=0) > 0x7F80, values.view("<u2").max(initial=0) > 0xFF80
        return any(above)
    return values.dtype.kind == "f" and bool(np.isnan(values.max(initial=0)))


def _numbers(values: NDArray[Any], kind: np.dtype[Any] = FROZEN_TYPES["F32"]) -> memoryview:
    """Return the bytes of an array, copied only if they are not contiguous and of this type already."""
    return np.ascontiguousarray(values, dtype=kind).reshape(-1).view(np.uint8).data


def _bad(problem: str) -> InputError:
    return InputError("data.model", f"not a moonflower model version: {problem}")
