"""Sharing: any t shares are the secret, fewer are nothing; deals that contradict each other are found."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import shamir
from moonflower.crypto.flood import Opening, ThresholdPlan, plan_threshold
from moonflower.crypto.planner import _largest_prime
from moonflower.crypto.ring import Prime, Stream
from moonflower.crypto.shamir import CHECKS, KEY_BYTES, Dealt, EpochShare, deal
from moonflower.errors import Refused

SMALL = (Prime(_largest_prime(20, 16), 16), Prime(_largest_prime(47, 16), 16))
NAMES = ("anna", "bert", "cleo", "dora", "emil")


@lru_cache
def plan5() -> ThresholdPlan:
    return plan_threshold(5, 16, 100)


@lru_cache
def deals() -> dict[str, Dealt]:
    return {name: deal(plan5(), NAMES) for name in NAMES}


def received(name: str, dealt: dict[str, Dealt] | None = None, **changes: Any) -> EpochShare:
    dealt = dealt or deals()
    given_: dict[str, Any] = {
        "payloads": {dealer: d.payloads[name] for dealer, d in dealt.items()},
        "commitments": {dealer: d.commitments for dealer, d in dealt.items()},
        **changes,
    }
    return EpochShare(plan5(), NAMES, name, dealt[name].own, **given_)


def code_of(call: Any, *arguments: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    return refusal.value.code, str(refusal.value)


# Sharing


@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_threshold_of_shares_is_the_secret(threshold: int, more: int, seed: int) -> None:
    n, rng = threshold + more, np.random.default_rng(seed)
    secret = np.stack([rng.integers(0, p.modulus, 7) for p in SMALL])
    shares = shamir.share(secret, SMALL, threshold, n, Stream.fresh())
    some = rng.choice(n, threshold, replace=False)
    assert (shamir.combine({int(j) + 1: shares[j] for j in some}, SMALL) == secret).all()


def test_one_share_less_is_uniform_whatever_the_secret() -> None:
    p = (SMALL[0],)
    for value in (0, 1):
        secret = np.full((1, 40_000), value)
        shares = shamir.share(secret, p, 3, 5, Stream.fresh())
        for pair in combinations(range(5), 2):
            guess = shamir.combine({j + 1: shares[j] for j in pair}, p)[0]
            assert (guess == value).mean() < 0.001
            assert abs(np.corrcoef(shares[pair[0], 0], shares[pair[1], 0])[0, 1]) < 0.03


@given(st.lists(st.integers(0, 2**19), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 2**32))
def test_points_on_a_polynomial_are_told_from_others(coefficients: list[int], more: int, seed: int) -> None:
    p, t = SMALL[1].modulus, len(coefficients)
    values = {j: sum(c * j**k for k, c in enumerate(coefficients)) % p for j in range(1, t + more + 1)}
    assert shamir.on_one_polynomial(values, t, p)
    odd = seed % len(values) + 1
    values[odd] += 1 + seed % (p - 1)
    assert not shamir.on_one_polynomial(values, t, p)
    assert shamir.odd_one_out(values, t, p) == (odd if more >= 2 else 0)


# An epoch's deals


def test_honest_deals_agree() -> None:
    held = {name: received(name) for name in NAMES}
    answers = {name: one.answer() for name, one in held.items()}
    for one in held.values():
        one.confirm(answers)
    assert len({one.secret for one in held.values()}) == 1
    for a, b in combinations(NAMES, 2):
        assert held[a].pairs[b] == held[b].pairs[a]
    assert len({one.pairs[b] for a, one in held.items() for b in NAMES if a < b}) == 10


def test_what_a_member_holds_comes_back_from_disk_and_shows_no_key() -> None:
    one, again = received("anna"), received("anna")
    assert one.answer() == again.answer()
    assert repr(one) == "EpochShare('anna' of 5)"
    assert repr(deals()["anna"]) == "Dealt(5 payloads)"


def test_answers_say_nothing_about_a_share() -> None:
    """The blinds: two deals of one secret to one share give different check values."""
    one = received("anna")
    for dealer in NAMES:
        values = one.answer()["checks"][dealer]
        bare = copy.copy(one)
        bare._blinds = {name: np.zeros_like(blinds) for name, blinds in one._blinds.items()}
        assert all(
            v != w
            for a, b in zip(values, bare.answer()["checks"][dealer], strict=True)
            for v, w in zip(a, b, strict=True)
        )


def forged(dealer: str, change: Any) -> dict[str, Dealt]:
    dealt = dict(deals())
    payloads = {name: change(name, payload) for name, payload in dealt[dealer].payloads.items()}
    commitments = {name: hashlib.sha256(payload).hexdigest() for name, payload in payloads.items()}
    dealt[dealer] = replace(dealt[dealer], payloads=payloads, commitments=commitments)
    return dealt


def test_a_dealer_whose_shares_contradict_each_other_is_named() -> None:
    other = deal(plan5(), NAMES)
    start = 2 * KEY_BYTES + 8 * 3 * CHECKS
    for victims, odd in ((("cleo",), "'cleo' does not fit"), (("cleo", "dora"), "")):
        dealt = forged("bert", lambda n, p, v=victims: p[:start] + other.payloads[n][start:] if n in v else p)
        held = {name: received(name, dealt) for name in NAMES}
        answers = {name: one.answer() for name, one in held.items()}
        code, text = code_of(held["anna"].confirm, answers)
        assert code == "deal.disagree"
        assert "dealt by 'bert'" in text
        assert odd in text
        assert ("does not fit" in text) == bool(odd)


def test_one_wrong_residue_of_a_share_is_found() -> None:
    def change(name: str, payload: bytes) -> bytes:
        return payload[:-9] + bytes([payload[-9] ^ 1]) + payload[-8:] if name == "emil" else payload

    held = {name: received(name, forged("bert", change)) for name in NAMES}
    answers = {name: one.answer() for name, one in held.items()}
    assert "dealt by 'bert'" in code_of(held["bert"].confirm, answers)[1]


def test_a_dealer_that_gives_members_different_epoch_secrets_is_found() -> None:
    dealt = forged("bert", lambda name, payload: bytes(32) + payload[32:] if name == "cleo" else payload)
    held = {name: received(name, dealt) for name in NAMES}
    answers = {name: one.answer() for name, one in held.items()}
    assert code_of(held["anna"].confirm, answers) == ("deal.disagree", "'cleo' holds other deals")


def test_a_deal_that_is_not_what_was_committed_to_is_refused() -> None:
    payloads = {dealer: d.payloads["anna"] for dealer, d in deals().items()}
    swapped = {**payloads, "bert": deals()["bert"].payloads["cleo"]}
    for wrong in (swapped, {k: v for k, v in payloads.items() if k != "bert"}, {**payloads, "bert": b""}):
        code, text = code_of(lambda w=wrong: received("anna", payloads=w))
        assert (code, "'bert'" in text) == ("deal.signature", True)


@pytest.mark.parametrize("size", [0, 31, 2 * KEY_BYTES + 8 * 3 * CHECKS, 100_000])
def test_a_deal_of_another_length_or_range_is_refused(size: int) -> None:
    dealt = forged("bert", lambda name, payload: payload[:size])
    assert code_of(received, "anna", dealt)[0] == "deal.signature"
    full = forged("bert", lambda name, payload: payload[:-100_000] + b"\xff" * 100_000)
    assert code_of(received, "anna", full)[0] == "deal.signature"


@pytest.mark.parametrize("bad", [None, {}, [], {"anna": 1}, {name: [[0] * CHECKS] * 2 for name in NAMES}])
def test_an_answer_of_the_wrong_form_is_refused(bad: Any) -> None:
    held = received("anna")
    answers = {name: {**held.answer(), "checks": bad} for name in NAMES}
    assert code_of(held.confirm, answers)[0] == "deal.disagree"
    assert code_of(held.confirm, {})[0] == "deal.disagree"
    huge = {name: [[1 << 47] * CHECKS] * 3 for name in NAMES}
    assert code_of(held.confirm, {name: {**held.answer(), "checks": huge} for name in NAMES})[0] == "deal.disagree"


# Factors


def test_factors_of_any_openers_add_up_to_the_secret() -> None:
    held, p3 = {name: received(name) for name in NAMES}, plan5().ring.primes
    for openers in combinations(NAMES, 3):
        about = Opening("c" * 64, ("anna", "cleo", "emil"), openers, 0)
        total = sum(held[name].factor(about) for name in openers)
        secret = held["anna"].key + held["cleo"].key + held["emil"].key
        assert all((p.reduce(t) == p.reduce(s)).all() for p, t, s in zip(p3, total, secret, strict=True))


@pytest.mark.parametrize(
    ("members", "openers"),
    [
        ((), ("anna", "bert", "cleo")),
        (("anna", "anna"), ("anna", "bert", "cleo")),
        (("bert", "anna"), ("anna", "bert", "cleo")),
        (("anna", "zoe"), ("anna", "bert", "cleo")),
        (("anna", "bert"), ("bert", "cleo", "dora")),
        (("anna", "bert"), ("anna", "bert")),
        (("anna", "bert"), ("anna", "bert", "bert")),
        (("anna", "bert"), ("anna", "bert", "zoe")),
    ],
)
def test_sets_that_are_none_are_refused(members: tuple[str, ...], openers: tuple[str, ...]) -> None:
    """A member listed twice would stand in the sum of shares twice: two sets A for one context."""
    assert code_of(received("anna").factor, Opening("c" * 64, members, openers, 0))[0] == "open.set"
