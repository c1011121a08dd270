"""Members witness the coordinator's log: whoever rewrites, forks or cuts it is found with the next message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from flwr.app import ConfigRecord, RecordDict
from moonflower.cli import member as commands
from moonflower.client.checkpoints import HeldCheckpoint, check_log
from moonflower.client.ledger.ledger import CHECKPOINTS, Ledger
from moonflower.client.witness import LogWitness
from moonflower.crypto import merkle
from moonflower.crypto.note import Signer, Witness, check_cosignature, cosignatures, open_checkpoint, sign_checkpoint
from moonflower.errors import Refused
from moonflower.protocol.context import checkpoint_label
from moonflower.protocol.messages import Enrol, Refusal, Shown
from moonflower.protocol.records import attach, attached, from_records, to_records
from moonflower.server import witnesses as noticing
from moonflower.server.records import countersigned as table
from moonflower.server.records.state import State
from moonflower.server.records.verify import verify
from support import CONFIGS
from support.federation import THREE, Federation, Killed, identities
from support.forking import Forking
from support.rewrite import rewrite, without_a_refusal
from support.superlink import client_config

SIGNER = Signer.generate("moonflower/heart")
KEY = SIGNER.verifier.text()
LEAVES = [merkle.leaf_hash(bytes([index])) for index in range(20)]
OTHERS = [merkle.leaf_hash(b"other"), *LEAVES[1:]]
DORA = THREE[-1]


def held(size: int, leaves: list[bytes] = LEAVES, signer: Signer = SIGNER) -> HeldCheckpoint:
    root = merkle.Tree(leaves[:size]).root()
    return HeldCheckpoint(size, root, signer.verifier.text(), sign_checkpoint(signer, size, root).note)


def shown(size: int, since: int, leaves: list[bytes] = LEAVES, signer: Signer = SIGNER, **changes: Any) -> Shown:
    tree = merkle.Tree(leaves[:size])
    proof = [node.hex() for node in tree.consistency(since)]
    fields = {"checkpoint": held(size, leaves, signer).note, "key": signer.verifier.text()}
    return Shown(**{**fields, "since": since, "proof": proof, **changes})


def looked(
    what: Shown, newest: HeldCheckpoint | None, *before: HeldCheckpoint, log_key: str | None = None
) -> HeldCheckpoint | None:
    known = {one.size: one for one in before}
    return check_log(what, newest, known.get, log_key)


# The rule.


def test_the_first_checkpoint_is_taken_and_pins_the_key() -> None:
    assert looked(shown(7, 0), None) == held(7)
    assert looked(shown(7, 0), None, log_key=KEY) == held(7)


@pytest.mark.parametrize("size", range(8, 20))
def test_growth_is_taken_with_its_proof(size: int) -> None:
    assert looked(shown(size, 7), held(7)) == held(size)


def test_what_is_known_is_nothing_new() -> None:
    assert looked(shown(7, 0), held(7)) is None
    assert looked(shown(5, 3), held(7), held(5)) is None


STRANGER = Signer.generate("moonflower/heart")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (shown(9, 7, OTHERS), "audit.fork"),
        (shown(9, 7, proof=[]), "audit.fork"),
        (shown(9, 7, proof=["zz"]), "audit.fork"),
        (shown(9, 7, proof=["00" * 32] * 4), "audit.fork"),
        (shown(7, 0, OTHERS), "audit.fork"),
        (shown(5, 0, OTHERS), "audit.fork"),
        (shown(6, 0), "audit.fork"),  # an honest history, but rolled back to where this member never was
        (shown(9, 5), "audit.behind"),
        (shown(9, 8), "audit.behind"),
        (shown(9, 7, signer=STRANGER), "audit.signature"),
        (shown(9, 7, checkpoint=held(9, signer=STRANGER).note), "audit.signature"),
        (shown(9, 7, checkpoint="junk"), "audit.signature"),
        (shown(9, 7, checkpoint=held(9).note + held(9, signer=STRANGER).note.split("\n\n")[1]), "audit.signature"),
    ],
)
def test_another_history_is_refused(what: Shown, code: str) -> None:
    with pytest.raises(Refused) as refusal:
        looked(what, held(7), held(5))
    assert refusal.value.code == code


@pytest.mark.parametrize("what", [shown(7, 0, signer=STRANGER), shown(7, 0, key="junk")])
@pytest.mark.parametrize("newest", [None, held(7)])
def test_a_pinned_key_is_the_only_one(what: Shown, newest: HeldCheckpoint | None) -> None:
    with pytest.raises(Refused) as refusal:
        looked(what, newest, log_key=KEY)
    assert refusal.value.code == "audit.signature"
    with pytest.raises(Refused) as refusal:  # a config that was changed after the first one was seen
        looked(shown(9, 7), held(7), log_key=STRANGER.verifier.text())
    assert refusal.value.code == "audit.signature"


def test_a_first_key_that_is_none_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        looked(shown(7, 0, key="junk"), None)
    assert refusal.value.code == "audit.signature"


@pytest.mark.parametrize("log", [None, "", "{}", '{"checkpoint": 1}', 7])
def test_a_message_that_shows_nothing_is_refused(log: Any) -> None:
    records = RecordDict({"message": ConfigRecord({"kind": "refusal", **({} if log is None else {"log": log})})})
    with pytest.raises(Refused) as refusal:
        attached(Shown, records)
    assert refusal.value.code == "audit.missing"


def test_what_is_attached_leaves_the_message_as_it_was() -> None:
    records = to_records(Refusal(code="a.b"))
    attach(shown(9, 7), records)
    assert from_records(Refusal, records) == Refusal(code="a.b")
    assert attached(Shown, records) == shown(9, 7)


# The ledger.


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


def test_a_ledger_keeps_what_was_witnessed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger.newest_checkpoint() is None
    monkeypatch.setattr("moonflower.client.ledger.ledger.CHECKPOINTS", 3)
    for size in (3, 5, 7, 9):
        ledger.keep_checkpoint(held(size))
        ledger.keep_checkpoint(replace(held(size), root=bytes(32)))
    assert ledger.newest_checkpoint() == held(9)
    assert [ledger.checkpoint(size) for size in (3, 5, 6)] == [None, held(5), None]
    assert ledger.has_witnessed(held(7).label)
    strange = ("", "x", "9" * 40, "-1 a b", checkpoint_label("other", 7, held(7).root))
    for label in (held(3).label, held(8).label, *strange):
        assert not ledger.has_witnessed(label)
    ledger.keep_fork("a", "b", proved=False)
    ledger.keep_fork("c", "d", proved=False)
    assert ledger.fork() == {"held": "a", "shown": "b"}
    ledger.keep_fork("e", "f", proved=True)
    ledger.keep_fork("g", "h", proved=True)
    ledger.keep_fork("i", "j", proved=False)
    assert ledger.fork() == {"held": "e", "shown": "f"}, "what proves it, and the first of that"
    ledger.forget_checkpoints()
    assert (ledger.newest_checkpoint(), ledger.fork()) == (None, None)
    assert CHECKPOINTS >= 100


@pytest.mark.parametrize(
    ("what", "proof"),
    [
        (shown(7, 0, OTHERS), (held(7).note, held(7, OTHERS).note)),
        (shown(5, 0, OTHERS), (held(5).note, held(5, OTHERS).note)),  # not the newest that is held, but of that size
    ],
)
@pytest.mark.parametrize("junk", [shown(6, 0), shown(9, 7, OTHERS), shown(9, 7, proof=[]), shown(9, 7, proof=["zz"])])
def test_what_proves_a_fork_is_kept_whatever_was_refused_before_and_after(
    ledger: Ledger, what: Shown, proof: tuple[str, str], junk: Shown
) -> None:
    """A dishonest coordinator does not use up the place of the evidence with what proves nothing."""
    witness = LogWitness(identities()[DORA], ledger, KEY, lambda: 0.0)

    def look(one: Shown) -> None:
        records = to_records(Refusal(code="a.b"))
        attach(one, records)
        witness.look(records)

    look(shown(5, 0))
    look(shown(7, 5))
    for one in (junk, what, junk):
        with pytest.raises(Refused) as refusal:
            look(one)
        assert refusal.value.code == "audit.fork"
    assert ledger.fork() == dict(zip(("held", "shown"), proof, strict=True))
    assert ledger.newest_checkpoint() == held(7)


# A federation and its witnesses.


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    one = Federation(tmp_path / "state", of=THREE)
    yield one
    one.state.close()
    for member in one.members.values():
        member.ledger.close()


def reopen(one: Federation) -> None:
    """Start the coordinator's side anew on the files as they are now."""
    one.state.close()
    one.state = State(one.folder, "heart", [one._logged])


def snapshot(one: Federation) -> Callable[[], None]:
    """Return what puts the coordinator's folder back to how it is now; members keep theirs."""
    one.state.close()
    copy = one.folder.parent / "copy"
    shutil.copytree(one.folder, copy, ignore=shutil.ignore_patterns("members"))
    one.state = State(one.folder, "heart", [one._logged])

    def restore() -> None:
        one.state.close()
        for name in ("moonflower.db", "moonflower.db-wal", "moonflower.db-shm"):
            (one.folder / name).unlink(missing_ok=True)
        shutil.copy(copy / "moonflower.db", one.folder)
        one.state = State(one.folder, "heart", [one._logged])

    return restore


def codes(one: Federation, event: str, run: str) -> set[str]:
    return {entry.get("code", "") for entry in one.entries if entry["event"] == event and entry.get("run") == run}


def test_every_member_countersigns(federation: Federation) -> None:
    one = federation
    one.queue()
    assert one.carry_out() == "done"
    size = len(one.entries)
    with one.state.store.read() as db:
        found = table.witnesses(db)
    assert {*found} == {*THREE}
    for name, witness in found.items():
        checkpoint = one.state.log.at(witness.size)
        assert size - 12 < witness.size <= size
        assert check_cosignature(checkpoint, witness.line, identities()[name].card.as_witness) == witness.time_s
        kept = one.members[name].ledger.newest_checkpoint()
        assert kept is not None
        assert (kept.size, kept.root.hex()) == (witness.size, witness.root)


def test_a_round_is_bound_to_a_checkpoint_that_the_member_has_seen(federation: Federation) -> None:
    one, seen = federation, []
    member = one.members[DORA]
    sealing = member.seal

    def seal(request: Any) -> Any:
        newest = member.ledger.newest_checkpoint()
        assert newest is not None
        assert request.checkpoint == newest.label
        later = request.model_copy(update={"checkpoint": checkpoint_label(newest.key, newest.size + 1, newest.root)})
        with pytest.raises(Refused) as refusal:
            sealing(later)
        seen.append(refusal.value.code)
        return sealing(request)

    member.seal = seal  # type: ignore[method-assign]
    one.queue()
    assert one.carry_out() == "done"
    assert seen == ["audit.fork"] * 5, "statistics, three rounds, the report"


def test_a_rewritten_history_is_found(federation: Federation) -> None:
    one = federation
    one.queue()
    one.carry_out()
    model, before = one.model().sha256, {name: one.members[name].ledger.newest_checkpoint() for name in THREE}
    one.state.close()
    rewrite(one.folder, without_a_refusal)
    one.state = State(one.folder, "heart", [one._logged])
    assert verify(one.folder, (one.folder / "log.pub").read_text()).ok, "by itself it looks right"
    one.queue("run-2")
    assert one.carry_out("run-2") == "failed audit.fork"
    assert codes(one, "refused_member", "run-2") == {"audit.fork"}
    assert codes(one, "warned", "run-2") == {"audit.fork"}
    assert one.model().sha256 == model
    for name in THREE:
        ledger = one.members[name].ledger
        assert ledger.newest_checkpoint() == before[name], "nothing of the other history was taken"
        fork = ledger.fork()
        assert fork is not None
        for note in fork.values():
            open_checkpoint(note, one.state.log.verifier)  # both signed: that is the proof


def test_a_history_that_was_rolled_back_is_found(federation: Federation) -> None:
    one = federation
    one.queue()
    one.carry_out()
    restore = snapshot(one)
    one.queue("run-2")
    assert one.carry_out("run-2") == "done"
    restore()
    one.queue("run-3")
    assert one.carry_out("run-3") == "failed audit.fork"
    warned = [entry for entry in one.entries if entry["event"] == "warned"]
    assert {(entry["member"], entry["code"], entry["details"]["what"]) for entry in warned} == {
        (name, "audit.fork", "witness") for name in THREE
    }
    for name in THREE:  # the operators know why, and say so
        one.members[name].ledger.forget_checkpoints()
    one.queue("run-4")
    assert one.carry_out("run-4") == "done"


def test_a_member_that_is_shown_a_fork_refuses(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    one = federation
    one.queue()
    one.carry_out()
    monkeypatch.setattr("moonflower.server.coordinator.Witnesses", Forking)
    one.queue("run-2")
    assert one.carry_out("run-2") == "failed audit.fork", "and the others open nothing without it (rule 2)"
    refused = [entry for entry in one.entries if entry["event"] == "refused_member"]
    assert [(entry["member"], entry["code"]) for entry in refused] == [(DORA, "audit.fork")]
    assert one.members[DORA].ledger.fork() is not None


def test_a_fork_from_the_first_message_on_separates_the_contexts(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never contradicts itself for its member, but no sum of that member with others is ever opened."""
    monkeypatch.setattr("moonflower.server.coordinator.Witnesses", Forking)
    one = federation
    one.queue()
    assert one.carry_out() == "failed round.too_few"
    left_out = [entry for entry in one.entries if entry["event"] == "envelope_refused"]
    assert [(entry["member"], entry["code"]) for entry in left_out] == [(DORA, "audit.fork")]
    assert codes(one, "promoted", "run-1") == set()


def test_what_a_member_holds_is_proved_again_where_it_was_forgotten(federation: Federation) -> None:
    one = federation
    one.queue()
    one.carry_out()
    with one.state.store.transaction() as db:
        db.exec_driver_sql("delete from witnesses")
    one.queue("run-2")
    assert one.carry_out("run-2") == "done"
    assert codes(one, "refused_member", "run-2") == codes(one, "warned", "run-2") == set()


def test_a_member_that_was_restored_from_an_older_copy_goes_on(federation: Federation) -> None:
    one = federation
    one.queue()
    path = one.folder / "members" / f"{DORA}.db"
    older = path.with_suffix(".old")
    one.kill_at = lambda entry: entry["event"] == "promoted"
    assert one.carry_out() == "killed"
    one.members[DORA].ledger.close()
    shutil.copy(path, older)
    one.start(DORA)
    one.kill_at = lambda entry: False
    assert one.carry_out() == "done"
    one.members[DORA].ledger.close()
    shutil.copy(older, path)
    one.start(DORA)
    one.queue("run-2")
    assert one.carry_out("run-2") == "done"


def test_a_member_that_countersigns_nothing_takes_no_seat(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = federation
    monkeypatch.setattr(one.members[DORA].witness, "countersign", lambda records: None)
    one.queue()
    assert one.carry_out() == "failed audit.behind"
    with one.state.store.read() as db:
        assert {*table.witnesses(db)} == {*THREE} - {DORA}


def test_a_countersignature_by_another_key_is_not_kept(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    one = federation
    monkeypatch.setattr(one.members[DORA].witness, "_identity", identities()[THREE[0]])
    one.queue()
    assert one.carry_out() == "done"
    with one.state.store.read() as db:
        assert {*table.witnesses(db)} == {*THREE} - {DORA}


def test_a_checkpoint_is_kept_before_the_message_is_handled(federation: Federation) -> None:
    one, member = federation, federation.members[DORA]

    def enrol(request: Enrol) -> Any:
        assert member.ledger.newest_checkpoint() is not None
        raise Killed

    member.enrol = enrol  # type: ignore[method-assign]
    one.queue()
    assert one.carry_out() == "killed"
    assert noticing.__doc__


# What an auditor and a node's operator see.


def test_a_log_is_compared_with_the_members_checkpoints(federation: Federation) -> None:
    one = federation
    one.queue()
    one.carry_out()
    public = (one.folder / "log.pub").read_text()
    notes = {}
    for name in THREE:
        kept = one.members[name].ledger.newest_checkpoint()
        assert kept is not None
        notes[name] = one.members[name].witness.signed(kept)
        (signature,) = cosignatures(notes[name])
        assert signature.name == "moonflower/member/" + name.replace(" ", "-")
    assert verify(one.folder, public, witnesses=notes).ok
    one.state.close()
    rewrite(one.folder, without_a_refusal)
    assert verify(one.folder, public).ok
    report = verify(one.folder, public, witnesses=notes)
    assert (report.ok, report.code) == (False, "audit.fork")
    assert THREE[0] in report.reason
    rewrite(one.folder, lambda entries: entries[:20])
    report = verify(one.folder, public, witnesses={"witness dora": notes[DORA]})
    assert (report.ok, report.code) == (False, "audit.truncated")
    report = verify(one.folder, public, witnesses={"dora": notes[DORA].replace("\n", "\n1", 1)})
    assert (report.ok, report.code) == (False, "audit.signature")
    one.state = State(one.folder, "heart")


def test_the_command_prints_what_was_witnessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = client_config(tmp_path, CONFIGS / "data")
    with pytest.raises(Exception, match="has run"):
        commands.log(config)
    ledger = Ledger(tmp_path / "state" / "ledger.db")
    commands.log(config)
    assert "has not witnessed a checkpoint yet" in capsys.readouterr().err
    ledger.keep_checkpoint(held(7))
    commands.log(config)
    note = capsys.readouterr().out
    assert open_checkpoint(note, SIGNER.verifier).size == 7
    assert [one.name for one in cosignatures(note)] == ["moonflower/member/Cleveland"]
    ledger.keep_fork(held(7).note, held(7, OTHERS).note, proved=True)
    with pytest.raises(typer.Exit) as ended:
        commands.log(config, as_json=True)
    assert ended.value.exit_code == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["size"], said["key"], said["fork"]["shown"]) == (7, KEY, held(7, OTHERS).note)
    (cosigned,) = cosignatures(said["checkpoint"])
    witness = Witness.parse(said["witness"])  # with that text any tool of transparency logs checks the cosignature
    assert check_cosignature(open_checkpoint(note, SIGNER.verifier), cosigned.line, witness) > 0
    commands.log(config, forget=True)
    assert "taken as the first" in capsys.readouterr().err
    assert (ledger.newest_checkpoint(), ledger.fork()) == (None, None)
    ledger.close()
