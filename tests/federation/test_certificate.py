"""Round certificates: what an honest one proves, and that every check of them is needed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.canonical import canonical, parse_canonical
from moonflower.crypto import merkle
from moonflower.crypto.identity import Identity, b64
from moonflower.crypto.note import Signer, Verifier, sign_checkpoint
from moonflower.errors import AuditError, InputError, Refused
from moonflower.protocol.statement import Proof, Statement, Words, vote_bytes
from moonflower.server.evidence.certificate import build_certificate, proved_set, verify_certificate
from moonflower.server.evidence.gather import gather
from moonflower.server.records import history
from moonflower.server.records.log import MAX_ENTRY_BYTES
from moonflower.server.records.log_key import open_signer
from moonflower.server.records.source import Record, opened
from support.federation import NAMES, Federation, identities

Values = dict[str, Any]
Chosen = dict[str, Any]
ROUND = 2


class Log:
    """A log that was written by a coordinator, and that whoever holds its key can write anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer = open_signer(folder, "moonflower/heart")
        with opened(folder) as history:
            self.records = list(history.records)

    @property
    def verifier(self) -> Verifier:
        return self.signer.verifier

    def build(self, number: int = ROUND, purpose: Any = "update", run: str = "") -> Values:
        return build_certificate(self.records, number, purpose, self.verifier, run)

    def forge(self, change: Callable[[Chosen], object], number: int = ROUND, purpose: Any = "update") -> Values:
        """Return a certificate from a log that its owner wrote anew; the plain fields stay the honest ones.

        ``change`` gets the entries that the certificate relies on, by event; ``enrolled`` by member.
        """
        honest = self.build(number, purpose)
        values = [json.loads(record.entry) for record in self.records]
        indices = [one["index"] for one in honest["entries"]]
        chosen: Chosen = {values[at]["event"]: values[at] for at in indices}
        chosen["enrolled"] = {values[at]["member"]: values[at] for at in indices if values[at]["event"] == "enrolled"}
        change(chosen)
        return {**honest, **evidence([canonical(value) for value in values], indices, honest["context"], self.signer)}


def evidence(entries: list[bytes], indices: list[int], context: Values, signer: Signer) -> Values:
    """Return what :func:`gather` does, of entries that are signed anew, whatever they say."""
    tree = merkle.Tree(merkle.leaf_hash(entry) for entry in entries)
    size = int(context["checkpoint"].split()[0])
    return {
        "entries": [
            {"index": at, "entry": entries[at].decode(), "proof": [node.hex() for node in tree.inclusion(at)]}
            for at in indices
        ],
        "growth": [node.hex() for node in tree.consistency(size)],
        "checkpoint": sign_checkpoint(signer, tree.size, tree.root()).note,
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """The log of a run of three rounds that nothing happened to."""
    folder = tmp_path_factory.mktemp("log") / "0"
    one = Federation(folder)
    one.queue()
    assert one.carry_out() == "done"
    one.close()
    return Log(folder)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    made: list[Federation] = []

    def make(*overrides: str) -> Federation:
        made.append(Federation(tmp_path / str(len(made)), *overrides))
        made[-1].queue()
        return made[-1]

    yield make
    for one in made:
        one.close()


def pins() -> dict[str, str]:
    return {name: identities()[name].card.node.pin for name in NAMES}


def refused(code: str, said: str, log: Log, certificate: Any, **more: Any) -> None:
    with pytest.raises(Refused) as refusal:
        verify_certificate(certificate, log.verifier, **more)
    assert (refusal.value.code, said in str(refusal.value)) == (code, True), str(refusal.value)


# What an honest one says


@pytest.mark.parametrize(("number", "purpose"), [(1, "update"), (2, "update"), (0, "statistics"), (3, "tallies")])
def test_a_certificate_of_every_purpose_verifies(log: Log, number: int, purpose: str) -> None:
    made = log.build(number, purpose)
    found = verify_certificate(parse_canonical(canonical(made)), log.verifier, pins())
    assert (found.statement.number, found.statement.purpose, found.statement.members) == (number, purpose, NAMES)
    assert {*made["signatures"]} == {*NAMES}
    assert (made["verdict"] is None) == (purpose != "update")


@pytest.mark.parametrize(("number", "purpose"), [(0, "update"), (0, "tallies"), (1, "tallies"), (4, "update")])
def test_a_sum_that_is_not_there_has_no_certificate(log: Log, number: int, purpose: str) -> None:
    with pytest.raises(InputError, match=f"no sum was opened as {purpose} of round {number}") as error:
        log.build(number, purpose)
    assert error.value.code == "config.round"


def test_a_certificate_says_what_the_log_says(log: Log) -> None:
    made, values = log.build(), [json.loads(record.entry) for record in log.records]
    closed = next(e for e in values if e["event"] == "set_closed" and e["number"] == ROUND)
    headers = {
        e["member"]: e["details"]["header"]
        for e in values
        if e["event"] == "envelope_accepted" and e["number"] == ROUND and e["details"]["purpose"] == "update"
    }
    promoted = next(e for e in values if e["event"] == "promoted" and e["number"] == ROUND)
    assert made["headers"] == closed["details"]["headers"] == headers
    assert made["context"] == closed["details"]["context"]
    assert made["sum"] == closed["details"]["sum"]
    assert made["statement"]["sha256"] == promoted["details"]["sha256"]
    assert made["roster"] == pins()
    assert (made["verdict"]["status"], {*made["verdict"]["votes"]}) == ("promoted", {*NAMES})
    assert int(made["context"]["checkpoint"].split()[0]) < closed["index"]


def test_nothing_stands_twice_in_the_entries_of_a_round(log: Log) -> None:
    of_round = [record.entry.decode() for record in log.records if json.loads(record.entry).get("number") == ROUND]
    signature = next(iter(log.build()["signatures"].values()))
    assert sum(text.count(signature) for text in of_round) == 1
    assert sum(text.count('\\"in_range\\"') for text in of_round) == 1, "the statement"


def test_the_entries_of_a_round_of_a_thousand_members_fit() -> None:
    names = [f"{at:x>64}" for at in range(1024)]
    about: Values = {"federation": names[0], "run": "r" * 24, "number": 10**6, "purpose": "update", "base": "b" * 64}
    said = Statement("c" * 64, *about.values(), tuple(names), "h" * 64, "s" * 64, 1.0 / 3, 1.0 / 3, True, {})
    words = Words(b"s" * 96, "abstain", b"v" * 96)
    proof = Proof(said.encode(), "b" * 64, dict.fromkeys(names, words))
    for details in (
        {"purpose": "update", "headers": dict.fromkeys(names, "h" * 64), "sum": "s" * 64, "context": about},
        proof.as_dict(),
        {"votes": proof.votes, "best": "b" * 64, "warnings": [[names[0], "a.b"]] * 512},
        {"roster": "d" * 64, "members": names, "signatures": dict.fromkeys(names, "s" * 128)},
    ):
        assert len(canonical(details)) < MAX_ENTRY_BYTES * 0.9


def test_rounds_that_were_refused_or_broken_off_have_certificates_too(federation: Callable[..., Federation]) -> None:
    one = federation("gate.max_regression=0.0", "gate.patience=1", "training.lr=90.0", "crypto.clip=1000.0")
    assert one.carry_out() == "policy run.patience"
    log = Log(one.folder)
    assert log.build(1)["verdict"]["status"] == "refused"
    assert log.build(1)["verdict"]["code"].startswith("gate.")

    two = federation()
    two.kill_at = lambda entry: entry["event"] == "opened" and entry["number"] == 1
    assert two.carry_out() == "killed"
    assert Log(two.folder).build(1)["verdict"] is None
    with two.state.store.transaction() as db:
        history.request_stop(db, "run-1")
    assert two.carry_out() == "stopped run.stopped"
    failed = {"status": "failed", "code": "run.stopped", "votes": {}}
    assert Log(two.folder).build(1)["verdict"] == failed


def test_a_round_that_went_on_after_its_coordinator_died_has_one_certificate(
    federation: Callable[..., Federation],
) -> None:
    one = federation()
    one.kill_at = lambda entry: entry["event"] == "opened" and entry["number"] == 1
    assert one.carry_out() == "killed"
    one.kill_at = lambda entry: False
    assert one.carry_out() == "done"
    assert len([e for e in one.events("opened") if e["number"] == 1 and e["details"]["purpose"] == "update"]) == 2
    assert Log(one.folder).build(1)["verdict"]["status"] == "promoted"


def test_a_sum_that_was_closed_twice_is_certified_as_it_was_opened(federation: Callable[..., Federation]) -> None:
    """An envelope was lost at both ends before anybody answered, and was sealed anew."""
    one = federation()
    one.kill_at = lambda entry: entry["event"] == "set_closed" and entry["number"] == 0
    assert one.carry_out() == "killed"
    one.kill_at = lambda entry: False
    folder = one.folder
    with pytest.raises(InputError, match="no sum was opened as statistics of round 0"):
        Log(folder).build(0, "statistics")
    assert proved_set(gather(Log(folder).records, 0, "statistics", last="set_closed"), Log(folder).verifier)
    (closed,) = one.events("set_closed")
    one.state.envelopes.path(0, closed["details"]["headers"]["Hungary"]).unlink()
    held = one.members["Hungary"].held
    held.drop(held.contexts()[0])
    assert one.carry_out() == "done"
    assert len([e for e in one.events("set_closed") if e["number"] == 0]) == 2
    sum_of = {e["details"]["sum"]: e["index"] for e in one.events("set_closed") if e["number"] == 0}
    assert sum_of[Log(folder).build(0, "statistics")["sum"]] == max(sum_of.values()), "the last one"


def test_a_number_that_several_runs_have_needs_the_run(federation: Callable[..., Federation]) -> None:
    one = federation("training.rounds=1")
    assert one.carry_out() == "done"
    one.queue("run-2")
    assert one.carry_out("run-2") == "done"
    log = Log(one.folder)
    with pytest.raises(InputError, match=r"2 runs opened statistics of round 0; choose one: run-1, run-2") as error:
        log.build(0, "statistics")
    assert error.value.code == "config.round"
    for run in ("run-1", "run-2"):
        assert log.build(0, "statistics", run)["run"] == run
    with pytest.raises(InputError, match="of run 'run-3'"):
        log.build(0, "statistics", "run-3")
    assert log.build(2)["run"] == "run-2", "numbers of rounds are the federation's"


def test_a_log_that_was_edited_gives_no_certificate(log: Log) -> None:
    records = list(log.records)
    records[3] = Record(records[3].entry.replace(b'"time":"2', b'"time":"1'), records[3].note)
    with pytest.raises(Refused) as refusal:
        build_certificate(records, ROUND, "update", log.verifier)
    assert refusal.value.code == "audit.entry"
    for unread, code in (
        (Record(b"[", ""), "audit.entry"),
        (Record(b"[]", ""), "audit.entry"),
        (Record(log.records[3].entry, "", fault="audit.truncated"), "audit.truncated"),
    ):
        records[3] = unread
        with pytest.raises(AuditError) as error:
            build_certificate(records, ROUND, "update", log.verifier)
        assert (error.value.code, error.value.first_bad) == (code, 3)


def test_a_log_of_an_earlier_version_says_so(log: Log) -> None:
    values = [json.loads(record.entry) for record in log.records]
    for value in values:
        if value["event"] == "set_closed":
            del value["details"]["context"]
    records = [Record(canonical(value), "") for value in values]
    with pytest.raises(Refused, match="another version wrote them") as refusal:
        gather(records, ROUND, "update")
    assert refusal.value.code == "audit.certificate"


# Whoever hands it on


@pytest.mark.parametrize("field", ["federation", "run", "number", "purpose", "circle", "context", "roster", "members"])
def test_no_plain_field_can_differ_from_the_entries(log: Log, field: str) -> None:
    made = log.build()
    other = log.build(1)
    changed = {"circle": "0" * 64, "federation": "other", "run": "r", "purpose": "tallies", "members": [], "roster": {}}
    refused("audit.certificate", "plain fields", log, {**made, field: changed.get(field, other[field])})


@pytest.mark.parametrize("field", ["headers", "sum", "statement", "signatures", "verdict"])
def test_no_result_can_differ_from_the_entries(log: Log, field: str) -> None:
    made, other = log.build(), log.build(1)
    other["verdict"] |= {"status": "kept"}
    refused("audit.certificate", "plain fields", log, {**made, field: other[field]})


def test_nothing_can_be_added_or_left_out(log: Log) -> None:
    made = log.build()
    refused("audit.certificate", "plain fields", log, {**made, "comment": "trust me"})
    refused("audit.certificate", "plain fields", log, {**made, "version": 2.0})
    refused("audit.certificate", "of version 2", log, {**made, "version": 1})
    refused("audit.certificate", "of version 2", log, [made])
    refused("audit.certificate", "expected a checkpoint, and entries", log, {**made, "checkpoint": 5})
    for field in made:
        with pytest.raises(Refused):
            verify_certificate({name: value for name, value in made.items() if name != field}, log.verifier)
    for at in range(len(made["entries"])):
        entries = made["entries"][:at] + made["entries"][at + 1 :]
        if json.loads(made["entries"][at]["entry"])["event"] not in ("judged", "promoted"):
            refused("audit.certificate", "", log, {**made, "entries": entries})
        with pytest.raises(Refused):
            verify_certificate({**made, "entries": entries}, log.verifier)


def test_without_its_end_a_round_has_no_verdict(log: Log) -> None:
    """Who leaves both entries out gets a certificate that says so; one of them alone does not do."""
    made = log.build()
    entries = made["entries"][:-2]
    assert verify_certificate({**made, "entries": entries, "verdict": None}, log.verifier).verdict is None
    for kept in made["entries"][-2:]:
        refused("audit.certificate", "expected", log, {**made, "entries": [*entries, kept], "verdict": None})


def test_an_entry_must_be_in_the_log_where_it_says(log: Log) -> None:
    made = log.build()

    def with_entry(**changes: Any) -> Values:
        entries = [dict(one) for one in made["entries"]]
        entries[-1] |= changes
        return {**made, "entries": entries}

    last = made["entries"][-1]
    edited = json.loads(last["entry"]) | {"time": "2020-01-01T00:00:00.000Z"}
    refused("audit.entry", "expected the root", log, with_entry(entry=canonical(edited).decode()))
    refused("audit.entry", "too short", log, with_entry(proof=last["proof"][:-1]))
    refused("audit.entry", "expected the root", log, with_entry(proof=[*last["proof"][:-1], "0" * 64]))
    refused("audit.certificate", "each with its index", log, with_entry(index=last["index"] + 1))
    refused("audit.certificate", "each with its index", log, with_entry(index=float(last["index"])))
    refused("audit.certificate", "each with its index", log, with_entry(proof=[one.upper() for one in last["proof"]]))
    refused("audit.certificate", "each with its index", log, with_entry(more=1))
    refused("audit.certificate", "each with its index", log, with_entry(entry=last["entry"] + " "))
    swapped = [made["entries"][-1], *made["entries"][:-1]]
    refused("audit.certificate", "not in the order", log, {**made, "entries": swapped})
    doubled = [*made["entries"], made["entries"][-1]]
    refused("audit.certificate", "not in the order", log, {**made, "entries": doubled})


def test_an_entry_of_another_kind_has_no_place(log: Log) -> None:
    made, tree = log.build(), merkle.Tree(merkle.leaf_hash(record.entry) for record in log.records)
    at = next(at for at, record in enumerate(log.records) if json.loads(record.entry)["event"] == "answered")
    proof = [node.hex() for node in tree.inclusion(at)]
    extra = {"index": at, "entry": log.records[at].entry.decode(), "proof": proof}
    entries = sorted([*made["entries"], extra], key=lambda one: one["index"])
    refused("audit.certificate", "each with its index", log, {**made, "entries": entries})


def test_only_the_logs_own_key_signs_its_checkpoint(log: Log) -> None:
    made = log.build()
    size, root = len(log.records), merkle.Tree(merkle.leaf_hash(record.entry) for record in log.records).root()
    stranger = sign_checkpoint(Signer.generate("moonflower/heart"), size, root).note
    refused("audit.signature", "expected one signature by", log, {**made, "checkpoint": stranger})
    refused("audit.signature", "", log, {**made, "checkpoint": made["checkpoint"].replace("53", "54") + " "})
    with pytest.raises(Refused) as refusal:
        verify_certificate(made, Signer.generate("moonflower/heart").verifier)
    assert refusal.value.code == "audit.signature"


def test_every_member_of_the_set_must_carry_the_pin_that_is_given_for_it(log: Log) -> None:
    made, known = log.build(), pins()
    assert verify_certificate(made, log.verifier, {**known, "Basel": "x" * 43})
    known["Hungary"] = "x" * 43
    refused("audit.pin", "'Hungary' is in the sum with the pin", log, made, pins=known)
    del known["Hungary"]
    refused("audit.pin", "no pin was given for it", log, made, pins=known)
    refused("audit.pin", "'Cleveland'", log, made, pins={})


@settings(max_examples=150)
@given(data=st.data())
def test_any_changed_byte_is_refused_or_changes_nothing(log: Log, data: st.DataObject) -> None:
    made = canonical(log.build())
    honest = verify_certificate(parse_canonical(made), log.verifier, pins())
    changed = bytearray(made)
    at = data.draw(st.integers(0, len(made) - 1))
    changed[at] = data.draw(st.integers(0, 255))
    try:
        found = verify_certificate(parse_canonical(bytes(changed)), log.verifier, pins())
    except (ValueError, Refused):
        assert changed != made
    else:
        assert found.as_dict() == honest.as_dict()


@settings(max_examples=100)
@given(
    data=st.data(),
    junk=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_junk_raises_its_own_error(log: Log, data: st.DataObject, junk: Any) -> None:
    made = copy.deepcopy(log.build())
    place: Any = made
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if canonical(place[key]) == canonical(junk):
        return
    place[key] = junk
    with pytest.raises(Refused) as refusal:
        verify_certificate(made, log.verifier)
    assert refusal.value.code.startswith("audit.")


# Whoever holds the log's key


def of(event: str, *path: str, to: Any) -> Callable[[Chosen], None]:
    """Return a change of one value of one entry; a callable ``to`` gets what stood there."""

    def change(chosen: Chosen) -> None:
        place = chosen[event]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to(place[path[-1]]) if callable(to) else to

    return change


def resigned(*signers: str, **changes: Any) -> Callable[[Chosen], None]:
    """Return a change of the statement that these members signed, and voted on, with their own keys."""

    def change(chosen: Chosen) -> None:
        details, judged = chosen["opened"]["details"], chosen["judged"]["details"]
        said = canonical({**json.loads(details["statement"]), **changes})
        details["statement"] = said.decode()
        for what in ("signatures", "votes", "vote_signatures"):
            details[what] = {name: details[what][name] for name in signers or NAMES}
        for name in signers or NAMES:
            details["signatures"][name] = b64(identities()[name].sign("opened", said))
            sign_vote(details, name)
        judged["votes"] = dict(details["votes"])

    return change


def sign_vote(opened: Values, name: str) -> None:
    """Sign a member's vote in the entry of the opening."""
    covered = vote_bytes(opened["statement"].encode(), opened["best"], opened["votes"][name])
    opened["vote_signatures"][name] = b64(identities()[name].sign("vote", covered))


def voted(**votes: str) -> Callable[[Chosen], None]:
    """Return a change of votes, signed by their voters."""

    def change(chosen: Chosen) -> None:
        opened = chosen["opened"]["details"]
        for name, vote in votes.items():
            opened["votes"][name] = vote
            sign_vote(opened, name)
        chosen["judged"]["details"]["votes"] = dict(opened["votes"])

    return change


def both(*changes: Callable[[Chosen], object]) -> Callable[[Chosen], None]:
    def change(chosen: Chosen) -> None:
        for one in changes:
            one(chosen)

    return change


def another_card(chosen: Chosen) -> None:
    """Put a key of the coordinator's own in a member's place."""
    card = Identity.generate("Hungary").card
    chosen["enrolled"]["Hungary"]["details"] |= {"card": card.as_dict(), "pin": card.node.pin}


def refuse(chosen: Chosen) -> None:
    """Call a promoted round refused."""
    chosen["promoted"]["event"] = "refused"


BAD = "audit.certificate"
ALL = list(NAMES)
FORGED = {
    "unsigned circle": (of("circle_signed", "details", "signature", to=b64(b"s" * 96)), BAD, "does not match circle 1"),
    "another's signature": (of("circle_signed", "member", to="Basel"), BAD, "a key that the circle does not name"),
    "recipe": (
        of("circle_proposed", "details", "document", "recipe", "training", "lr", to=9.0), BAD, "does not match circle 1"
    ),
    "cards": (another_card, BAD, "does not carry the pinned key"),
    "card": (
        lambda c: c["enrolled"]["Hungary"]["details"]["card"].update(client_id="x"),
        BAD,
        "not signed by its own node key",
    ),
    "pin": (lambda c: c["enrolled"]["Hungary"]["details"].update(pin="x" * 43), BAD, "differ from those of the circle"),
    "roster": (of("seats_taken", "details", "roster", to="0" * 64), BAD, "the cards differ from the roster"),
    "context's roster": (of("set_closed", "details", "context", "roster", to="0" * 64), BAD, "differ from the roster"),
    "seats' circle": (of("seats_taken", "details", "circle", to="0" * 64), BAD, "circle, plan or key of the context"),
    "seats' key": (of("seats_taken", "details", "key", to="0" * 64), BAD, "circle, plan or key of the context"),
    "plan": (of("seats_taken", "details", "crypto", "lanes", to=7), BAD, "circle, plan or key of the context"),
    "circle": (
        both(
            of("seats_taken", "details", "circle", to="0" * 64),
            of("set_closed", "details", "context", "circle", to="0" * 64),
        ),
        BAD,
        "differs from the run's offer or circle",
    ),
    "practice": (
        of("run_began", "details", "offer", "federation", "practice", to=False),
        BAD,
        "differs from the run's offer or circle",
    ),
    "least": (
        of("run_began", "details", "offer", "federation", "min_members", to=5),
        BAD,
        "differs from the run's offer or circle",
    ),
    "clip": (of("run_began", "details", "offer", "crypto", "clip", to=9.0), BAD, "differs from the run's offer"),
    "old setting": (
        of("run_began", "details", "offer", "crypto", to=lambda found: {**found, "open_quorum": 1}),
        BAD,
        "unknown key 'crypto.open_quorum'",
    ),
    "federation": (of("set_closed", "details", "context", "federation", to="x"), BAD, "differs from the run's offer"),
    "offer": (of("run_began", "details", "offer", "gate", "patience", to="x"), BAD, "the run's offer"),
    "run": (of("run_began", "run", to="run-0"), BAD, "belong to several runs"),
    "context's run": (of("set_closed", "details", "context", "run", to="run-0"), BAD, "belong to several runs"),
    "number": (of("set_closed", "number", to=9), BAD, "about several sums"),
    "opened number": (of("opened", "number", to=9), BAD, "about several sums"),
    "judged number": (of("judged", "number", to=9), BAD, "about several sums"),
    "purpose": (of("set_closed", "details", "purpose", to="tallies"), BAD, "about several sums"),
    "opened purpose": (of("opened", "details", "purpose", to="tallies"), BAD, "about another context"),
    "stranger": (
        of("set_closed", "details", "headers", to=lambda h: {**h, "Basel": "0" * 64}),
        BAD,
        "one envelope of every member of the circle",
    ),
    "fewer": (
        of("set_closed", "details", "headers", to=lambda h: {name: h[name] for name in NAMES[:3]}),
        BAD,
        "one envelope of every member of the circle",
    ),
    "context": (of("set_closed", "details", "context", "round", to=9), BAD, "about another context"),
    "header": (of("set_closed", "details", "headers", "Hungary", to="0" * 64), BAD, "other envelopes"),
    "header's form": (of("set_closed", "details", "headers", "Hungary", to="x"), BAD, "an unexpected form"),
    "header's length": (of("set_closed", "details", "headers", "Hungary", to="00" * 31), BAD, "an unexpected form"),
    "sum's form": (of("set_closed", "details", "sum", to="x"), BAD, "an unexpected form"),
    "statement": (of("opened", "details", "statement", to="{}"), BAD, "statement is malformed"),
    "candidate": (
        of("opened", "details", "statement", to=lambda s: s.replace('"sha256":"', '"sha256":"f')[:-1]),
        BAD,
        "statement is malformed",
    ),
    "unsigned": (
        of("opened", "details", "statement", to=lambda s: canonical({**json.loads(s), "signal": 9.0}).decode()),
        "audit.openers",
        "is not signed by",
    ),
    "signature": (
        of("opened", "details", "signatures", "Hungary", to=b64(b"x" * 96)),
        "audit.openers",
        "is not signed by 'Hungary'",
    ),
    "outsider": (
        lambda c: [
            c["opened"]["details"][what].update(Basel=c["opened"]["details"][what]["Hungary"])
            for what in ("signatures", "votes", "vote_signatures")
        ],
        "audit.openers",
        "does not hold the signature and vote of every member",
    ),
    "outsider's signature": (
        of("opened", "details", "signatures", to=lambda s: {**s, "Basel": s["Hungary"]}),
        BAD,
        "proof is malformed",
    ),
    "not everybody": (resigned(*NAMES[:3]), "audit.openers", "does not hold the signature and vote of every member"),
    "clear number": (resigned(number=9), BAD, "plain fields differ from its context"),
    "clear base": (resigned(base="0" * 64), BAD, "plain fields differ from its context"),
    "clear run": (resigned(run="x"), BAD, "plain fields differ from its context"),
    "another set": (resigned(members=["Cleveland", "Hungary", "Switzerland"]), BAD, "other envelopes"),
    "judged vote": (of("judged", "details", "votes", "Hungary", to="abstain"), BAD, "from those that the members"),
    "judged best": (of("judged", "details", "best", to="0" * 64), BAD, "from those that the members signed"),
    "vote": (of("opened", "details", "votes", "Hungary", to="abstain"), "audit.openers", "the vote is not signed by"),
    "best": (of("opened", "details", "best", to="0" * 64), "audit.openers", "the vote is not signed by"),
    "vote's form": (of("opened", "details", "votes", "Hungary", to="good"), BAD, "proof is malformed"),
    "dropped vote": (lambda c: c["judged"]["details"]["votes"].pop("Hungary"), BAD, "from those that the members"),
    "bad votes": (voted(**dict.fromkeys(NAMES[:3], "worse")), BAD, "promoted without a code does not follow"),
    "even votes": (voted(**dict.fromkeys(NAMES[:2], "same")), BAD, "promoted without a code does not follow"),
    "kept": (of("promoted", "event", to="kept"), BAD, "kept without a code does not follow"),
    "refused": (refuse, BAD, "refused without a code does not follow"),
    "refused for votes": (
        both(refuse, of("promoted", "code", to=lambda _: "gate.worse")),
        BAD,
        "refused gate.worse does not follow",
    ),
    "promoted with a code": (
        both(of("promoted", "code", to=lambda _: "gate.step"), lambda c: c["judged"].update(code="gate.step")),
        BAD,
        "promoted gate.step does not follow",
    ),
    "out of range": (resigned(in_range=False), BAD, "promoted without a code does not follow"),
    "another code": (
        both(refuse, of("promoted", "code", to=lambda _: "gate.step")),
        BAD,
        "about different candidates",
    ),
    "another candidate": (of("promoted", "details", "sha256", to="0" * 64), BAD, "about different candidates"),
    "rewritten": (of("run_began", "time", to="2020-01-01T00:00:00.000Z"), "audit.fork", "expected the root"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_the_holder_of_the_logs_key_cannot_make_up_a_round(log: Log, name: str) -> None:
    change, code, said = FORGED[name]

    def tolerant(chosen: Chosen) -> None:
        chosen["promoted"].setdefault("code", "")
        change(chosen)  # type: ignore[operator]

    refused(code, said, log, log.forge(tolerant))


def test_the_witnessed_checkpoint_is_of_this_log_and_of_the_time_between_seats_and_sum(log: Log) -> None:
    made = log.build()
    size, root, key = made["context"]["checkpoint"].split(" ", 2)
    tree = merkle.Tree(merkle.leaf_hash(record.entry) for record in log.records)

    def labelled(label: str, growth_from: int) -> Values:
        change = of("set_closed", "details", "context", "checkpoint", to=label)
        forged = log.forge(change)
        values = [json.loads(record.entry) for record in log.records]
        closed = next(e for e in values if e["event"] == "set_closed" and e["number"] == ROUND)
        closed["details"]["context"]["checkpoint"] = label
        again = merkle.Tree(merkle.leaf_hash(canonical(value)) for value in values)
        return {**forged, "growth": [node.hex() for node in again.consistency(growth_from)]}

    stranger = Signer.generate("moonflower/heart").verifier.text()
    refused("audit.signature", "witnessed the log of key", log, labelled(f"{size} {root} {stranger}", int(size)))
    refused("audit.fork", "", log, labelled(f"{size} {'0' * 64} {key}", int(size)))
    refused(BAD, "an unexpected form", log, labelled(f"0{size} {root} {key}", int(size)))
    refused(BAD, "an unexpected form", log, labelled("", int(size)))
    early = f"2 {tree.root(2).hex()} {key}"
    refused(BAD, "not from between seats and list", log, labelled(early, 2))
    closed_at = next(e["index"] for e in made["entries"] if json.loads(e["entry"])["event"] == "set_closed")
    assert int(size) <= closed_at
    assert {"set_closed", "opened", "judged", "promoted"} <= {json.loads(e["entry"])["event"] for e in made["entries"]}


def test_statistics_and_tallies_have_no_verdict(log: Log) -> None:
    """Nor can votes on round 3 be passed off as votes on the tallies of that number."""
    honest = log.build(3, "tallies")
    values = [json.loads(record.entry) for record in log.records]
    votes = [value for value in values if value.get("number") == 3 and value["event"] in ("judged", "promoted")]
    indices = [one["index"] for one in honest["entries"]]
    for value in votes:
        indices.append(indices[-1] + 1)
        values[indices[-1]] = {**value, "index": indices[-1]}
    forged = evidence([canonical(value) for value in values], indices, honest["context"], log.signer)
    refused(BAD, "only an update has a verdict", log, {**honest, **forged})


def test_a_verdict_comes_after_its_votes(log: Log) -> None:
    def swap(chosen: Chosen) -> None:
        judged, promoted = dict(chosen["judged"]), dict(chosen["promoted"])
        chosen["judged"].update({**promoted, "index": judged["index"]})
        chosen["promoted"].update({**judged, "index": promoted["index"]})

    refused(BAD, "not in the order of a round", log, log.forge(swap))


def test_a_round_that_failed_has_no_votes_and_says_why(log: Log) -> None:
    def fail(chosen: Chosen) -> None:
        chosen["promoted"] |= {"event": "failed", "code": "open.key"}

    said = "a failed round must have a code and no votes"
    refused(BAD, said, log, log.forge(fail))
    silent = log.forge(lambda chosen: chosen["promoted"].update(event="failed"))
    entries = [one for one in silent["entries"] if json.loads(one["entry"])["event"] != "judged"]
    refused(BAD, said, log, {**silent, "entries": entries})


def test_that_a_step_was_too_long_for_the_steps_before_it_is_the_coordinators_word(log: Log) -> None:
    """Earlier steps stand in other certificates. That one is not finite, or beyond ``max_step``, follows here."""
    by_word = both(refuse, coded("gate.step"))
    verdict = {**log.build()["verdict"], "status": "refused", "code": "gate.step"}
    found = verify_certificate({**log.forge(by_word), "verdict": verdict}, log.verifier, pins())
    assert found.verdict is not None
    assert (found.verdict.status, found.verdict.code) == ("refused", "gate.step")
    endless = both(resigned(norm=None), refuse, coded("gate.worse"))
    refused(BAD, "refused gate.worse does not follow", log, log.forge(endless))


def coded(code: str) -> Callable[[Chosen], None]:
    """Return a change of the code that votes and verdict have."""

    def change(chosen: Chosen) -> None:
        for event in ("judged", "promoted"):
            chosen[event]["code"] = code

    return change


def test_the_sum_is_the_coordinators_word(log: Log) -> None:
    """What a certificate does not prove; ``audit recompute`` does."""
    forged = log.forge(of("set_closed", "details", "sum", to="0" * 64))
    assert verify_certificate({**forged, "sum": "0" * 64}, log.verifier, pins()).closed.sum == "0" * 64
