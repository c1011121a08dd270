"""Model versions: bytes that are the same everywhere, read by safetensors' own reader, hostile files refused."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from moonflower.canonical import canonical
from moonflower.errors import InputError
from moonflower.protocol.model_version import TensorSpec, build, candidate, marked, parse

LAYOUT = (TensorSpec("b.weight", (2, 3)), TensorSpec("a.bias", ()))
VECTOR = np.arange(7, dtype=np.float32)
MANIFEST = {"task": {"ref": "a:b"}, "scaling": {"age": [0.1, 2.5]}}


def test_the_file_is_safetensors_and_named_by_its_digest() -> None:
    version = build(LAYOUT, VECTOR, MANIFEST)
    assert version.sha256 == hashlib.sha256(version.data).hexdigest()
    read = safetensors.numpy.load(version.data)
    assert (read["b.weight"] == VECTOR[:6].reshape(2, 3)).all()
    assert read["a.bias"] == 6
    tensors = version.tensors()
    assert all((tensors[name] == read[name]).all() for name in read)


def test_the_bytes_of_a_known_version_do_not_change() -> None:
    """Members of one federation may run different releases of numpy and safetensors."""
    assert build(LAYOUT, VECTOR, MANIFEST).sha256 == "27202291718f4f1c368e6df975d226291426875b3c0fed7273c33c3bc10bb665"


def test_a_round_trip_keeps_everything() -> None:
    version = build(LAYOUT, VECTOR, MANIFEST)
    again = parse(version.data)
    assert (again.layout, again.manifest, again.sha256) == (LAYOUT, MANIFEST, version.sha256)
    assert (again.vector == VECTOR).all()


def test_a_candidate_changes_the_numbers_only() -> None:
    base = build(LAYOUT, VECTOR, MANIFEST)
    other = candidate(base, VECTOR + 1)
    assert (other.manifest, other.layout) == (base.manifest, base.layout)
    assert other.data[: -4 * 7] == base.data[: -4 * 7]
    assert candidate(base, VECTOR).sha256 == base.sha256
    with pytest.raises(ValueError, match="does not fit"):
        candidate(base, VECTOR[:6])


def test_a_marked_copy_has_the_same_numbers_and_another_digest() -> None:
    version = build(LAYOUT, VECTOR, MANIFEST)
    copy = marked(version)
    assert (copy.unreleased, version.unreleased, parse(copy.data).unreleased) == (True, False, True)
    assert (copy.manifest, copy.layout) == (MANIFEST, LAYOUT)
    assert (copy.vector == version.vector).all()
    assert copy.sha256 != version.sha256
    assert marked(copy).sha256 == copy.sha256
    assert (safetensors.numpy.load(copy.data)["b.weight"] == VECTOR[:6].reshape(2, 3)).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="holds 7"):
        build(LAYOUT, VECTOR[:6], MANIFEST)
    with pytest.raises(ValueError, match="share a name"):
        build((LAYOUT[1], LAYOUT[1]), VECTOR[:2], MANIFEST)


def file_of(header: Any, data: bytes = b"\0" * 28) -> bytes:
    text = header if isinstance(header, bytes) else canonical(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


GOOD: dict[str, Any] = {
    "__metadata__": {"moonflower": "{}"},
    "x": {"dtype": "F32", "shape": [7], "data_offsets": [0, 28]},
}


def test_the_hand_made_file_is_good() -> None:
    assert parse(file_of(GOOD)).layout == (TensorSpec("x", (7,)),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 100,
        file_of(GOOD)[:-1],
        file_of(GOOD) + b"\0\0\0\0",
        file_of(b"not json"),
        file_of(json.dumps(GOOD).encode()),
        file_of({"x": GOOD["x"]}),
        file_of({**GOOD, "__metadata__": {"moonflower": "[]"}}),
        file_of({**GOOD, "__metadata__": {"moonflower": "{"}}),
        file_of({**GOOD, "__metadata__": {"moonflower": "{}", "x": "y"}}),
        file_of({**GOOD, "__metadata__": {"moonflower": "{}", "moonflower.release": "released"}}),
        file_of({**GOOD, "__metadata__": {"moonflower": "{}", "moonflower.release": "unreleased", "x": ""}}),
        file_of({**GOOD, "__metadata__": {"moonflower.release": "unreleased"}}),
        file_of({**GOOD, "x": {**GOOD["x"], "dtype": "F64"}}),
        file_of({**GOOD, "x": {**GOOD["x"], "shape": [-7]}}),
        file_of({**GOOD, "x": {**GOOD["x"], "shape": [2**62, 4]}}),
        file_of({**GOOD, "x": {**GOOD["x"], "data_offsets": [4, 32]}}),
        file_of({**GOOD, "y": {"dtype": "F32", "shape": [0], "data_offsets": [28, 28]}}),
        file_of({**GOOD, "y": GOOD["x"]}),
        file_of([1]),
    ],
)
def test_a_hostile_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError) as refusal:
        parse(data)
    assert refusal.value.code == "data.model"


@given(st.binary(max_size=200))
def test_junk_has_one_error(junk: bytes) -> None:
    with pytest.raises(InputError):
        parse(junk)
