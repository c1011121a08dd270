"""The audit log as a state machine, which ``test_machines.py`` runs: two processes append, prove, die, are restored.

The model is a plain list of entries. Tampering is done to a copy, so that a program goes on afterwards; it goes as far
as somebody without the log's key can go, as in ``test_audit.py``.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from moonflower.canonical import canonical, parse_canonical
from moonflower.crypto import merkle
from moonflower.crypto.merkle import Frontier, verify_consistency, verify_inclusion
from moonflower.crypto.note import Checkpoint, Signer, open_checkpoint, sign_checkpoint
from moonflower.errors import AuditError, Refused
from moonflower.server.records import verify
from moonflower.server.records.database import FILE_NAME, CoordinatorStore
from moonflower.server.records.log import Log

from support.weakened import in_memory

SIGNER = Signer("moonflower/heart", bytes(range(32)))
STRANGER = Signer("moonflower/heart", bytes(32))
KEY = SIGNER.verifier.text()
TIME_S, TIME = 1_767_323_045.678, "2026-01-02T03:04:05.678Z"
PROCESSES = st.integers(0, 1)
EVENTS = st.lists(st.sampled_from(["promoted", "refused", "warned"]), min_size=1, max_size=4)
TAMPERING = ("edit", "swap", "cut", "take out", "repeat", "rewrite", "forge")
Entry = dict[str, Any]


class Process:
    """A process that writes the log of a folder."""

    def __init__(self, folder: Path) -> None:
        self.store = CoordinatorStore(folder / FILE_NAME)
        self.log = Log(self.store, SIGNER, lambda: TIME_S)


class Gone(Exception):
    """What ends a transaction before its commit."""


class TheLog(RuleBasedStateMachine):
    """Whatever happens, the log holds exactly what was committed, and every state of it appends to all before."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = in_memory()
        self.place = Path(self.folder.name) / "0"
        self.entries: list[Entry] = []
        self.seen: dict[int, Checkpoint] = {}  # every checkpoint that anybody was ever shown
        self.copies: list[tuple[Path, int]] = []  # of the database, and how many entries it has
        self.made = 0

    @initialize()
    def begin(self) -> None:
        self.place.mkdir()
        self.processes = [Process(self.place), Process(self.place)]

    def teardown(self) -> None:
        for process in self.processes:
            process.store.close()
        self.folder.cleanup()

    def fresh(self) -> Path:
        """Return a folder that nothing was in."""
        self.made += 1
        made = Path(self.folder.name) / str(self.made)
        made.mkdir()
        return made

    def expected(self, events: list[str]) -> list[Entry]:
        """Return the entries that a transaction with these events adds."""
        size = len(self.entries)
        return [
            {
                "index": size + n,
                "time": TIME,
                "event": event,
                "run": "r",
                "number": size + n,
                "details": {"of": len(events)},
            }
            for n, event in enumerate(events)
        ]

    def write(self, log: Log, connection: Any, events: list[str]) -> None:
        for n, event in enumerate(events, start=len(self.entries)):
            assert log.append(connection, event, run="r", number=n, of=len(events)) == n

    @rule(who=PROCESSES, events=EVENTS)
    def append(self, who: int, events: list[str]) -> None:
        process = self.processes[who]
        with process.store.transaction() as connection:
            self.write(process.log, connection, events)
        self.entries += self.expected(events)

    @rule(who=PROCESSES, events=EVENTS)
    def roll_back(self, who: int, events: list[str]) -> None:
        process = self.processes[who]
        with contextlib.suppress(Gone), process.store.transaction() as connection:
            self.write(process.log, connection, events)
            raise Gone

    @rule(who=PROCESSES)
    def restart(self, who: int) -> None:
        self.processes[who].store.close()
        self.processes[who] = Process(self.place)

    @rule(who=PROCESSES, events=EVENTS)
    def cut_the_power(self, who: int, events: list[str]) -> None:
        """In the middle of a transaction: what lies on the disk at that moment is what there is afterwards."""
        process, left = self.processes[who], self.fresh()
        with contextlib.suppress(Gone), process.store.transaction() as connection:
            self.write(process.log, connection, events)
            for end in ("", "-wal"):
                shutil.copy(f"{self.place / FILE_NAME}{end}", left)
            raise Gone
        for process in self.processes:
            process.store.close()
        self.place = left
        self.processes = [Process(left), Process(left)]

    @rule(who=PROCESSES)
    def show(self, who: int) -> None:
        """A member, an auditor, anybody takes the newest checkpoint and keeps it."""
        newest = self.processes[who].log.checkpoint()
        assert (newest is None) == (not self.entries)
        if newest is not None:
            assert newest.size == len(self.entries)
            self.seen[newest.size] = newest

    @precondition(lambda self: self.entries)
    @rule(who=PROCESSES, data=st.data())
    def prove(self, who: int, data: Any) -> None:
        log = self.processes[who].log
        size = data.draw(st.integers(1, len(self.entries)), label="size")
        index = data.draw(st.integers(0, size - 1), label="index")
        old = data.draw(st.integers(1, size), label="old size")
        under = log.at(size)
        assert under.root == root(self.entries[:size])
        included, grown = log.inclusion(index, size), log.consistency(old, size)
        assert included.checkpoint == grown.checkpoint == under
        leaf = merkle.leaf_hash(canonical(self.entries[index]))
        verify_inclusion(leaf, index, size, included.hashes, under.root)
        verify_consistency(old, size, grown.hashes, log.at(old).root, under.root)
        for beyond in (0, len(self.entries) + 1):
            with pytest.raises(ValueError, match="expected a size"):
                log.at(beyond)

    @rule()
    def keep_a_copy(self) -> None:
        self.copies.append((self.copy(), len(self.entries)))

    def copy(self) -> Path:
        """Return a copy of the database as SQLite itself makes one."""
        made = self.fresh() / FILE_NAME
        with closing(sqlite3.connect(self.place / FILE_NAME)) as here, closing(sqlite3.connect(made)) as there:
            here.backup(there)
        return made

    @precondition(lambda self: len(self.entries) > 1)
    @rule(
        data=st.data(),
        how=st.sampled_from(TAMPERING),
        more=EVENTS,
    )
    def tamper(self, data: Any, how: str, more: list[str]) -> None:
        """Somebody without the key changes a copy, and makes all else fit; maybe the server goes on upon it."""
        made, size = self.copy(), len(self.entries)
        place = data.draw(st.integers(0, size - 2), label="place")
        newest = self.processes[0].log.checkpoint()
        assert newest is not None
        with closing(sqlite3.connect(made)) as db, db:
            rows = db.execute("select entry, leaf, checkpoint from log order by idx").fetchall()
            db.execute("delete from log")
            changed = list(tampered(how, rows, place))
            db.executemany("insert into log values (?, ?, ?, ?)", [(n, *row) for n, row in enumerate(changed)])
            grown = Frontier()
            for _, leaf, _ in changed:
                grown = grown.append(leaf)
            db.execute("update log_tree set size = ?, nodes = ?", (grown.size, b"".join(grown.nodes)))
        assert not verify.verify(made, KEY, newest.note).ok, f"{how} at {place} was not found"
        with closing(CoordinatorStore(made)) as store, contextlib.suppress(AuditError):
            log = Log(store, SIGNER, lambda: TIME_S)
            with store.transaction() as connection:
                for event in more:
                    log.append(connection, event)
        assert not verify.verify(made, KEY, newest.note).ok, f"{how} at {place} was covered up"

    @precondition(lambda self: any(size < len(self.entries) for _, size in self.copies))
    @rule(data=st.data(), more=EVENTS)
    def restore(self, data: Any, more: list[str]) -> None:
        """An older copy comes back: by itself it is right, and whoever holds a newer checkpoint finds it."""
        old = [(path, size) for path, size in self.copies if size < len(self.entries)]
        path, size = data.draw(st.sampled_from(old), label="copy")
        made = Path(shutil.copy(path, self.fresh()))
        newest = self.processes[0].log.checkpoint()
        assert newest is not None
        assert verify.verify(made, KEY).ok
        assert verify.verify(made, KEY, newest.note).code == "audit.truncated"
        with closing(CoordinatorStore(made)) as store:
            log = Log(store, SIGNER, lambda: TIME_S + 1)
            while size < len(self.entries):
                with store.transaction() as connection:
                    for event in more:
                        log.append(connection, event)
                size += len(more)
        assert verify.verify(made, KEY).ok
        assert verify.verify(made, KEY, newest.note).code == "audit.fork"

    @invariant()
    def the_log_holds_what_was_committed(self) -> None:
        for process in self.processes:
            assert list(process.log.entries()) == self.entries

    @invariant()
    def it_verifies(self) -> None:
        texts = {str(size): checkpoint.note for size, checkpoint in self.seen.items()}
        report = verify.verify(self.place / FILE_NAME, KEY, witnesses=texts)
        assert (report.ok, report.entries) == (True, len(self.entries)), report

    @invariant()
    def it_only_ever_grew(self) -> None:
        for process in self.processes:
            newest = process.log.checkpoint()
            for size, earlier in self.seen.items():
                assert newest is not None
                proof = process.log.consistency(size)
                verify_consistency(size, newest.size, proof.hashes, earlier.root, newest.root)


def root(entries: list[Entry]) -> bytes:
    """Return the Merkle root over entries, from nothing but their canonical JSON."""
    return merkle.Tree(merkle.leaf_hash(canonical(entry)) for entry in entries).root()


def tampered(how: str, rows: list[tuple[str, bytes, str]], place: int) -> Iterator[tuple[str, bytes, str]]:
    """Yield the rows of a log after somebody changed them at a place, with hashes and indices that fit."""
    notes = [note for _, _, note in rows]
    texts = [text for text, _, _ in rows]
    if how == "swap":
        texts[place : place + 2] = reversed(texts[place : place + 2])
    elif how == "cut":
        del texts[place + 1 :]
    elif how == "take out":
        del texts[place]
    elif how == "repeat":
        texts.insert(place, texts[place])
        notes.append(notes[-1])
    elif how == "edit":
        texts[place] = texts[place].replace('"run":"r"', '"run":"s"')
    else:
        texts[place:] = [text.replace('"of":', '"off":') for text in texts[place:]]
    grown = Frontier()
    for index, (text, note) in enumerate(zip(texts, notes, strict=False)):
        data = canonical({**parse_canonical(text.encode()), "index": index})
        grown = grown.append(merkle.leaf_hash(data))
        forged = sign_checkpoint(STRANGER, grown.size, grown.root()).note
        yield data.decode(), merkle.leaf_hash(data), forged if how == "forge" else note


# What the machine must find: each weakens one thing that it claims to check.


def no_rollback(patch: pytest.MonkeyPatch) -> None:
    """Entries are committed whatever becomes of their transaction."""
    real = Log.append

    def append(self: Log, connection: Any, event: str, **about: Any) -> int:
        index = real(self, connection, event, **about)
        connection.exec_driver_sql("commit")
        connection.exec_driver_sql("begin immediate")
        return index

    patch.setattr(Log, "append", append)


def checkpoint_in_memory(patch: pytest.MonkeyPatch) -> None:
    """A process believes that it alone appends."""
    real = Log.checkpoint
    patch.setattr(Log, "checkpoint", lambda self: self._signed or real(self))


def any_key_signs(patch: pytest.MonkeyPatch) -> None:
    """verify takes whatever key signed the checkpoints of a log."""

    def opened(text: str, verifier: Any) -> Checkpoint:
        try:
            return open_checkpoint(text, verifier)
        except Refused:
            return open_checkpoint(text, STRANGER.verifier)

    patch.setattr(verify, "open_checkpoint", opened)
    patch.setattr(verify, "_compare_kept", lambda *_: None)


def tree_is_trusted(patch: pytest.MonkeyPatch) -> None:
    """The tree in memory is used as it is, though another process appended."""
    real = Log._tree_under

    def under(self: Log, connection: Any, newest: Checkpoint) -> merkle.Tree:
        return self._tree if self._tree.size else real(self, connection, newest)

    patch.setattr(Log, "_tree_under", under)


def checkpoints_unsigned(patch: pytest.MonkeyPatch) -> None:
    """verify compares no root with what was signed."""

    def follow(frontier: Frontier, record: Any, later: Any, verifier: Any) -> Frontier:
        return frontier.append(merkle.leaf_hash(record.entry))

    patch.setattr(verify, "_next", follow)
    patch.setattr(verify, "_compare_kept", lambda *_: None)


def kept_ignored(patch: pytest.MonkeyPatch) -> None:
    """verify looks at no checkpoint that was kept elsewhere."""
    patch.setattr(verify, "_compare_kept", lambda *_: None)


def sizes_confused(patch: pytest.MonkeyPatch) -> None:
    """An old state's checkpoint is the newest one."""
    patch.setattr(Log, "_at", lambda self, connection, newest, size: newest)


WEAKENED = (
    no_rollback,
    checkpoint_in_memory,
    any_key_signs,
    tree_is_trusted,
    checkpoints_unsigned,
    kept_ignored,
    sizes_confused,
)
