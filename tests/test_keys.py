"""Identities, cards, pins and deals: who can slip in what, and what each attempt ends in."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from moonflower.canonical import canonical
from moonflower.crypto.identity import Identity, PublicKey, b64, parse_card, parse_roster, unb64
from moonflower.crypto.planner import plan
from moonflower.crypto.schemes import deal as keys
from moonflower.errors import Refused

from protocol import NAMES, identity, pins, roster

PLAN = plan(4, 16, 10)
TERMS = keys.EpochTerms.of("f", 1, roster(), PLAN)


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code
    return str(refusal.value)


@pytest.fixture(scope="module")
def deals() -> dict[str, keys.Deal]:
    return {deal.recipient: deal for deal in keys.deal(identity("anna"), TERMS, roster(), PLAN)}


@pytest.fixture(scope="module")
def held(deals: dict[str, keys.Deal]) -> dict[str, keys.EpochKey]:
    return {name: keys.receive(identity(name), TERMS, roster(), PLAN, deals[name]) for name in NAMES}


def answers(held: dict[str, keys.EpochKey]) -> dict[str, dict[str, str]]:
    return {name: keys.sign_answer(identity(name), key) for name, key in held.items()}


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
    refused("deal.signature", parse_card, card)


@pytest.mark.parametrize("card", [None, 3, [], {}, {"name": "anna"}])
def test_junk_is_no_card(card: Any) -> None:
    refused("deal.signature", parse_card, card)


def test_a_card_that_would_not_fit_into_the_log_is_none() -> None:
    """Else a member could have the coordinator's process die of an entry, again and again."""
    for size, fits in ((60_000, True), (1 << 16, False)):
        card = Identity.generate("a" * size).card.as_dict()
        if fits:
            assert parse_card(card).as_dict() == card
        else:
            refused("deal.signature", parse_card, card)


def test_a_card_with_another_pin_is_refused() -> None:
    imposter = Identity.generate("anna").card.as_dict()
    cards = [imposter, *(identity(name).card.as_dict() for name in NAMES[1:])]
    assert "'anna'" in refused("deal.signature", parse_roster, cards, pins())


def test_a_member_without_a_pin_is_refused() -> None:
    extra = Identity.generate("eve").card.as_dict()
    cards = [*(identity(name).card.as_dict() for name in NAMES), extra]
    refused("deal.signature", parse_roster, cards, pins())


def test_a_roster_names_each_member_once_and_in_order() -> None:
    cards = [identity(name).card.as_dict() for name in NAMES]
    refused("deal.signature", parse_roster, cards[::-1], pins())
    refused("deal.signature", parse_roster, [cards[0], *cards], pins())


def test_all_members_receive_the_same_working_keys(held: dict[str, keys.EpochKey]) -> None:
    assert len({(key.he_key, key.secret) for key in held.values()}) == 1
    for key in held.values():
        keys.confirm(key, roster(), answers(held))


def test_keys_do_not_show_in_a_repr(held: dict[str, keys.EpochKey]) -> None:
    assert repr(held["anna"]) == "EpochKey(epoch=1)"


def test_a_deal_of_the_coordinators_own_keys_is_refused() -> None:
    coordinator = Identity.generate("anna")  # a name on the roster, but not its key
    own = keys.deal(coordinator, TERMS, roster(), PLAN)[1]
    refused("deal.signature", keys.receive, identity("bert"), TERMS, roster(), PLAN, own)
    outsider = keys.deal(Identity.generate("server"), TERMS, roster(), PLAN)[1]
    refused("deal.signature", keys.receive, identity("bert"), TERMS, roster(), PLAN, outsider)


def test_a_deal_for_another_member_or_epoch_is_refused(deals: dict[str, keys.Deal]) -> None:
    refused("deal.signature", keys.receive, identity("bert"), TERMS, roster(), PLAN, deals["cleo"])
    swapped = replace(deals["cleo"], recipient="bert")
    refused("deal.signature", keys.receive, identity("bert"), TERMS, roster(), PLAN, swapped)
    later = replace(TERMS, epoch=2)
    refused("deal.signature", keys.receive, identity("bert"), later, roster(), PLAN, deals["bert"])
    cut = replace(deals["bert"], ciphertext=deals["bert"].ciphertext[:-1])
    refused("deal.signature", keys.receive, identity("bert"), TERMS, roster(), PLAN, cut)


def test_wrapped_keys_open_only_for_their_purpose() -> None:
    wrapped = identity("anna").card.wrap(b"secret", b"one purpose")
    assert identity("anna").unwrap(wrapped, b"one purpose") == b"secret"
    refused("deal.signature", identity("anna").unwrap, wrapped, b"another")
    refused("deal.signature", identity("bert").unwrap, wrapped, b"one purpose")


def test_members_that_hold_different_keys_notice(held: dict[str, keys.EpochKey]) -> None:
    """A dealer, or a coordinator with a dealer's help, that deals two keys is found before anybody seals."""
    second = {deal.recipient: deal for deal in keys.deal(identity("anna"), TERMS, roster(), PLAN)}
    odd = keys.receive(identity("dora"), TERMS, roster(), PLAN, second["dora"])
    said = answers({**held, "dora": odd})
    assert "'dora'" in refused("deal.disagree", keys.confirm, held["anna"], roster(), said)
    refused("deal.disagree", keys.confirm, odd, roster(), said)


def test_an_answer_must_be_there_and_signed(held: dict[str, keys.EpochKey]) -> None:
    said = answers(held)
    without = {name: answer for name, answer in said.items() if name != "cleo"}
    assert "'cleo'" in refused("deal.signature", keys.confirm, held["anna"], roster(), without)
    forged = {**said, "cleo": said["bert"]}
    refused("deal.signature", keys.confirm, held["anna"], roster(), forged)
    junk = {**said, "cleo": {"answer": said["cleo"]["answer"], "signature": "!"}}
    refused("deal.signature", keys.confirm, held["anna"], roster(), junk)


def test_an_answer_gives_no_key_away_and_depends_on_the_terms(held: dict[str, keys.EpochKey]) -> None:
    key = held["anna"]
    assert replace(key, terms=replace(TERMS, epoch=2)).answer() != key.answer()
    said = canonical(answers(held))
    assert key.secret not in said
    assert key.secret.hex().encode() not in said
