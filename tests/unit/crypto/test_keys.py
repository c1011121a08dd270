"""Identities, cards, pins and the circle's key: who can slip in what, and what each attempt ends in."""

from __future__ import annotations

import hashlib
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moonflower.canonical import canonical, digest
from moonflower.client import circle_key
from moonflower.crypto import answers
from moonflower.crypto.answer_plan import AnswerPlan, answer_plan
from moonflower.crypto.answers import AnswerKey, generate
from moonflower.crypto.identity import Identity, PublicKey, Roster, b64, parse_card, parse_roster, unb64
from moonflower.crypto.planner import plan
from moonflower.errors import Refused
from moonflower.protocol.messages import KeyMade, TakeSeat
from support.federation import Federation
from support.protocol import NAMES, circle, identity, pins, roster

PLAN = plan(4, 16, 10)
USE = digest([circle().digest, answer_plan(PLAN).as_dict()])


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code
    return str(refusal.value)


@lru_cache
def key() -> bytes:
    return generate(answer_plan(PLAN))


@lru_cache
def made() -> KeyMade:
    return circle_key.wrapped(identity("anna"), USE, key(), roster())


def seat(ciphertext: bytes, signature: bytes) -> TakeSeat:
    return TakeSeat(run="r", roster=roster().as_list(), ciphertext=ciphertext, signature=signature)


def take(member: str, of: KeyMade, name: str = "", use: str = USE) -> bytes:
    """Return the key that ``member`` takes out of what was wrapped for ``name``, by default for itself."""
    found = seat(of.ciphertexts[name or member], of.signatures[name or member])
    return circle_key.unwrapped(identity(member), use, PLAN, circle().first, roster(), found)


def test_the_pin_is_the_rfc_7638_thumbprint() -> None:
    jwk = identity("anna").card.node.jwk
    assert list(jwk) == ["crv", "kty", "x", "y"]
    text = '{"crv":"P-384","kty":"EC","x":"' + jwk["x"] + '","y":"' + jwk["y"] + '"}'
    assert identity("anna").card.node.pin == b64(hashlib.sha256(text.encode()).digest())
    assert len(identity("anna").card.node.pin) == 43


def test_a_jwk_of_another_form_is_refused() -> None:
    jwk = identity("anna").card.node.jwk
    for bad in (
        {**jwk, "crv": "P-256"},
        {**jwk, "d": "AA"},
        {**jwk, "x": jwk["y"]},
        {},
        {**jwk, "x": jwk["x"] + "="},
    ):
        with pytest.raises(ValueError, match=r".*"):
            PublicKey.from_jwk(bad)


def test_base64url_has_one_form() -> None:
    assert unb64(b64(b"\xff\xfe")) == b"\xff\xfe"
    for bad in ("//4", "_-5=", "_-5", "a", "é"):
        with pytest.raises(ValueError, match=r".*"):
            unb64(bad)


def test_signatures_are_bound_to_their_domain() -> None:
    signature = identity("anna").sign("vote", b"x")
    node = identity("anna").card.node
    assert node.verify("vote", b"x", signature)
    assert not node.verify("opened", b"x", signature)
    assert not node.verify("vote", b"y", signature)
    assert not node.verify("vote", b"x", bytes(96))
    assert not node.verify("vote", b"x", signature[:-1])


@pytest.mark.parametrize("field", ["name", "issuer", "client_id", "x25519", "signature", "node"])
def test_a_changed_card_is_refused(field: str) -> None:
    card = identity("anna").card.as_dict()
    card[field] = identity("bert").card.as_dict()[field] if field not in ("issuer", "client_id") else "other"
    refused("circle.card", parse_card, card)


@pytest.mark.parametrize("card", [None, 3, [], {}, {"name": "anna"}])
def test_junk_is_no_card(card: Any) -> None:
    refused("circle.card", parse_card, card)


def test_a_card_that_would_not_fit_into_the_log_is_none() -> None:
    """Else a member could have the coordinator's process die of an entry, again and again."""
    for size, fits in ((60_000, True), (1 << 16, False)):
        card = Identity.generate("a" * size).card.as_dict()
        if fits:
            assert parse_card(card).as_dict() == card
        else:
            refused("circle.card", parse_card, card)


def test_a_card_with_another_pin_is_refused() -> None:
    imposter = Identity.generate("anna").card.as_dict()
    cards = [imposter, *(identity(name).card.as_dict() for name in NAMES[1:])]
    assert "'anna'" in refused("circle.card", parse_roster, cards, pins())


def test_a_member_without_a_pin_is_refused() -> None:
    extra = Identity.generate("eve").card.as_dict()
    cards = [*(identity(name).card.as_dict() for name in NAMES), extra]
    refused("circle.card", parse_roster, cards, pins())


def test_a_roster_names_each_member_once_and_in_order() -> None:
    cards = [identity(name).card.as_dict() for name in NAMES]
    refused("circle.card", parse_roster, cards[::-1], pins())
    refused("circle.card", parse_roster, [cards[0], *cards], pins())


def test_everybody_takes_the_same_working_key() -> None:
    assert {take(name, made()) for name in NAMES} == {key()}
    assert AnswerKey(PLAN, take("dora", made()))


def test_the_key_is_wrapped_for_everybody_and_shows_to_nobody_else() -> None:
    assert {*made().ciphertexts} == {*made().signatures} == {*NAMES}
    assert len({*made().ciphertexts.values()}) == len(NAMES)
    assert not any(key() in ciphertext for ciphertext in made().ciphertexts.values())


def test_a_key_that_the_circles_first_name_did_not_sign_is_refused() -> None:
    """Else the coordinator would deal one of its own, and read every sum."""
    coordinator = Identity.generate("anna")  # a name in the circle, but not its key
    assert "'anna'" in refused("circle.key", take, "bert", circle_key.wrapped(coordinator, USE, key(), roster()))
    other_member = circle_key.wrapped(identity("cleo"), USE, key(), roster())
    assert "'anna'" in refused("circle.key", take, "bert", other_member)
    junk = made().model_copy(update={"signatures": dict.fromkeys(NAMES, bytes(96))})
    refused("circle.key", take, "bert", junk)


def test_a_key_for_another_member_circle_or_plan_is_refused() -> None:
    refused("circle.key", take, "bert", made(), "cleo")
    swapped = made().model_copy(update={"ciphertexts": {**made().ciphertexts, "bert": made().ciphertexts["cleo"]}})
    refused("circle.key", take, "bert", swapped)
    cut = {**made().ciphertexts, "bert": made().ciphertexts["bert"][:-1]}
    refused("circle.key", take, "bert", made().model_copy(update={"ciphertexts": cut}))
    for use in (digest([circle().digest, answer_plan(plan(5, 16, 10)).as_dict()]), digest([])):
        refused("circle.key", take, "bert", made(), "", use)


def test_a_key_that_is_signed_and_does_not_open_is_the_first_names_fault() -> None:
    """What is wrapped and signed right may still be junk inside, or no key of these parameters."""
    short, large = key()[:-1], b"\xff" * len(key())
    for bad in (b"", short, large):
        refused("circle.key", take, "bert", circle_key.wrapped(identity("anna"), USE, bad, roster()))
    noise = np.random.default_rng(7).bytes(len(key()) - 1) + b"\0"  # in the form of a key, but not a short one
    with pytest.raises(Refused) as refusal:
        take("bert", circle_key.wrapped(identity("anna"), USE, noise, roster()))
    assert refusal.value.code == "circle.key"
    elsewhere = circle_key.wrapped(identity("anna"), "another use", key(), roster()).ciphertexts["bert"]
    body = circle_key._wrapped(USE, "bert", elsewhere)
    signed = seat(elsewhere, identity("anna").sign("circle.key", body))
    refused("circle.key", circle_key.unwrapped, identity("bert"), USE, PLAN, "anna", roster(), signed)


def test_wrapped_keys_open_only_for_their_purpose() -> None:
    wrapped = identity("anna").card.wrap(b"secret", b"one purpose")
    assert identity("anna").unwrap(wrapped, b"one purpose") == b"secret"
    refused("circle.key", identity("anna").unwrap, wrapped, b"another")
    refused("circle.key", identity("bert").unwrap, wrapped, b"one purpose")


def test_a_members_word_on_its_key_is_signed_and_gives_no_key_away() -> None:
    """Members that were given two keys say so before anybody seals: their words differ."""
    said = circle_key.taken(identity("bert"), USE, key())
    assert said.key == hashlib.sha256(key()).hexdigest()
    about = {"kind": "held", "use": USE, "member": "bert", "key": said.key}
    node = identity("bert").card.node
    assert node.verify("circle.key", canonical(about), unb64(said.signature))
    for change in ({"use": "x"}, {"member": "anna"}, {"key": "0" * 64}, {"kind": "wrapped"}):
        assert not node.verify("circle.key", canonical({**about, **change}), unb64(said.signature))
    other = circle_key.taken(identity("dora"), USE, generate(answer_plan(PLAN)))
    assert other.key != said.key
    assert key().hex() not in said.model_dump_json()


def test_a_first_name_that_gives_out_two_keys_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has sealed anything yet."""
    honest, plans = circle_key.wrapped, list[AnswerPlan]()
    make = answers.generate

    def generated(plan: AnswerPlan) -> bytes:
        plans.append(plan)
        return make(plan)

    def two(of: Identity, use: str, given: bytes, everybody: Roster) -> KeyMade:
        again = generate(plans[-1])
        one, other = honest(of, use, given, everybody), honest(of, use, again, everybody)
        last = everybody.names[-1]
        return KeyMade(
            ciphertexts={**one.ciphertexts, last: other.ciphertexts[last]},
            signatures={**one.signatures, last: other.signatures[last]},
        )

    with closing(Federation(tmp_path)) as one:
        one.queue()
        monkeypatch.setattr(circle_key, "wrapped", two)
        monkeypatch.setattr(answers, "generate", generated)
        assert one.carry_out() == "failed circle.key"
        (named,) = one.events("refused_member")
        assert (named["member"], named["code"]) == ("Cleveland", "circle.key")
        assert one.events("seats_taken") == one.events("set_closed") == []
        monkeypatch.undo()
        one.queue("run-2")
        assert one.carry_out("run-2") == "done", "who held another key than the first name gets it anew"
