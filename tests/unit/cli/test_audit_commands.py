"""``moonflower audit``: what a person and a script see, and the exit statuses."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from moonflower.cli.audit import audit
from moonflower.crypto import merkle
from moonflower.crypto.note import Signer, Verifier, open_checkpoint, sign_checkpoint
from moonflower.errors import MoonflowerError
from moonflower.server.records.database import FILE_NAME, CoordinatorStore
from moonflower.server.records.log import Log
from moonflower.server.records.log_key import open_signer
from support.federation import NAMES as HOSPITALS
from support.federation import Federation, identities
from typer.testing import CliRunner

NAME = "moonflower/heart"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with five entries."""
    folder = tmp_path / "state"
    folder.mkdir()
    with closing(CoordinatorStore(folder / FILE_NAME)) as store:
        log = Log(store, open_signer(folder, NAME), lambda: 1_767_323_045.0)
        with store.transaction() as connection:
            log.append(connection, "run_began", run="r1")
            log.append(connection, "envelope_accepted", run="r1", number=1, member="cleveland")
            log.append(connection, "envelope_refused", run="r1", number=1, member="é\x1b[31m", code="envelope.late")
            log.append(connection, "promoted", run="r1", number=1, version=[1, 2], note="x" * 300)
            log.append(connection, "run_began", run="r2")
    return folder


def _call(*arguments: object) -> tuple[Result, MoonflowerError | None]:
    """Run a command; an error of ours ends as the front door ends it."""
    result = CliRunner().invoke(audit, [str(argument) for argument in arguments])
    error = result.exception
    if error is not None and not isinstance(error, MoonflowerError | SystemExit):
        raise error
    return result, error if isinstance(error, MoonflowerError) else None


def _json(*arguments: object) -> dict[str, Any]:
    result, error = _call(*arguments, "--json")
    assert error is None
    assert result.stdout.count("\n") == 1
    return dict(json.loads(result.stdout))


def _refused(code: str, status: int, *arguments: object) -> MoonflowerError:
    result, error = _call(*arguments)
    assert error is not None
    assert (error.code, error.exit_status, result.stdout) == (code, status, "")
    return error


def test_show_prints_one_line_an_entry(state: Path) -> None:
    result, _ = _call("show", "--state", state)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].split() == ["index", "time", "event", "run", "number", "member", "code", "details"]
    assert [line.split()[:3] for line in lines[1:]] == [
        [str(index), "2026-01-02T03:04:05.000Z", event]
        for index, event in enumerate(["run_began", "envelope_accepted", "envelope_refused", "promoted", "run_began"])
    ]
    assert "x" * 300 in lines[4]
    assert "é\N{REPLACEMENT CHARACTER}[31m" in lines[3]
    assert "\x1b" not in result.stdout


def test_show_chooses_by_run_and_event(state: Path) -> None:
    everything = _json("show", "--state", state)["entries"]
    assert [entry["index"] for entry in everything] == [0, 1, 2, 3, 4]
    assert everything[3]["details"]["version"] == [1, 2]
    assert [e["index"] for e in _json("show", "--state", state, "--run", "r2")["entries"]] == [4]
    assert [e["index"] for e in _json("show", "--state", state, "--event", "run_began")["entries"]] == [0, 4]
    both = _json("show", "--state", state, "--event", "run_began", "--run", "r1")
    assert [entry["index"] for entry in both["entries"]] == [0]


def test_show_refuses(state: Path, tmp_path: Path) -> None:
    assert "did you mean 'promoted'" in str(_refused("config.event", 2, "show", "--state", state, "--event", "promote"))
    _refused("config.state", 2, "show", "--state", tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    _edit(state, "UPDATE log SET entry = '[' WHERE idx = 2")
    _refused("audit.entry", 1, "show", "--state", state)


def test_verify_prints_what_it_found(state: Path) -> None:
    root = _newest(state)["root"]
    for source in (state, state / FILE_NAME):
        result, _ = _call("verify", source)
        assert (result.exit_code, result.stdout) == (0, f"verified: 5 entries, root {root}\n")
        assert _json("verify", source) == {
            "ok": True,
            "entries": 5,
            "root": root,
            "first_bad": None,
            "code": "",
        }


def test_verify_ends_with_1_when_it_does_not_verify(state: Path) -> None:
    _edit(state, "UPDATE log SET entry = replace(entry, 'cleveland', 'hungary')")
    result, _ = _call("verify", state, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert list(found) == ["ok", "entries", "root", "first_bad", "code"]
    assert (found["ok"], found["entries"], found["first_bad"], found["code"]) == (False, 1, 1, "audit.entry")
    result, _ = _call("verify", state)
    assert result.exit_code == 1
    assert "does not verify: audit.entry: entry 1 is not the one that was signed" in result.stdout


def test_verify_with_a_key_and_a_checkpoint_of_ones_own(state: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text(_newest(state)["checkpoint"])
    (tmp_path / "key.txt").write_text((state / "log.pub").read_text())
    (tmp_path / "stranger.txt").write_text(Signer.generate(NAME).verifier.text())
    own = ("verify", state, "--key", tmp_path / "key.txt", "--checkpoint", tmp_path / "kept.txt")
    assert _json(*own)["ok"]
    result, _ = _call("verify", state, "--key", tmp_path / "stranger.txt", "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (1, "audit.signature")
    _edit(state, "DELETE FROM log WHERE idx = 4", "DELETE FROM log_tree")
    result, _ = _call(*own, "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (1, "audit.fork")
    (tmp_path / "kept.txt").write_text(sign_checkpoint(Signer.generate(NAME), 5, bytes(32)).note)
    _restore(state)
    result, _ = _call(*own, "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (1, "audit.signature")


def test_verify_ends_with_2_on_bad_input(state: Path, tmp_path: Path) -> None:
    _refused("config.path", 2, "verify", state, "--key", tmp_path / "missing")
    _refused("config.path", 2, "verify", state, "--checkpoint", tmp_path / "missing")
    _refused("config.path", 2, "verify", state, "--key", tmp_path)
    _refused("config.state", 2, "verify", tmp_path / "missing")
    _refused("config.state", 2, "verify", tmp_path / "missing.db", "--key", state / "log.pub")
    _refused("config.key", 2, "verify", state, "--key", state / "log.key")
    (tmp_path / "binary").write_bytes(b"\xff")
    _refused("config.path", 2, "verify", state, "--key", tmp_path / "binary")
    assert _call("verify")[0].exit_code == 2


def test_prove_gives_a_third_party_all_it_needs(state: Path) -> None:
    for index in range(5):
        found = _json("prove", index, "--state", state)
        checkpoint = open_checkpoint(found["checkpoint"], Verifier.parse(found["key"]))
        leaf = merkle.leaf_hash(found["entry"].encode())
        path = [bytes.fromhex(sibling) for sibling in found["proof"]]
        merkle.verify_inclusion(leaf, found["index"], checkpoint.size, path, checkpoint.root)
        assert json.loads(found["entry"])["index"] == found["index"] == index
        assert (found["size"], found["root"], found["leaf"]) == (5, checkpoint.root.hex(), leaf.hex())
    result, _ = _call("prove", 3, "--state", state)
    assert result.exit_code == 0
    for part in (found["root"], found["checkpoint"], found["key"], "entry 3 of 5"):
        assert part in result.stdout


def test_prove_refuses(state: Path, tmp_path: Path) -> None:
    _refused("config.index", 2, "prove", 5, "--state", state)
    _refused("config.state", 2, "prove", 0, "--state", tmp_path)
    _edit(state, "UPDATE log SET entry = replace(entry, 'r2', 'r3')")
    _refused("audit.entry", 1, "prove", 0, "--state", state)
    _edit(state, "UPDATE log SET checkpoint = replace(checkpoint, '5', '6')")
    _refused("audit.signature", 1, "prove", 0, "--state", state)


def test_export_writes_what_verify_reads(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    result, _ = _call("export", "--state", state, "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "5 entries" in result.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [json.loads(line["entry"])["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert _json("verify", out, "--key", state / "log.pub") == _json("verify", state)
    _refused("config.out", 2, "export", "--state", state, "--out", out)
    _refused("config.state", 2, "export", "--state", tmp_path / "missing", "--out", tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()


def test_what_is_written_out_is_there_whole_or_not_at_all(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    for command in (("export",), ("certificate", "1")):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            error = _refused("config.out", 2, *command, "--state", finished, "--out", out)
        assert "No space left on device" in str(error)
        assert not out.exists(), "half a file would stand in the way of the next attempt"
        assert _call(*command, "--state", finished, "--out", out)[1] is None
        out.unlink()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a whole run of two rounds."""
    one = Federation(tmp_path_factory.mktemp("finished") / "0", "training.rounds=2")
    one.queue()
    assert one.carry_out() == "done"
    one.close()
    return one.folder


def pin_options() -> list[str]:
    return [word for name in HOSPITALS for word in ("--pin", f"{name}={identities()[name].card.node.pin}")]


def test_a_certificate_is_a_file_that_anybody_checks_offline(finished: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "round-2.json", tmp_path / "log.pub"
    key.write_text((finished / "log.pub").read_text())
    made, error = _call("certificate", 2, "--state", finished, "--out", out)
    assert error is None
    assert f"certificate written to {out}" in made.stderr
    certificate = json.loads(out.read_text())
    page = dict(line.split(maxsplit=1) for line in made.stdout.splitlines())
    assert page["candidate"] == certificate["statement"]["sha256"]
    assert page["about"] == "update 2 of run run-1, heart"
    assert page["verdict"].startswith("promoted; ")
    assert " better" in page["verdict"]
    assert page["members"].startswith("Cleveland, Hungary, Switzerland, VA Long Beach (4, all members of circle ")
    checked, error = _call("check", out, "--key", key)
    assert (error, checked.exit_code) == (None, 0)
    assert checked.stdout == f"verified\n{made.stdout}" + (
        "No --pin was given: only the log says that these keys are the members'.\n"
    )
    checked, _ = _call("check", out, "--key", key, *pin_options())
    assert checked.stdout == f"verified\n{made.stdout}"
    said = _json("check", out, "--key", key)
    assert (said["ok"], said["code"], said["number"], said["verdict"]["status"]) == (True, "", 2, "promoted")
    assert said["sum"] == certificate["sum"]
    _refused("config.out", 2, "certificate", 2, "--state", finished, "--out", out)


def test_a_certificate_goes_through_a_pipe(finished: Path, tmp_path: Path) -> None:
    piped = _call("certificate", 1, "--state", finished, "--json")[0].stdout
    (tmp_path / "piped.json").write_text(piped)
    assert _json("check", tmp_path / "piped.json", "--key", finished / "log.pub")["ok"]
    other = _call("certificate", 1, "--state", finished, "--purpose", "update", "--run", "run-1", "--json")[0].stdout
    assert other == piped
    for number, purpose in ((0, "statistics"), (2, "tallies")):
        said, error = _call("certificate", number, "--state", finished, "--purpose", purpose)
        assert error is None
        assert f"{purpose} {number} of run run-1" in said.stdout
    assert "statistics 0 of run run-1" in _call("certificate", 0, "--state", finished)[0].stdout


def test_check_ends_with_1_when_a_certificate_does_not_hold(finished: Path, tmp_path: Path) -> None:
    file, key = tmp_path / "round.json", finished / "log.pub"
    honest = _call("certificate", 2, "--state", finished, "--json")[0].stdout
    for changed, code, said in (
        (honest.replace('"number":2', '"number":1', 1), "audit.certificate", "plain fields"),
        (honest + " ", "audit.certificate", "one line of canonical JSON"),
        ("", "audit.certificate", "one line of canonical JSON"),
        ("[]", "audit.certificate", "of version 2"),
    ):
        file.write_text(changed)
        result, error = _call("check", file, "--key", key)
        assert (error, result.exit_code) == (None, 1)
        assert result.stdout.startswith(f"does not verify: {code}: ")
        assert said in result.stdout
    file.write_text(honest)
    wrong = [*pin_options()[:-1], f"VA Long Beach={'x' * 43}"]
    result, _ = _call("check", file, "--key", key, *wrong, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["ok"], found["code"], found["run"], found["verdict"]) == (False, "audit.pin", None, None)


def test_certificates_end_with_2_on_bad_input(finished: Path, state: Path, tmp_path: Path) -> None:
    file, key = tmp_path / "round.json", finished / "log.pub"
    file.write_text(_call("certificate", 2, "--state", finished, "--json")[0].stdout)
    _refused("config.round", 2, "certificate", 9, "--state", finished)
    _refused("config.round", 2, "certificate", 1, "--state", finished, "--run", "run-7")
    _refused("config.round", 2, "certificate", 1, "--state", state)
    _refused("config.state", 2, "certificate", 1, "--state", tmp_path / "missing")
    _refused("config.path", 2, "check", tmp_path / "missing", "--key", key)
    _refused("config.path", 2, "check", file, "--key", tmp_path / "missing")
    _refused("config.key", 2, "check", file, "--key", finished / "log.key")
    for pin in ("Hungary", "Hungary=short", "=" + "x" * 43):
        assert "NAME=PIN" in str(_refused("config.member", 2, "check", file, "--key", key, "--pin", pin))
    _refused("config.member", 2, "check", file, "--key", key, *pin_options()[:2] * 2)
    _refused("config.round", 2, "certificate", 1, "--state", finished, "--purpose", "other")


def test_a_certificate_of_an_export_is_that_of_its_database(finished: Path, tmp_path: Path) -> None:
    _call("export", "--state", finished, "--out", tmp_path / "log.jsonl")
    (tmp_path / "log.pub").write_text((finished / "log.pub").read_text())
    texts = [_call("certificate", 1, "--state", at, "--json")[0].stdout for at in (finished, tmp_path / "log.jsonl")]
    assert texts[0] == texts[1] != ""


def test_help_explains_each_command() -> None:
    for command in ("show", "verify", "prove", "export", "certificate", "check", "recompute"):
        result, _ = _call(command, "--help")
        assert result.exit_code == 0


def _newest(state: Path) -> dict[str, Any]:
    return _json("prove", 0, "--state", state)


def _edit(state: Path, *statements: str) -> None:
    with closing(CoordinatorStore(state / FILE_NAME)) as store, store.transaction() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def _restore(state: Path) -> None:
    """Put a log in place that verifies, under the same key."""
    _edit(state, "DELETE FROM log", "DELETE FROM log_tree")
    with closing(CoordinatorStore(state / FILE_NAME)) as store:
        log = Log(store, open_signer(state, NAME), lambda: 0.0)
        with store.transaction() as connection:
            log.append(connection, "run_began")
