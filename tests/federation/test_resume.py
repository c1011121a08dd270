"""Processes that are killed and started again, members that are revoked, and runs that are stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from moonflower.configs.recipe import parse_recipe
from moonflower.errors import Refused
from moonflower.protocol.circle import Circle, SignedCircle, say_farewell
from moonflower.protocol.messages import Answered, Enrol, MakeKey, Noted, Opened, Seal, Sealed, TakeSeat, Waits
from moonflower.protocol.records import from_records
from moonflower.server.records import history
from moonflower.server.records.models import Models
from moonflower.server.records.waiting import waited_for
from support import circles
from support.federation import NAMES, Federation, Killed, identities, without_update

DORA = "VA Long Beach"
REST = [name for name in NAMES if name != DORA]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    opened: list[Federation] = []

    def make(*overrides: str, queued: bool = True) -> Federation:
        opened.append(Federation(tmp_path / str(len(opened)), *overrides))
        if queued:
            opened[-1].queue()
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """The model, and the log, of a run that nothing happened to."""
    one = Federation(tmp_path_factory.mktemp("undisturbed") / "0")
    one.queue()
    assert one.carry_out() == "done"
    found = one.model().sha256, one.entries
    one.close()
    return found


def at(event: str, number: int | None = None, times: int = 1) -> Callable[[dict[str, Any]], bool]:
    """Return whether an entry is the n-th of an event, of a round where one is named."""
    left = [times]

    def found(entry: dict[str, Any]) -> bool:
        if entry["event"] != event or (number is not None and entry.get("number") != number):
            return False
        left[0] -= 1
        return left[0] == 0

    return found


def check_nothing_was_done_twice(one: Federation) -> None:
    numbers = [entry["number"] for entry in one.events("round_began")]
    assert len(numbers) == len(set(numbers)), "a round's number was used again"
    assert len(one.events("statistics_opened")) == 1
    contexts: dict[tuple[Any, ...], set[str]] = {}
    for name in NAMES:
        with closing(sqlite3.connect(one.folder / "members" / f"{name}.db")) as db:
            for *where, context in db.execute("select purpose, run, number, context from sealed"):
                contexts.setdefault(tuple(where), set()).add(context)
    for (purpose, _, number), found in contexts.items():
        assert len(found) == 1, f"{purpose} {number} was sealed under two contexts"
    for event in ("envelope_accepted", "answered"):
        given = [(e["number"], e["member"], e["details"]["purpose"]) for e in one.events(event)]
        assert len(given) == len(set(given)), f"somebody was asked again: {event}"


# The coordinator is killed: what must be so at any point is in test_crash.py, here is what goes on how


def kill_and_go_on(one: Federation, kill_at: Callable[[dict[str, Any]], bool], fresh: bool) -> None:
    one.kill_at = kill_at
    assert one.carry_out() == "killed"
    if fresh:
        for name in NAMES:
            one.start(name)
    assert one.carry_out() == "done"
    one.check_log()


@pytest.mark.parametrize(
    ("event", "number", "times"),
    [
        ("seats_taken", None, 1),
        ("answered", 0, 2),  # statistics
        ("envelope_accepted", 2, 3),
        ("set_closed", 3, 2),  # tallies
    ],
)
def test_a_coordinator_that_is_killed_goes_on(
    federation: Callable[..., Federation],
    undisturbed: tuple[str, Any],
    event: str,
    number: int | None,
    times: int,
) -> None:
    one = federation()
    kill_and_go_on(one, at(event, number, times), fresh=True)
    assert one.model().sha256 == undisturbed[0]
    check_nothing_was_done_twice(one)
    assert len(one.events("run_resumed")) == 1


def test_a_round_that_was_interrupted_goes_on_under_its_number(federation: Callable[..., Federation]) -> None:
    one = federation()
    kill_and_go_on(one, at("set_closed", 2), fresh=True)
    assert [(r["number"], r["round"], r["status"]) for r in one.rounds()] == [(n, n, "promoted") for n in (1, 2, 3)]
    assert not one.events("failed")
    assert [e["details"] for e in one.events("run_resumed")] == [{"rounds": 2}]
    assert len(one.events("seats_taken")) == 2
    whole_run = [e["event"] for e in one.entries if e["event"].startswith("run_")]
    assert whole_run == ["run_began", "run_resumed", "run_ended"]


@pytest.mark.parametrize(("event", "what"), [("envelope_accepted", "gone"), ("envelope_accepted", "torn")])
def test_an_envelope_that_a_crash_took_is_asked_for_again_and_is_the_same(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any], event: str, what: str
) -> None:
    one = federation()
    one.kill_at = at(event, 2, 3)
    assert one.carry_out() == "killed"
    first = one.events(event)[-1]
    file = one.state.envelopes.path(2, first["details"]["header"])
    file.unlink() if what == "gone" else file.write_bytes(file.read_bytes()[:-1])
    assert one.carry_out() == "done"
    again = [e["details"]["header"] for e in one.events(event) if e["number"] == 2 and e["member"] == first["member"]]
    assert again == [first["details"]["header"]] * 2
    assert one.model().sha256 == undisturbed[0]
    assert not list((one.folder / "envelopes").glob("*/*")), "nothing is kept once a sum is over"


def test_a_list_whose_envelope_is_gone_fails_its_number_once_its_member_answered(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any]
) -> None:
    """It gave that away, and seals no second time in that context; the next number has the same update."""
    one = federation()
    one.kill_at = at("answered", 2, 4)
    assert one.carry_out() == "killed"
    one.state.envelopes.path(2, one.events("envelope_accepted")[-1]["details"]["header"]).unlink()
    assert one.carry_out() == "done"
    assert [(r["number"], r["round"], r["status"]) for r in one.rounds()] == [
        (1, 1, "promoted"),
        (2, 2, "failed"),
        (3, 2, "promoted"),
        (4, 3, "promoted"),
    ]
    assert [named["code"] for named in one.rounds()[1]["named"]] == ["seal.already"]
    assert one.model().sha256 == undisturbed[0]


def test_a_round_that_no_longer_fits_goes_to_the_next_number(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any]
) -> None:
    """Its base is damaged: that is made again first, from an older one."""
    one = federation()
    one.kill_at = at("envelope_accepted", 2, 2)
    assert one.carry_out() == "killed"
    one.state.models.path(one.model().sha256).write_bytes(b"")
    assert one.carry_out() == "done"
    assert [(r["number"], r["round"], r["code"]) for r in one.rounds()] == [
        (1, 1, ""),
        (2, 2, "run.interrupted"),
        (3, 1, ""),
        (4, 2, ""),
        (5, 3, ""),
    ]
    assert one.model().sha256 == undisturbed[0]


def test_a_coordinator_may_be_killed_again_and_again(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any]
) -> None:
    one = federation()
    one.kill_at = lambda entry: entry["index"] in (9, 28, 54, 72, 86, 107)
    ends = [one.carry_out() for _ in range(7)]
    assert ends.count("killed") > 4
    assert ends[-1] == "done"
    one.check_log()
    check_nothing_was_done_twice(one)
    assert one.model().sha256 == undisturbed[0]
    assert one.row().code == ""


def test_a_kill_between_a_models_file_and_its_row_does_no_harm(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, written, real_write = federation(), [], Models.write

    def write_and_die(self: Models, version: Any) -> None:
        real_write(self, version)
        written.append(version.sha256)
        if len(written) in (1, 3):
            raise Killed

    monkeypatch.setattr(Models, "write", write_and_die)
    assert [one.carry_out() for _ in range(3)] == ["killed", "killed", "done"]
    assert one.model().sha256 == undisturbed[0]
    assert written[0] == written[1]
    assert written[2] == written[3]
    one.check_log()


def test_a_run_that_is_over_stays_as_it_is(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    before = len(one.entries)
    assert one.carry_out() == "done"
    assert len(one.entries) == before


def test_what_went_wrong_in_a_row_is_remembered(federation: Callable[..., Federation]) -> None:
    """Patience is counted over restarts: two rounds in which a member cannot train end the run."""
    one = federation("gate.max_failed=2", "training.rounds=9")
    one.handled = without_update(DORA, lambda number: number >= 2)
    one.kill_at = at("failed", 2)
    assert one.carry_out() == "killed"
    one.kill_at = lambda entry: entry["index"] > 300  # or it would go on and on
    assert one.carry_out() == "policy run.max_failed"
    failed = ("failed", "round.too_few")
    assert [(r["status"], r["code"]) for r in one.rounds()] == [("promoted", ""), failed, failed]
    assert one.rounds()[-1]["named"] == [{"member": DORA, "code": "update.failed"}]
    one.check_log()


def back_when_named(one: Federation) -> Callable[[dict[str, Any]], bool]:
    """Have a member come back as the log says that it is waited for; for ``kill_at``."""

    def look(entry: dict[str, Any]) -> bool:
        if entry["event"] == "waited_for":
            one.away.discard(entry["member"])
        return False

    return look


def test_a_member_that_is_away_gets_its_seat_when_it_is_back(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any]
) -> None:
    """Rule 2: killed after the list was fixed, the round goes on with everybody, however long that takes."""
    one = federation()
    one.kill_at = at("set_closed", 2)
    assert one.carry_out() == "killed"
    one.away.add(DORA)
    one.kill_at = back_when_named(one)
    assert one.carry_out() == "done"
    assert [(r["number"], r["round"], r["status"]) for r in one.rounds()] == [(n, n, "promoted") for n in (1, 2, 3)]
    assert [(e["member"], e["code"], e["details"]["step"]) for e in one.events("waited_for")] == [
        (DORA, "circle.away", "enrol")
    ]
    assert [e["member"] for e in one.events("came_back")] == [DORA]
    assert one.model().sha256 == undisturbed[0]


@pytest.mark.parametrize(
    ("event", "number", "step", "asked"),
    [("round_began", 2, "seal", 2), ("set_closed", 2, "answer", 2), ("set_closed", 3, "answer", 3)],
)
def test_who_is_away_is_waited_for_and_nobody_repeats_anything(
    federation: Callable[..., Federation],
    undisturbed: tuple[str, Any],
    event: str,
    number: int,
    step: str,
    asked: int,
) -> None:
    one = federation()
    away, back = at(event, number), back_when_named(one)

    def look(entry: dict[str, Any]) -> bool:
        if away(entry):
            one.away.add(DORA)
        if entry["event"] == "came_back":
            with one.state.store.read() as db:
                assert waited_for(db) == []
        return back(entry)

    one.kill_at = look
    assert one.carry_out() == "done"
    assert [(r["number"], r["round"], r["status"]) for r in one.rounds()] == [(n, n, "promoted") for n in (1, 2, 3)]
    (named,) = one.events("waited_for")
    assert (named["member"], named["number"], named["code"]) == (DORA, asked, "circle.away")
    assert (named["details"]["step"], named["details"]["why"]) == (step, "absent")
    assert one.model().sha256 == undisturbed[0]
    check_nothing_was_done_twice(one)
    one.check_log()


def test_a_process_that_died_while_it_waited_leaves_nobody_as_waited_for(federation: Callable[..., Federation]) -> None:
    one = federation()
    away = at("round_began", 2)

    def look(entry: dict[str, Any]) -> bool:
        if away(entry):
            one.away.add(DORA)
        return entry["event"] == "waited_for"

    one.kill_at = look
    assert one.carry_out() == "killed"
    one.away.clear()
    one.kill_at = lambda entry: False
    assert one.carry_out() == "done"
    with one.state.store.read() as db:
        assert waited_for(db) == []


def test_a_member_writes_into_its_own_log_for_whom_the_run_waits(
    federation: Callable[..., Federation], caplog: pytest.LogCaptureFixture
) -> None:
    one = federation()
    one.kill_at = at("round_began", 1)
    assert one.carry_out() == "killed"
    member = one.members["Cleveland"]
    waits = {"run": "run-1", "number": 1, "step": "seal"}
    asked = Waits(**waits, since={DORA: "2026-11-29T10:05:00Z\nevil"}, why={DORA: "absent"}, returns={DORA: 3})
    assert member.note(asked) == Noted()
    said = caplog.messages[-1]
    assert said.startswith(f"the run waits for {DORA} to send its sealed vector, since 2026-11-29T10:05:00Z evil")
    assert "(not connected, came back 3 times)" in said
    with pytest.raises(Refused) as refusal:
        member.note(Waits(**waits, since={"eve": ""}, why={}, returns={}))
    assert refusal.value.code == "envelope.member"


def test_a_run_does_not_begin_without_everybody_and_can_be_stopped_meanwhile(
    federation: Callable[..., Federation],
) -> None:
    one = federation()
    one.away.add(DORA)

    def stop(entry: dict[str, Any]) -> bool:
        if entry["event"] == "waited_for":
            with one.state.store.transaction() as db:
                (waited,) = waited_for(db)
                history.request_stop(db, "run-1")
            assert (waited.member, waited.step, waited.why, waited.returns) == (DORA, "enrol", "absent", 0)
        return False

    one.kill_at = stop
    assert one.carry_out() == "stopped run.stopped"
    assert not one.events("seats_taken")
    assert one.model() is None
    with one.state.store.read() as db:
        assert waited_for(db) == []


def test_what_the_wire_cost_is_on_record_after_every_round(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.row().summary == {}
    one.kill_at = at("round_began", 2)
    assert one.carry_out() == "killed"
    said = one.row().summary
    assert said["params"] > 0
    assert said["upload_bytes"] > 0
    assert one.carry_out() == "done"
    assert one.row().summary.keys() == said.keys()


# Runs one after the other


def test_an_identical_run_gives_the_same_model(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    one.queue("run-2")
    with one.state.store.read() as db:
        assert history.open_runs(db) == ["run-2"]
        assert [row.status for row in history.runs(db)] == ["done", "queued"]
    assert one.carry_out("run-2") == "done"
    first, second = one.model(), one.model("run-2")
    assert (first.sha256, first.metrics) == (second.sha256, second.metrics)
    assert (first.version, second.version) == (3, 7)
    assert [(r["round"], r["number"]) for r in one.rounds("run-2")] == [(1, 4), (2, 5), (3, 6)]
    with one.state.store.read() as db:
        assert one.state.models.last_good(db) == second
        assert one.state.models.find(db, first.sha256[:12]) == second
        assert one.state.models.find(db, "3") == first
    one.check_log()


# Members are killed


def test_members_may_be_started_again_before_every_request(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any]
) -> None:
    one = federation("training.report_every=1")

    def restart(member: str, handle: Callable[[], Any]) -> Any:
        one.start(member)
        return handle()

    one.handled = restart
    assert one.carry_out() == "done"
    assert not one.events("warned")
    assert one.model().sha256 == undisturbed[0]


def test_a_request_that_comes_again_after_a_restart_gets_the_same_answer(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any]
) -> None:
    one, compared = federation(), []

    def twice(member: str, handle: Callable[[], Any]) -> Any:
        first = handle()
        one.start(member)
        second = handle()
        kind = second.content.config_records["message"]["kind"]
        if kind == "sealed":
            assert from_records(Sealed, first.content).envelope == from_records(Sealed, second.content).envelope
        elif kind == "answered":
            said, again = (from_records(Answered, one.content) for one in (first, second))
            assert (said.document, said.signature, said.answer) == (again.document, again.signature, again.answer)
        elif kind == "opened":
            assert from_records(Opened, first.content).statement == from_records(Opened, second.content).statement
        assert kind == first.content.config_records["message"]["kind"] != "refusal"
        compared.append(kind)
        return second

    one.handled = twice
    assert one.carry_out() == "done"
    assert one.model().sha256 == undisturbed[0]
    assert {*compared} == {"enrolled", "key_made", "seat_taken", "sealed", "answered", "opened"}
    check_nothing_was_done_twice(one)


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code, str(refusal.value)
    return str(refusal.value)


def test_an_offer_stays_agreed_to_over_a_restart(federation: Callable[..., Federation]) -> None:
    one = federation()
    asked = circles.enrolment("r", one.signed)
    first = one.members[DORA].enrol(Enrol(**asked))
    one.start(DORA)
    again = one.members[DORA].enrol(Enrol(**asked))
    assert (again.agreed, again.sizes) == (first.agreed, first.sizes)
    one.start(DORA)
    changed = Enrol(**{**asked, "seed": asked["seed"] + 1})
    assert "another offer" in refused("envelope.context", one.members[DORA].enrol, changed)
    refused("envelope.context", one.members[DORA].make_key, MakeKey(run="s", roster=[]))


def test_a_circles_key_is_made_once_and_a_seat_may_be_taken_again(federation: Callable[..., Federation]) -> None:
    one, first = federation(), NAMES[0]
    roster = [identities()[name].card.as_dict() for name in NAMES]
    for member in one.members.values():
        assert member.enrol(Enrol(**circles.enrolment("r", one.signed))).key == ""

    def seat(name: str, made: Any) -> TakeSeat:
        given = (made.ciphertexts[name], made.signatures[name]) if made else (b"", b"")
        return TakeSeat(run="r", roster=roster, ciphertext=given[0], signature=given[1])

    refused("circle.key", one.members[DORA].take_seat, seat(DORA, None))
    refused("circle.key", one.members[DORA].make_key, MakeKey(run="r", roster=roster))
    made = one.members[first].make_key(MakeKey(run="r", roster=roster))
    one.start(first)
    again = one.members[first].make_key(MakeKey(run="r", roster=roster))
    assert made.ciphertexts[DORA] != again.ciphertexts[DORA], "wrapped anew"
    held = {name: one.members[name].take_seat(seat(name, made)).key for name in NAMES}
    assert len({*held.values()}) == 1
    for given in (again, None):  # the same key, wrapped anew or kept
        one.start(DORA)
        assert one.members[DORA].take_seat(seat(DORA, given)).key == held[DORA]
    for member in one.members.values():
        assert member.enrol(Enrol(**circles.enrolment("r", one.signed))).key == held[DORA]
    forged = again.model_copy(update={"signatures": {**again.signatures, DORA: again.signatures[first]}})
    assert "not signed by" in refused("circle.key", one.members[DORA].take_seat, seat(DORA, forged))
    others = [identities()[name].card.as_dict() for name in NAMES[:3]]
    refused("circle.differs", one.members[DORA].take_seat, seat(DORA, made).model_copy(update={"roster": others}))


def witnessed(one: Federation, name: str) -> str:
    held = one.members[name].ledger.newest_checkpoint()
    assert held is not None
    return held.label


def test_a_member_that_lives_in_another_circle_seals_nothing_more_in_the_old_one(
    federation: Callable[..., Federation],
) -> None:
    """The run that was agreed to under the old one is over here, and what was sealed in it is gone."""
    one = federation()
    one.kill_at = at("round_began", 1)
    assert one.carry_out() == "killed"
    start, name = one.model(), NAMES[0]
    asked = Seal(
        run="run-1",
        number=9,
        round=1,
        purpose="update",
        base=start.sha256,
        checkpoint=witnessed(one, name),
        model=one.state.models.read(start.sha256).data,
        proof=dict(start.proof),
        refused={},
    )
    one.members[name].seal(asked)
    assert one.members[name].held.contexts()
    next_one = without_dora(one, *REST)
    said = say_farewell(identities()[DORA], one.signed.circle.digest)
    assert one.members[name].circles.sign(next_one.circle, [said], by_hand=True) is not None
    one.members[name].enrol(Enrol(**circles.enrolment("run-2", next_one)))
    assert one.members[name].held.contexts() == []
    for request in (asked, asked.model_copy(update={"number": 10})):
        refused("circle.changed", one.members[name].seal, request)


# Members are revoked


def revoke_at(one: Federation, found: Callable[[dict[str, Any]], bool]) -> None:
    """Revoke a member at an entry, and let it in again when the run says that it waits for it."""

    def look(entry: dict[str, Any]) -> bool:
        if found(entry):
            one.revoked.add(DORA)
        if entry["event"] == "waited_for":
            assert (entry["member"], entry["details"]["why"]) == (DORA, "revoked")
            one.revoked.discard(DORA)
        return False

    one.kill_at = look


@pytest.mark.parametrize(
    ("event", "number", "times"),
    [
        ("run_began", None, 1),
        ("set_closed", 0, 1),
        ("promoted", 1, 1),  # between rounds
        ("envelope_accepted", 2, 1),
        ("set_closed", 2, 1),  # its envelope is on the list
    ],
)
def test_a_member_that_is_revoked_is_waited_for_until_it_is_let_in_again(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any], event: str, number: int | None, times: int
) -> None:
    """A sum is over everybody or nobody: only a circle lets somebody go, and all others sign that."""
    one = federation()
    revoke_at(one, at(event, number, times))
    assert one.carry_out() == "done"
    assert one.model().sha256 == undisturbed[0]
    assert [r["status"] for r in one.rounds()] == ["promoted"] * 3
    assert [entry["member"] for entry in one.events("came_back")] == [DORA]
    check_nothing_was_done_twice(one)
    one.check_log()


def test_a_coordinator_that_is_started_again_waits_for_the_revoked(federation: Callable[..., Federation]) -> None:
    one = federation()
    one.kill_at = at("round_began", 2)
    assert one.carry_out() == "killed"
    one.revoked.add(DORA)
    revoke_at(one, lambda entry: False)
    assert one.carry_out() == "done"
    assert [r["number"] for r in one.rounds()] == [1, 2, 3]


def without_dora(one: Federation, *signers: str) -> SignedCircle:
    """Return the circle of the others, signed by some of them."""
    raw = one.cast.recipe.as_dict()
    raw["training"]["init_seed"] += 1
    made = Circle.of(parse_recipe(raw, where="test"), {name: one.pins[name] for name in REST}, number=2)
    return circles.signed_by(made, [identities()[name] for name in signers])


@pytest.mark.parametrize("signers", [REST[:2], []])
def test_a_circle_that_not_all_signed_is_none_whoever_shows_it(
    federation: Callable[..., Federation], signers: list[str]
) -> None:
    """The coordinator cannot make the circle smaller."""
    one = federation()
    assert one.carry_out() == "done"
    shown = without_dora(one, *signers)
    asked = circles.enrolment("run-2", shown)
    said = say_farewell(identities()[DORA], one.signed.circle.digest)
    for name in REST:
        if name in signers:
            assert one.members[name].circles.sign(shown.circle, [said], by_hand=True) is not None
        assert "is not signed by" in refused("circle.differs", one.members[name].enrol, Enrol(**asked))


def test_another_run_is_without_a_member_that_said_farewell_once_all_others_signed(
    federation: Callable[..., Federation],
) -> None:
    one = federation()
    assert one.carry_out() == "done"
    old, one.signed = one.signed, without_dora(one, *REST)
    circles.on_record(one.state, one.signed)
    said = say_farewell(identities()[DORA], old.circle.digest)
    for name in REST:
        mine = one.members[name].circles
        assert mine.sign(one.signed.circle, (), by_hand=True) is None, "its days are not over"
        assert mine.sign(one.signed.circle, [said], by_hand=True) is not None
    one.queue("run-2")
    assert one.carry_out("run-2") == "done"
    assert [r["members"] for r in one.rounds("run-2")] == [REST] * 3
    assert one.carry_out("run-1") == "done", "what is over stays over"
    assert one.members[DORA].circles.living() == old.circle, "who was let go goes nowhere"


def test_a_run_whose_circle_is_not_the_one_that_there_is_ends(federation: Callable[..., Federation]) -> None:
    one = federation()

    def look(entry: dict[str, Any]) -> bool:
        if at("promoted", 1)(entry):
            circles.on_record(one.state, without_dora(one, *REST))
        return False

    one.kill_at = look
    assert one.carry_out() == "policy circle.changed"
    assert one.model().version == 1, "the last good model stays"


# Runs are stopped


def test_a_run_that_is_stopped_ends_before_the_next_exchange(federation: Callable[..., Federation]) -> None:
    one = federation()

    def look(entry: dict[str, Any]) -> bool:
        if at("set_closed", 2)(entry):
            with one.state.store.transaction() as db:
                history.request_stop(db, "run-1")
        return False

    one.kill_at = look
    assert one.carry_out() == "stopped run.stopped"
    assert [(r["status"], r["code"]) for r in one.rounds()] == [("promoted", ""), ("failed", "run.stopped")]
    assert [e["event"] for e in one.entries[-2:]] == ["failed", "run_ended"]
    assert [e["code"] for e in one.entries[-2:]] == ["run.stopped"] * 2
    assert one.model().number == 1
    assert one.carry_out() == "stopped run.stopped"
    one.check_log()


def test_a_run_that_is_stopped_before_it_began_asks_nobody(federation: Callable[..., Federation]) -> None:
    one = federation()
    with one.state.store.transaction() as db:
        history.request_stop(db, "run-1")
    assert one.carry_out() == "stopped run.stopped"
    assert [e["event"] for e in one.entries if "run" in e] == ["run_began", "run_ended"]


def test_a_run_is_on_record_before_it_is_carried_out(federation: Callable[..., Federation]) -> None:
    one = federation()
    coordinator = one.coordinator()
    coordinator._run = type(coordinator._run)(**{**vars(coordinator._run), "id": "another"})
    with pytest.raises(ValueError, match="'another' is not on record"):
        coordinator.carry_out()
