"""Messages: the same after a round trip through Flower records, and one error for everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from moonflower.errors import Refused
from moonflower.protocol.envelope import RawEnvelope
from moonflower.protocol.messages import (
    MAX_TENSORS,
    ROUTES,
    SHARED,
    Answered,
    Ask,
    Body,
    Enrol,
    Enrolled,
    KeyMade,
    MakeKey,
    Noted,
    Open,
    Opened,
    Refusal,
    Seal,
    Sealed,
    SeatTaken,
    TakeSeat,
    Waits,
)
from moonflower.protocol.records import BLOB, ENVELOPE, INLINE_BYTES, from_records, to_records
from pydantic import ValidationError

ROUND = {"run": "r", "number": 2, "round": 2, "purpose": "update", "base": "", "checkpoint": ""}
OPEN = {
    **ROUND,
    "documents": {"a b": b"1", "ü": b""},
    "signatures": {"a b": b"2", "ü": b"3"},
    "seeds": {"a b": b"4", "ü": b"5"},
    "keys": b"6",
    "answers": {},
    "total": b"sum",
    "best": "",
    "upload": True,
}
ENROLLED = {
    "card": {"name": "a"},
    "agreed": dict.fromkeys(SHARED, "d"),
    "frozen": {"buffer": "d"},
    "sizes": {"update": 10},
    "key": "",
}
SEAL = Seal(**ROUND, model=b"", proof={}, refused={})
SEALED = Sealed(envelope=RawEnvelope(b"env"), seal_s=0.1)
MESSAGES: list[Body] = [
    Refusal(code="update.failed"),
    Enrol(run="r", circle={"number": 1}, seed=7, rounds=3, start="ab" * 32, choice=0),
    Enrolled(**ENROLLED),
    MakeKey(run="r", roster=[{"name": "a"}]),
    KeyMade(ciphertexts={"a": b"1"}, signatures={"a": b"2"}),
    TakeSeat(run="r", roster=[], ciphertext=b"1", signature=b""),
    SeatTaken(key="0" * 64, signature="s"),
    SEAL,
    SEALED,
    Ask(**ROUND, headers={"a b": b"1", "ü": b""}, signatures={"a b": b"2", "ü": b"3"}, total="0" * 64),
    Answered(document=b"d", signature=b"s", answer=b"a", answer_s=0.1),
    Open(**OPEN),
    Open(**{**OPEN, "answers": {"a b": b"7", "ü": b"8"}}),
    Waits(run="r", number=2, step="seal", since={"a": "2026"}, why={"a": "absent"}, returns={"a": 1}),
    Noted(),
    Opened(statement=b"s", signature=b"t", vote="", vote_signature=b"v", result=b"", open_s=0.0),
]


def test_every_message_is_in_this_list() -> None:
    both = [(route.request, route.reply) for route in ROUTES.values()]
    assert {type(message) for message in MESSAGES} == {Refusal, *(kind for pair in both for kind in pair)}


def code_of(message: type[Body], records: RecordDict) -> str:
    with pytest.raises(Refused) as refusal:
        from_records(message, records)
    return refusal.value.code


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_a_message_survives_the_way(message: Body) -> None:
    assert from_records(type(message), to_records(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_another_kind_is_refused(message: Body) -> None:
    other = KeyMade if message.kind != "key_made" else Refusal
    assert code_of(other, to_records(message)) == "envelope.malformed"


def with_pieces(records: RecordDict, arrays: dict[str, Array] | None = None, **small: bytes) -> RecordDict:
    """Return a message with other bytes beside its JSON."""
    config = {key: value for key, value in records.config_records["message"].items() if key in ("kind", "json")}
    return RecordDict({"message": ConfigRecord({**config, **small}), "bytes": ArrayRecord(arrays or {})})


def array(stype: str, data: bytes) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)


def test_large_pieces_travel_as_arrays_and_small_ones_in_the_record() -> None:
    for size, arrays in ((INLINE_BYTES, 0), (INLINE_BYTES + 1, 1)):
        message = Sealed(envelope=RawEnvelope(bytes(size)), seal_s=0.1)
        records = to_records(message)
        assert len(records.array_records) == arrays
        assert from_records(Sealed, records) == message


def test_an_update_in_plaintext_is_refused_by_its_type() -> None:
    sealed = to_records(SEALED)
    for plain in (Array(np.ones(3)), array(BLOB, b"env")):
        for name in ("envelope", ENVELOPE, BLOB):
            assert code_of(Sealed, with_pieces(sealed, {name: plain})) == "envelope.plaintext"
    assert code_of(Sealed, with_pieces(sealed, **{BLOB: b"env"})) == "envelope.plaintext"
    assert code_of(Sealed, with_pieces(sealed)) == "envelope.plaintext"
    both = with_pieces(sealed, {ENVELOPE: array(ENVELOPE, b"env")}, **{ENVELOPE: b"env"})
    assert code_of(Sealed, both) == "envelope.plaintext"
    bare = RecordDict({"arrays": ArrayRecord({"w": Array(np.ones(3))})})
    assert code_of(Sealed, bare) == "envelope.plaintext"


def test_a_member_cannot_put_a_plaintext_into_the_message() -> None:
    for plain in (np.ones(3), b"bytes", [1.0]):
        with pytest.raises(ValidationError):
            Sealed(envelope=plain, seal_s=0.0)  # type: ignore[arg-type]


def test_an_envelope_where_a_blob_is_due_is_refused() -> None:
    seal = to_records(SEAL)
    assert code_of(Seal, with_pieces(seal, {ENVELOPE: array(ENVELOPE, b"x")})) == "envelope.malformed"
    assert code_of(Seal, with_pieces(seal, **{ENVELOPE: b"x"})) == "envelope.malformed"


@pytest.mark.parametrize("sizes", ['{"model":3}', '{"model":-1}', '{"model":1.0}', '{"model":true}', '{"model":null}'])
def test_sizes_that_do_not_add_up_are_refused(sizes: str) -> None:
    records = to_records(SEAL.model_copy(update={"model": b"ab"}))
    config = dict(records.config_records["message"])
    config["json"] = str(config["json"]).replace('{"model":2}', sizes)
    assert code_of(Seal, RecordDict({"message": ConfigRecord(config)})) == "envelope.malformed"


@pytest.mark.parametrize(
    "json",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"code":1}',
        '{"code":"a.b","more":1}',
        '{"code":"rm -rf"}',
        '{"code": "a.b"}',
        '{"code":"update.failed: patient 7"}',
        '{"fields":{"code":1},"sizes":{}}',
        '{"fields":{"code":"a.b","more":1},"sizes":{}}',
        '{"fields":{"code":"rm -rf"},"sizes":{}}',
        '{"fields":{"code": "a.b"},"sizes":{}}',
        '{"fields":{"code":"update.failed: patient 7"},"sizes":{}}',
        '{"fields":{"code":"a.b"},"sizes":{},"more":{}}',
        '{"fields":{"code":"a.b"},"sizes":{"code":0}}',
        '{"fields":{"code":"a.b"},"sizes":[]}',
    ],
)
def test_fields_of_the_wrong_form_are_refused(json: str) -> None:
    records = RecordDict({"message": ConfigRecord({"kind": "refusal", "json": json}), "bytes": ArrayRecord({})})
    assert code_of(Refusal, records) == "envelope.malformed"


@pytest.mark.parametrize("change", [{"best": 1}, {"number": 1.5}, {"upload": 1}, {"documents": "a"}, {"epoch": 1}])
def test_types_are_strict(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Open(**{**OPEN, **change})


def test_a_dict_that_is_empty_comes_back_empty() -> None:
    assert from_records(Open, to_records(Open(**{**OPEN, "seeds": {}}))).seeds == {}


@pytest.mark.parametrize(
    "change",
    [
        {"agreed": {}},
        {"agreed": {name: "d" for name in SHARED if name != "circle"}},
        {"agreed": {**dict.fromkeys(SHARED, "d"), "more": "d"}},
        {"sizes": {}},
        {"sizes": {"update": -1}},
        {"frozen": {str(number): "d" for number in range(MAX_TENSORS + 1)}},
        {"key": "k"},
    ],
)
def test_who_enrols_says_everything_that_all_must_share(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Enrolled(**{**ENROLLED, **change})


@given(st.text(max_size=50), st.text(max_size=80))
def test_junk_has_one_error(kind: str, json: str) -> None:
    records = RecordDict({"message": ConfigRecord({"kind": kind, "json": json}), "bytes": ArrayRecord({})})
    for message in (SeatTaken, Sealed, Answered, Open):
        assert code_of(message, records) in ("envelope.malformed", "envelope.plaintext")
