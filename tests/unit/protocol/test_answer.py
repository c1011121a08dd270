"""The answer's document: it says exactly one thing, and whoever signed it said it about exactly this list and total."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.canonical import canonical, digest, parse_canonical
from moonflower.errors import Refused
from moonflower.protocol.answer import AnswerDocument, SignedAnswer, list_digest
from support.protocol import identity

DOCUMENT = AnswerDocument("c" * 64, "d" * 64, "e" * 64, (0, 5, (1 << 64) - 1), "f" * 64)


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code
    return str(refusal.value)


def test_a_list_has_one_digest_whatever_the_order() -> None:
    headers = ["b" * 64, "a" * 64, "c" * 64]
    assert list_digest(headers) == list_digest(sorted(headers))
    assert list_digest(headers) == digest({"kind": "moonflower.list", "headers": sorted(headers)})
    assert list_digest(headers) != list_digest(headers[:2])
    assert list_digest([*headers, headers[0]]) != list_digest(headers)


def test_a_document_is_the_same_after_the_way() -> None:
    assert AnswerDocument.parse(DOCUMENT.encode()) == DOCUMENT
    assert parse_canonical(DOCUMENT.encode()) == {
        "kind": "moonflower.answer",
        "v": 2,
        "context": "c" * 64,
        "headers": "d" * 64,
        "total": "e" * 64,
        "tau": [0, 5, (1 << 64) - 1],
        "answer": "f" * 64,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "moonflower.list"},
        {"v": 1},
        {"v": 3},
        {"more": 1},
        {"context": "c" * 63},
        {"headers": "D" * 64},
        {"total": 3},
        {"answer": None},
        {"tau": [-1]},
        {"tau": [1 << 64]},
        {"tau": [1.0]},
        {"tau": [True]},
        {"tau": ["1"]},
        {"tau": 3},
        {"tau": None},
    ],
)
def test_a_document_of_another_form_is_refused(change: dict[str, Any]) -> None:
    body = {**parse_canonical(DOCUMENT.encode()), **change}
    refused("open.list", AnswerDocument.parse, canonical(body))


@pytest.mark.parametrize("field", ["kind", "v", "context", "headers", "total", "tau", "answer"])
def test_a_document_without_a_field_is_refused(field: str) -> None:
    body = {name: value for name, value in parse_canonical(DOCUMENT.encode()).items() if name != field}
    refused("open.list", AnswerDocument.parse, canonical(body))


@given(st.binary(max_size=200))
def test_junk_is_no_document(junk: bytes) -> None:
    refused("open.list", AnswerDocument.parse, junk)


def test_an_answer_counts_for_its_member_list_and_total_alone() -> None:
    signed = SignedAnswer.sign(identity("anna"), DOCUMENT)
    card, about = identity("anna").card, (DOCUMENT.context, DOCUMENT.headers, DOCUMENT.total)
    assert signed.verify(card, *about) == DOCUMENT
    assert signed.digest == hashlib.sha256(signed.data).hexdigest()
    for place in range(3):
        other = tuple("0" * 64 if at == place else one for at, one in enumerate(about))
        assert "'anna'" in refused("open.list", signed.verify, card, *other)
    assert "'bert'" in refused("envelope.signature", signed.verify, identity("bert").card, *about)
    changed = replace(signed, data=replace(DOCUMENT, tau=(1,)).encode())
    refused("envelope.signature", changed.verify, card, *about)
    for domain in ("opened", "envelope", "vote"):
        elsewhere = SignedAnswer(signed.data, identity("anna").sign(domain, signed.data))
        refused("envelope.signature", elsewhere.verify, card, *about)


def test_a_signed_document_of_another_form_is_refused_as_one() -> None:
    data = canonical({"kind": "moonflower.answer", "v": 2})
    signed = SignedAnswer(data, identity("anna").sign("answer", data))
    refused("open.list", signed.verify, identity("anna").card, "c" * 64, "d" * 64, "e" * 64)
