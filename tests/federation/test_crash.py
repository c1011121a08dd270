"""Crash safety: SIGKILL at every named point and at random ones, full disks, damaged files, and what comes after.

The trials themselves are those of ``crash.py``, in a process of its own that is warm and has one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moonflower import files
from moonflower.cli import member as member_command
from moonflower.client.guard import OwnAnswer
from moonflower.client.ledger.ledger import Ledger
from moonflower.errors import InputError
from moonflower.protocol import gate
from moonflower.protocol.answer import list_digest
from moonflower.protocol.messages import Body, Open
from moonflower.server.records.log_key import open_signer
from support import CONFIGS, ROOT
from support.federation import NAMES, Federation, Killed
from support.protocol import context
from support.superlink import client_config

SEED, RANDOM = 1, 12
PURPOSES = ("statistics", "update", "tallies")
COORDINATOR = (
    "no entry",  # a store is opened
    "circle_proposed",
    "circle_signed",
    "circle_signed+circle_began",
    "no entry runs",
    "run_began",
    "enrolled",
    "no entry witnesses",
    "seats_taken",
    "no entry contexts",  # a sum is begun
    *(
        f"{event} {purpose}"
        for event in ("envelope_accepted", "set_closed", "answered", "opened")
        for purpose in PURPOSES
    ),
    "statistics_opened",
    "round_began",
    "judged+promoted",
    "tallies_opened",
    "run_ended",
)
MEMBER = (
    "no entry",
    "circle_seen",
    "circle_signed",
    "circle_began",
    "no entry witnessed",
    "agreed",
    "no entry keys",
    "seated",
    *(f"{event} {purpose}" for event in ("sealed", "answered") for purpose in PURPOSES),
    "opened statistics",
    "opened update+judged update",
    "opened tallies",
)
ROUTES = ("query.enrol", "query.make_key", "query.take_seat", "train.seal", "query.answer", "evaluate.open")
CALLS = ("fsync", "link", "unlink", "replace", "replace seal", "unlink seal")
POINTS = (
    *(f"coordinator: {event}: {place}" for event in COORDINATOR for place in ("inside", "after")),
    *(f"member: {event}: {place}" for event in MEMBER for place in ("inside", "after")),
    *(f"message: {route}: {place}" for route in ROUTES for place in ("sent", "came", "answered")),
    *(f"file: {call}: {place}" for call in CALLS for place in ("before", "after")),
    "file: half written",
)
MISHAPS = {"alone": 20, "disk full": 9, "flip": 1, "cut": 1, "lose": 1, "once more": 3}


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What was wrong after each trial of the suite, by its name."""
    out = tmp_path_factory.mktemp("crash") / "results.json"
    command = [sys.executable, str(ROOT / "tools/crash.py"), "--suite", str(out), str(RANDOM), str(SEED)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, env=environment)
    print(done.stdout)
    assert out.exists(), done.stdout + done.stderr
    found: dict[str, list[str]] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point_the_run_goes_on(trials: dict[str, list[str]], point: str) -> None:
    assert trials[f"{point}, first"] == []
    assert trials.get(f"{point}, last", []) == []


def test_no_transition_is_without_its_trial(trials: dict[str, list[str]]) -> None:
    kinds = ("coordinator: ", "member: ", "message: ", "file: ")
    tried = {name.rpartition(", ")[0] for name in trials if name.startswith(kinds)}
    assert tried == {*POINTS}


def test_killed_at_random_points_the_run_goes_on(trials: dict[str, list[str]]) -> None:
    chance = {name: wrong for name, wrong in trials.items() if name.startswith("random")}
    assert len(chance) == RANDOM
    assert {name: wrong for name, wrong in chance.items() if wrong} == {}, f"seed {SEED}"


@pytest.mark.parametrize("kind", MISHAPS)
def test_other_mishaps_end_nothing(trials: dict[str, list[str]], kind: str) -> None:
    found = {name: wrong for name, wrong in trials.items() if name.startswith(kind)}
    assert len(found) == MISHAPS[kind]
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


# A damaged model


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    opened: list[Federation] = []

    def make(*overrides: str) -> Federation:
        opened.append(Federation(tmp_path / str(len(opened)), *overrides))
        opened[-1].queue()
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def killed_after(one: Federation, event: str, number: int) -> list[Path]:
    """Have the coordinator die at an entry of the log; return the files of the good versions, oldest first."""
    one.kill_at = lambda entry: entry["event"] == event and entry.get("number") == number
    assert one.carry_out() == "killed"
    one.kill_at = lambda entry: False
    with one.state.store.read() as db:
        good = [entry for entry in one.state.models.entries(db) if entry.version is not None]
    return [one.state.models.path(entry.sha256) for entry in good]


def tear(path: Path) -> bytes:
    """Leave half of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return data


def test_rounds_whose_models_were_torn_are_repeated_and_give_the_same_bytes(
    federation: Callable[..., Federation],
) -> None:
    one = federation()
    start, *models = killed_after(one, "promoted", 2)
    whole = [tear(path) for path in models]
    assert len(models) == 2
    assert one.carry_out() == "done"
    assert [path.read_bytes() for path in models] == whole
    assert start.exists()
    rounds = [(r["number"], r["round"], r["status"]) for r in one.rounds()]
    assert rounds == [(n, planned, "promoted") for n, planned in ((1, 1), (2, 2), (3, 1), (4, 2), (5, 3))]
    warned = [(e["code"], e["details"]["sha256"]) for e in one.events("warned")]
    assert warned == [("data.model", path.stem) for path in models], "each once"
    assert one.model().version == 3
    one.check_log()


def test_the_last_model_is_mended_before_it_is_reported_on(federation: Callable[..., Federation]) -> None:
    one = federation()
    last = killed_after(one, "promoted", 3)[-1]
    data = tear(last)
    assert one.carry_out() == "done"
    assert last.read_bytes() == data
    assert [r["round"] for r in one.rounds()] == [1, 2, 3, 3]
    assert one.model().metrics is not None


def test_a_model_that_is_torn_while_the_run_goes_on_is_made_again(federation: Callable[..., Federation]) -> None:
    one = federation()

    def look(entry: dict[str, Any]) -> bool:
        if entry["event"] == "promoted" and entry["number"] == 2:
            tear(one.state.models.path(entry["details"]["sha256"]))
        return False

    one.kill_at = look
    assert one.carry_out() == "done"
    assert [r["round"] for r in one.rounds()] == [1, 2, 2, 3]


def test_a_process_that_is_killed_while_it_mends_goes_on_mending(federation: Callable[..., Federation]) -> None:
    one = federation()
    wanted = tear(last := killed_after(one, "promoted", 2)[-1])
    killed_after(one, "envelope_accepted", 3)
    assert one.carry_out() == "done"
    assert last.read_bytes() == wanted
    assert [(r["round"], r["status"]) for r in one.rounds()] == [
        (1, "promoted"),
        (2, "promoted"),
        (2, "promoted"),
        (3, "promoted"),
    ]


def test_where_no_model_is_whole_the_run_ends_and_says_so(federation: Callable[..., Federation]) -> None:
    one = federation()
    for path in killed_after(one, "promoted", 2):
        tear(path)
    sealed = len(one.events("envelope_accepted"))
    assert one.carry_out() == "failed data.model"
    assert [entry["code"] for entry in one.events("run_ended")] == ["data.model"]
    assert len(one.events("envelope_accepted")) == sealed, "nobody was asked to train"
    assert len(one.events("round_began")) == 2
    one.check_log()


def test_a_disk_that_keeps_nothing_ends_the_run(
    federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = federation("gate.patience=1", "gate.max_failed=1")
    tear(killed_after(one, "promoted", 1)[-1])
    real_replace = files.replace

    def keep(place: Path, data: bytes, mode: int = 0o666) -> None:
        if place.parent.name != "models":  # the members' disks are others
            real_replace(place, data, mode)

    monkeypatch.setattr(files, "replace", keep)
    assert one.carry_out() == "failed data.model"
    assert [r["round"] for r in one.rounds()] == [1, 1, 1]


def test_a_run_that_mends_does_not_lose_a_round_of_its_plan(federation: Callable[..., Federation]) -> None:
    """The repeated rounds count once, also for the process after the next kill."""
    one = federation()
    tear(killed_after(one, "promoted", 1)[-1])
    killed_after(one, "promoted", 2)
    assert one.carry_out() == "done"
    assert [r["round"] for r in one.rounds()] == [1, 1, 2, 3]


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_a_run_that_is_killed_at_its_end_by_policy_is_reported_before_it_ends(
    federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    real = gate.judge

    def judge(votes: Any, norm: float, norms: Any, **more: Any) -> gate.Verdict:
        return gate.Verdict("refused", "gate.worse") if norms else real(votes, norm, norms, **more)

    monkeypatch.setattr(gate, "judge", judge)
    one = federation("gate.patience=1")
    best = killed_after(one, "refused", 2)[-1]
    if torn:
        tear(best)
    assert one.carry_out() == "policy run.patience"
    assert [r["status"] for r in one.rounds()] == ["promoted", "refused"]
    assert (one.model().sha256, one.model().metrics is None) == (best.stem, torn)
    warned = [(entry["code"], entry["details"]["what"]) for entry in one.events("warned")]
    assert warned == ([("data.model", "report")] if torn else [])
    one.check_log()


# What a member must have done itself


@pytest.mark.parametrize("route", ["statistics", "update"])
def test_who_is_late_with_an_opening_is_waited_for(federation: Callable[..., Federation], route: str) -> None:
    """Only who opened the statistics knows the total of rows; and a version is proved by the words of all names."""
    one = federation("training.rounds=1")

    def back_after_30_s(member: str, asked: Body) -> float:
        return 30.0 if member == NAMES[3] and isinstance(asked, Open) and asked.purpose == route else 0.0

    one.delay = back_after_30_s
    assert one.carry_out() == "done"
    assert [(r["members"], r["status"]) for r in one.rounds()] == [([*NAMES], "promoted")]
    assert not one.events("opening_refused")
    assert {*one.model().proof["signatures"]} == {*NAMES}


# Files are there whole or not at all


def test_a_file_is_synced_before_it_is_put_in_its_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def sync(handle: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name.partition('.tmp-')[0]}")

    def replace(here: Path, there: Path) -> None:
        done.append("replace")
        assert here.read_bytes() == b"new"
        here.rename(there)

    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(files.os, "replace", replace)
    (tmp_path / "model").write_bytes(b"old")
    files.replace(tmp_path / "model", b"new")
    assert done == ["sync model", "replace", f"sync {tmp_path.name}"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "model").write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(tmp_path / "model", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model": b"old"}


def test_a_new_file_replaces_none(tmp_path: Path) -> None:
    files.create(tmp_path / "key", b"one", 0o600)
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "key", b"two", 0o600)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"key": b"one"}
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_only_what_the_dead_left_is_swept(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    parent = os.getppid()
    gone = [f"{'a' * 64}.safetensors.tmp-{child.pid}-0123abcd", f"log.key.tmp-{os.getpid()}-0123abcd"]
    kept = [f"model.tmp-{parent}-0123abcd", "model.tmp-1x-0123abcd", f"model.tmp-{child.pid}", "log.key", "notes.tmp"]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    assert [path.name for path in files.sweep(tmp_path)] == gone
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert files.sweep(tmp_path / "missing") == []


def test_the_coordinator_sweeps_as_it_starts(federation: Callable[..., Federation]) -> None:
    one = federation()
    models = killed_after(one, "promoted", 1)[0].parent
    for folder in (models, one.folder):
        (folder / f"half.tmp-{os.getpid()}-0123abcd").write_bytes(b"half")
    assert one.carry_out() == "done"
    assert [*one.folder.rglob("*.tmp-*")] == []


@pytest.mark.parametrize("at", ["half", "link", "replace"])
def test_a_log_key_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """A key that was half written would keep a server from starting until a person deletes it."""

    def killed(*_: object) -> None:
        raise Killed

    name = {"half": "fsync", "link": "link", "replace": "replace"}[at]
    with monkeypatch.context() as patched:
        patched.setattr(files.os, name, killed)
        with pytest.raises(Killed):
            open_signer(tmp_path, "moonflower/heart")
    assert (tmp_path / "log.key").exists() == (at == "replace")
    signer = open_signer(tmp_path, "moonflower/heart")
    assert open_signer(tmp_path, "moonflower/heart").verifier.text() == signer.verifier.text()
    (tmp_path / "log.key").write_text("half")
    with pytest.raises(InputError):
        open_signer(tmp_path, "moonflower/heart")


# The member's journal


def test_a_journal_tells_what_its_member_did(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    promoted = [entry["details"]["sha256"] for entry in one.events("promoted")]
    closed = {(e["details"]["purpose"], e["number"]): e["details"]["headers"] for e in one.events("set_closed")}
    totals = {(e["details"]["purpose"], e["number"]): e["details"]["sum"] for e in one.events("set_closed")}
    for name in NAMES:
        journal = one.members[name].ledger.journal()
        rounds = ["sealed", "answered", "opened", "judged"]
        assert [e["event"] for e in journal] == [
            *("circle_seen", "circle_signed", "circle_began"),
            *("agreed", "seated", "sealed", "answered", "opened"),
            *rounds * 3,
            *rounds[:-1],
        ]
        sealed = {(e["purpose"], e["number"]): e["what"]["header"] for e in journal if e["event"] == "sealed"}
        assert sealed == {place: headers[name] for place, headers in closed.items()}
        judged = [entry for entry in journal if entry["event"] == "judged"]
        assert [entry["what"]["sha256"] for entry in judged] == promoted
        votes = [entry["details"]["votes"][name] for entry in one.events("judged")]
        assert [entry["what"]["vote"] for entry in judged] == votes
        answered = {(e["purpose"], e["number"]): e["what"] for e in journal if e["event"] == "answered"}
        for place, headers in closed.items():
            assert answered[place]["headers"] == list_digest(headers.values())
            assert answered[place]["total"] == totals[place]
        assert all(e["what"]["members"] == [*NAMES] for e in journal if e["event"] == "opened")
        rows = one.cast.learner(name, one.cast.splits[name]).rows
        assert f" {rows}" not in json.dumps(journal), "no count of rows"


def test_a_journal_tells_what_its_member_refused(federation: Callable[..., Federation]) -> None:
    one = federation()
    circles = one.members[NAMES[0]].circles
    circles.own = replace(circles.own, floor=circles.own.floor.model_copy(update={"max_train_s": 1}))
    assert one.carry_out() == "failed config.train_timeout_s"
    *_, refused = one.members[NAMES[0]].ledger.journal()
    assert (refused["event"], refused["code"], refused["run"]) == ("refused", "config.train_timeout_s", "run-1")
    assert refused["what"] == {"kind": "enrol"}


def test_the_command_prints_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = client_config(tmp_path, CONFIGS / "data")
    with pytest.raises(InputError, match="has run"):
        member_command.journal(config)
    with closing(Ledger(tmp_path / "state" / "ledger.db", lambda: 1.5)) as ledger:
        ledger.runs.agree("run-1", {"a": 1}, 0.0)
        about = context(run="run-1", number=7)
        headers = {"anna": "a" * 64, "bert": "b" * 64}
        ledger.remember_answered(about, OwnAnswer(about.digest, headers, "d" * 64, b"", b"", b""))
        ledger.remember_refusal("seal", "seal.already", run="run-1\x1b[31m", number=8, purpose="update")
        member_command.journal(config)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[1:3] for line in lines[1:]] == [
            ["agreed", "run-1"],
            ["answered", "run-1"],
            ["refused", "run-1"],
        ]
        listed = list_digest(headers.values())
        assert lines[2].endswith(f"context {about.digest[:12]}, headers {listed[:12]}, total dddddddddddd")
        assert lines[3].split()[3:] == ["[31m", "8", "update", "seal.already", "kind", "seal"]
        assert all(line.startswith("1970-01-01T00:00:01.500Z") for line in lines[1:])
        member_command.journal(config, as_json=True)
        said = json.loads(capsys.readouterr().out)
        assert said == {"member": "Cleveland", "journal": ledger.journal()}
