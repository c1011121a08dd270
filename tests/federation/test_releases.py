"""Who releases a model: every rule of ``server/releases/board.py``, its place in the log, any sequence of decisions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from moonflower.canonical import canonical
from moonflower.configs.settings import GateSettings
from moonflower.crypto.identity import parse_card
from moonflower.errors import Refused
from moonflower.protocol.approval import Decision, SignedDecision, counted
from moonflower.server.records import history
from moonflower.server.records.log import export
from moonflower.server.records.source import opened
from moonflower.server.records.verify import verify
from moonflower.server.releases.board import Board
from moonflower.server.releases.registry import Registry
from support.approvers import MEMBERS, ROLES, RUN, Shelf, card, person, signed
from support.federation import THREE, Federation


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def shelves(tmp_path: Path) -> Iterator[Callable[..., Shelf]]:
    made: list[Shelf] = []

    def make(*gate: str) -> Shelf:
        made.append(Shelf(tmp_path / str(len(made)), 4, *gate))
        return made[-1]

    yield make
    for one in made:
        one.close()


def refused(code: str, shelf: Shelf, call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    """A refusal changes nothing: no row, no entry."""
    before = shelf.log, shelf.board().releases
    with pytest.raises(Refused) as refusal:
        call(*arguments, **more)
    assert refusal.value.code == code, refusal.value
    assert (shelf.log, shelf.board().releases) == before
    return str(refusal.value)


# Approving


def test_a_version_is_released_with_the_approval_that_completes_it(shelf: Shelf) -> None:
    assert [shelf.status(n) for n in (1, 2)] == ["promoted", "promoted"]
    first = shelf.decide("approve", 2, "anna")
    assert (first.event, first.approvals, first.required, shelf.released) == ("approved", 1, 2, None)
    second = shelf.decide("approve", 2, "bert", "ethics")
    assert (second.event, second.approvals, second.required, shelf.released) == ("released", 2, 2, 2)
    assert [shelf.status(n) for n in (1, 2, 3)] == ["promoted", "released", "promoted"]


def test_nothing_is_released_by_itself(shelf: Shelf) -> None:
    assert (shelf.released, shelf.after) == (None, -1)
    assert GateSettings().release == "manual"
    assert GateSettings().approvals == 2


def test_two_approvers_of_one_member_do_not_count_twice(shelf: Shelf) -> None:
    shelf.decide("approve", 2, "anna", "board")
    said = refused("release.twice", shelf, shelf.decide, "approve", 2, "anna", "ethics")
    assert "another member" in said
    refused("release.twice", shelf, shelf.decide, "approve", 2, "anna", "board")
    assert (shelf.released, len(shelf.standing(2).approvals)) == (None, 1)


def test_one_key_on_two_members_cards_does_not_count_twice(shelf: Shelf) -> None:
    for name in ("anna", "bert"):
        shelf.keep(card(name, board="the same person"))
    shelf.decide("approve", 2, "anna", key="the same person")
    refused("release.twice", shelf, shelf.decide, "approve", 2, "bert", key="the same person")
    assert shelf.released is None


def test_an_approval_for_one_digest_cannot_serve_another(shelf: Shelf) -> None:
    shelf.decide("approve", 2, "anna")
    bert = signed("approve", shelf.sha(3), by="bert")
    shelf.give(bert)
    assert shelf.released is None, "one approval each"
    moved = replace(bert, data=bert.data.replace(shelf.sha(3).encode(), shelf.sha(2).encode()))
    refused("release.signature", shelf, shelf.give, moved)
    registry = Registry(shelf.state.store, shelf.state.models, shelf.state.log)
    cleo = signed("approve", shelf.sha(3), by="cleo")
    refused("release.digest", shelf, registry.decide, shelf.sha(2), cleo.as_dict())
    assert registry.decide(shelf.sha(3)[-64:], cleo.as_dict())["event"] == "released"


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        ({"sha256": "b" * 64}, "release.digest"),
        ({"sha256": "0" * 64}, "release.digest"),
        ({"sha256": "f" * 64}, "release.digest"),
        ({"sha256": "e" * 64}, "release.digest"),  # kept: never released
        ({"federation": "lung"}, "release.digest"),
        ({"after": 0}, "release.outdated"),
        ({"by": "eve"}, "release.unknown_approver"),
        ({"role": "cook"}, "release.unknown_approver"),
        ({"key": "eve"}, "release.signature"),
    ],
    ids=["unknown", "start", "refused", "kept", "federation", "after", "member", "role", "key"],
)
@pytest.mark.parametrize("action", ["approve", "reject", "rollback"])
def test_a_decision_that_is_not_right_is_refused(
    shelf: Shelf, action: Any, decision: dict[str, Any], code: str
) -> None:
    made = signed(action, **{"sha256": shelf.sha(2), **decision})
    refused(code, shelf, shelf.give, made)


def test_what_is_no_decision_is_refused(shelf: Shelf) -> None:
    refused("release.malformed", shelf, shelf.give, SignedDecision(b"{}", b""))
    refused("release.reason", shelf, shelf.decide, "reject", 2, "anna", reason="")
    refused("release.reason", shelf, shelf.decide, "approve", 2, "anna", reason="ask anna@example.org")


def test_an_older_version_is_not_approved(shelf: Shelf) -> None:
    shelf.release(3)
    refused("release.state", shelf, shelf.decide, "approve", 2, "anna")
    refused("release.state", shelf, shelf.decide, "approve", 3, "anna")
    shelf.release(4)
    assert [shelf.status(n) for n in (2, 3, 4)] == ["promoted", "replaced", "released"]


def test_approvals_of_before_decide_nothing_after_a_release(shelf: Shelf) -> None:
    """Neither those that were given, nor one that somebody has kept back."""
    kept = signed("approve", shelf.sha(4), -1, "bert")
    shelf.decide("approve", 4, "anna")
    shelf.release(3)
    assert shelf.standing(4).approvals == ()
    refused("release.outdated", shelf, shelf.give, kept)
    shelf.decide("approve", 4, "bert")
    assert shelf.released == 3
    shelf.decide("approve", 4, "anna")
    assert shelf.released == 4


@pytest.mark.parametrize("needed", [1, 3])
def test_the_run_says_how_many_approvals(shelves: Callable[..., Shelf], needed: int) -> None:
    shelf = shelves(f"gate.approvals_required={needed}")
    for number, name in enumerate(MEMBERS[:needed], start=1):
        assert shelf.released is None
        assert shelf.decide("approve", 2, name).approvals == number
    assert shelf.released == 2


def test_where_several_runs_made_one_file_the_strictest_counts(shelf: Shelf) -> None:
    """Else whoever may submit runs could repeat one with less to ask for."""
    for run, gate in (("run-2", "gate.approvals_required=1"), ("run-3", "gate.release=automatic")):
        shelf.run(run, gate)
        shelf.entry("promoted", 9, sha=shelf.sha(2), run=run)
    with shelf.state.store.transaction() as db:
        (entry,) = shelf.state.models.entries(db, "run-3")
        Board(db, shelf.state.models).release_automatically(entry, shelf.state.log)
    assert shelf.released is None
    assert [entry["code"] for entry in shelf.events("warned")] == ["release.state"]
    shelf.decide("approve", 2, "anna")
    assert shelf.released is None
    assert shelf.decide("approve", 2, "bert").event == "released"


# Members that leave, keys that change


def test_the_approval_of_a_revoked_member_does_not_count(shelf: Shelf) -> None:
    shelf.decide("approve", 2, "anna")
    shelf.revoke("anna")
    assert shelf.standing(2).approvals == ()
    assert shelf.decide("approve", 2, "bert").event == "approved"
    refused("release.unknown_approver", shelf, shelf.decide, "approve", 2, "anna", "ethics")
    assert shelf.decide("approve", 2, "cleo").event == "released"


def test_an_approver_who_is_no_longer_on_the_card_does_not_count(shelf: Shelf) -> None:
    shelf.decide("approve", 2, "anna", "board")
    shelf.keep(card("anna", ethics="anna's ethics"))
    assert shelf.decide("approve", 2, "bert").event == "approved"
    assert shelf.decide("approve", 2, "anna", "ethics").event == "released"
    assert shelf.released == 2


def test_a_card_that_comes_back_makes_no_second_approval(shelf: Shelf) -> None:
    """The old card is still signed by the member: whoever shows it again must not win a vote with it."""
    shelf.decide("approve", 2, "anna", "board")
    shelf.keep(card("anna", ethics="anna's ethics"))
    shelf.decide("approve", 2, "anna", "ethics")
    shelf.keep(card("anna"))
    assert len(shelf.standing(2).approvals) == 1
    assert shelf.released is None


def test_what_was_released_stays_so_when_an_approver_leaves(shelf: Shelf) -> None:
    shelf.release(2)
    shelf.revoke("anna")
    assert (shelf.released, shelf.status(2)) == (2, "released")


# Rejecting


def test_one_approver_rejects_for_good(shelf: Shelf) -> None:
    shelf.decide("approve", 2, "anna")
    assert shelf.decide("reject", 2, "bert").event == "rejected"
    assert (shelf.status(2), shelf.standing(2).step) == ("rejected", None)
    for name in MEMBERS:
        refused("release.rejected", shelf, shelf.decide, "approve", 2, name)
        refused("release.rejected", shelf, shelf.decide, "reject", 2, name)
    shelf.release(3)
    assert shelf.released == 3


def test_a_rejection_holds_up_no_other_version(shelf: Shelf) -> None:
    shelf.decide("approve", 3, "anna")
    shelf.decide("reject", 2, "anna")
    assert shelf.decide("approve", 3, "bert").event == "released"


def test_the_released_version_is_not_rejected(shelf: Shelf) -> None:
    shelf.release(2)
    refused("release.state", shelf, shelf.decide, "reject", 2, "cleo")


def test_a_rejected_version_is_not_rolled_back_to(shelf: Shelf) -> None:
    shelf.release(2)
    shelf.release(3)
    shelf.decide("reject", 2, "cleo")
    refused("release.rejected", shelf, shelf.decide, "rollback", 2, "anna")


# Rolling back


def test_rolling_back_takes_as_many_approvals(shelf: Shelf) -> None:
    shelf.release(1)
    shelf.release(3)
    assert shelf.decide("rollback", 1, "anna").event == "approved"
    assert shelf.released == 3
    refused("release.twice", shelf, shelf.decide, "rollback", 1, "anna", "ethics")
    assert shelf.decide("rollback", 1, "cleo").event == "rolled_back"
    assert (shelf.released, shelf.status(1), shelf.status(3)) == (1, "released", "replaced")


def test_only_an_older_version_that_was_released_is_rolled_back_to(shelf: Shelf) -> None:
    refused("release.state", shelf, shelf.decide, "rollback", 1, "anna")
    shelf.release(1)
    shelf.release(3)
    for number in (2, 3, 4):
        refused("release.state", shelf, shelf.decide, "rollback", number, "anna")
    shelf.decide("rollback", 1, "anna")
    shelf.decide("rollback", 1, "bert")
    refused("release.state", shelf, shelf.decide, "rollback", 3, "anna")
    shelf.release(3)
    assert shelf.released == 3, "forward again, with new approvals"


def test_approvals_of_a_release_do_not_serve_a_roll_back_nor_a_second_release(shelf: Shelf) -> None:
    given = [signed("approve", shelf.sha(1), -1, name) for name in MEMBERS]
    shelf.release(1)
    shelf.release(3)
    back = [signed("rollback", shelf.sha(1), shelf.after, name) for name in MEMBERS]
    for one in given:
        refused("release.outdated", shelf, shelf.give, one)
    shelf.give(back[0])
    shelf.give(back[1])
    shelf.release(3)
    assert shelf.released == 3
    for one in (*given, *back):
        refused("release.outdated", shelf, shelf.give, one)


def test_a_roll_back_needs_as_many_as_what_it_takes_back_had_needed(shelf: Shelf) -> None:
    shelf.release(1)
    shelf.run("run-2", "gate.approvals_required=3")
    shelf.entry("promoted", 9, run="run-2")
    shelf.release(9, *MEMBERS)
    assert shelf.released == 9
    for name, event in zip(MEMBERS, ("approved", "approved", "rolled_back"), strict=True):
        assert shelf.decide("rollback", 1, name).event == event


def test_rolling_back_changes_nothing_about_the_base_of_training(shelf: Shelf) -> None:
    shelf.release(1)
    shelf.release(3)
    shelf.decide("rollback", 1, "anna")
    shelf.decide("rollback", 1, "bert")
    with shelf.state.store.read() as db:
        assert shelf.state.models.last_good(db).version == 4  # type: ignore[union-attr]


# Automatic releases, settings


def test_a_run_that_says_so_releases_its_last_version_by_itself(tmp_path: Path) -> None:
    whole = Federation(tmp_path / "f", "gate.release=automatic", of=THREE)
    for one in whole.members.values():
        one.floor = whole.cast.settings.floor()
    try:
        whole.queue()
        assert whole.carry_out() == "done"
        last = whole.model()
        (entry,) = whole.events("released")
        assert entry["details"]["sha256"] == last.sha256
        assert (entry["details"]["automatic"], entry["details"]["approvals"]) == (True, [])
        assert [one["event"] for one in whole.entries[-2:]] == ["released", "run_ended"]
        listing = Registry(whole.state.store, whole.state.models).listing()
        assert listing["released"] == {"version": last.version, "sha256": last.sha256}
        whole.check_log()
    finally:
        whole.close()


@pytest.mark.parametrize("kill", ["released", "run_ended"])
def test_an_automatic_release_and_the_runs_end_are_one_transaction(tmp_path: Path, kill: str) -> None:
    """Killed with either entry, the coordinator comes back to one release and one end."""
    whole = Federation(tmp_path / "f", "gate.release=automatic", of=THREE)
    for one in whole.members.values():
        one.floor = whole.cast.settings.floor()
    try:
        whole.queue()
        whole.kill_at = lambda entry: entry["event"] == kill
        assert whole.carry_out() == "killed"
        whole.kill_at = lambda entry: False
        assert whole.carry_out() == "done"
        assert [len(whole.events(event)) for event in ("released", "run_ended")] == [1, 1]
    finally:
        whole.close()


def test_a_run_that_ends_otherwise_releases_nothing(tmp_path: Path) -> None:
    whole = Federation(tmp_path / "f", "gate.release=automatic", of=THREE)
    for one in whole.members.values():
        one.floor = whole.cast.settings.floor()
    try:
        whole.queue()

        def stop(entry: dict[str, Any]) -> bool:
            if entry["event"] == "promoted":
                with whole.state.store.transaction() as db:
                    history.request_stop(db, "run-1")
            return False

        whole.kill_at = stop
        assert whole.carry_out() == "stopped run.stopped"
        assert whole.model().verdict == "promoted"
        assert whole.events("released") == []
    finally:
        whole.close()


def test_a_manual_run_releases_nothing(tmp_path: Path) -> None:
    whole = Federation(tmp_path / "f", of=THREE)
    try:
        whole.queue()
        assert whole.carry_out() == "done"
        assert whole.events("released") == []
        assert [entry for entry in whole.events("warned") if entry["details"].get("what") == "release"] == []
        listing = Registry(whole.state.store, whole.state.models).listing()
        assert listing["released"] is None
        assert {one["status"] for one in listing["versions"]} == {"start", "promoted"}
    finally:
        whole.close()


def test_a_rejected_or_older_file_is_not_released_by_itself(shelves: Callable[..., Shelf]) -> None:
    shelf = shelves("gate.release=automatic", "gate.approvals_required=1")

    def automatic(number: int) -> None:
        with shelf.state.store.transaction() as db:
            entry = next(one for one in shelf.state.models.entries(db) if one.sha256 == shelf.sha(number))
            Board(db, shelf.state.models).release_automatically(entry, shelf.state.log)

    shelf.decide("reject", 1, "anna")
    automatic(1)
    assert (shelf.released, [entry["code"] for entry in shelf.events("warned")]) == (None, ["release.rejected"])
    automatic(3)
    assert shelf.released == 3
    automatic(3)
    automatic(2)
    assert [entry["code"] for entry in shelf.events("warned")] == ["release.rejected", "release.state"]
    assert len(shelf.events("released")) == 1
    shelf.decide("approve", 4, "anna")
    assert shelf.released == 4, "people may, beside it"


# The log


def test_everything_is_in_the_log_and_an_auditor_can_check_it_offline(shelf: Shelf, tmp_path: Path) -> None:
    """From the export alone: cards with the members' pins, the decisions' bytes, the signatures, k of n."""
    shelf.release(1)
    shelf.decide("reject", 2, "cleo")
    shelf.release(3, "bert", "cleo")
    shelf.decide("rollback", 1, "anna")
    shelf.decide("rollback", 1, "bert")
    file = tmp_path / "log.jsonl"
    with file.open("xb") as out:
        export(shelf.state.store, out)
    key = (shelf.state.folder / "log.pub").read_text()
    assert verify(file, key, None).ok
    with opened(file) as records:
        entries = [json.loads(record.entry) for record in records.records]
    pins = {entry["member"]: entry["details"]["pin"] for entry in entries if entry["event"] == "member_added"}
    events = [entry["event"] for entry in entries if entry["event"] not in ("member_added",)]
    assert events == [
        *("approved", "approved", "released", "rejected", "approved", "approved", "released"),
        *("approved", "approved", "rolled_back"),
    ]
    for entry in entries:
        if entry["event"] not in ("released", "rolled_back"):
            continue
        details = entry["details"]
        behind = [entries[index]["details"] for index in details["approvals"]]
        held = {one.name: one for one in map(parse_card, (one["card"] for one in behind))}
        assert all(pins[name] == one.node.pin for name, one in held.items())
        made = [SignedDecision.from_dict({name: one[name] for name in ("decision", "signature")}) for one in behind]
        action = "approve" if entry["event"] == "released" else "rollback"
        about = {"federation": "heart", "action": action, "sha256": details["sha256"], "after": details["after"]}
        assert len(counted(made, held, **about)) == details["required"] == 2  # type: ignore[arg-type]
    assert entries[entries[-1]["details"]["approvals"][0]]["details"]["key"] in json.dumps(shown(shelf, 1))


def shown(shelf: Shelf, number: int) -> Any:
    return Registry(shelf.state.store, shelf.state.models).shown(shelf.sha(number))


def test_entries_hold_who_as_what_and_no_more(shelf: Shelf) -> None:
    shelf.decide("approve", 2, "anna", reason="good enough")
    (entry,) = shelf.events("approved")
    assert (entry["member"], entry["run"]) == ("anna", RUN)
    assert set(entry["details"]) == {
        *("action", "sha256", "version", "approver", "key", "decision", "signature", "card"),
    }
    assert entry["details"]["approver"] == "board"
    assert Decision.parse(entry["details"]["decision"].encode()).reason == "good enough"


def test_personal_data_never_enters_the_log(shelf: Shelf) -> None:
    reasons = ["ask anna@example.org", "patient 4711001", "born 02.03.1957", "x" * 201, "line\nbreak"]
    for reason in reasons:
        refused("release.reason", shelf, shelf.decide, "reject", 2, "anna", reason=reason)
    text = canonical(shelf.log).decode()
    assert not any(reason in text for reason in reasons)
    assert "@" not in text
    assert person("anna's board").private_numbers().private_value.to_bytes(48, "big").hex() not in text


# Any sequence of decisions

DECISIONS = st.tuples(
    st.sampled_from(["approve", "approve", "reject", "rollback"]),
    st.integers(1, 4),
    st.sampled_from([*MEMBERS, "eve"]),
    st.sampled_from(ROLES),
    st.sampled_from(["right", "right", "right", "shared", "wrong"]),
)


class Anything(RuleBasedStateMachine):
    """Whatever is decided, replayed, forged or revoked, in whatever order: what is released was signed for."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.shelf = Shelf(Path(self.folder.name) / "state")
        self.seen: list[SignedDecision] = []
        self.revoked: set[str] = set()

    def teardown(self) -> None:
        self.shelf.close()
        self.folder.cleanup()

    def give(self, made: SignedDecision) -> None:
        before, code = self.shelf.board().releases, ""
        try:
            self.shelf.give(made)
        except Refused as refusal:
            code = refusal.code
        assert code == "" or code.startswith("release.")
        assert (self.shelf.board().releases == before) == (code != "")
        self.seen.append(made)

    @rule(what=DECISIONS)
    def decide(self, what: Any) -> None:
        action, number, name, role, key = what
        keys = {"right": f"{name}'s {role}", "shared": "the same person", "wrong": "eve"}
        self.give(signed(action, self.shelf.sha(number), self.shelf.after, name, role, key=keys[key]))

    @rule(number=st.integers(1, 4), action=st.sampled_from(["approve", "rollback"]))
    def agree(self, number: int, action: Any) -> None:
        for name in MEMBERS:
            self.give(signed(action, self.shelf.sha(number), self.shelf.after, name))

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        self.give(data.draw(st.sampled_from(self.seen)))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), number=st.integers(1, 4))
    def transplant(self, data: Any, number: int) -> None:
        old = data.draw(st.sampled_from(self.seen))
        said = Decision.parse(old.data)
        moved = replace(said, sha256=self.shelf.sha(number), after=self.shelf.after)
        if moved != said:
            self.give(SignedDecision(moved.encode(), old.signature))

    @rule(name=st.sampled_from(MEMBERS), shared=st.booleans())
    def new_card(self, name: str, shared: bool) -> None:
        people = {role: f"{name}'s {role}" for role in ROLES}
        self.shelf.keep(card(name, **(people | {"board": "the same person"} if shared else people)))

    @precondition(lambda self: len(self.revoked) < 2)
    @rule(name=st.sampled_from(MEMBERS))
    def revoke(self, name: str) -> None:
        if name not in self.revoked:
            self.shelf.revoke(name)
            self.revoked.add(name)

    @invariant()
    def what_is_released_was_signed(self) -> None:
        entries = {entry["index"]: entry for entry in self.shelf.log}
        after, current, rejected, gone = -1, None, set(), set()
        released: set[str] = set()
        for index in sorted(entries):
            entry = entries[index]
            details = entry.get("details", {})
            if entry["event"] == "member_revoked":
                gone.add(entry["member"])
            elif entry["event"] == "rejected":
                assert details["sha256"] != current
                rejected.add(details["sha256"])
            elif entry["event"] in ("released", "rolled_back"):
                action = "approve" if entry["event"] == "released" else "rollback"
                people = set()
                for one in (entries[number] for number in details["approvals"]):
                    said = Decision.parse(one["details"]["decision"].encode())
                    assert (said.action, said.sha256, said.after) == (action, details["sha256"], after)
                    holder = parse_card(one["details"]["card"])
                    (approver,) = [who for who in holder.approvers if who.name == said.approver]
                    signature = SignedDecision.from_dict(
                        {name: one["details"][name] for name in ("decision", "signature")}
                    ).signature
                    assert approver.key.verify("approval", said.encode(), signature)
                    assert holder.name == said.member == one["member"] not in gone
                    people.add((said.member, approver.key.pin))
                assert (
                    len({who for who, _ in people}) == len({key for _, key in people}) == len(details["approvals"]) >= 2
                )
                assert details["sha256"] not in rejected
                if current is not None:
                    assert (details["sha256"] > current) == (action == "approve")
                assert (details["sha256"] in released) >= (action == "rollback")
                after, current = index, details["sha256"]
                released.add(details["sha256"])
        now = self.shelf.board().releases.current
        assert (now.sha256 if now else None, self.shelf.after) == (current, after)


def test_any_sequence_of_decisions() -> None:
    limits = settings(max_examples=15, stateful_step_count=20, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Anything, settings=limits)
