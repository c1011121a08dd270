"""The two twins: every rule of the round, at the member (guard) and at the coordinator (rules)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from moonflower.canonical import canonical, parse_canonical
from moonflower.client import guard
from moonflower.client.circles import Own, check_recipe
from moonflower.client.guard import BaseRules, Before, OwnAnswer
from moonflower.configs.recipe import Recipe
from moonflower.configs.roles import CircleSettings
from moonflower.configs.settings import FloorSettings, GateSettings, parse
from moonflower.configs.settings import Offer as OfferSettings
from moonflower.crypto import sealed as sealing
from moonflower.crypto import tau
from moonflower.crypto.planner import plan
from moonflower.errors import Ended, Refused
from moonflower.protocol import envelope
from moonflower.protocol.answer import AnswerDocument, SignedAnswer, list_digest
from moonflower.protocol.context import RoundContext
from moonflower.protocol.messages import SHARED, Answered, Ask, Enrolled, Open, Opened, Seal
from moonflower.protocol.purposes import FIRST, UPDATE
from moonflower.protocol.statement import Proof, Statement, vote_bytes
from moonflower.server.rules import Collection, Hearing, Patience, SaidWords, agree, check_answer
from support.circles import heart_offer, heart_recipe
from support.protocol import BASE, CHECKPOINT, NAMES, context, identity, proof, roster, sealed, statement, words

BEST = "f" * 64


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code, str(refusal.value)
    return str(refusal.value)


# Rule 9: the node's floor


TASK = "moonflower.client.tasks.tabular:task"
FLOOR = {"tasks": (TASK,), "max_train_s": 60.0, "min_approvals": 2}
CIRCLE = {"min_members": 3, "runs_a_day": 2, "max_envelope_mb": 1}


def own(*, practice: bool = False, circle: dict[str, Any] | None = None, **floor: Any) -> Own:
    limits = FloorSettings(**{**FLOOR, **floor})
    return Own(identity("anna"), practice, limits, CircleSettings(**{**CIRCLE, **(circle or {})}))


def recipe(*overrides: str, practice: bool = False) -> Recipe:
    return heart_recipe("training.train_timeout_s=60", *overrides, practice=practice)


def test_a_recipe_within_the_floor_is_signed() -> None:
    check_recipe(recipe(), 3, own())


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("federation.min_members=2", "config.min_members"),
        ("training.train_timeout_s=61", "config.train_timeout_s"),
        ("gate.approvals_required=1", "config.min_approvals"),
        ("gate.release=automatic", "config.min_approvals"),
    ],
)
def test_a_recipe_beyond_the_floor_is_refused(override: str, code: str) -> None:
    refused(code, check_recipe, recipe(override), 3, own())


def test_a_task_that_trains_by_itself_needs_a_line_of_the_floor() -> None:
    asked, node = recipe("training.loop=own"), own()
    said = refused("task.refused", check_recipe, asked, 3, node)
    assert f'set under [client]: own_training = ["{asked.task.ref}"]' in said
    floor = node.floor.model_copy(update={"own_training": (asked.task.ref,)})
    check_recipe(asked, 3, replace(node, floor=floor))


def test_a_recipe_of_what_is_not_installed_here_is_refused() -> None:
    good = recipe()
    refused("config.min_members", check_recipe, good, 2, own())
    task = good.task.model_copy(update={"ref": "os:system"})
    refused("task.refused", check_recipe, good.model_copy(update={"task": task}), 3, own())
    assert "code" in refused("circle.differs", check_recipe, good.model_copy(update={"code": "0" * 64}), 3, own())
    assert "numerics = 9" in refused("circle.differs", check_recipe, good.model_copy(update={"numerics": 9}), 3, own())


def test_a_node_with_a_secret_from_a_seed_takes_part_in_practice_alone() -> None:
    """Who knows the seed knows its rows."""
    check_recipe(recipe(practice=True), 3, own(practice=True))
    assert "comes from a seed" in refused("circle.differs", check_recipe, recipe(), 3, own(practice=True))
    assert "is its own" in refused("circle.differs", check_recipe, recipe(practice=True), 3, own())


def test_a_run_carries_no_paths_and_no_data_settings() -> None:
    assert sorted(heart_offer()) == [
        *("choice", "circle", "crypto", "federation", "gate", "schema", "start", "task", "training")
    ]


# Rules 1 and 7: the context


def request(**changes: Any) -> Seal:
    fields = {"run": "r", "number": 3, "round": 3, "purpose": "update", "base": BASE}
    return Seal(**{**fields, "checkpoint": CHECKPOINT, "model": b"", "proof": {}, "refused": {}, **changes})


def test_the_context_takes_only_the_rounds_own_fields_from_a_request() -> None:
    rounds = {"lr": 0.1, "rounds": 10}
    template = context(number=0, round=0, purpose="", base="", checkpoint="", training=rounds)
    assert guard.round_context(template, request(), FIRST) == context(training=rounds)
    for change in (
        {"run": "other"},
        {"purpose": "plain"},
        {"number": -1},
        {"round": -1},
        {"round": 0},
        {"round": 11},
        {"base": ""},
        {"purpose": "statistics"},
        {"purpose": "tallies", "base": ""},
        {"purpose": "statistics", "base": ""},  # they begin a run, under no number of a round
        {"purpose": "statistics", "base": "", "number": 0},
    ):
        refused("envelope.context", guard.round_context, template, request(**change), FIRST)
    tallies = guard.round_context(template, request(purpose="tallies"), FIRST)
    assert tallies == context(purpose="tallies", training=rounds)
    statistics = request(purpose="statistics", base="", number=0, round=0)
    assert guard.round_context(template, statistics, FIRST).purpose == "statistics"


def test_a_round_is_bound_to_a_checkpoint_that_was_shown() -> None:
    guard.check_witnessed(request(), True)
    assert CHECKPOINT in refused("audit.fork", guard.check_witnessed, request(), False)


# Rule 3: a base is what this node knows


def offered() -> OfferSettings:
    return parse(OfferSettings, heart_offer("training.rounds=10"), where="the offer")


def base_rules(about: RoundContext, before: Before = Before()) -> BaseRules:  # noqa: B008
    return BaseRules(about, roster(), offered(), FIRST, before)


def check_base(
    said: Statement,
    about: RoundContext | None = None,
    found: Proof | None = None,
    before: Before = Before(),  # noqa: B008
    newest: Proof | None = None,
) -> guard.KnownBase:
    about = about or context(base=said.sha256)
    shown = newest.as_dict() if newest is not None else {}
    return base_rules(about, before).check((found or proof(said)).as_dict(), shown)


def base_refused(*arguments: Any, **named: Any) -> str:
    with pytest.raises(Refused) as refusal:
        check_base(*arguments, **named)
    assert refusal.value.code == "base.unknown", str(refusal.value)
    return str(refusal.value)


def test_a_base_that_everybody_signed_is_known() -> None:
    said = statement(context(number=2))
    assert check_base(said) == guard.KnownBase(said, promoted=True)
    assert not check_base(said, None, proof(said, vote="same")).promoted, "it was kept"
    start = statement(context(number=0, purpose="statistics"))
    assert check_base(start, None, proof(start, vote="")) == guard.KnownBase(start, promoted=False)


def test_a_base_without_the_words_of_all_names_is_unknown() -> None:
    """This member's own among them: others alone prove nothing to it."""
    said = statement(context(number=2))
    for absent in NAMES:
        missing = proof(said, tuple(name for name in NAMES if name != absent))
        assert "the signature and vote of every member" in base_refused(said, None, missing)
    base_refused(said, None, proof(said, ()))
    fewer = statement(context(number=2), NAMES[:3])
    assert "the signature and vote of every member" in base_refused(fewer, None, proof(fewer, NAMES[:3]))
    assert "the signature and vote of every member" in base_refused(fewer, None, proof(fewer, NAMES))


def test_signatures_of_others_or_of_other_statements_do_not_count() -> None:
    said, other = statement(context(number=2)), statement(context(number=2), sha256="d" * 64)
    mixed = Proof(said.encode(), "", {**proof(said).words, "anna": words("anna", other)})
    base_refused(said, None, mixed)
    base_refused(said, None, Proof(said.encode(), "", dict.fromkeys(NAMES, words("anna", said))))
    strangers = statement(context(number=2), members=("anna", "eve", "mallory"))
    base_refused(strangers, None, proof(strangers, ("anna",)))


def test_votes_count_as_they_were_signed() -> None:
    said = statement(context(number=2))
    honest = proof(said, best=BEST)
    turned = replace(honest.words["cleo"], vote="worse")
    base_refused(said, None, Proof(said.encode(), BEST, {**honest.words, "cleo": turned}))
    base_refused(said, None, Proof(said.encode(), "e" * 64, honest.words))
    check_base(said, None, honest)


@pytest.mark.parametrize(
    "changes",
    [
        {"about": {"base": "e" * 64}},  # another version than the one signed: a weight nudged by 1e-9
        {"about": {"federation": "g"}},
        {"about": {"run": "other"}},  # a run with a tiny learning rate, from the same base
        {"said": {"in_range": False}},
        {"said": {"norm": None}},
        {"context": {"purpose": "tallies"}},
        {"context": {"purpose": "of another kind"}},
        {"context": {"run": "other"}},
    ],
)
def test_a_proof_about_something_else_proves_nothing(changes: dict[str, Any]) -> None:
    said = statement(context(number=2, **changes.get("context", {})), **changes.get("said", {}))
    about = context(**{"base": said.sha256, **changes.get("about", {})})
    base_refused(said, about, proof(said))


def test_a_candidate_that_was_refused_is_no_base() -> None:
    """Everybody comes to the gate's verdict itself."""
    said = statement(context(number=2))
    assert "gate.worse" in base_refused(said, None, proof(said, vote="worse"))
    known = dict.fromkeys((0, 1), 0.1)
    assert "gate.step" in base_refused(said, before=Before(1, norms=known)), "by the norms that this member knows"
    later = dict.fromkeys((2, 3), 0.1)
    check_base(said, before=Before(2, norms=later))  # of later rounds none counts
    assert "gate.step" in base_refused(statement(context(number=2), norm=1.31)), "heart's max_step is 1.3"


def test_a_vote_compares_with_the_best_version_that_this_member_knows() -> None:
    """Else the coordinator could ask for words beside any version of its choice."""
    asked = opening(answered(ask()), best=BEST)
    guard.check_best(asked, BEST)
    refused("base.unknown", guard.check_best, asked, "e" * 64)
    refused("base.unknown", guard.check_best, asked, "")


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"statement": 3},
        {"statement": "{}", "best": "", "signatures": {"anna": "!"}, "votes": {"anna": 0.0}, "vote_signatures": {}},
        {"statement": "{}", "best": "", "signatures": {}, "votes": {}, "vote_signatures": {}},
    ],
)
def test_a_malformed_proof_is_unknown(junk: dict[str, Any]) -> None:
    refused("base.unknown", base_rules(context()).check, junk, {})


@pytest.mark.parametrize("vote", [2.0, float("nan"), None, True, "best", "Better"])
def test_a_vote_of_another_form_makes_a_proof_malformed(vote: Any) -> None:
    made = proof(statement(context(number=2))).as_dict()
    refused("base.unknown", Proof.from_dict, {**made, "votes": {**made["votes"], "cleo": vote}})


def test_a_proof_survives_the_way() -> None:
    made = proof(statement(context(number=2)), best=BEST, vote="abstain")
    assert Proof.from_dict(made.as_dict()) == made


def test_a_tally_takes_a_base_of_any_age() -> None:
    said = statement(context(number=2))
    check_base(said, context(purpose="tallies", base=said.sha256), before=Before(3, newest=(3, "d" * 64)))


def test_an_older_base_than_the_last_is_trained_from_in_its_own_round_alone() -> None:
    """There the retry gives the same update; anywhere else two sums differ by what one member changed."""
    said = statement(context(number=2))
    check_base(said, before=Before(2))
    assert "older" in base_refused(said, before=Before(3))
    check_base(said, before=Before(3, trained=True))


def test_a_newer_candidate_has_to_be_shown_as_refused() -> None:
    """Else the coordinator could hold a promoted version back from some, and have them train from an older one."""
    base, newer = statement(context(number=2)), statement(context(number=4), sha256="d" * 64)
    before = Before(2, newest=(4, "d" * 64))
    assert "round 4" in base_refused(base, before=before)
    assert "round 4" in base_refused(base, before=before, newest=proof(newer)), "it was promoted"
    check_base(base, before=before, newest=proof(newer, vote="worse"))
    for odd in (
        proof(statement(context(number=3), sha256="d" * 64), vote="worse"),
        proof(statement(context(number=4), sha256="e" * 64), vote="worse"),
        proof(newer, NAMES[:3], vote="worse"),
        proof(statement(context(number=4, run="other"), sha256="d" * 64), vote="worse"),
    ):
        base_refused(base, before=before, newest=odd)
    check_base(base, before=replace(before, trained=True))
    check_base(newer, before=before)
    check_base(base, before=Before(2, newest=(2, base.sha256)))


# Rule 2: everybody or nobody


def headers(contexts: dict[str, RoundContext]) -> dict[str, envelope.SignedHeader]:
    return {name: envelope.split(sealed(name, about))[0] for name, about in contexts.items()}


def ask(contexts: dict[str, RoundContext] | None = None, **changes: Any) -> Ask:
    signed = headers(contexts if contexts is not None else dict.fromkeys(NAMES, context()))
    fields: dict[str, Any] = {
        "run": "r",
        "number": 3,
        "round": 3,
        "purpose": "update",
        "base": BASE,
        "checkpoint": CHECKPOINT,
        "headers": {name: one.data for name, one in signed.items()},
        "signatures": {name: one.signature for name, one in signed.items()},
        "total": hashlib.sha256(TOTAL).hexdigest(),
    }
    return Ask(**{**fields, **changes})


TOTAL = b"total"


def own_header(asked: Ask) -> str:
    return hashlib.sha256(asked.headers["anna"]).hexdigest()


def list_as_anna(asked: Ask, given: OwnAnswer | None = None, own: str | None = None) -> guard.SealList:
    mine = own_header(asked) if own is None else own
    return guard.check_list(context(), asked, "anna", mine, given, roster())


def answered(asked: Ask, **changes: Any) -> OwnAnswer:
    """What anna keeps of having answered a list."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in asked.headers.items()}
    return replace(OwnAnswer(context().digest, digests, asked.total, b"", b"", b""), **changes)


def test_a_list_of_everybody_is_answered_and_again_as_it_was() -> None:
    asked = ask()
    found = list_as_anna(asked)
    assert (sorted(found.headers), sorted(found.masks)) == ([*NAMES], [*NAMES])
    assert found.digest == list_digest(found.headers.values())
    assert list_as_anna(asked, answered(asked), "") == found, "what was sealed is gone once it is answered"


@pytest.mark.parametrize("absent", NAMES)
def test_a_list_without_a_name_is_refused(absent: str) -> None:
    """Nobody is left out: the difference of two sums would be that member's update."""
    asked = ask({name: context() for name in NAMES if name != absent})
    refused("open.list", guard.check_list, context(), asked, "anna", "0" * 64, None, roster())
    whole = ask()
    signatures = {name: one for name, one in whole.signatures.items() if name != absent}
    refused("open.list", list_as_anna, whole.model_copy(update={"signatures": signatures}))


def test_a_list_with_a_name_too_many_is_refused() -> None:
    asked = ask()
    more = {**asked.headers, "eve": asked.headers["anna"]}
    refused("open.list", list_as_anna, asked.model_copy(update={"headers": more}))
    signed = {**asked.signatures, "eve": asked.signatures["anna"]}
    refused("open.list", list_as_anna, asked.model_copy(update={"headers": more, "signatures": signed}))


def test_a_list_with_another_own_header_is_refused() -> None:
    refused("open.list", list_as_anna, ask(), None, "")
    refused("open.list", list_as_anna, ask(), None, "0" * 64)


def test_one_list_and_one_total_are_answered_in_a_context_ever() -> None:
    asked = ask()
    given = answered(asked)
    forked = {**given.headers, "cleo": "0" * 64}
    refused("open.list", list_as_anna, asked, replace(given, headers=forked))
    refused("open.list", list_as_anna, asked.model_copy(update={"total": "0" * 64}), given)


def test_a_member_that_trained_under_another_context_is_not_in_a_list() -> None:
    """Otherwise lr = 0 for all but one member makes the sum that member's update."""
    for odd in (context(training={"lr": 0.0}), context(base="e" * 64), context(number=4)):
        assert "'cleo'" in refused(
            "envelope.context", list_as_anna, ask({**dict.fromkeys(NAMES, context()), "cleo": odd})
        )


def test_headers_must_be_signed_and_name_their_member() -> None:
    asked = ask()
    swapped = {**asked.headers, "bert": asked.headers["cleo"]}
    refused("envelope.signature", list_as_anna, asked.model_copy(update={"headers": swapped}))
    signatures = {**asked.signatures, "bert": asked.signatures["cleo"]}
    both = asked.model_copy(update={"headers": swapped, "signatures": signatures})
    refused("envelope.signature", list_as_anna, both)


def test_a_mask_key_of_low_order_in_a_list_is_refused_by_its_members_name() -> None:
    """Everybody would know the masks that it shares with the others."""
    asked = ask()
    honest = envelope.Header.parse(asked.headers["cleo"])
    data = replace(honest, mask="0" * 64).encode()
    changed = {
        "headers": {**asked.headers, "cleo": data},
        "signatures": {**asked.signatures, "cleo": identity("cleo").sign("envelope", data)},
    }
    said = refused("envelope.malformed", list_as_anna, asked.model_copy(update=changed))
    assert said == "the public mask key of 'cleo' is not a key, or is of low order"


# The answers, and the opening


PLAN, LANES = plan(4, 16, 10), 12


def document(name: str, given: OwnAnswer, **changes: Any) -> SignedAnswer:
    answer = hashlib.sha256(f"answer of {name}".encode()).hexdigest()
    made = AnswerDocument(given.context, list_digest(given.headers.values()), given.total, (1, 2), answer)
    return SignedAnswer.sign(identity(name), replace(made, **changes))


def opening(given: OwnAnswer, **changes: Any) -> Open:
    documents = {name: document(name, given) for name in NAMES}
    fields: dict[str, Any] = {
        **{name: value for name, value in ask() if name not in ("headers", "signatures", "total")},
        "documents": {name: one.data for name, one in documents.items()},
        "signatures": {name: one.signature for name, one in documents.items()},
        "seeds": dict.fromkeys(NAMES, b"seed"),
        "keys": b"",
        "answers": {},
        "total": TOTAL,
        "best": "",
        "upload": False,
    }
    return Open(**{**fields, **changes})


def open_as_anna(asked: Open, given: OwnAnswer | None) -> guard.Answers:
    return guard.check_answers(context(), asked, given, roster())


def test_what_all_names_answered_is_opened() -> None:
    given = answered(ask())
    found = open_as_anna(opening(given), given)
    assert found.tau == dict.fromkeys(NAMES, (1, 2))
    assert found.digests["dora"] == hashlib.sha256(b"answer of dora").hexdigest()


def test_nothing_is_opened_that_this_member_did_not_answer_itself() -> None:
    given = answered(ask())
    refused("open.list", open_as_anna, opening(given), None)
    refused("open.list", open_as_anna, opening(given), replace(given, context="0" * 64))
    refused("open.list", open_as_anna, opening(given, total=b"another"), given)


@pytest.mark.parametrize("field", ["documents", "signatures", "seeds"])
def test_fewer_answers_than_names_open_nothing(field: str) -> None:
    given = answered(ask())
    asked = opening(given)
    fewer = {name: one for name, one in getattr(asked, field).items() if name != "dora"}
    refused("open.list", open_as_anna, asked.model_copy(update={field: fewer}), given)
    more = {**getattr(asked, field), "eve": b""}
    refused("open.list", open_as_anna, asked.model_copy(update={field: more}), given)


@pytest.mark.parametrize(
    "change", [{"context": "0" * 64}, {"headers": "0" * 64}, {"total": "0" * 64}], ids=lambda change: next(iter(change))
)
def test_an_answer_to_something_else_opens_nothing(change: dict[str, str]) -> None:
    """Who was shown another list answered another digest: its masks would not cancel, and it must not."""
    given = answered(ask())
    asked, odd = opening(given), document("cleo", given, **change)
    changed = {
        "documents": {**asked.documents, "cleo": odd.data},
        "signatures": {**asked.signatures, "cleo": odd.signature},
    }
    assert "'cleo'" in refused("open.list", open_as_anna, asked.model_copy(update=changed), given)
    forged = {"documents": {**asked.documents, "cleo": odd.data}}
    refused("envelope.signature", open_as_anna, asked.model_copy(update=forged), given)


def total_of(bodies: list[bytes]) -> bytes:
    running = sealing.Sum(PLAN, LANES)
    for body in bodies:
        running.add(body)
    return running.dump()


def test_a_total_that_the_coordinator_shifted_is_refused() -> None:
    """By functionals that depend on list and total: nobody can choose the shift to fit them."""
    bodies = [
        sealing.seal(PLAN, context().digest, sealing.Secrets(name.encode() * 8), np.arange(LANES) + at)
        for at, name in enumerate(NAMES)
    ]

    def check(total: bytes, functionals: int = len(PLAN.primes) * tau.FUNCTIONALS) -> None:
        given = answered(ask(), total=hashlib.sha256(total).hexdigest())
        listed = list_digest(given.headers.values())
        found = {
            name: tau.functionals(PLAN, listed, given.total, sealing.residues_of(PLAN, body, LANES))[:functionals]
            for name, body in zip(NAMES, bodies, strict=True)
        }
        guard.check_total(PLAN, guard.Answers({}, found), given, total, LANES)

    honest, shifted = total_of(bodies), total_of([*bodies[:3], bodies[2]])
    check(honest)
    assert "not the sum" in refused("open.tau", check, shifted)
    assert "functionals" in refused("open.tau", check, honest, 2)
    refused("envelope.malformed", check, b"short")


# The coordinator's half


def collection() -> Collection:
    return Collection(context(), roster(), 4)


def take(found: Collection, *names: str) -> Collection:
    for name in names:
        found.accept(found.check(name, sealed(name, context())))
    return found


def test_a_list_closes_when_everybody_has_come() -> None:
    found = take(collection(), "dora", "anna", "cleo")
    assert take(found, "bert").close() == NAMES
    assert found.named == {}


def test_a_list_without_somebody_does_not_close_and_names_who_and_why() -> None:
    found = take(collection(), "anna", "bert")
    found.name("cleo", "update.failed")
    said = refused("round.too_few", found.close)
    assert found.named == {"cleo": "update.failed"}
    assert "cleo: update.failed, dora: not waited for" in said


def test_an_envelope_counts_once() -> None:
    found = take(collection(), "anna")
    refused("envelope.replay", found.check, "anna", sealed("anna", context()))
    found.name("anna", "update.failed")
    assert found.named == {}
    found.name("bert", "envelope.params")
    found.name("bert", "update.failed")
    assert found.named == {"bert": "envelope.params"}, "the first reason stays"


def test_only_those_in_the_circle_are_taken() -> None:
    refused("envelope.member", collection().check, "eve", sealed("dora", context()))
    refused("envelope.signature", collection().check, "dora", sealed("anna", context()))


def reply(signed: SignedAnswer, answer: bytes) -> Answered:
    return Answered(document=signed.data, signature=signed.signature, answer=answer, answer_s=0.0)


def test_an_answer_is_taken_if_it_is_about_this_list_and_goes_with_its_document() -> None:
    given = answered(ask())
    signed, listed = document("bert", given), list_digest(given.headers.values())

    def check(member: str, came: Answered, headers: str = listed, total: str = given.total) -> SignedAnswer:
        return check_answer(context(), roster(), member, came, headers, total)

    assert check("bert", reply(signed, b"answer of bert")) == signed
    refused("envelope.malformed", check, "bert", reply(signed, b"another"))
    refused("envelope.signature", check, "anna", reply(signed, b"answer of bert"))
    refused("open.list", check, "bert", reply(signed, b"answer of bert"), "0" * 64)
    refused("open.list", check, "bert", reply(signed, b"answer of bert"), listed, "0" * 64)
    refused("envelope.member", check, "eve", reply(signed, b"answer of bert"))


def opened(name: str, said: Statement, vote: str = "same") -> Opened:
    spoken = words(name, said, BEST, vote)
    return Opened(
        statement=said.encode(),
        signature=spoken.signature,
        vote=vote,
        vote_signature=spoken.vote_signature,
        result=b"",
        open_s=0.0,
    )


def hearing() -> Hearing:
    return Hearing(UPDATE, context(), roster(), BEST)


def test_what_all_names_say_is_agreed() -> None:
    said, found = statement(context()), hearing()
    for name in NAMES:
        found.hear(name, opened(name, said, vote="better"))
    agreed = found.conclude()
    assert agreed.proof.votes == dict.fromkeys(NAMES, "better")
    assert agreed.proof.verify(roster()) == agreed.statement == said
    assert found.disagreeing == ()


def test_one_that_says_something_else_is_named_and_nothing_is_agreed() -> None:
    said, other = statement(context()), statement(context(), sha256="d" * 64)
    split = hearing()
    for name in NAMES:
        split.hear(name, opened(name, other if name == "cleo" else said))
    refused("open.disagree", split.conclude)
    assert split.disagreeing == ("cleo",)


def test_one_that_does_not_open_stops_the_sum_with_its_code() -> None:
    said, silent = statement(context()), hearing()
    for name in NAMES[:3]:
        silent.hear(name, opened(name, said))
    assert "1 of 4" in refused("circle.away", silent.conclude), "nobody is left out for saying nothing"
    silent.refuse("dora", "open.list")
    assert "1 of 4" in refused("open.list", silent.conclude)
    junk = hearing()
    for name in NAMES:
        junk.refuse(name, "open.list" if name == "anna" else "open.key")
    refused("open.key", junk.conclude)
    for name in NAMES:
        junk.hear(name, opened(name, said))
    assert junk.conclude().statement == said, "who refused may open in a second try"
    junk.refuse("anna", "open.list")
    assert junk.conclude().statement == said


def test_statements_and_votes_are_checked_before_they_count() -> None:
    said = statement(context())
    found = hearing()
    refused("envelope.signature", found.hear, "anna", opened("bert", said))
    forged_vote = opened("anna", said, "same").model_copy(update={"vote": "worse"})
    refused("envelope.signature", found.hear, "anna", forged_vote)
    stale = statement(context(number=2))
    refused("envelope.context", found.hear, "anna", opened("anna", stale))
    fewer = statement(context(), members=NAMES[:3])
    refused("envelope.context", found.hear, "anna", opened("anna", fewer))
    refused("envelope.member", found.hear, "eve", opened("anna", said))
    found.hear("anna", opened("anna", said))
    refused("open.list", found.hear, "anna", opened("anna", said))
    assert list(found.statements) == list(found.words) == ["anna"]


@pytest.mark.parametrize("junk", [b"", b"{}", b"[1]", b'{"v":1}', b"\xff"])
def test_a_malformed_statement_is_refused(junk: bytes) -> None:
    refused("open.disagree", Statement.parse, junk)


def test_patience_counts_refusals_and_failures_apart() -> None:
    patience = Patience(GateSettings(patience=2, max_failed=2))
    for status in ("refused", "failed"):
        patience.count(status, 1)
    assert patience.code == ""
    patience.count("refused", 2)
    assert patience.code == "run.patience", "a number that failed is not a round"
    patience.count("kept", 3)
    assert patience.code == ""
    for status in ("failed", "refused", "promoted", "failed", "failed"):
        patience.count(status, 4)
    assert (patience.refused, patience.failed, patience.code) == (0, 2, "run.max_failed")


def test_a_run_has_converged_when_nothing_was_promoted_for_long_after_the_fifth_round() -> None:
    patience = Patience(GateSettings(progress=3))
    for planned in range(1, 8):
        patience.count("kept", planned)
    assert (patience.idle, patience.converged) == (2, False), "rounds 1 to 5 do not count"
    patience.count("promoted", 8)
    for status in ("kept", "failed", "refused", "kept"):
        patience.count(status, 9)
    assert (patience.idle, patience.converged, patience.code) == (3, True, "")
    never = Patience(GateSettings(progress=0))
    for planned in range(1, 100):
        never.count("kept", planned)
    assert not never.converged


def test_a_member_that_says_two_words_of_one_candidate_ends_the_run() -> None:
    said, later, found = statement(context()), statement(context(number=4)), SaidWords()
    for about, vote in ((said, "better"), (later, "better")):
        found.check("anna", opened("anna", about, vote), hearing())
    found.check("bert", opened("bert", said, "worse"), hearing())
    with pytest.raises(Ended, match=r"'anna' voted 'better', then 'worse'") as ended:
        found.check("anna", opened("anna", later, "worse"), hearing())
    assert ended.value.code == "gate.forked"
    other = statement(context(), sha256="d" * 64)
    found.check("anna", opened("anna", other, "worse"), hearing())
    found.check("anna", opened("anna", said, "worse"), Hearing(UPDATE, context(), roster(), "e" * 64))


def enrolled(**changes: Any) -> Enrolled:
    fields: dict[str, Any] = {
        "card": {},
        "agreed": {name: f"{name} of all" for name in SHARED},
        "frozen": {"mask": "m", "steps": "s"},
        "sizes": {"update": 10, "statistics": 3, "tallies": 4},
        "key": "",
    }
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(fields[name], dict) else value
    return Enrolled(**fields)


def odd(dora: Enrolled, circle: str = "circle of all") -> dict[str, str]:
    said = {**dict.fromkeys(NAMES, enrolled()), "dora": dora}
    return {member: str(one) for member, one in agree(said, circle, FIRST).items()}


@pytest.mark.parametrize("field", ["schema", "task", "package", "layout", "start"])
def test_a_disagreement_at_enrolment_names_member_and_field(field: str) -> None:
    assert odd(enrolled(agreed={field: "another"})) == {"dora": f"config.{field}"}


@pytest.mark.parametrize(
    ("sizes", "code"),
    [
        ({"update": 11}, "config.update"),
        ({"tallies": 5}, "config.tallies"),
        ({"more": 1}, "config.purposes"),
    ],
)
def test_a_disagreement_over_sizes_names_the_purpose(sizes: dict[str, int], code: str) -> None:
    assert odd(enrolled(sizes=sizes)) == {"dora": code}


def test_a_member_that_does_not_know_a_purpose_differs_in_it() -> None:
    lacking = enrolled().model_copy(update={"sizes": {"update": 10}})
    assert odd(lacking) == {"dora": "config.statistics"}


def test_who_holds_another_circle_than_the_coordinator_differs_however_many_hold_it() -> None:
    assert odd(enrolled(agreed={"circle": "another"})) == {"dora": "circle.differs"}
    everybody = odd(enrolled(), "circle of the coordinator")
    assert everybody == dict.fromkeys(NAMES, "circle.differs")


@pytest.mark.parametrize(
    ("frozen", "tensor"),
    [
        ({"mask": "m", "steps": "another"}, "steps"),
        ({"mask": "another", "steps": "another"}, "mask"),
        ({"mask": "m"}, "steps"),
        ({"mask": "m", "steps": "s", "of.its.own": "x"}, "of.its.own"),
        ({}, "mask"),
    ],
    ids=["one", "two", "lacking", "more", "none"],
)
def test_what_does_not_travel_must_be_the_same_and_the_tensor_is_named(frozen: dict[str, str], tensor: str) -> None:
    found = agree(
        {**dict.fromkeys(NAMES, enrolled()), "dora": enrolled().model_copy(update={"frozen": frozen})},
        "circle of all",
        FIRST,
    )
    assert {member: (one.code, one.what) for member, one in found.items()} == {"dora": ("agree.frozen", tensor)}
    assert str(found["dora"]) == f"agree.frozen ({tensor})"


def test_those_that_say_the_same_agree() -> None:
    assert odd(enrolled()) == {}
    assert agree({}, "circle of all", FIRST) == {}


def test_a_vote_is_bound_to_what_it_was_compared_with() -> None:
    said, found = statement(context()), hearing()
    other = vote_bytes(said.encode(), "e" * 64, "same")
    answer = opened("anna", said).model_copy(update={"vote_signature": identity("anna").sign("vote", other)})
    refused("envelope.signature", found.hear, "anna", answer)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 1},
        {"context": 5},
        {"headers": {"anna": "x"}},
        {"members": ["anna", 3]},
        {"members": ["bert", "anna"]},
        {"clip": 1.0},
        {"signal": 1},
        {"norm": 1},
        {"norm": "1"},
        {"metrics": {"loss": "x"}},
        {"sha256": "short"},
    ],
)
def test_a_statement_with_a_field_of_another_form_is_refused(change: dict[str, Any]) -> None:
    """Signed or not: what a hostile member signs must not break the coordinator."""
    said = canonical({**parse_canonical(statement(context()).encode()), **change})
    refused("open.disagree", Statement.parse, said)
