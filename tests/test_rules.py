"""The two twins: every rule of the round, at the member (guard) and at the coordinator (rounds)."""

from __future__ import annotations

from typing import Any

import pytest
from moonflower.canonical import canonical, parse_canonical
from moonflower.client import guard
from moonflower.client.guard import Remembered
from moonflower.configs.settings import FloorSettings, GateSettings, RunSettings
from moonflower.crypto.identity import Roster
from moonflower.errors import Refused
from moonflower.protocol import envelope
from moonflower.protocol.context import RoundContext
from moonflower.protocol.envelope import SignedHeader
from moonflower.protocol.messages import Open, Opened, Seal
from moonflower.protocol.purposes import FIRST, UPDATE
from moonflower.protocol.statement import Proof, Statement, quorum, sign_statement, vote_bytes
from moonflower.server.rules import Collection, Hearing, Patience, agree

from protocol import BASE, CHECKPOINT, NAMES, SEEDS, context, identity, proof, roster, sealed, statement

FLOOR = FloorSettings(
    tasks=("a.b:task",), min_members=3, max_rounds=10, max_local_epochs=5, max_train_s=60, min_quorum=2
)
SCHEMA, BEST = "a" * 64, "f" * 64


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code, str(refusal.value)
    return str(refusal.value)


# Rule 9: the node's floor


def offer(**changes: Any) -> dict[str, Any]:
    settings = RunSettings.model_validate(
        {
            "federation": {"name": "f"},
            "task": {"ref": "a.b:task", "hidden": [2]},
            "training": {"rounds": 10, "local_epochs": 5, "train_timeout_s": 60},
        }
    )
    made = settings.offer(SCHEMA)
    for dotted, value in changes.items():
        table, _, key = dotted.partition("__")
        if key:
            made[table][key] = value
        else:
            made[table] = value
    return made


def test_an_offer_within_the_floor_is_admitted() -> None:
    assert guard.admit(offer(), FLOOR, SCHEMA).task.options == {"hidden": [2]}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"task__ref": "os:system"}, "task.refused"),
        ({"schema": "b" * 64}, "config.schema"),
        ({"federation__min_members": 2}, "config.min_members"),
        ({"training__rounds": 11}, "config.rounds"),
        ({"training__local_epochs": 6}, "config.local_epochs"),
        ({"training__train_timeout_s": 61.0}, "config.train_timeout_s"),
        ({"training__lr": -1.0}, "config.value"),
        ({"data": {"path": "/etc/passwd"}}, "config.value"),
        ({"code": "import os"}, "config.value"),
    ],
)
def test_an_offer_beyond_the_floor_is_refused(change: dict[str, Any], code: str) -> None:
    refused(code, guard.admit, offer(**change), FLOOR, SCHEMA)


def test_a_run_carries_no_data_settings() -> None:
    assert sorted(offer()) == ["crypto", "federation", "gate", "schema", "task", "training"]


# Rules 1 and 7: the context, and sealing once


def request(**changes: Any) -> Seal:
    fields = {"run": "r", "epoch": 1, "number": 3, "round": 3, "purpose": "update", "base": BASE, "clip": 2.0}
    return Seal(**{**fields, "checkpoint": CHECKPOINT, "model": b"", "proof": {}, **changes})


def test_the_context_takes_only_the_rounds_own_fields_from_a_request() -> None:
    template = context(number=0, round=0, purpose="statistics", base="", clip=0.0)
    assert guard.round_context(template, request(), FIRST) == context()
    refused("envelope.context", guard.round_context, template, request(run="other"), FIRST)
    refused("envelope.context", guard.round_context, template, request(purpose="plain"), FIRST)
    refused("envelope.context", guard.round_context, template, request(number=-1), FIRST)
    refused("envelope.context", guard.round_context, template, request(round=-1), FIRST)
    refused("envelope.epoch", guard.round_context, template, request(epoch=2), FIRST)


def test_a_round_is_sealed_once_and_the_same_bytes_go_out_again() -> None:
    guard.check_seal(context(), None)
    guard.check_seal(context(), Remembered(context().digest, "h", 0.0, b"bytes"))
    refused("seal.already", guard.check_seal, context(), Remembered(context().digest, "h", 0.0, None))
    other = Remembered(context(training={"lr": 0.0}).digest, "h", 0.0, b"bytes")
    refused("seal.already", guard.check_seal, context(), other)


# Rule 3: a base is proved


def check_base(said: Statement, about: RoundContext | None = None, found: Proof | None = None, wanted: int = 0) -> None:
    about = about or context(base=said.sha256, clip=said.clip)
    guard.check_base(about, (found or proof(said)).as_dict(), roster(), wanted, FLOOR, FIRST)


def test_a_base_that_a_quorum_signed_is_proved() -> None:
    said = statement(context(number=2))
    check_base(said)
    check_base(said, found=proof(said, NAMES[:3]))
    check_base(statement(context(number=0, purpose="statistics")))


def test_a_base_is_unproved_without_its_quorum() -> None:
    said = statement(context(number=2))
    assert "2 of 3" in refused("base.unproved", check_base, said, None, proof(said, NAMES[:2]))
    refused("base.unproved", check_base, said, None, proof(said, ()))
    check_base(said, None, proof(said, NAMES[:2]), 2)
    refused("base.unproved", check_base, said, None, proof(said, NAMES[:1]), 1)  # below the node's own floor


def test_signatures_of_others_or_of_other_statements_do_not_count() -> None:
    said, other = statement(context(number=2)), statement(context(number=2), sha256="d" * 64)
    mixed = Proof(said.encode(), {**proof(other).signatures, "anna": sign_statement(identity("anna"), said)})
    refused("base.unproved", check_base, said, None, mixed)
    one_key = sign_statement(identity("anna"), said)
    refused("base.unproved", check_base, said, None, Proof(said.encode(), dict.fromkeys(NAMES, one_key)))
    strangers = statement(context(number=2), members=("anna", "eve", "mallory"))
    refused("base.unproved", check_base, strangers, None, proof(strangers, ("anna",)))


def test_openers_of_earlier_epochs_prove_a_base_beside_one_of_today() -> None:
    said = statement(context(number=2))
    about = context(base=said.sha256, clip=said.clip)
    today, cards = Roster(roster().cards[:1]), roster().cards

    def check(signers: tuple[str, ...], remembered: Any) -> None:
        guard.check_base(about, proof(said, signers).as_dict(), today, 0, FLOOR, FIRST, remembered)

    check(NAMES[:3], cards)
    check(NAMES[:3], iter(cards[1:]))
    assert "1 of 3" in refused("base.unproved", check, NAMES[:3], ())
    assert "2 of 3" in refused("base.unproved", check, NAMES[:3], cards[2:])
    assert "1 of 3" in refused("base.unproved", check, NAMES[:1], cards)
    assert "0 of 3" in refused("base.unproved", check, NAMES[1:], cards), "those that left prove nothing on their own"


@pytest.mark.parametrize(
    "changes",
    [
        {"about": {"base": "e" * 64}},  # another version than the one signed: a weight nudged by 1e-9
        {"about": {"clip": 2.5}},
        {"about": {"federation": "g"}},
        {"said": {"in_range": False}},
        {"context": {"purpose": "tallies"}},
        {"members": NAMES[:2]},
    ],
)
def test_a_proof_about_something_else_proves_nothing(changes: dict[str, Any]) -> None:
    members = changes.get("members", NAMES)
    said = statement(context(number=2, **changes.get("context", {})), members=members, **changes.get("said", {}))
    about = context(**{"base": said.sha256, "clip": said.clip, **changes.get("about", {})})
    refused("base.unproved", check_base, said, about, proof(said, members), 2)


@pytest.mark.parametrize("junk", [{}, {"statement": 3}, {"statement": "{}", "signatures": {"anna": "!"}}])
def test_a_malformed_proof_is_unproved(junk: dict[str, Any]) -> None:
    refused("base.unproved", guard.check_base, context(), junk, roster(), 0, FLOOR, FIRST)


def test_a_tally_takes_a_base_whatever_the_clip() -> None:
    said = statement(context(number=2))
    check_base(said, context(purpose="tallies", base=said.sha256, clip=99.0))


# Rules 1 and 2 at the opening


def opening(contexts: dict[str, RoundContext], **changes: Any) -> Open:
    headers = {name: envelope.split(sealed(name, about))[0] for name, about in contexts.items()}
    fields: dict[str, Any] = {
        "run": "r",
        "epoch": 1,
        "number": 3,
        "round": 3,
        "purpose": "update",
        "base": BASE,
        "clip": 2.0,
        "checkpoint": CHECKPOINT,
        "members": sorted(contexts),
        "headers": {name: signed.data for name, signed in headers.items()},
        "signatures": {name: signed.signature for name, signed in headers.items()},
        "seeds": dict.fromkeys(contexts, SEEDS),
        "total": b"",
        "best": "",
        "upload": False,
    }
    return Open(**{**fields, **changes})


def open_as_anna(
    asked: Open,
    before: Any = None,
    own: Any = "sealed",
    about: RoundContext | None = None,
    pinned: Any = NAMES,
) -> Any:
    if own == "sealed" and "anna" in asked.headers:
        signed = SignedHeader(asked.headers["anna"], asked.signatures["anna"])
        own = Remembered(context().digest, signed.digest, 0.0, b"")
    return guard.check_opening(about or context(), asked, own, before, roster(), pinned, FLOOR)


def test_an_honest_opening_is_allowed_and_repeatable() -> None:
    asked = opening(dict.fromkeys(NAMES, context()))
    assert sorted(open_as_anna(asked).digests) == list(NAMES)
    assert open_as_anna(asked, before=list(NAMES)).tags == {name: [7, 8] for name in NAMES}


def test_a_member_that_trained_under_another_context_is_not_opened() -> None:
    """Rule 1: otherwise lr = 0 for all but one member makes the sum that member's update."""
    for odd in (context(training={"lr": 0.0}), context(base="e" * 64), context(clip=1.0)):
        asked = opening({**dict.fromkeys(NAMES, context()), "cleo": odd})
        assert "'cleo'" in refused("envelope.context", open_as_anna, asked)


def test_an_opening_for_another_context_than_sealed_is_refused() -> None:
    asked = opening(dict.fromkeys(NAMES, context()))
    refused("envelope.context", open_as_anna, asked, None, "sealed", context(number=4))


def test_the_same_base_is_not_opened_for_another_set() -> None:
    """Rule 2: otherwise the difference of two sums is one member's update."""
    fewer = opening(dict.fromkeys(NAMES[:3], context()))
    refused("open.overlap", open_as_anna, fewer, list(NAMES))
    more = opening(dict.fromkeys(NAMES, context()))
    refused("open.overlap", open_as_anna, more, list(NAMES[:3]))


def test_a_base_is_opened_again_without_those_that_this_node_no_longer_pins() -> None:
    """Rule 2: only an eviction lets a base be opened for fewer, and for all but the evicted at that."""
    without_dora = opening(dict.fromkeys(NAMES[:3], context()))
    assert sorted(open_as_anna(without_dora, list(NAMES), pinned=NAMES[:3]).digests) == list(NAMES[:3])
    everybody = opening(dict.fromkeys(NAMES, context()))
    assert sorted(open_as_anna(everybody, list(NAMES), pinned=NAMES[:3]).digests) == list(NAMES)
    without_cleo = opening(dict.fromkeys(("anna", "bert", "dora"), context()))
    refused("open.overlap", open_as_anna, without_cleo, list(NAMES), "sealed", None, NAMES[:3])
    refused("open.overlap", open_as_anna, without_dora, [*NAMES, "eve"], "sealed", None, NAMES)


def test_a_small_set_is_never_opened() -> None:
    refused("open.cohort", open_as_anna, opening(dict.fromkeys(NAMES[:2], context())))


def test_a_sum_without_this_member_is_not_opened() -> None:
    asked = opening(dict.fromkeys(NAMES, context()))
    refused("open.set", open_as_anna, asked, None, None)
    refused("open.set", open_as_anna, asked, None, Remembered(context().digest, "0" * 64, 0.0, b""))


def test_headers_must_be_signed_and_name_their_member() -> None:
    asked = opening(dict.fromkeys(NAMES, context()))
    swapped = {**asked.headers, "bert": asked.headers["cleo"]}
    refused("envelope.signature", open_as_anna, asked.model_copy(update={"headers": swapped}))
    signatures = {**asked.signatures, "bert": asked.signatures["cleo"]}
    both = asked.model_copy(update={"headers": swapped, "signatures": signatures})
    refused("envelope.signature", open_as_anna, both)


def test_seeds_must_be_the_ones_that_were_signed() -> None:
    """A server that swaps seeds would make the members open something else than they summed."""
    asked = opening(dict.fromkeys(NAMES, context()))
    swapped = asked.model_copy(update={"seeds": {**asked.seeds, "cleo": b"other"}})
    assert "'cleo'" in refused("open.set", open_as_anna, swapped)
    missing = asked.model_copy(update={"seeds": dict.fromkeys(NAMES[:3], SEEDS)})
    refused("open.set", open_as_anna, missing)


@pytest.mark.parametrize(
    "members", [list(NAMES[:3]), [*NAMES, "dora"], ["bert", "anna", "cleo", "dora"], [*NAMES, "eve"]]
)
def test_the_set_and_its_headers_name_the_same_members(members: list[str]) -> None:
    asked = opening(dict.fromkeys(NAMES, context()), members=members)
    refused("open.set", open_as_anna, asked)


# The coordinator's half


def collection(**changes: Any) -> Collection:
    fields = {"context": context(), "roster": roster(), "invited": frozenset(NAMES), "body_bytes": 9}
    return Collection(**{**fields, **changes})


def take(found: Collection, *names: str) -> Collection:
    for name in names:
        found.accept(found.check(name, sealed(name, context())))
    return found


def test_a_set_closes_when_enough_have_come_and_names_the_late() -> None:
    found = take(collection(), "dora", "anna", "cleo")
    assert found.waiting == {"bert"}
    assert found.close() == ("anna", "cleo", "dora")
    assert found.excluded == {"bert": "envelope.late"}


def test_too_few_are_no_set() -> None:
    refused("round.too_few", take(collection(), "anna", "bert").close)


def test_an_envelope_counts_once() -> None:
    found = take(collection(), "anna")
    refused("envelope.replay", found.check, "anna", sealed("anna", context()))
    found.exclude("anna", "envelope.late")
    assert found.excluded == {}


def test_only_the_invited_are_taken() -> None:
    found = collection(invited=frozenset(NAMES[:3]))
    refused("envelope.member", found.check, "dora", sealed("dora", context()))


def test_a_base_that_was_opened_closes_for_the_same_set_only() -> None:
    found = take(collection(invited=frozenset(NAMES), fixed=frozenset(NAMES)), *NAMES[:3])
    assert "dora" in refused("round.too_few", found.close)
    assert take(collection(fixed=frozenset(NAMES)), *NAMES).close() == NAMES


def opened(name: str, said: Statement, vote: float | None = 0.1) -> Opened:
    return Opened(
        statement=said.encode(),
        signature=sign_statement(identity(name), said),
        vote=vote,
        vote_signature=identity(name).sign("vote", vote_bytes(said.encode(), BEST, vote)),
        result=b"",
        open_s=0.0,
    )


def hearing(wanted: int = 0) -> Hearing:
    return Hearing(UPDATE, context(), roster(), NAMES, wanted, BEST)


def test_a_quorum_agrees_and_the_minority_is_named() -> None:
    said, other = statement(context()), statement(context(), sha256="d" * 64)
    found = hearing()
    for name in ("anna", "bert", "dora"):
        found.hear(name, opened(name, said, vote=0.25))
    found.hear("cleo", opened("cleo", other))
    agreed = found.conclude()
    assert agreed.disagreeing == ("cleo",)
    assert agreed.votes == {"anna": 0.25, "bert": 0.25, "dora": 0.25}
    assert agreed.proof.verify(roster(), 0) == said


def test_no_quorum_says_why() -> None:
    said, other = statement(context()), statement(context(), sha256="d" * 64)
    split = hearing()
    for name, what in zip(NAMES, (said, said, other, other), strict=True):
        split.hear(name, opened(name, what))
    refused("open.disagree", split.conclude)
    silent = hearing()
    silent.hear("anna", opened("anna", said))
    refused("open.quorum", silent.conclude)
    overlapping = hearing()
    for name in NAMES:
        overlapping.refuse(name, "open.overlap")
    refused("open.overlap", overlapping.conclude)


def test_statements_and_votes_are_checked_before_they_count() -> None:
    said = statement(context())
    found = hearing()
    refused("envelope.signature", found.hear, "anna", opened("bert", said))
    forged_vote = opened("anna", said, 0.5).model_copy(update={"vote": -1.0})
    refused("envelope.signature", found.hear, "anna", forged_vote)
    stale = statement(context(number=2))
    refused("envelope.context", found.hear, "anna", opened("anna", stale))
    fewer = statement(context(), members=NAMES[:3])
    refused("envelope.context", found.hear, "anna", opened("anna", fewer))
    refused("open.set", found.hear, "eve", opened("anna", said))
    found.hear("anna", opened("anna", said))
    refused("open.set", found.hear, "anna", opened("anna", said))
    assert list(found.statements) == ["anna"]


def test_a_quorum_is_the_majority_unless_the_run_says_otherwise() -> None:
    assert [quorum(NAMES[:n], 0) for n in (2, 3, 4)] == [2, 2, 3]
    assert quorum(NAMES, 4) == 4
    assert quorum(NAMES[:3], 4) == 3


@pytest.mark.parametrize("junk", [b"", b"{}", b"[1]", b'{"v":1}', b"\xff"])
def test_a_malformed_statement_is_refused(junk: bytes) -> None:
    refused("open.disagree", Statement.parse, junk)


def test_patience_counts_refusals_and_failures_apart() -> None:
    patience = Patience(GateSettings(patience=2, max_failed=2))
    patience.was_refused()
    patience.has_failed()
    assert patience.code == ""
    patience.was_refused()
    assert patience.code == "run.patience"
    patience.promoted()
    assert patience.code == ""
    for status in ("failed", "refused", "promoted", "failed", "failed"):
        patience.count(status)
    assert (patience.refused, patience.failed, patience.code) == (0, 2, "run.max_failed")


def test_a_disagreement_at_enrolment_names_member_and_field() -> None:
    fields = {"schema": "s", "task": "t", "package": "p", "layout": "l", "start": "x"}
    sizes = {"update": 10, "statistics": 3, "tallies": 4}
    said, counted = dict.fromkeys(NAMES, fields), dict.fromkeys(NAMES, sizes)
    common, odd = agree({**said, "dora": {**fields, "start": "y"}}, counted, FIRST)
    assert (dict(common.agreed), dict(common.sizes), odd) == (fields, sizes, {"dora": "start"})
    assert agree(said, {**counted, "dora": {**sizes, "update": 11}}, FIRST)[1] == {"dora": "update"}
    assert agree(said, {**counted, "dora": {**sizes, "more": 1}}, FIRST)[1] == {"dora": "purposes"}
    assert agree(said, {**counted, "dora": {"update": 10}}, FIRST)[1] == {"dora": "statistics"}
    assert agree({}, {}, FIRST)[1] == {}


def test_a_vote_is_bound_to_what_it_was_compared_with() -> None:
    said, found = statement(context()), hearing()
    other = vote_bytes(said.encode(), "e" * 64, 0.1)
    answer = opened("anna", said).model_copy(update={"vote_signature": identity("anna").sign("vote", other)})
    refused("envelope.signature", found.hear, "anna", answer)


@pytest.mark.parametrize(
    "change", [{"context": 5}, {"members": ["anna", 3]}, {"clip": 1}, {"metrics": {"loss": "x"}}, {"sha256": "short"}]
)
def test_a_statement_with_a_field_of_another_form_is_refused(change: dict[str, Any]) -> None:
    """Signed or not: what a hostile member signs must not break the coordinator."""
    said = canonical({**parse_canonical(statement(context()).encode()), **change})
    refused("open.disagree", Statement.parse, said)
