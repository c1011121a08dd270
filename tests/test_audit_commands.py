"""``moonflower audit``: what a person and a script see, and the exit statuses."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from moonflower.crypto import merkle
from moonflower.crypto.note import Signer, Verifier, open_checkpoint, sign_checkpoint
from moonflower.errors import MoonflowerError
from moonflower.server.audit_commands import audit
from moonflower.server.records.audit import Log, open_signer
from moonflower.server.records.store import FILE_NAME, Store
from typer.testing import CliRunner

NAME = "moonflower/heart"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with five entries."""
    folder = tmp_path / "state"
    folder.mkdir()
    with closing(Store(folder / FILE_NAME)) as store:
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


def test_help_explains_each_command() -> None:
    for command in ("show", "verify", "prove", "export"):
        result, _ = _call(command, "--help")
        assert result.exit_code == 0


def _newest(state: Path) -> dict[str, Any]:
    return _json("prove", 0, "--state", state)


def _edit(state: Path, *statements: str) -> None:
    with closing(Store(state / FILE_NAME)) as store, store.transaction() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def _restore(state: Path) -> None:
    """Put a log in place that verifies, under the same key."""
    _edit(state, "DELETE FROM log", "DELETE FROM log_tree")
    with closing(Store(state / FILE_NAME)) as store:
        log = Log(store, open_signer(state, NAME), lambda: 0.0)
        with store.transaction() as connection:
            log.append(connection, "run_began")
