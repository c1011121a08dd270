"""The audit log: what is appended, what is told, and every way to tamper with it afterwards.

The tampering goes as far as somebody without the signing key can go: entries, row numbers, stored hashes and
the stored tree are rewritten to fit; checkpoints can only be moved, dropped or replaced by another key's.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moonflower.canonical import canonical
from moonflower.crypto import merkle
from moonflower.crypto.merkle import Frontier
from moonflower.crypto.note import Signer, open_checkpoint, sign_checkpoint
from moonflower.errors import AuditError, InputError, Refused
from moonflower.server.records import log as audit
from moonflower.server.records.database import FILE_NAME, USER_VERSION, CoordinatorStore
from moonflower.server.records.log import Log
from moonflower.server.records.log_key import open_signer
from moonflower.server.records.source import Record, write
from moonflower.server.records.verify import Report, verify
from sqlalchemy import text

SIGNER = Signer("moonflower/heart", bytes(range(32)))
STRANGER = Signer("moonflower/heart", bytes(32))
KEY = SIGNER.verifier.text() + "\n"
COUNT = 13
FULL = list(range(COUNT))


def _clock() -> float:
    return 1_767_323_045.678


def _fill(log: Log, store: CoordinatorStore, count: int = COUNT) -> None:
    with store.transaction() as connection:
        for number in range(count):
            log.append(connection, "promoted", run="r1", number=number, member=f"m{number % 3}", share=number / 8)


def _rolled_back(store: CoordinatorStore, log: Log) -> int:
    """Append within a transaction that fails afterwards; returns the index that the entry had."""
    index = -1
    with contextlib.suppress(ZeroDivisionError), store.transaction() as connection:
        index = log.append(connection, "failed")
        raise ZeroDivisionError
    return index


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CoordinatorStore]:
    with closing(CoordinatorStore(tmp_path / FILE_NAME)) as opened:
        yield opened


@pytest.fixture
def log(store: CoordinatorStore) -> Log:
    return Log(store, SIGNER, _clock)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a closed log of COUNT entries, as a database and as an export; never changed."""
    folder = tmp_path_factory.mktemp("kept")
    with closing(CoordinatorStore(folder / FILE_NAME)) as store:
        _fill(Log(store, SIGNER, _clock), store)
        with (folder / "log.jsonl").open("xb") as file:
            assert audit.export(store, file) == COUNT
    return folder


@pytest.fixture
def base(kept: Path, tmp_path: Path) -> Path:
    """A database of COUNT entries to tamper with."""
    return Path(shutil.copyfile(kept / FILE_NAME, tmp_path / "copy.db"))


# --- appending


def test_an_entry_says_what_happened_and_leaves_out_what_is_empty(store: CoordinatorStore, log: Log) -> None:
    with store.transaction() as connection:
        assert log.append(connection, "run_began") == 0
        assert log.append(connection, "envelope_refused", run="r", number=0, member="m", code="c", a=[1, None]) == 1
    at = "2026-01-02T03:04:05.678Z"
    assert list(log.entries()) == [
        {"index": 0, "time": at, "event": "run_began"},
        {
            "index": 1,
            "time": at,
            "event": "envelope_refused",
            "run": "r",
            "number": 0,
            "member": "m",
            "code": "c",
            "details": {"a": [1, None]},
        },
    ]


def test_events_are_a_closed_set(store: CoordinatorStore, log: Log) -> None:
    with store.transaction() as connection, pytest.raises(ValueError, match="did you mean 'promoted'"):
        log.append(connection, "promotes")
    assert log.checkpoint() is None
    assert all(doc for doc in audit.EVENTS.values())


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (b"x", TypeError), ("x" * audit.MAX_ENTRY_BYTES, ValueError)],
)
def test_details_must_fit_into_an_entry(
    store: CoordinatorStore, log: Log, value: object, error: type[Exception]
) -> None:
    with store.transaction() as connection, pytest.raises(error):
        log.append(connection, "warned", value=value)
    assert list(log.entries()) == []


def test_every_entry_has_its_leaf_and_its_checkpoint(store: CoordinatorStore, log: Log) -> None:
    _fill(log, store)
    frontier = Frontier()
    with store.read() as connection:
        rows = connection.execute(text("SELECT * FROM log ORDER BY idx")).all()
    for index, (place, entry, leaf, note) in enumerate(rows):
        assert (place, leaf) == (index, merkle.leaf_hash(entry.encode()))
        assert entry.encode() == canonical(json.loads(entry))
        frontier = frontier.append(leaf)
        checkpoint = open_checkpoint(note, SIGNER.verifier)
        assert (checkpoint.size, checkpoint.root) == (index + 1, frontier.root())
    assert log.checkpoint() == checkpoint


def test_append_needs_the_open_transaction(store: CoordinatorStore, log: Log) -> None:
    with store.read() as connection, pytest.raises(RuntimeError, match="expected the connection of the open"):
        log.append(connection, "promoted")
    assert list(log.entries()) == []


def test_a_rolled_back_entry_never_was(store: CoordinatorStore, log: Log) -> None:
    _fill(log, store, 3)
    assert _rolled_back(store, log) == 3
    with store.transaction() as connection:
        assert log.append(connection, "refused") == 3
    assert [entry["event"] for entry in log.entries()] == ["promoted"] * 3 + ["refused"]
    assert store.path is not None
    assert verify(store.path, KEY).ok


def test_several_logs_append_to_one_database(store: CoordinatorStore) -> None:
    assert store.path is not None
    with closing(CoordinatorStore(store.path)) as other:
        logs = [(Log(store, SIGNER, _clock), store), (Log(other, SIGNER, _clock), other)]

        def work(log: Log, store: CoordinatorStore) -> None:
            for _ in range(10):
                with store.transaction() as connection:
                    log.append(connection, "warned")

        threads = [threading.Thread(target=work, args=pair) for pair in logs * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [entry["index"] for entry in logs[0][0].entries()] == list(range(40))
        newest = logs[1][0].checkpoint()
        assert newest is not None
        assert verify(store.path, KEY) == Report(True, 40, newest.root.hex(), None, "")


def test_listeners_hear_what_was_committed_in_order(store: CoordinatorStore) -> None:
    heard: list[dict[str, Any]] = []
    log = Log(store, SIGNER, _clock, listeners=[heard.append, lambda entry: heard.append({"again": entry["index"]})])
    with store.transaction() as connection:
        log.append(connection, "round_began", number=1)
        log.append(connection, "set_closed", number=1, members=("a", "b"))
        assert heard == []
    assert [entry.get("index", entry.get("again")) for entry in heard] == [0, 0, 1, 1]
    assert heard[2]["details"] == {"members": ("a", "b")}
    _rolled_back(store, log)
    assert len(heard) == 4


def test_entries_can_be_appended_while_they_are_read(
    store: CoordinatorStore, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PAGE", 2)
    _fill(log, store, 5)
    entries = log.entries()
    seen = [next(entries)["index"]]
    _fill(log, store, 2)
    assert seen + [entry["index"] for entry in entries] == list(range(7))


def test_a_log_in_memory(tmp_path: Path) -> None:
    with closing(CoordinatorStore(None)) as store:
        log = Log(store, SIGNER, _clock)
        _fill(log, store)
        with (tmp_path / "log.jsonl").open("wb") as file:
            audit.export(store, file)
    assert verify(tmp_path / "log.jsonl", KEY).ok


def test_proofs(store: CoordinatorStore, log: Log) -> None:
    for prove in (log.inclusion, log.consistency):
        with pytest.raises(ValueError, match="the log is empty"):
            prove(0)
    with pytest.raises(ValueError, match="expected a size from 1 to 0, got 1"):
        log.at(1)
    _fill(log, store)
    _prove_everything(log)
    assert log.inclusion(3).checkpoint == log.consistency(3).checkpoint == log.at(COUNT) == log.checkpoint()
    with pytest.raises(ValueError, match="below 13, got 13"):
        log.inclusion(COUNT)
    with pytest.raises(ValueError, match="below 5, got 5"):
        log.inclusion(5, 5)
    with pytest.raises(ValueError, match="at most 13, got 14"):
        log.consistency(COUNT + 1)
    with pytest.raises(ValueError, match="at most 5, got 6"):
        log.consistency(6, 5)


@pytest.mark.parametrize("size", [-1, 0, COUNT + 1, 10**19])
def test_a_size_of_which_nothing_was_signed(store: CoordinatorStore, log: Log, size: int) -> None:
    _fill(log, store)
    for ask in (log.at, lambda size: log.inclusion(0, size), lambda size: log.consistency(0, size)):
        with pytest.raises(ValueError, match=f"expected a size from 1 to 13, got {size}"):
            ask(size)


def test_only_new_leaves_are_read(base: Path) -> None:
    with closing(CoordinatorStore(base)) as store:
        log = Log(store, SIGNER, _clock)
        _prove_everything(log)
        _edit(base, "UPDATE log SET leaf = zeroblob(32) WHERE idx = 3")  # a second look at it would tell
        _fill(log, store, 3)
        _prove_everything(log, COUNT + 3)
        with pytest.raises(AuditError) as refusal:
            Log(store, SIGNER, _clock).inclusion(0)
        assert refusal.value.code == "audit.fork"


def test_threads_prove_while_others_append(store: CoordinatorStore) -> None:
    _threads_prove_and_append(store)


def test_threads_prove_while_others_append_in_memory() -> None:
    with closing(CoordinatorStore(None)) as store:
        _threads_prove_and_append(store)


def _threads_prove_and_append(store: CoordinatorStore) -> None:
    log = Log(store, SIGNER, _clock)
    _fill(log, store, 1)
    wrong: list[BaseException] = []

    def work(append: bool) -> None:
        try:
            for turn in range(12):
                if append:
                    _fill(log, store, 1)
                else:
                    proof = log.consistency(1)
                    size = proof.checkpoint.size
                    merkle.verify_consistency(1, size, proof.hashes, log.at(1).root, proof.checkpoint.root)
                    _check_inclusion(log, turn % size, size)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(append,)) for append in (True, False) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    _prove_everything(log, 37)


def test_one_thread_at_a_time_grows_the_tree(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []
    read = Log._read_leaves
    with closing(CoordinatorStore(base)) as store:
        log = Log(store, SIGNER, _clock)

        def slow(*args: Any) -> None:
            inside.append(1)
            time.sleep(0.02)  # long enough for the others to come in too
            assert len(inside) == 1
            read(*args)
            inside.pop()

        monkeypatch.setattr(Log, "_read_leaves", slow)
        with ThreadPoolExecutor(4) as pool:
            proofs = list(pool.map(log.inclusion, range(4)))
    assert {proof.checkpoint.size for proof in proofs} == {COUNT}


@pytest.mark.parametrize("first", [0, 1, 8, COUNT - 1, COUNT])
@pytest.mark.parametrize("added", [0, 1, 5, 20])
def test_a_database_that_another_process_replaced_is_proved_as_it_is(base: Path, first: int, added: int) -> None:
    with closing(CoordinatorStore(base)) as store, closing(CoordinatorStore(base)) as other:
        log = Log(store, SIGNER, _clock)
        before = log.inclusion(COUNT - 1).checkpoint
        _replace(other, first, added)
        if first + added:
            _prove_everything(log, first + added)
        else:
            with pytest.raises(ValueError, match="the log is empty"):
                log.inclusion(0)
        if first < COUNT <= first + added:  # whoever holds what was replaced sees a fork, whatever is proved
            proof = log.consistency(COUNT)
            with pytest.raises(Refused) as refusal:
                merkle.verify_consistency(COUNT, first + added, proof.hashes, before.root, proof.checkpoint.root)
            assert refusal.value.code == "audit.fork"


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.booleans()), max_size=6))
@settings(max_examples=25)
def test_no_proof_that_does_not_verify_however_often_the_database_is_replaced(
    steps: list[tuple[int, int, bool]],
) -> None:
    with closing(CoordinatorStore(None)) as store:
        log = Log(store, SIGNER, _clock)
        for kept, added, looks in steps:
            newest = log.checkpoint()
            size = newest.size if newest else 0
            _replace(store, min(kept, size), added)
            if looks and (newest := log.checkpoint()):
                _prove_everything(log, newest.size)


@pytest.mark.parametrize(
    ("statement", "first_bad"),
    [
        ("UPDATE log SET leaf = zeroblob(32) WHERE idx = 3", 12),
        ("UPDATE log SET leaf = zeroblob(31) WHERE idx = 3", 3),
        ("UPDATE log SET leaf = 'x' WHERE idx = 3", 3),
        ("UPDATE log SET leaf = 7 WHERE idx = 3", 3),
        ("UPDATE log SET idx = 99 WHERE idx = 3", 3),
        ("DELETE FROM log WHERE idx = 0", 0),
    ],
)
@pytest.mark.parametrize("grown", [0, 3])
def test_nothing_is_proved_over_edited_hashes(base: Path, statement: str, first_bad: int, grown: int) -> None:
    with closing(CoordinatorStore(base)) as store:
        if grown:  # what is newer and true does not help
            _fill(Log(store, SIGNER, _clock), store, grown)
        _edit(base, statement)
        log = Log(store, SIGNER, _clock)
        for _ in range(2):
            with pytest.raises(AuditError) as refusal:
                log.inclusion(5)
            assert (refusal.value.code, refusal.value.first_bad) == (
                "audit.fork",
                first_bad + grown if first_bad == 12 else first_bad,
            )


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("DELETE FROM log WHERE idx = 4", "audit.missing"),
        ("UPDATE log SET checkpoint = 'x' WHERE idx = 4", "audit.signature"),
        ("UPDATE log SET checkpoint = (SELECT checkpoint FROM log WHERE idx = 6) WHERE idx = 4", "audit.order"),
    ],
)
def test_an_edited_checkpoint_of_the_past_is_not_given(base: Path, statement: str, code: str) -> None:
    _edit(base, statement)
    with closing(CoordinatorStore(base)) as store:
        log = Log(store, SIGNER, _clock)
        for ask in (log.at, lambda size: log.inclusion(0, size), lambda size: log.consistency(1, size)):
            with pytest.raises(AuditError) as refusal:
                ask(5)
            assert (refusal.value.code, refusal.value.first_bad) == (code, 4)
        assert log.at(4).size == 4


def test_nothing_is_proved_under_a_checkpoint_of_another_history(base: Path) -> None:
    """The log's key signed both; they lie in one database only if somebody put them there."""
    entries = [row[1] for row in _rows(base)]
    entries[0] = canonical(json.loads(entries[0]) | {"event": "refused"})
    _edit(base, ("UPDATE log SET checkpoint = ? WHERE idx = 4", (_sign(SIGNER, _tree(entries[:5])),)))
    with closing(CoordinatorStore(base)) as store:
        log = Log(store, SIGNER, _clock)
        for ask in (lambda: log.inclusion(0, 5), lambda: log.consistency(1, 5)):
            with pytest.raises(AuditError) as refusal:
                ask()
            assert (refusal.value.code, refusal.value.first_bad) == ("audit.fork", 4)
        log.inclusion(0)


@pytest.mark.parametrize(
    ("statement", "code", "first_bad"),
    [
        ("DELETE FROM log WHERE idx = 12", "audit.truncated", 12),
        ("DELETE FROM log_tree", "audit.fork", 0),
        ("UPDATE log_tree SET nodes = zeroblob(96)", "audit.fork", 12),
        ("UPDATE log_tree SET nodes = zeroblob(95)", "audit.fork", 12),
        ("UPDATE log_tree SET nodes = zeroblob(64)", "audit.fork", 12),
        ("UPDATE log_tree SET size = 11", "audit.fork", 10),
        (
            "UPDATE log SET checkpoint = (SELECT checkpoint FROM log WHERE idx = 11) WHERE idx = 12",
            "audit.fork",
            12,
        ),
        ("UPDATE log SET checkpoint = 'x' WHERE idx = 12", "audit.signature", 12),
    ],
)
def test_an_edited_log_is_not_signed_onwards(base: Path, statement: str, code: str, first_bad: int) -> None:
    _edit(base, statement)
    with closing(CoordinatorStore(base)) as store:
        log = Log(store, SIGNER, _clock)
        with store.transaction() as connection, pytest.raises(AuditError) as refusal:
            log.append(connection, "promoted")
        assert (refusal.value.code, refusal.value.first_bad) == (code, first_bad)
        with pytest.raises(AuditError):
            log.checkpoint()


def test_another_keys_log_is_not_signed_onwards(base: Path) -> None:
    with closing(CoordinatorStore(base)) as store, store.transaction() as connection:
        with pytest.raises(AuditError) as refusal:
            Log(store, STRANGER, _clock).append(connection, "promoted")
        assert refusal.value.code == "audit.signature"


def test_appending_is_cheap() -> None:
    with closing(CoordinatorStore(None)) as store:
        log = Log(store, SIGNER, _clock)
        _fill(log, store, 300)  # some 0.1 s; a cost that grows with the log would show in every other test
        assert log.checkpoint() is not None


# --- the key


def test_the_key_is_made_once(tmp_path: Path) -> None:
    signer = open_signer(tmp_path, "moonflower/heart")
    secret, public = tmp_path / "log.key", tmp_path / "log.pub"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert public.read_text() == signer.verifier.text() + "\n"
    assert open_signer(tmp_path, "moonflower/heart") == signer
    public.unlink()
    assert open_signer(tmp_path, "moonflower/heart") == signer
    assert public.exists()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: (folder / "log.key").chmod(0o640), "config.key"),
        (lambda folder: (folder / "log.key").write_text(""), "config.key"),
        (lambda folder: (folder / "log.key").write_bytes(b"\xff"), "config.key"),
        (lambda folder: (folder / "log.key").write_text(KEY), "config.key"),
        (lambda folder: (folder / "log.pub").write_text(KEY), "config.key"),
        (lambda folder: shutil.rmtree(folder), "config.key"),
    ],
)
def test_a_spoilt_key_is_refused(tmp_path: Path, spoil: Callable[[Path], object], code: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    open_signer(folder, "moonflower/heart")
    spoil(folder)
    with pytest.raises(InputError) as refusal:
        open_signer(folder, "moonflower/heart")
    assert refusal.value.code == code
    assert "+A" not in str(refusal.value)  # as every key in base64 begins, after its hash


def test_a_key_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = open_signer(tmp_path, "moonflower/heart")
    before = (tmp_path / "log.key").read_text()
    monkeypatch.setattr(Path, "exists", lambda _: False)  # another process makes the key just now
    assert open_signer(tmp_path, "moonflower/heart") == signer
    assert (tmp_path / "log.key").read_text() == before


def test_a_key_of_another_log_is_refused(tmp_path: Path) -> None:
    open_signer(tmp_path, "moonflower/heart")
    with pytest.raises(InputError, match="expected the key of 'moonflower/liver'") as refusal:
        open_signer(tmp_path, "moonflower/liver")
    assert refusal.value.code == "config.state"


# --- verifying


def test_an_untouched_log_verifies_wherever_it_lies(kept: Path, base: Path) -> None:
    newest = _newest(base)
    expected = Report(True, COUNT, newest.root.hex(), None, "")
    for source in (kept, kept / FILE_NAME, kept / "log.jsonl", base):
        assert verify(source, KEY) == expected
        for size in range(1, COUNT + 1):
            assert verify(source, KEY, _note(base, size)) == expected
        assert verify(source, KEY, sign_checkpoint(SIGNER, 0, merkle.EMPTY_ROOT).note) == expected


def test_an_empty_log_verifies(tmp_path: Path) -> None:
    CoordinatorStore(tmp_path / FILE_NAME).close()
    (tmp_path / "empty.jsonl").touch()
    for source in (tmp_path / FILE_NAME, tmp_path / "empty.jsonl"):
        assert verify(source, KEY) == Report(True, 0, merkle.EMPTY_ROOT.hex(), None, "")
        report = verify(source, KEY, sign_checkpoint(SIGNER, 1, bytes(32)).note)
        assert (report.code, report.first_bad) == ("audit.truncated", 0)
        report = verify(source, KEY, sign_checkpoint(SIGNER, 0, bytes(32)).note)
        assert (report.code, report.first_bad) == ("audit.fork", 0)


def test_a_log_that_a_server_has_open_verifies(store: CoordinatorStore, log: Log) -> None:
    assert store.path is not None
    _fill(log, store, 3)
    assert store.path.with_name(FILE_NAME + "-wal").stat().st_size > 0
    assert verify(store.path, KEY).entries == 3
    with store.transaction() as connection:
        log.append(connection, "failed")
        assert verify(store.path, KEY).entries == 3  # what is not committed is not there
    assert verify(store.path, KEY).entries == 4


def test_verifying_keeps_the_locks_of_a_store_in_this_process(store: CoordinatorStore, log: Log) -> None:
    """Closing a file drops a process's POSIX locks on it; another process would then take the WAL away."""
    assert store.path is not None
    _fill(log, store, 3)
    assert verify(store.path, KEY).ok
    script = "import sqlite3; c = sqlite3.connect({!r}); c.execute('SELECT * FROM log').fetchall(); c.close()"
    subprocess.run([sys.executable, "-c", script.format(str(store.path))], check=True)
    assert store.path.with_name(FILE_NAME + "-wal").exists()
    _fill(log, store, 3)
    assert verify(store.path, KEY).entries == 6


@pytest.mark.parametrize("without", ["", "-shm"])
def test_a_log_after_a_crash_is_read_with_its_write_ahead_log_and_left_alone(
    store: CoordinatorStore, log: Log, tmp_path: Path, without: str
) -> None:
    _fill(log, store, 3)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for end in {"", "-wal", "-shm"} - ({without} if without else set()):
        shutil.copyfile(tmp_path / f"{FILE_NAME}{end}", crashed / f"{FILE_NAME}{end}")
    (crashed / FILE_NAME).chmod(0o444)
    before = {path.name: path.read_bytes() for path in crashed.iterdir() if not path.name.endswith("-shm")}
    assert verify(crashed, KEY).entries == 3
    assert {path.name: path.read_bytes() for path in crashed.iterdir() if not path.name.endswith("-shm")} == before
    assert (crashed / f"{FILE_NAME}-shm").exists() == (without == "")


def test_verifying_leaves_nothing_behind(base: Path) -> None:
    before = base.read_bytes(), list(base.parent.iterdir())
    assert verify(base, KEY).ok
    assert (base.read_bytes(), list(base.parent.iterdir())) == before


@pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"hello\n", b"{}\n", b"SQLite format 3\x00 but no more"])
def test_what_is_no_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for source in (tmp_path / "file", tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError) as refusal:
            verify(source, KEY)
        assert refusal.value.code == "config.state"


def test_other_databases_are_no_logs(tmp_path: Path, base: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE log (idx, entry, leaf, checkpoint)")
    _edit(base, f"PRAGMA user_version={USER_VERSION + 1}")
    for source in (tmp_path / "other.db", base):
        with pytest.raises(InputError, match=r"expected a (moonflower )?database") as refusal:
            verify(source, KEY)
        assert refusal.value.code == "config.state"
    _edit(base, f"PRAGMA user_version={USER_VERSION}", "DROP TABLE log")
    with pytest.raises(InputError, match="no such table"):
        verify(base, KEY)


def test_a_key_that_is_none(base: Path) -> None:
    with pytest.raises(InputError) as refusal:
        verify(base, "moonflower/heart")
    assert refusal.value.code == "config.key"


@given(st.integers(0, COUNT - 1), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_changed_byte_of_an_entry_is_found(base: Path, kept: Path, index: int, data: st.DataObject) -> None:
    shutil.copyfile(kept / FILE_NAME, base)
    entry = _rows(base)[index][1]
    at = data.draw(st.integers(0, len(entry) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != entry[at]))
    changed = entry[:at] + bytes([other]) + entry[at + 1 :]
    _edit(base, ("UPDATE log SET entry = ? WHERE idx = ?", (changed, index)))
    _expect(base, "audit.entry", index)
    _edit(base, ("UPDATE log SET leaf = ? WHERE idx = ?", (merkle.leaf_hash(changed), index)))
    _expect(base, "audit.entry", index)
    _restore_tree(base)
    _expect(base, "audit.entry", index)


@pytest.mark.parametrize("index", [4, 6, 7, 99])
@pytest.mark.parametrize("export", [False, True])
def test_a_changed_index_is_a_changed_entry(base: Path, index: int, export: bool) -> None:
    rows = _rows(base)
    entries = [row[1] for row in rows]
    entries[5] = canonical(json.loads(entries[5]) | {"index": index})
    _rewrite(base, entries, [row[3] for row in rows])
    _expect(_export(base) if export else base, "audit.entry", 5)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_changed_byte_of_an_export_is_found(kept: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = (kept / "log.jsonl").read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    (tmp_path / "changed.jsonl").write_bytes(content[:at] + bytes([other]) + content[at + 1 :])
    report = verify(tmp_path / "changed.jsonl", KEY)
    if at == len(content) - 1 or content[at : at + 1] == b"\n":
        assert not report.ok
    else:
        assert (report.ok, report.first_bad) == (False, content[:at].count(b"\n"))
        # A byte of the note's own base64 may also be one that says another size or another signature.
        assert report.code in {"audit.entry", "audit.signature"}


@pytest.mark.parametrize("column", ["entry", "leaf", "checkpoint"])
@pytest.mark.parametrize("value", [None, 7, 1.5, "é", b"\xff"])
def test_rows_of_another_type_are_found(base: Path, column: str, value: object) -> None:
    _edit(base, "CREATE TABLE t AS SELECT * FROM log", "DROP TABLE log", "ALTER TABLE t RENAME TO log")
    _edit(base, (f"UPDATE log SET {column} = ? WHERE idx = 4", (value,)))
    _expect(base, "audit.entry" if column != "checkpoint" or value is None else "audit.signature", 4)


@pytest.mark.parametrize("index", [0, 5, COUNT - 2])
@pytest.mark.parametrize("export", [False, True])
def test_a_removed_entry_is_missed(base: Path, index: int, export: bool) -> None:
    _edit(base, f"DELETE FROM log WHERE idx = {index}")
    _expect(_export(base) if export else base, "audit.missing", index)


@pytest.mark.parametrize("index", [0, 5, COUNT - 2])
@pytest.mark.parametrize("notes", ["own", "shifted"])
@pytest.mark.parametrize("index_field", ["kept", "rewritten"])
@pytest.mark.parametrize("export", [False, True])
def test_a_removed_entry_is_missed_after_renumbering(
    base: Path, index: int, notes: str, index_field: str, export: bool
) -> None:
    """The rows are numbered through again, with their own checkpoints or with those of their new places."""
    rows = _rows(base)
    left = rows[:index] + rows[index + 1 :]
    entries = [row[1] for row in left]
    if index_field == "rewritten":
        entries = [canonical(json.loads(entry) | {"index": place}) for place, entry in enumerate(entries)]
    _rewrite(base, entries, [row[3] for row in (left if notes == "own" else rows)])
    # Entries that fit their new places in all they say betray only that they are not what was signed.
    code = "audit.entry" if (notes, index_field) == ("shifted", "rewritten") else "audit.missing"
    _expect(_export(base) if export else base, code, index)


@pytest.mark.parametrize(("one", "two"), [(0, 1), (2, 7), (COUNT - 2, COUNT - 1)])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("export", [False, True])
def test_swapped_entries_are_out_of_order(base: Path, one: int, two: int, whole: bool, export: bool) -> None:
    """Two entries change places, with or without their checkpoints."""
    rows = _rows(base)
    order = FULL.copy()
    order[one], order[two] = two, one
    entries = [rows[place][1] for place in order]
    _rewrite(base, entries, [rows[place][3] for place in (order if whole else FULL)])
    _expect(_export(base) if export else base, "audit.order", one)


def test_swapped_checkpoints_are_out_of_order(base: Path) -> None:
    rows = _rows(base)
    _rewrite(base, [row[1] for row in rows], [rows[place][3] for place in [0, 3, 2, 1, *FULL[4:]]])
    _expect(base, "audit.order", 1)


@pytest.mark.parametrize("index", [1, 6, COUNT])
@pytest.mark.parametrize("export", [False, True])
def test_a_repeated_entry_is_out_of_order(base: Path, index: int, export: bool) -> None:
    rows = _rows(base)
    rows.insert(index, rows[index - 1])
    _rewrite(base, [row[1] for row in rows], [row[3] for row in rows])
    _expect(_export(base) if export else base, "audit.order", index)


@pytest.mark.parametrize(
    ("note", "code"),
    [("own", "audit.entry"), ("before", "audit.order"), ("stranger", "audit.signature")],
)
@pytest.mark.parametrize("export", [False, True])
def test_an_invented_entry_is_found(base: Path, note: str, code: str, export: bool) -> None:
    rows = _rows(base)
    invented = canonical(json.loads(rows[6][1]) | {"event": "refused"})
    entries = [row[1] for row in rows[:6]] + [invented] + [row[1] for row in rows[6:]]
    frontier = _tree(entries[:7])
    notes = {"own": rows[6][3], "before": rows[5][3], "stranger": _sign(STRANGER, frontier)}
    _rewrite(base, entries, [row[3] for row in rows[:6]] + [notes[note]] + [row[3] for row in rows[6:]])
    _expect(_export(base) if export else base, code, 6)


def test_a_row_before_the_first_and_after_a_gap(base: Path) -> None:
    _edit(base, "INSERT INTO log SELECT -1, entry, leaf, checkpoint FROM log WHERE idx = 0")
    _expect(base, "audit.order", 0)
    _edit(base, "DELETE FROM log WHERE idx = -1", "UPDATE log SET idx = 99 WHERE idx = 12")
    _expect(base, "audit.missing", 12)


@pytest.mark.parametrize("left", [0, 1, 7, COUNT - 1])
def test_a_cut_off_tail_is_seen_in_the_tree_or_with_a_checkpoint(base: Path, left: int) -> None:
    newest = _note(base, COUNT)
    between = _note(base, left + 1)
    _edit(base, f"DELETE FROM log WHERE idx >= {left}")
    _expect(base, "audit.truncated", left)
    _restore_tree(base)
    for source in (base, _export(base)):
        assert verify(source, KEY).ok  # nobody can know, without a checkpoint that was kept
        _expect(source, "audit.truncated", left, newest)
        _expect(source, "audit.truncated", left, between)


@pytest.mark.parametrize("cut", [1, 40])
def test_a_half_written_line_of_an_export_is_cut_off(kept: Path, tmp_path: Path, cut: int) -> None:
    content = (kept / "log.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(content[: -1 - cut])
    _expect(tmp_path / "cut.jsonl", "audit.truncated", COUNT - 1)
    (tmp_path / "cut.jsonl").write_bytes(content[:-1])
    assert verify(tmp_path / "cut.jsonl", KEY).ok


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b'{"entry":1,"checkpoint":""}\n',
        b'{"checkpoint":"","entry":1}\n',
        b"[" * 9999,
    ],
)
def test_a_line_that_is_no_record(kept: Path, tmp_path: Path, line: bytes) -> None:
    lines = (kept / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "bad.jsonl").write_bytes(b"".join([*lines[:3], line.rstrip(b"\n") + b"\n", *lines[3:]]))
    _expect(tmp_path / "bad.jsonl", "audit.entry", 3)


def test_a_record_with_more_in_it_is_none(kept: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (kept / "log.jsonl").read_bytes().splitlines()]
    lines[2]["x"] = 1
    (tmp_path / "more.jsonl").write_bytes(b"".join(canonical(line) + b"\n" for line in lines))
    _expect(tmp_path / "more.jsonl", "audit.entry", 2)


def test_what_cannot_be_read_is_not_exported(tmp_path: Path) -> None:
    records = [Record(b"{}", ""), Record(b"", "", fault="audit.entry")]
    with (tmp_path / "log.jsonl").open("xb") as file, pytest.raises(AuditError) as refusal:
        write(records, file)
    assert (refusal.value.code, refusal.value.first_bad) == ("audit.entry", 1)


def test_another_key_verifies_nothing(base: Path) -> None:
    report = verify(base, STRANGER.verifier.text())
    assert (report.ok, report.entries, report.first_bad, report.code) == (False, 0, 0, "audit.signature")


def test_a_checkpoint_by_another_key_is_found(base: Path) -> None:
    rows = _rows(base)
    _edit(
        base,
        ("UPDATE log SET checkpoint = ? WHERE idx = 8", (_sign(STRANGER, _tree([r[1] for r in rows[:9]])),)),
    )
    _expect(base, "audit.signature", 8)


def test_a_log_rewritten_under_another_key_is_found(base: Path) -> None:
    entries = [row[1] for row in _rows(base)]
    entries[4] = canonical(json.loads(entries[4]) | {"event": "refused"})
    _rewrite(base, entries, [_sign(STRANGER, _tree(entries[: size + 1])).encode() for size in FULL])
    _expect(base, "audit.signature", 0)


def test_a_kept_checkpoint_by_another_key_or_for_another_log_is_refused(base: Path) -> None:
    newest = _newest(base)
    elsewhere = Signer("moonflower/liver", SIGNER.seed)
    for signer in (STRANGER, elsewhere):
        report = verify(base, KEY, sign_checkpoint(signer, newest.size, newest.root).note)
        assert (report.ok, report.code, report.first_bad, report.entries) == (
            False,
            "audit.signature",
            None,
            COUNT,
        )
    assert verify(base, KEY, "no checkpoint").code == "audit.signature"


@pytest.mark.parametrize("size", [1, 6, COUNT])
def test_a_history_that_the_keys_owner_rewrote_is_a_fork(base: Path, size: int) -> None:
    kept = _note(base, size)
    entries = [row[1] for row in _rows(base)]
    entries[0] = canonical(json.loads(entries[0]) | {"event": "refused"})
    _rewrite(base, entries, [_sign(SIGNER, _tree(entries[: place + 1])).encode() for place in FULL])
    assert verify(base, KEY).ok
    for source in (base, _export(base)):
        _expect(source, "audit.fork", size - 1, kept)


@pytest.mark.parametrize(
    ("statement", "code", "first_bad"),
    [
        ("UPDATE log_tree SET nodes = zeroblob(96)", "audit.fork", 13),
        ("UPDATE log_tree SET size = 11", "audit.fork", 11),
        ("UPDATE log_tree SET size = 14", "audit.truncated", 13),
        ("UPDATE log_tree SET size = 'x'", "audit.fork", 0),
        ("UPDATE log_tree SET nodes = zeroblob(64)", "audit.fork", 0),
        ("DELETE FROM log_tree", "audit.fork", 0),
    ],
)
def test_an_edited_tree_is_found(base: Path, statement: str, code: str, first_bad: int) -> None:
    _edit(base, statement)
    _expect(base, code, first_bad)


def test_an_index_that_the_log_itself_got_wrong_is_out_of_order(base: Path) -> None:
    entries = [row[1] for row in _rows(base)]
    entries[4] = canonical(json.loads(entries[4]) | {"index": 5})
    _rewrite(base, entries, [_sign(SIGNER, _tree(entries[: place + 1])).encode() for place in FULL])
    _expect(base, "audit.order", 4)


def test_a_stored_hash_that_is_not_the_entrys(base: Path) -> None:
    _edit(base, "UPDATE log SET leaf = zeroblob(32) WHERE idx = 3")
    _expect(base, "audit.entry", 3)


def test_a_damaged_page_is_found(base: Path) -> None:
    with closing(sqlite3.connect(base)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'log'").fetchone()
    content = bytearray(base.read_bytes())
    content[(root - 1) * page_size] = 0x77
    base.write_bytes(content)
    _expect(base, "audit.entry", 0)


# --- tools


def _prove_everything(log: Log, count: int = COUNT) -> None:
    """Check every proof towards the newest and two earlier checkpoints, by what the log itself hands out."""
    assert [log.at(size).size for size in range(1, count + 1)] == list(range(1, count + 1))
    for size in {count, count - count // 3, 1}:
        checkpoint = log.at(size)
        assert open_checkpoint(checkpoint.note, SIGNER.verifier) == checkpoint
        for index in range(size):
            _check_inclusion(log, index, size)
        for old in range(size + 1):
            proof = log.consistency(old, size)
            assert proof.checkpoint == checkpoint
            old_root = log.at(old).root if old else merkle.EMPTY_ROOT
            merkle.verify_consistency(old, size, proof.hashes, old_root, checkpoint.root)


def _check_inclusion(log: Log, index: int, size: int) -> None:
    (entry,) = log.after(index - 1, 1)
    proof = log.inclusion(index, size)
    merkle.verify_inclusion(merkle.leaf_hash(canonical(entry)), index, size, proof.hashes, proof.checkpoint.root)


def _replace(store: CoordinatorStore, kept: int, added: int) -> None:
    """Roll a database back to its first entries, as from a backup, and write others after them with the log's key."""
    with store.transaction() as connection:
        connection.execute(text("DELETE FROM log WHERE idx >= :kept"), {"kept": kept})
        connection.execute(text("DELETE FROM log_tree"))
        frontier = Frontier()
        for leaf in connection.execute(text("SELECT leaf FROM log ORDER BY idx")).scalars():
            frontier = frontier.append(leaf)
        if kept:
            row = {"size": kept, "nodes": b"".join(frontier.nodes)}
            connection.execute(text("INSERT INTO log_tree VALUES (0, :size, :nodes)"), row)
        log = Log(store, SIGNER, lambda: 1_800_000_000.0)
        for number in range(added):
            log.append(connection, "rolled_back", number=number, nonce=secrets.token_hex(4))


def _expect(source: Path, code: str, first_bad: int, checkpoint: str | None = None) -> None:
    report = verify(source, KEY, checkpoint)
    assert (report.ok, report.code, report.first_bad) == (False, code, first_bad), report
    assert report.reason
    if code not in {"audit.fork", "audit.truncated"}:  # those compare with something beside the entries
        assert report.entries == first_bad


def _edit(path: Path, *statements: str | tuple[str, tuple[object, ...]]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(*((statement,) if isinstance(statement, str) else statement))
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _rows(path: Path) -> list[tuple[int, bytes, bytes, bytes]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return connection.execute("SELECT idx, entry, leaf, checkpoint FROM log ORDER BY idx").fetchall()


def _rewrite(path: Path, entries: list[bytes], notes: list[Any]) -> None:
    """Put these entries and checkpoints in, with row numbers, hashes and a stored tree that fit."""
    rows = [
        (place, entry.decode(), merkle.leaf_hash(entry), note if isinstance(note, str) else note.decode())
        for place, (entry, note) in enumerate(zip(entries, notes, strict=False))
    ]
    _edit(path, "DELETE FROM log", *(("INSERT INTO log VALUES (?, ?, ?, ?)", row) for row in rows))
    _restore_tree(path)


def _restore_tree(path: Path) -> None:
    frontier = _tree([row[1] for row in _rows(path)])
    _edit(path, ("UPDATE log_tree SET size = ?, nodes = ?", (frontier.size, b"".join(frontier.nodes))))


def _tree(entries: list[bytes]) -> Frontier:
    frontier = Frontier()
    for entry in entries:
        frontier = frontier.append(merkle.leaf_hash(entry))
    return frontier


def _sign(signer: Signer, frontier: Frontier) -> str:
    return sign_checkpoint(signer, frontier.size, frontier.root()).note


def _note(path: Path, size: int) -> str:
    return _rows(path)[size - 1][3].decode()


def _newest(path: Path) -> Any:
    return open_checkpoint(_note(path, len(_rows(path))), SIGNER.verifier)


def _export(path: Path) -> Path:
    """Return an export of a database, made without the log's help."""
    out = path.with_suffix(".jsonl")
    lines = [canonical({"entry": entry.decode(), "checkpoint": note.decode()}) for _, entry, _, note in _rows(path)]
    out.write_bytes(b"".join(line + b"\n" for line in lines))
    return out
