"""Envelopes: every wrong one is refused with its own code."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.canonical import canonical
from moonflower.errors import Refused
from moonflower.protocol import envelope
from moonflower.protocol.envelope import HALF_FROM, MAGIC, Header, RawEnvelope, body_digest, check, split
from support.protocol import context, identity, sealed


def code_of(raw: RawEnvelope, about: Any = None, sender: str = "anna", size: int = 4) -> str:
    try:
        check(raw, identity(sender).card, about or context(), size)
    except Refused as refusal:
        return refusal.code
    return ""


def test_an_honest_envelope_passes_and_says_what_it_is() -> None:
    found = check(sealed("anna", context(), b"12345"), identity("anna").card, context(), 5)
    assert (found.body, found.header.member, found.header.body_bytes) == (b"12345", "anna", 5)
    assert found.header.context == context().digest


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"crypto": {"t": 5}}, "envelope.params"),
        ({"number": 2}, "envelope.replay"),
        ({"purpose": "tallies"}, "envelope.replay"),
        ({"run": "other"}, "envelope.replay"),
        ({"base": "d" * 64}, "envelope.context"),
        ({"training": {"lr": 0.0}}, "envelope.context"),
        ({"roster": "x"}, "envelope.context"),
        ({"circle": "x"}, "envelope.context"),
        ({"key": "x"}, "envelope.context"),
        ({"frozen": "x"}, "envelope.context"),
        ({"round": 2}, "envelope.context"),
        ({"checkpoint": "x"}, "envelope.context"),
        ({"federation": "g"}, "envelope.context"),
        ({"schema": "t" * 64}, "envelope.context"),
        ({"task": {"ref": "a:c"}}, "envelope.context"),
        ({"package": "1"}, "envelope.context"),
        ({"offer": "p" * 64}, "envelope.context"),
    ],
)
def test_an_envelope_of_another_context_is_refused(changes: dict[str, Any], code: str) -> None:
    assert code_of(sealed("anna", context(**changes))) == code


@given(st.data())
@settings(max_examples=60)
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    raw = bytearray(sealed("anna", context()).data)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert code_of(RawEnvelope(bytes(raw))) in ("envelope.signature", "envelope.malformed")


def test_one_bit_of_the_body_is_a_wrong_signature() -> None:
    raw = bytearray(sealed("anna", context()).data)
    raw[-1] ^= 1
    assert code_of(RawEnvelope(bytes(raw))) == "envelope.signature"


def test_a_body_longer_or_shorter_than_signed_is_refused() -> None:
    raw = sealed("anna", context()).data
    assert code_of(RawEnvelope(raw + b"x")) == "envelope.signature"
    assert code_of(RawEnvelope(raw[:-1])) == "envelope.signature"


@given(st.binary(max_size=400))
def test_junk_is_malformed(junk: bytes) -> None:
    assert code_of(RawEnvelope(junk)) == "envelope.malformed"
    assert code_of(RawEnvelope(MAGIC + junk)) in ("envelope.malformed", "envelope.signature")


def test_a_too_long_header_is_refused_before_it_is_read() -> None:
    huge = (envelope.MAX_HEADER_BYTES + 1).to_bytes(4, "little")
    assert code_of(RawEnvelope(MAGIC + huge + bytes(10_000))) == "envelope.malformed"


def test_another_members_envelope_is_a_wrong_signature() -> None:
    assert code_of(sealed("bert", context()), sender="anna") == "envelope.signature"


def test_a_header_that_names_another_member_is_refused() -> None:
    honest, body = split(sealed("bert", context()))
    signature = identity("anna").sign("envelope", honest.data)
    forged = MAGIC + len(honest.data).to_bytes(4, "little") + honest.data + signature + body
    assert code_of(RawEnvelope(forged)) == "envelope.member"


def test_a_body_of_another_size_than_planned_is_refused() -> None:
    assert code_of(sealed("anna", context(), bytes(101))) == "envelope.malformed"
    assert code_of(sealed("anna", context(), bytes(8))) == "envelope.malformed"


@pytest.mark.parametrize("digit", ["1", "3"])
def test_another_format_is_named_in_one_sentence(digit: str) -> None:
    raw = RawEnvelope(b"MFE" + digit.encode() + sealed("anna", context()).data[4:])
    with pytest.raises(Refused) as refusal:
        check(raw, identity("anna").card, context(), 4)
    assert refusal.value.code == "envelope.malformed"
    assert str(refusal.value) == f"an envelope of format {digit}, expected format 2"


def test_an_envelope_as_version_1_made_it_is_named_too() -> None:
    """Its header has other fields; nobody gets as far as to read them."""
    header = canonical({"v": 1, "member": "anna", "epoch": 1, "seeds": "0" * 64, "tags": [1]})
    old = b"MFE1" + len(header).to_bytes(4, "little") + header + identity("anna").sign("envelope", header) + b"body"
    with pytest.raises(Refused, match=r"^an envelope of format 1, expected format 2$"):
        check(RawEnvelope(old), identity("anna").card, context(), 4)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[]",
        b'{"v":2}',
        b"not json",
        b'{"v":2, "member":"anna"}',
    ],
)
def test_a_signed_header_of_the_wrong_form_is_malformed(header: bytes) -> None:
    signature = identity("anna").sign("envelope", header)
    assert code_of(RawEnvelope(MAGIC + len(header).to_bytes(4, "little") + header + signature)) == "envelope.malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"number": True},
        {"number": -1},
        {"purpose": "Up date"},
        {"member": 3},
        {"context": "short"},
        {"v": 1},
        {"v": 3},
        {"mask": "00"},
        {"mask": "G" * 64},
        {"mask": 3},
        {"epoch": 1},
        {"tags": [1]},
        {"body_bytes": 1.0},
        {"body_bytes": 1 << 64},
        {"body": "é" * 64},
        {"context": "G" * 64},
    ],
)
def test_a_field_of_the_wrong_form_is_malformed(change: dict[str, Any]) -> None:
    about = context()
    honest = Header("anna", "r", 3, "update", about.digest, about.params, "0" * 64, 0, "0" * 64)
    signed = signed_by_anna(canonical({"v": 2, **vars(honest), **change}))
    assert code_of(signed) == "envelope.malformed"
    assert "format" not in message_of(signed)


@pytest.mark.parametrize(
    "mask", ["0" * 64, "01" + "0" * 62, "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"]
)
def test_a_mask_key_of_low_order_is_refused(mask: str) -> None:
    """Everybody would know its masks. The orders are 4, 1 and 8."""
    honest = split(sealed("anna", context()))[0].verify(identity("anna").card)
    signed = signed_by_anna(replace(honest, mask=mask).encode(), b"body")
    assert code_of(signed) == "envelope.malformed"
    assert "low order" in message_of(signed)
    assert "'anna'" in message_of(signed)


def test_the_digest_of_a_large_body_is_that_of_its_halves() -> None:
    for size in (HALF_FROM - 1, HALF_FROM, HALF_FROM + 1):
        body = bytes(range(256)) * (size // 256) + bytes(size % 256)
        halves = (hashlib.sha256(half).digest() for half in (body[: size // 2], body[size // 2 :]))
        assert body_digest(body) == hashlib.sha256(b"".join(halves)).hexdigest()


def signed_by_anna(header: bytes, body: bytes = b"") -> RawEnvelope:
    signature = identity("anna").sign("envelope", header)
    return RawEnvelope(MAGIC + len(header).to_bytes(4, "little") + header + signature + body)


def message_of(raw: RawEnvelope) -> str:
    with pytest.raises(Refused) as refusal:
        check(raw, identity("anna").card, context(), 4)
    return str(refusal.value)
