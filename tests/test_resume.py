"""Processes that are killed and started again, members that are revoked, and runs that are stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from moonflower.errors import Refused
from moonflower.protocol.messages import Confirm, Enrol, MakeDeals, Opened, Seal, Sealed, TakeDeal
from moonflower.protocol.records import from_records
from moonflower.server.records import history
from moonflower.server.records.models import Models

from federation import NAMES, Federation, Killed, identities

pytestmark = pytest.mark.slow

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
            for purpose, run, epoch, number, context in db.execute(
                "select purpose, run, epoch, number, context from sealed"
            ):
                where = (purpose, run, number) if purpose == "update" else (purpose, run, epoch, number)
                contexts.setdefault(where, set()).add(context)
    assert {len(found) for found in contexts.values()} == {1}, "a round was sealed under two contexts"


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
        ("epoch_began", None, 1),
        ("opened", 0, 1),  # statistics
        ("envelope_accepted", 2, 3),
        ("opened", 2, 1),
        ("judged", 2, 1),
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


def test_a_round_that_was_interrupted_is_repeated_under_a_new_number(federation: Callable[..., Federation]) -> None:
    one = federation()
    kill_and_go_on(one, at("set_closed", 2), fresh=True)
    assert [(r["number"], r["round"], r["status"], r["code"]) for r in one.rounds()] == [
        (1, 1, "promoted", ""),
        (2, 2, "failed", "run.interrupted"),
        (3, 2, "promoted", ""),
        (4, 3, "promoted", ""),
    ]
    assert [(e["number"], e["code"]) for e in one.events("failed")] == [(2, "run.interrupted")]
    assert [e["details"] for e in one.events("run_resumed")] == [{"rounds": 2}]
    assert [e["details"]["epoch"] for e in one.events("epoch_began")] == [1, 2]
    whole_run = [e["event"] for e in one.entries if e["event"].startswith("run_")]
    assert whole_run == ["run_began", "run_resumed", "run_ended"]


def test_a_coordinator_may_be_killed_again_and_again(
    federation: Callable[..., Federation], undisturbed: tuple[str, Any]
) -> None:
    one = federation()
    one.kill_at = lambda entry: entry["index"] in (3, 22, 45, 66, 71, 80)
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
    """Patience is counted over restarts: two rounds without enough members end the run."""
    one = federation("gate.max_failed=2", "training.rounds=9")
    died = at("failed", 2)

    def kill_at(entry: dict[str, Any]) -> bool:
        if at("promoted", 1)(entry):
            one.away |= set(NAMES[:2])
        return died(entry)

    one.kill_at = kill_at
    assert one.carry_out() == "killed"
    one.away.clear()
    one.away |= set(NAMES[2:])
    assert one.carry_out() == "policy run.max_failed"
    assert [(r["status"], r["code"]) for r in one.rounds()] == [("promoted", ""), ("failed", "round.too_few")]
    assert [e["details"]["what"] for e in one.events("warned")] == ["seats"], "too few for seats: a failed round"
    one.check_log()


def test_a_member_that_the_base_needs_gets_its_seat_when_it_is_back(federation: Callable[..., Federation]) -> None:
    """Rule 2: killed after the set was closed, the round is repeated with the same set, however long that takes."""
    one = federation()
    killed = at("opened", 2)

    def kill_at(entry: dict[str, Any]) -> bool:
        if at("failed", 3)(entry):
            one.away.clear()
        return killed(entry)

    one.kill_at = kill_at
    assert one.carry_out() == "killed"
    one.away.add(DORA)
    assert one.carry_out() == "done"
    assert [(r["status"], r["code"]) for r in one.rounds()] == [
        ("promoted", ""),
        ("failed", "run.interrupted"),
        ("failed", "round.too_few"),
        ("promoted", ""),
    ]
    assert len(one.events("epoch_began")) == 3
    assert one.rounds()[-1]["members"] == list(NAMES)


def test_who_took_no_part_in_the_statistics_takes_no_part_in_the_run(federation: Callable[..., Federation]) -> None:
    one = federation()
    one.away.add(DORA)
    one.kill_at = at("round_began", 2)
    assert one.carry_out() == "killed"
    one.away.clear()
    assert one.carry_out() == "done"
    assert {tuple(r["members"]) for r in one.rounds() if r["status"] == "promoted"} == {tuple(REST)}


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
        elif kind == "opened":
            assert from_records(Opened, first.content).statement == from_records(Opened, second.content).statement
        assert kind == first.content.config_records["message"]["kind"] != "refusal"
        compared.append(kind)
        return second

    one.handled = twice
    assert one.carry_out() == "done"
    assert one.model().sha256 == undisturbed[0]
    assert {*compared} == {"enrolled", "deals", "deal_answer", "done", "sealed", "opened"}
    check_nothing_was_done_twice(one)


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code, str(refusal.value)
    return str(refusal.value)


def test_an_offer_stays_agreed_to_over_a_restart(federation: Callable[..., Federation]) -> None:
    one = federation()
    offer = dict(one.row().offer)
    first = one.members[DORA].enrol(Enrol(run="r", offer=offer))
    one.start(DORA)
    again = one.members[DORA].enrol(Enrol(run="r", offer=offer))
    assert (again.agreed, again.sizes) == (first.agreed, first.sizes)
    one.start(DORA)
    changed = {**offer, "training": {**offer["training"], "lr": 1e-12}}
    assert "another offer" in refused("envelope.context", one.members[DORA].enrol, Enrol(run="r", offer=changed))
    refused("envelope.context", one.members[DORA].make_deals, MakeDeals(run="s", epoch=1, roster=[]))


def test_a_deal_may_come_again_until_it_is_confirmed(federation: Callable[..., Federation]) -> None:
    one = federation()
    roster = [identities()[name].card.as_dict() for name in NAMES]
    for member in one.members.values():
        member.enrol(Enrol(run="r", offer=dict(one.row().offer)))

    def deal(epoch: int = 1, run: str = "r") -> dict[str, TakeDeal]:
        made = one.members[NAMES[0]].make_deals(MakeDeals(run=run, epoch=epoch, roster=roster))
        return {
            name: TakeDeal(
                run=run,
                epoch=epoch,
                roster=roster,
                ciphertexts={NAMES[0]: made.ciphertexts[name]},
                signatures={NAMES[0]: made.signatures[name]},
            )
            for name in NAMES
        }

    def answers(deals: dict[str, TakeDeal]) -> dict[str, dict[str, Any]]:
        return {name: one.members[name].take_deal(taken).model_dump() for name, taken in deals.items()}

    first = deal()
    earlier = answers(first)
    one.start(DORA)
    assert answers(first)[DORA]["answer"] == earlier[DORA]["answer"]
    second = deal()
    newer = answers(second)
    assert newer[DORA]["answer"] != earlier[DORA]["answer"], "the dealer may deal anew"
    refused("deal.disagree", one.members[DORA].confirm, Confirm(run="r", epoch=1, answers=earlier))
    one.start(DORA)
    for _ in range(2):
        one.members[DORA].confirm(Confirm(run="r", epoch=1, answers=newer))
    refused("deal.epoch", one.members[DORA].take_deal, second[DORA])
    refused("deal.epoch", one.members[DORA].confirm, Confirm(run="r", epoch=2, answers=newer))
    one.members[DORA].enrol(Enrol(run="other", offer=dict(one.row().offer)))
    refused("deal.epoch", one.members[DORA].confirm, Confirm(run="other", epoch=1, answers=newer))


def witnessed(one: Federation, name: str) -> str:
    held = one.members[name].ledger.newest_checkpoint()
    assert held is not None
    return held.label


def test_keys_that_an_evicted_member_holds_seal_nothing_more(federation: Callable[..., Federation]) -> None:
    one = federation()
    one.kill_at = at("round_began", 1)
    assert one.carry_out() == "killed"
    start = one.model()
    asked = Seal(
        run="run-1",
        epoch=1,
        number=9,
        round=1,
        purpose="update",
        base=start.sha256,
        clip=start.clip,
        checkpoint=witnessed(one, NAMES[0]),
        model=one.state.models.read(start.sha256).data,
        proof=dict(start.proof),
    )
    name = NAMES[0]
    one.members[name].seal(asked)
    one.start(name, {member: pin for member, pin in one.pins.items() if member != DORA})
    assert "is over" in refused("envelope.epoch", one.members[name].seal, asked.model_copy(update={"number": 10}))


# Members are revoked


def revoke_at(one: Federation, found: Callable[[dict[str, Any]], bool]) -> None:
    def look(entry: dict[str, Any]) -> bool:
        if found(entry):
            one.revoked.add(DORA)
        return False

    one.kill_at = look


def sets(one: Federation) -> list[list[str]]:
    return [r["members"] for r in one.rounds()]


@pytest.mark.parametrize("quorum", [0, 4])
def test_a_member_that_is_revoked_between_rounds_is_gone_from_the_next(
    federation: Callable[..., Federation], quorum: int
) -> None:
    """With a quorum of 4 the base of round 2 is proved by a signature of the member that left: cards are remembered."""
    one = federation("training.rounds=4", f"crypto.open_quorum={quorum}")
    revoke_at(one, at("promoted", 1))
    assert one.carry_out() == "done"
    assert sets(one) == [list(NAMES), REST, REST, REST]
    assert [r["status"] for r in one.rounds()] == ["promoted"] * 4
    assert [e["details"]["epoch"] for e in one.events("epoch_began")] == [1, 2]
    assert len(one.events("statistics_opened")) == 1
    assert not one.events("refused_member")
    assert one.model().metrics is not None
    one.check_log()


@pytest.mark.parametrize(
    ("event", "number", "times", "expected"),
    [
        ("round_began", 2, 1, [list(NAMES), REST, REST]),
        ("envelope_accepted", 2, 1, [list(NAMES), REST, REST]),
        ("set_closed", 2, 1, [list(NAMES), list(NAMES), REST]),  # its envelope stays in the sum
        ("epoch_began", None, 1, [REST] * 3),
        ("envelope_accepted", 0, 1, [REST] * 3),  # before its statistics came
        ("statistics_opened", None, 1, [REST] * 3),
    ],
)
def test_nobody_waits_for_a_member_that_is_revoked(
    federation: Callable[..., Federation],
    event: str,
    number: int | None,
    times: int,
    expected: list[list[str]],
) -> None:
    one = federation()
    revoke_at(one, at(event, number, times))
    assert one.carry_out() == "done"
    assert sets(one) == expected
    assert [r["status"] for r in one.rounds()] == ["promoted"] * 3
    assert len(one.events("epoch_began")) == 2
    assert len(one.events("statistics_opened")) == 1
    said = {entry["code"] for entry in one.entries if entry.get("member") == DORA and "code" in entry}
    assert said <= {"auth.client_revoked"}
    one.check_log()


@pytest.mark.parametrize("unpinned", [True, False])
def test_a_base_is_opened_without_the_evicted_once_every_node_agrees(
    federation: Callable[..., Federation], unpinned: bool
) -> None:
    """Rule 2: the set of a base that was asked to be opened shrinks only where the nodes' operators say so, too."""
    one = federation("crypto.open_quorum=4", "gate.max_failed=2")

    def look(entry: dict[str, Any]) -> bool:
        if at("set_closed", 2)(entry):
            one.revoked.add(DORA)
        if unpinned and at("failed", 2)(entry):
            for name in REST:
                one.start(name, {member: one.pins[member] for member in REST})
        return False

    one.kill_at = look
    assert one.carry_out() == ("done" if unpinned else "policy run.max_failed")
    ends = [(r["status"], r["code"]) for r in one.rounds()]
    assert ends[:2] == [("promoted", ""), ("failed", "auth.client_revoked")]
    assert ends[2:] == ([("promoted", "")] if unpinned else [("failed", "open.overlap")])
    assert sets(one)[1:] == [list(NAMES), REST]
    one.check_log()


def test_a_coordinator_that_is_started_again_goes_on_without_the_revoked(
    federation: Callable[..., Federation],
) -> None:
    one = federation("crypto.open_quorum=4")
    one.kill_at = at("round_began", 2)
    assert one.carry_out() == "killed"
    one.revoked.add(DORA)
    for name in REST:
        one.start(name, {member: one.pins[member] for member in REST})
    assert one.carry_out() == "done"
    assert sets(one) == [list(NAMES), [], REST, REST]


@pytest.mark.parametrize("unpinned", [True, False])
def test_another_run_opens_its_statistics_without_the_evicted_once_every_node_agrees(
    federation: Callable[..., Federation], unpinned: bool
) -> None:
    one = federation()
    assert one.carry_out() == "done"
    one.revoked.add(DORA)
    if unpinned:
        for name in REST:
            one.start(name, {member: one.pins[member] for member in REST})
    one.queue("run-2")
    assert one.carry_out("run-2") == ("done" if unpinned else "failed open.overlap")
    assert [r["members"] for r in one.rounds("run-2")] == ([REST] * 3 if unpinned else [])


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
    assert [e["event"] for e in one.entries] == ["run_began", "run_ended"]


def test_a_run_is_on_record_before_it_is_carried_out(federation: Callable[..., Federation]) -> None:
    one = federation()
    coordinator = one.coordinator()
    coordinator._run = type(coordinator._run)(**{**vars(coordinator._run), "id": "another"})
    with pytest.raises(ValueError, match="'another' is not on record"):
        coordinator.carry_out()
