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
from moonflower.protocol.model_version import FROZEN_TYPES, TensorSpec, build, candidate, marked, parse

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
    with pytest.raises(ValueError, match=r"expected \(7,\)"):
        build(LAYOUT, VECTOR[:6], MANIFEST)
    with pytest.raises(ValueError, match="share a name"):
        build((LAYOUT[1], LAYOUT[1]), VECTOR[:2], MANIFEST)


def file_of(header: Any, data: bytes = b"\0" * 28) -> bytes:
    text = header if isinstance(header, bytes) else canonical(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3).filter(lambda name: name not in ("b.weight", "a.bias")),
        st.tuples(st.sampled_from(sorted(FROZEN_TYPES)), st.lists(st.integers(1, 3), max_size=3)),
        max_size=4,
    ),
    st.booleans(),
)
def test_frozen_tensors_of_every_type_come_back(kinds: dict[str, tuple[str, list[int]]], with_state: bool) -> None:
    rng = np.random.default_rng(1)
    frozen = {
        name: rng.integers(0, 2, shape).astype(FROZEN_TYPES[kind]).reshape(shape)
        for name, (kind, shape) in kinds.items()
    }
    state = {"m": VECTOR} if with_state else None
    version = build(LAYOUT, VECTOR, MANIFEST, state, frozen)
    brain = any(kind == "BF16" for kind, _ in kinds.values())  # which its reader for NumPy does not know
    read = version.frozen if brain else safetensors.numpy.load(version.data)
    assert list(version.frozen) == sorted(frozen)
    assert (version.layout, version.vector.tolist(), {*version.state}) == (LAYOUT, VECTOR.tolist(), {*(state or {})})
    for name, value in frozen.items():
        for found in (version.frozen[name], read[name]):
            assert (found.dtype, found.shape, found.tolist()) == (value.dtype, value.shape, value.tolist())
        assert not version.frozen[name].flags.writeable
    assert parse(version.data).sha256 == marked(version).sha256 or marked(version).unreleased
    moved = candidate(version, VECTOR + 1, state)
    tail = sum(value.nbytes for value in frozen.values())
    assert moved.data[len(moved.data) - tail :] == version.data[len(version.data) - tail :]


def test_frozen_tensors_that_no_version_can_hold() -> None:
    kinds = [
        np.zeros(2, dtype="c8"),
        np.zeros(2, dtype=">f4"),
        np.array(["a"]),
        np.zeros(0),
        np.zeros((2, 0), dtype="i8"),
    ]
    for value in kinds:
        with pytest.raises(
            ValueError, match=r"frozen tensor 'x' is .*; expected a tensor that is not empty, of a type in F64, "
        ):
            build(LAYOUT, VECTOR, MANIFEST, None, {"x": value})
    for name in ("a.bias", "__metadata__", "__optimiser__.m", "__optimiser__.n"):
        with pytest.raises(ValueError, match="share a name"):
            build(LAYOUT, VECTOR, MANIFEST, {"m": VECTOR}, {name: np.zeros(2)})


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


def frozen_file(listed: Any = '["c","d"]', data: bytes = b"\1\0", **changes: Any) -> bytes:
    """A file with x that travels, and behind it c (a truth value) and d (a number of one byte)."""
    header = {
        **GOOD,
        "__metadata__": {"moonflower": "{}", "moonflower.frozen": listed},
        "c": {"dtype": "BOOL", "shape": [], "data_offsets": [28, 29]},
        "d": {"dtype": "U8", "shape": [1], "data_offsets": [29, 30]},
        **changes,
    }
    return file_of({name: entry for name, entry in header.items() if entry is not None}, b"\0" * 28 + data)


def test_the_hand_made_file_with_frozen_tensors_is_good() -> None:
    found = parse(frozen_file())
    assert {name: value.tolist() for name, value in found.frozen.items()} == {"c": True, "d": [0]}
    assert found.layout == (TensorSpec("x", (7,)),)


D = {"dtype": "U8", "shape": [1], "data_offsets": [29, 30]}


@pytest.mark.parametrize(
    "data",
    [
        frozen_file(listed='["d","c"]'),
        frozen_file(listed='["c"]'),
        frozen_file(listed='["d"]'),
        frozen_file(listed='["c","d","x"]'),
        frozen_file(listed='["c","d","e","f"]'),
        frozen_file(listed='["c", "d"]'),
        frozen_file(listed='"cd"'),
        frozen_file(listed="2"),
        frozen_file(listed="0"),
        frozen_file(listed="[]"),
        frozen_file(listed='[["c"],"d"]'),
        frozen_file(listed='{"c":0,"d":1}'),
        frozen_file(listed=["c", "d"]),
        frozen_file(listed="[]", c=None, d=None, data=b""),
        frozen_file(listed='["x"]', c=None, d=None, data=b"")[:-1],
        frozen_file(data=b"\2\0"),
        frozen_file(data=b"\1"),
        frozen_file(data=b"\1\0\0"),
        frozen_file(d={**D, "dtype": "F8"}),
        frozen_file(d={**D, "dtype": "BF16"}),
        frozen_file(d={**D, "dtype": "I16"}),
        frozen_file(d={**D, "dtype": 1}),
        frozen_file(d={**D, "shape": [True]}),
        frozen_file(d={**D, "shape": [1.0]}),
        frozen_file(d={**D, "shape": [-1, -1]}),
        frozen_file(d={**D, "shape": [0], "data_offsets": [29, 29]}, data=b"\1"),
        frozen_file(d={**D, "data_offsets": [28, 29]}, data=b"\1"),
        frozen_file(d={**D, "more": 1}),
        frozen_file(d={**D, "data_offsets": [30, 31]}, data=b"\1\0\0"),
        frozen_file(listed='["__optimiser__.d","c"]', d=None, **{"__optimiser__.d": D}),
        frozen_file(listed='["d"]', c={"dtype": "BOOL", "shape": [], "data_offsets": [28, 29]}),
        frozen_file(d={**D, "shape": [1] * 65}),
        frozen_file(d={"dtype": "BF16", "shape": [2**62], "data_offsets": [29, 29 + 2**63]}, data=b"\1\0\0"),
        frozen_file(d={"dtype": "BF16", "shape": [2**40] * 4, "data_offsets": [29, 31]}, data=b"\1\0\0"),
        frozen_file(d={"dtype": "BF16", "shape": [1], "data_offsets": [29, 30]}, data=b"\1\0"),
        file_of({**GOOD, "x": {**GOOD["x"], "shape": [7, *[1] * 64]}}),
        file_of({**GOOD, "x": {**GOOD["x"], "dtype": "BF16", "shape": [14]}}),
    ],
)
def test_hostile_frozen_tensors_are_refused(data: bytes) -> None:
    with pytest.raises(InputError) as refusal:
        parse(data)
    assert refusal.value.code == "data.model"


@pytest.mark.parametrize(
    ("kind", "nan"),
    [
        ("BF16", b"\x81\x7f"), ("BF16", b"\xff\x7f"), ("BF16", b"\x81\xff"), ("BF16", b"\xff\xff"),
        ("F16", np.float16("nan").tobytes()), ("F32", np.float32("nan").tobytes()),
        ("F64", np.float64("nan").tobytes()),
    ],
)  # fmt: skip
def test_a_frozen_tensor_does_not_hold_nan(kind: str, nan: bytes) -> None:
    """It could hide from comparisons, and every prediction would be NaN; infinities are common in masks."""
    code = FROZEN_TYPES[kind]
    bad = np.frombuffer(nan, dtype=code)
    with pytest.raises(InputError, match="frozen tensor 'm' holds NaN"):
        build(LAYOUT, VECTOR, MANIFEST, None, {"m": np.concatenate([np.zeros(3, dtype=code), bad])})
    infinite = np.frombuffer(b"\x80\x7f\x80\xff", dtype=code) if kind == "BF16" else np.array([np.inf, -np.inf], code)
    assert build(LAYOUT, VECTOR, MANIFEST, None, {"m": infinite}).frozen["m"].tobytes() == infinite.tobytes()


def test_states_out_of_order_are_refused() -> None:
    good = build(LAYOUT, VECTOR, MANIFEST, {"a": VECTOR, "b": VECTOR}).data
    length = int.from_bytes(good[:8], "little")
    swapped = good[8 : 8 + length].replace(b"__optimiser__.a", b"__optimiser__.c")
    text = canonical(json.loads(swapped))
    with pytest.raises(InputError, match="an optimiser's state"):
        parse(good[:8] + text.ljust(length) + good[8 + length :])


@given(st.binary(max_size=200))
def test_junk_has_one_error(junk: bytes) -> None:
    with pytest.raises(InputError):
        parse(junk)
