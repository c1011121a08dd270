"""Where a run starts: version 0, a version that its circle promoted, or where the circle itself starts (rule 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moonflower.client import bases
from moonflower.configs.recipe import parse_recipe
from moonflower.errors import Refused
from moonflower.protocol import model_version
from moonflower.protocol.act import Act
from moonflower.protocol.circle import Circle, SignedCircle, Start
from moonflower.protocol.messages import Enrol, Seal
from moonflower.protocol.model_version import Version
from moonflower.server.coordinator import Coordinator
from moonflower.server.records import circles as records
from moonflower.server.records import history
from moonflower.server.releases.card_text import markdown
from moonflower.server.releases.registry import Registry
from support import circles
from support.federation import THREE, Federation, identities

ANNA = THREE[0]


def after_a_run(folder: Path) -> Federation:
    """Return a federation whose run is over; each round promoted a version, and no sum was opened over the last one."""
    made = Federation(folder, of=THREE)
    made.queue()
    assert made.carry_out() == "done"
    assert [entry["status"] for entry in made.rounds()] == ["promoted"] * 3
    return made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Federation]:
    """A federation whose run is over, to go on with."""
    made = after_a_run(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation whose run is over, to look at."""
    made = after_a_run(tmp_path_factory.mktemp("done"))
    yield made
    made.close()


def refused(code: str, call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments, **more)
    assert refusal.value.code == code, str(refusal.value)
    return str(refusal.value)


def queue(one: Federation, run: str, start: str = "", rounds: int = 1) -> None:
    training = one.cast.settings.training
    with one.state.store.transaction() as db:
        history.queue_run(db, run, one.signed.circle.offer(training.seed, rounds, start))


def versions(one: Federation, run: str) -> list[Any]:
    with one.state.store.read() as db:
        return one.state.models.entries(db, run)


def file(one: Federation, sha256: str) -> Version:
    return one.state.models.read(sha256)


def started_at(one: Federation, sha256: str, *, imported: bool = False) -> Start:
    return Start(sha256, file(one, sha256).identity, imported)


def next_circle(one: Federation, start: Start | None, number: int = 2, **changes: Any) -> SignedCircle:
    """Return a circle of the same four, signed by all, that starts from a version."""
    raw = one.cast.recipe.as_dict()
    raw["training"] |= {"init_seed": 100 + number, **changes}
    made = Circle.of(parse_recipe(raw, where="test"), one.pins, number=number, counted=1, start=start)
    return circles.signed_by(made, identities().values())


def live_in(one: Federation, signed: SignedCircle) -> None:
    one.signed = signed
    circles.on_record(one.state, signed)
    for member in one.members.values():
        circles.live_in(member.circles, signed)


def test_a_run_starts_from_a_version_that_its_circle_promoted_and_measures_it_once(one: Federation) -> None:
    last = one.model()
    queue(one, "run-2", last.sha256)
    assert one.carry_out("run-2") == "done"
    first, promoted = versions(one, "run-2")
    assert (first.verdict, first.sha256, first.metrics) == ("start", last.sha256, last.metrics)
    assert last.metrics is not None
    assert (promoted.base, promoted.verdict) == (last.sha256, "promoted")
    measured = [entry["details"]["sha256"] for entry in one.events("tallies_opened")]
    assert sorted(measured) == sorted([last.sha256, promoted.sha256])
    one.check_log()


@pytest.mark.parametrize("which", ["version 0", "nobody's", "of another circle"])
def test_a_run_does_not_start_from_what_its_circle_did_not_promote(one: Federation, which: str) -> None:
    """The coordinator names any file; no member takes it, and nothing is sealed."""
    start = {"version 0": versions(one, "run-1")[0].sha256, "nobody's": "ab" * 32}.get(which, one.model().sha256)
    if which == "of another circle":
        live_in(one, next_circle(one, None))
    before = {name: len(member.ledger.journal()) for name, member in one.members.items()}
    queue(one, "run-2", start)
    assert one.carry_out("run-2") == "failed base.unknown"
    for name, member in one.members.items():
        assert {entry["event"] for entry in member.ledger.journal()[before[name] :]} == {"refused"}


def test_a_circle_starts_from_a_version_of_an_earlier_one_with_its_scaling(one: Federation) -> None:
    last = one.model()
    live_in(one, next_circle(one, started_at(one, last.sha256), lr=0.05))
    queue(one, "run-2", rounds=2)
    assert one.carry_out("run-2") == "done"
    first, *promoted = versions(one, "run-2")
    card = Registry(one.state.store, one.state.models).shown(promoted[-1].sha256)["card"]
    assert card["origins"] == [{"sha256": last.sha256, "imported": False}]
    assert f"| started from | `{last.sha256}`, promoted in an earlier run; that one from version 0 |" in markdown(card)
    old, new = file(one, last.sha256), file(one, first.sha256)
    assert np.array_equal(new.vector, old.vector)
    assert new.manifest["scaling"] == old.manifest["scaling"]
    assert promoted[0].base == first.sha256
    queue(one, "run-3")
    assert one.carry_out("run-3") == "done"
    assert versions(one, "run-3")[0].sha256 == first.sha256, "all runs of the circle start there"
    queue(one, "run-4", promoted[-1].sha256)
    assert one.carry_out("run-4") == "done"
    assert versions(one, "run-4")[1].base == promoted[-1].sha256
    one.check_log()


def test_what_a_circle_starts_from_is_not_measured_again(one: Federation) -> None:
    """Others may have measured it: the difference of the two would be the counts of who came since."""
    live_in(one, next_circle(one, started_at(one, one.model().sha256)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coordinator, "_round", lambda self, planned: None)
        queue(one, "run-2")
        assert one.carry_out("run-2") == "done"
        assert [entry["run"] for entry in one.events("tallies_opened")] == ["run-1"]
        patch.setattr(Coordinator, "_report_best", lambda self, outcome: self._report(None))
        queue(one, "run-3")
        assert one.carry_out("run-3") == "done"
    assert [entry["code"] for entry in one.events("warned")] == ["round.too_few"]
    assert {entry["code"] for entry in one.events("envelope_refused")} == {"base.unknown"}


def test_a_circle_starts_from_what_its_signers_saw_promoted(done: Federation) -> None:
    mine = done.members[ANNA].circles
    first, *_, last = (entry.sha256 for entry in versions(done, "run-1"))
    assert f"this node's ledger does not have version {first[:16]} as promoted" in refused(
        "base.unknown", mine.check, next_circle(done, started_at(done, first)).circle
    )
    lie = replace(started_at(done, last), identity=file(done, first).identity)
    refused("base.unknown", mine.check, next_circle(done, lie).circle)
    said = refused("base.unknown", mine.check, next_circle(done, started_at(done, last, imported=True)).circle)
    assert "is called an import, but it is from this federation" in said
    mine.check(next_circle(done, started_at(done, last)).circle)


def test_a_circle_starts_where_no_sum_was_opened_over_if_there_is_such_a_version(one: Federation) -> None:
    mine = one.members[ANNA].circles
    _, early, _, last = (entry.sha256 for entry in versions(one, "run-1"))
    spent = next_circle(one, started_at(one, early)).circle
    assert "a sum was opened over version" in refused("base.unknown", mine.check, spent)
    mine.check(next_circle(one, started_at(one, last)).circle)
    with one.members[ANNA].ledger._store.transaction() as db:
        db.exec_driver_sql("DELETE FROM promoted WHERE sha256 = ?", (last,))
    mine.check(spent)  # there is none: its operator may sign it, and no rule does
    rule = replace(mine.own, circle=mine.own.circle.model_copy(update={"sign": "same-names"}))
    mine.own = rule
    assert mine.sign_by_rule([SignedCircle(spent, {})], []) == []


def test_a_rule_signs_a_start_over_which_nothing_was_opened_and_no_import(one: Federation) -> None:
    mine = one.members[ANNA].circles
    mine.own = replace(mine.own, circle=mine.own.circle.model_copy(update={"sign": "same-names"}))
    outside = Start("ab" * 32, "cd" * 32, imported=True)
    assert mine.sign_by_rule([SignedCircle(next_circle(one, outside).circle, {})], []) == []
    good = next_circle(one, started_at(one, one.model().sha256), number=3).circle
    assert [made for made, _ in mine.sign_by_rule([SignedCircle(good, {})], [])] == [good]


def test_a_sum_over_the_start_after_it_was_signed_keeps_the_circle_from_beginning(one: Federation) -> None:
    """Signing takes days, and the old circle goes on: the coordinator begins a run where the new one is to start."""
    signed = next_circle(one, started_at(one, one.model().sha256))
    for member in one.members.values():
        assert member.circles.sign(signed.circle, (), by_hand=True) is not None
    queue(one, "run-2", one.model().sha256)
    assert one.carry_out("run-2") == "done"
    for member in one.members.values():
        refused("base.unknown", member.circles.enter, signed)


def hostile_starts(one: Federation, good: Version) -> dict[str, bytes]:
    """What a coordinator sends in place of a start."""
    layout, manifest = good.layout, good.manifest
    scaling = manifest["scaling"]
    column = next(iter(scaling))
    less = tuple(layout[:-1])
    count = sum(spec.size for spec in less)
    return {
        "nothing": b"",
        "no model": b"\x00" * 64,
        "another version": versions(one, "run-1")[0].sha256.encode(),
        "other tensors": model_version.build(less, good.vector[:count], manifest).data,
        "no number": model_version.build(layout, np.full_like(good.vector, np.nan), manifest).data,
        "a column less": model_version.build(
            layout, good.vector, {**manifest, "scaling": {name: scaling[name] for name in scaling if name != column}}
        ).data,
        "a scaling of words": model_version.build(
            layout, good.vector, {**manifest, "scaling": {**scaling, column: ["a", "b"]}}
        ).data,
        "something frozen": model_version.build(
            layout, good.vector, manifest, frozen={"extra": np.ones(2, dtype=np.int64)}
        ).data,
    }


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("nothing", "base.unknown"),
        ("no model", "base.unknown"),
        ("another version", "base.unknown"),
        ("other tensors", "base.unknown"),
        ("no number", "base.unknown"),
        ("a column less", "base.unknown"),
        ("a scaling of words", "base.unknown"),
        ("something frozen", "agree.frozen"),
    ],
)
def test_what_is_sent_as_a_start_is_the_one_that_was_signed_and_fits(done: Federation, what: str, code: str) -> None:
    """All but the first three are what the circle names: an import that fits neither task nor schema."""
    good = file(done, done.model().sha256)
    data = hostile_starts(done, good)[what]
    named = "nothing", "no model", "another version"
    sha256 = good.sha256 if what in named else model_version.parse(data).sha256
    member = done.members[ANNA]
    learner = member._agreement("run-1").learner
    refused(code, bases.check_start, data, sha256, None, learner)
    assert bases.check_start(good.data, good.sha256, None, learner).sha256 == good.sha256


def test_the_numbers_of_a_start_are_those_of_the_signed_circle(done: Federation) -> None:
    good = file(done, done.model().sha256)
    learner = done.members[ANNA]._agreement("run-1").learner
    wrong = Start(good.sha256, "ab" * 32, imported=True)
    said = refused("base.unknown", bases.check_start, good.data, good.sha256, wrong, learner)
    assert "other numbers than the signed circle says" in said


def test_a_run_that_starts_from_a_version_takes_no_statistics_without_it(one: Federation) -> None:
    """A coordinator that leaves the file out would else get a version 0 that others do not start from."""
    last = one.model()
    asked = {**circles.enrolment("run-2", one.signed), "start": last.sha256}
    queue(one, "run-2", last.sha256)
    one.kill_at = lambda entry: entry["event"] == "seats_taken" and entry["run"] == "run-2"
    assert one.carry_out("run-2") == "killed"
    member = one.members[ANNA]
    held = member.ledger.newest_checkpoint()
    assert held is not None
    about = {"run": "run-2", "number": 0, "round": 0, "purpose": "statistics", "base": ""}
    request = Seal(**about, checkpoint=held.label, model=b"", proof={}, refused={})
    refused("base.unknown", member.seal, request)
    member.seal(request.model_copy(update={"model": file(one, last.sha256).data}))
    refused("envelope.context", member.enrol, Enrol(**{**asked, "start": ""}))


def test_an_act_says_where_its_runs_start_and_an_import_first(done: Federation) -> None:
    old, last = done.signed.circle, done.model().sha256
    first, *_ = Act.between(old, next_circle(done, Start("ab" * 32, "cd" * 32, imported=True)).circle).words()
    assert first.startswith("IMPORTS A MODEL: runs start from the file sha256:abab")
    made = next_circle(done, started_at(done, last)).circle
    known = f"Runs start from the version sha256:{last}, which all names promoted, with its scaling."
    assert known in Act.between(old, made).words()
    assert Act.between(old, made).words(spent=True)[0].startswith("STARTS WHERE SUMS WERE OPENED")
    assert "this node saw nothing of that" in Act.between(None, made).words()[0]
    assert Circle.parse(made.as_dict()) == made


@pytest.mark.parametrize(
    "start",
    [
        {},
        "ab" * 32,
        {"sha256": "ab" * 32, "identity": "cd" * 32},
        {"sha256": "ab" * 32, "identity": "cd" * 32, "imported": 1},
        {"sha256": "AB" * 32, "identity": "cd" * 32, "imported": True},
        {"sha256": "ab" * 32, "identity": "cd" * 31, "imported": True},
        {"sha256": "ab" * 32, "identity": "cd" * 32, "imported": True, "more": 1},
    ],
)
def test_a_start_that_is_none_is_refused(done: Federation, start: Any) -> None:
    raw = next_circle(done, None).circle.as_dict()
    wrong = "malformed circle: a field is missing, unknown or of the wrong form"
    assert refused("circle.differs", Circle.parse, {**raw, "start": start}) == wrong


def test_a_version_says_that_its_training_began_from_an_import(one: Federation) -> None:
    """An approver reads it, however many circles have begun since."""
    good = file(one, one.model().sha256)
    brought = model_version.candidate(good, good.vector * np.float32(1.5))
    registry = Registry(one.state.store, one.state.models, one.state.log)
    assert registry.keep_import(brought)
    live_in(one, next_circle(one, started_at(one, brought.sha256, imported=True)))
    queue(one, "run-2")
    assert one.carry_out("run-2") == "done"
    made = versions(one, "run-2")[-1].sha256
    live_in(one, next_circle(one, started_at(one, made), number=3))
    queue(one, "run-3")
    assert one.carry_out("run-3") == "done"
    card = registry.shown(versions(one, "run-3")[-1].sha256)["card"]
    assert card["origins"] == [{"sha256": made, "imported": False}, {"sha256": brought.sha256, "imported": True}]
    assert f"that one from `{brought.sha256}`, imported |" in markdown(card)
    one.check_log()


def test_a_server_proposes_no_start_that_it_does_not_have(one: Federation) -> None:
    last = one.model().sha256
    state = one.state

    def check(start: Start) -> None:
        with state.store.read() as db:
            records.check_start(db, state.models, next_circle(one, start).circle)

    check(started_at(one, last))
    assert "no promoted version" in refused("base.unknown", check, Start("ab" * 32, "cd" * 32, imported=False))
    assert "no imported file" in refused("base.unknown", check, started_at(one, last, imported=True))
    wrong = replace(started_at(one, last), identity="cd" * 32)
    assert "does not have the identity that the circle names" in refused("base.unknown", check, wrong)
    state.models.path(last).write_bytes(b"damaged")
    refused("base.unknown", check, wrong)
