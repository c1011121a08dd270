"""What an approver signs, what counts, and what a card shows to somebody who does not trust the coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from moonflower.canonical import canonical, parse_canonical
from moonflower.client.approver import load_approver_key, make_approver_key
from moonflower.crypto.identity import PublicKey, b64
from moonflower.errors import InputError, Refused
from moonflower.protocol import model_version as versions
from moonflower.protocol.approval import (
    ACTIONS,
    MAX_DECISION_BYTES,
    Decision,
    SignedDecision,
    counted,
    parse_private_jwk,
    private_jwk,
    reason_problem,
)
from moonflower.protocol.released import check
from moonflower.protocol.statement import Statement
from support.approvers import FEDERATION, card, cards, person, signed
from support.protocol import NAMES, context, identity, proof
from support.protocol import pins as protocol_pins

SHA = "a" * 64
GOOD = {
    "action": "approve",
    "after": -1,
    "approver": "board",
    "federation": "heart",
    "member": "anna",
    "reason": "",
    "sha256": SHA,
    "v": 1,
}


def refused(code: str, call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments, **more)
    assert refusal.value.code == code
    return str(refusal.value)


# The decision


def test_the_bytes_of_a_decision_are_what_a_browser_would_write() -> None:
    decision = Decision("heart", "reject", SHA, 41, "Spital Zürich", "board", "AUC fell")
    expected = (
        '{"action":"reject","after":41,"approver":"board","federation":"heart","member":"Spital Z\\u00fcrich",'
        f'"reason":"AUC fell","sha256":"{SHA}","v":1}}'
    )
    assert decision.encode() == expected.encode("ascii")
    assert Decision.parse(decision.encode()) == decision


@pytest.mark.parametrize(
    "change",
    [
        {"action": "release"}, {"action": None}, {"action": ["approve"]}, {"after": -2}, {"after": 2**53},
        {"after": True}, {"after": 1.0}, {"after": "1"}, {"approver": ""}, {"approver": "x" * 257},
        {"approver": "a\nb"}, {"approver": 7}, {"federation": None}, {"federation": "\ud800"},
        {"member": ["anna"]}, {"member": ""}, {"reason": None},
        {"sha256": "A" * 64}, {"sha256": "a" * 63}, {"sha256": SHA + "\n"}, {"sha256": None}, {"v": 2}, {"v": True},
        {"v": 1.0}, {"v": None}, {"more": 1}, {"v": "gone"}, {"after": "gone"}, {"reason": "gone"},
    ],
)  # fmt: skip
def test_a_decision_of_another_form_is_refused(change: dict[str, Any]) -> None:
    assert Decision.parse(canonical(GOOD))
    value = {name: one for name, one in {**GOOD, **change}.items() if one != "gone"}
    refused("release.malformed", Decision.parse, canonical(value))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"null", b"7", b'"x"', b"\xff", json.dumps(GOOD).encode(), canonical(GOOD) + b"\n",
        canonical(GOOD).replace(b'"v":1', b'"v":1,"v":1'), b"[" * 4000, b"{" * 100_000,
        canonical({**GOOD, "reason": "x" * MAX_DECISION_BYTES}),
    ],
)  # fmt: skip
def test_bytes_that_are_no_canonical_decision_are_refused(data: bytes) -> None:
    refused("release.malformed", Decision.parse, data)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_junk_has_one_error(junk: bytes) -> None:
    refused("release.malformed", Decision.parse, junk)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), json_values))
def test_hostile_fields_have_known_codes(changes: dict[str, Any]) -> None:
    data, code = canonical({**GOOD, **changes}), ""
    try:
        assert Decision.parse(data).encode() == data
    except Refused as refusal:
        code = refusal.code
    assert code in ("", "release.malformed", "release.reason")


@given(json_values | st.fixed_dictionaries({"decision": json_values, "signature": json_values}))
def test_hostile_bodies_have_known_codes(value: Any) -> None:
    with pytest.raises(Refused) as refusal:
        SignedDecision.from_dict(value).verify(cards())
    assert refusal.value.code == "release.malformed"


def test_a_signed_decision_has_one_form() -> None:
    made = signed()
    good = made.as_dict()
    assert SignedDecision.from_dict(good) == made
    for bad in (
        {**good, "more": 1}, {"decision": good["decision"]}, {**good, "signature": good["signature"] + "="},
        {**good, "signature": None}, {**good, "decision": {"v": 1}}, {**good, "decision": "Zürich"},
    ):  # fmt: skip
        refused("release.malformed", SignedDecision.from_dict, bad)


# The reason


@pytest.mark.parametrize("action", ["reject", "rollback"])
def test_rejecting_and_rolling_back_need_a_reason(action: Any) -> None:
    assert reason_problem("approve", "") == ""
    assert "reason" in reason_problem(action, "")
    value = canonical({**GOOD, "action": action})
    refused("release.reason", Decision.parse, value)


@pytest.mark.parametrize(
    "reason",
    [
        "ask anna@example.org", "patient 123456 was misread", "case 20261124", "born 02.03.1957", "born 1957-03-02",
        "seen 2/3/57", "two\nlines", "a tab\there", " blank first", "blank last ", "x" * 201, "bidi \u202e text",
        "no١٢٣٤٥٦", "anna＠example", "case ４７１１００１",
    ],
)  # fmt: skip
def test_what_looks_like_personal_data_is_no_reason_and_is_not_repeated(reason: str) -> None:
    value = canonical({**GOOD, "action": "reject", "reason": reason})
    said = refused("release.reason", Decision.parse, value)
    assert reason.strip() not in said


@pytest.mark.parametrize(
    "reason", ["AUC 0.894 instead of 0.915 in two of 4 hospitals", "x" * 200, "Modell verfehlt Ziel für Frauen, §3"]
)
def test_a_plain_reason_is_taken(reason: str) -> None:
    assert Decision.parse(canonical({**GOOD, "action": "reject", "reason": reason})).reason == reason


# Who signed


def test_a_decision_is_verified_by_the_card_of_its_member() -> None:
    decision, approver = signed(by="bert", role="ethics").verify(cards())
    assert (decision.member, approver.name) == ("bert", "ethics")
    assert approver.key == PublicKey(person("bert's ethics").public_key())


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (signed(by="eve"), "release.unknown_approver"),
        (signed(role="cook"), "release.unknown_approver"),
        (signed(key="eve"), "release.signature"),
        (signed(key="anna's ethics"), "release.signature"),
        (signed(key="bert's board"), "release.signature"),
    ],
)
def test_whoever_is_not_on_the_card_is_refused(made: SignedDecision, code: str) -> None:
    refused(code, made.verify, cards())


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "b" * 64},
        {"after": 3},
        {"action": "rollback", "reason": "x"},
        {"federation": "lung"},
        {"reason": "y"},
    ],
)
def test_a_signature_is_about_every_word_of_the_decision(change: dict[str, Any]) -> None:
    """Above all: an approval for one digest cannot serve another."""
    made = signed()
    other = canonical({**parse_canonical(made.data), **change})
    refused("release.signature", replace(made, data=other).verify, cards())


def test_a_signature_of_another_domain_is_no_approval() -> None:
    from moonflower.crypto.identity import sign

    made = signed()
    for kind in ("vote", "opened", "card", ""):
        refused(
            "release.signature", replace(made, signature=sign(person("anna's board"), kind, made.data)).verify, cards()
        )
    for junk in (b"", bytes(96), b"\xff" * 96, made.signature + b"x", made.signature[:-1]):
        refused("release.signature", replace(made, signature=junk).verify, cards())


def test_a_node_key_approves_nothing() -> None:
    """The key that signs all that a member says is not a person."""
    node = identity("anna")
    made = SignedDecision(signed().data, node.sign("approval", signed().data))
    refused("release.signature", made.verify, {"anna": card("anna")})


# What counts


def count(*made: SignedDecision, held: Any = None, **about: Any) -> int:
    wanted = {"federation": FEDERATION, "action": "approve", "sha256": SHA, "after": -1, **about}
    return len(counted(made, cards() if held is None else held, **wanted))


def test_different_members_count() -> None:
    assert count() == 0
    assert count(signed()) == 1
    assert count(signed(), signed(by="bert")) == 2
    assert count(signed(), signed(by="bert", role="ethics"), signed(by="cleo")) == 3


def test_two_approvers_of_one_member_do_not_count_twice() -> None:
    assert count(signed(role="board"), signed(role="ethics")) == 1
    assert count(signed(), signed()) == 1, "nor one of them who signs twice"


def test_one_key_on_two_cards_does_not_count_twice() -> None:
    held = {"anna": card("anna", board="x"), "bert": card("bert", board="x"), "cleo": card("cleo", board="y")}
    assert count(signed(key="x"), signed(by="bert", key="x"), held=held) == 1
    assert count(signed(key="x"), signed(by="bert", key="x"), signed(by="cleo", key="y"), held=held) == 2


def test_keys_and_members_are_paired_and_not_counted_apart() -> None:
    """Three members and three keys, but two of the members have the same one."""
    held = {"anna": card("anna", a="x", b="y", c="z"), "bert": card("bert", a="x"), "cleo": card("cleo", a="x")}
    made = [signed(role=role, key=key) for role, key in zip("abc", "xyz", strict=True)]
    made += [signed(by=name, role="a", key="x") for name in ("bert", "cleo")]
    assert count(*made, held=held) <= 2


@pytest.mark.parametrize(
    "other", [{"sha256": "b" * 64}, {"after": 5}, {"federation": "lung"}, {"action": "rollback", "reason": "x"}]
)
def test_an_approval_of_something_else_does_not_count(other: dict[str, Any]) -> None:
    assert count(signed(), signed(by="bert", **other)) == 1
    assert count(signed(**other), signed(by="bert", **other)) == 0


def test_who_left_does_not_count() -> None:
    held = cards()
    del held["anna"]
    assert count(signed(), signed(by="bert"), held=held) == 1
    assert count(signed(key="eve"), signed(by="bert")) == 1


# Keys


def test_an_approvers_key_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "approver.jwk"
    key = make_approver_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_approver_key(path).private_numbers() == key.private_numbers()
    before = path.read_bytes()
    with pytest.raises(InputError, match="cannot be written: File exists"):
        make_approver_key(path)
    assert path.read_bytes() == before
    path.chmod(0o640)
    with pytest.raises(InputError, match="can be read by others"):
        load_approver_key(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_approver_key(tmp_path / "none")


def test_what_is_no_approvers_key_is_refused_and_not_quoted(tmp_path: Path) -> None:
    good = private_jwk(person("x"))
    small = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key"
    path.touch(0o600)
    others = [
        {**good, "d": good["d"][:-2]}, {**good, "d": private_jwk(person("y"))["d"]}, {**good, "d": b64(bytes(48))},
        {**good, "d": b64(b"\xff" * 48)}, {**good, "kid": "x"}, {name: good[name] for name in ("kty", "crv", "x", "y")},
        {**good, "crv": "P-256", "d": b64(small.private_numbers().private_value.to_bytes(32, "big"))}, [], None, 7, "x",
    ]  # fmt: skip
    for bad in others:
        with pytest.raises(ValueError, match="not a P-384 private JWK"):
            parse_private_jwk(bad)
    for text in (*map(json.dumps, others), "", "{", "\xff", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match="is not an approver's key") as refusal:
            load_approver_key(path)
        assert good["d"][:20] not in str(refusal.value)


# A card in the hands of somebody who knows the pins


VERSION = versions.build((versions.TensorSpec("w", (3,)),), np.arange(3, dtype=np.float32), {"x": 1})


def statement(**changes: Any) -> Statement:
    fields = {"sha256": VERSION.sha256, "in_range": True}
    made = Statement.of(replace(context(), federation=FEDERATION), dict.fromkeys(NAMES, "0" * 64), **fields)
    return replace(made, **changes)


def model_card(said: Statement | None = None, signers: tuple[str, ...] = NAMES, **changes: Any) -> dict[str, Any]:
    """A card with all that :func:`check` looks at; members are those of ``protocol.py``, approvers on their cards."""
    from support.approvers import with_approvers

    said = said or statement()
    held = [with_approvers(identity(name), board=f"{name}'s board") for name in NAMES]
    decisions = changes.pop(
        "approvals", [signed(by=name, sha256=VERSION.sha256).as_dict() for name in ("anna", "bert")]
    )
    made = {
        "sha256": VERSION.sha256,
        "cards": [one.as_dict() for one in held],
        "proof": proof(said, signers).as_dict(),
        "release": {"by": {"approvals": decisions}},
    }
    return {**made, **changes}


def checked(value: Any, pins: dict[str, str] | None = None, **more: Any) -> Any:
    return check(VERSION, value, protocol_pins() if pins is None else pins, min_approvals=more.pop("least", 2), **more)


def test_a_released_version_is_recognised_by_its_card_and_the_pins() -> None:
    found = checked(model_card())
    assert (found.federation, found.openers) == (FEDERATION, NAMES)
    assert [one.member for one in found.approvals] == ["anna", "bert"]
    assert len(checked(model_card(approvals=[]), least=0).approvals) == 0
    assert len(checked(model_card(release={"by": None}), least=0).approvals) == 0


def approved(*names: str, **other: Any) -> dict[str, Any]:
    return {"approvals": [signed(by=name, **{"sha256": VERSION.sha256, **other}).as_dict() for name in names]}


def rolled(name: str, after: int, **other: Any) -> dict[str, str]:
    return signed("rollback", VERSION.sha256, after, name, **other).as_dict()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"approvals": []}, "release.unreleased"),
        ({"release": {"by": None}}, "release.unreleased"),
        (approved("anna", "anna"), "release.unreleased"),
        (approved(*NAMES, sha256="b" * 64), "release.unreleased"),
        (approved(*NAMES, federation="x"), "release.unreleased"),
        (approved(*NAMES, key="eve"), "release.unreleased"),
        ({"approvals": [signed("reject", VERSION.sha256, by=name).as_dict() for name in NAMES]}, "release.unreleased"),
        ({"approvals": [rolled("anna", 3), rolled("bert", 4)]}, "release.unreleased"),
        ({"approvals": [rolled("anna", -1), signed(by="bert", sha256=VERSION.sha256).as_dict()]}, "release.unreleased"),
        ({"approvals": [{"decision": "junk", "signature": ""}] * 2}, "release.unreleased"),
        ({"sha256": "b" * 64}, "release.digest"),
        ({"cards": []}, "base.unknown"),
        ({"said": statement(sha256="b" * 64)}, "base.unknown"),
        ({"said": statement(purpose="tallies")}, "base.unknown"),
        ({"said": statement(in_range=False)}, "base.unknown"),
        ({"signers": ("anna", "bert")}, "base.unknown"),
        ({"signers": ("anna", "bert", "cleo")}, "base.unknown"),
        ({"said": statement(members=NAMES[:3])}, "base.unknown"),
        ({"proof": None}, "release.malformed"),
        ({"cards": 7}, "release.malformed"),
        ({"release": {"by": {"approvals": [{}]}}}, "release.malformed"),
        ({"release": {"by": {"approvals": [7]}}}, "release.malformed"),
        ({"release": {}}, "release.malformed"),
    ],
)  # fmt: skip
def test_a_card_that_shows_less_is_refused(changes: dict[str, Any], code: str) -> None:
    refused(code, checked, model_card(**changes))


def test_cards_of_members_that_the_reader_does_not_pin_count_for_nothing() -> None:
    """A coordinator can make members of its own, with approvers of its own."""
    pins = protocol_pins()
    refused("release.unreleased", checked, model_card(), {name: pins[name] for name in ("anna", "cleo", "dora")})
    strangers = dict.fromkeys(("anna", "bert", "cleo"), "x" * 43)
    said = refused("base.unknown", checked, model_card(), {**pins, **strangers})
    assert "1 pinned members signed the version; expected 2" in said
    refused("base.unknown", checked, model_card(), {})
    junk = model_card()
    junk["cards"] = [*junk["cards"], 7, {}, None, {**junk["cards"][0], "name": "bert"}]
    assert len(checked(junk).approvals) == 2


def test_a_marked_copy_is_not_released_whatever_its_card_says() -> None:
    copy = versions.marked(VERSION)
    value = {**model_card(), "sha256": copy.sha256}
    refused("release.unreleased", check, copy, value, protocol_pins(), min_approvals=0)


@given(json_values)
def test_a_hostile_card_has_known_codes(value: Any) -> None:
    for hostile in (value, {**model_card(), "release": {"by": value}}, {**model_card(), "cards": value}):
        code = "release."
        try:
            checked(hostile, least=1)
        except Refused as refusal:
            code = refusal.code
        assert code.startswith(("release.", "base."))


def test_there_are_three_actions() -> None:
    assert ACTIONS == ("approve", "reject", "rollback")
