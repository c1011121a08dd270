"""The coordinator's database: transactions, callbacks, two processes, and files that are not ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from moonflower import store as database
from moonflower.errors import InputError
from moonflower.server.records import database as room
from moonflower.server.records.database import USER_VERSION, CoordinatorStore
from sqlalchemy import Column, Connection, ForeignKey, Integer, MetaData, Table
from sqlalchemy.exc import IntegrityError, OperationalError

NEWER = USER_VERSION + 1


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table of this test's own, in place of those of the room."""
    metadata = MetaData()
    table = Table("notes", metadata, Column("id", Integer, primary_key=True), Column("of", ForeignKey("notes.id")))
    monkeypatch.setattr(room, "metadata", metadata)
    return table


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, notes: Table) -> Iterator[CoordinatorStore]:
    with closing(CoordinatorStore(tmp_path / "moonflower.db" if request.param == "file" else None)) as opened:
        yield opened


def _ids(store: CoordinatorStore, notes: Table) -> list[int]:
    with store.read() as connection:
        return list(connection.execute(notes.select().order_by(notes.c.id)).scalars())


def test_a_transaction_commits_at_its_end(store: CoordinatorStore, notes: Table) -> None:
    with store.transaction() as connection:
        connection.execute(notes.insert(), {"id": 1})
    assert _ids(store, notes) == [1]


def test_any_exception_rolls_back(store: CoordinatorStore, notes: Table) -> None:
    called: list[str] = []
    with contextlib.suppress(KeyboardInterrupt), store.transaction() as connection:
        connection.execute(notes.insert(), {"id": 1})
        store.after_commit(connection, lambda: called.append("told"))
        raise KeyboardInterrupt
    assert (_ids(store, notes), called) == ([], [])
    with store.transaction() as connection:
        connection.execute(notes.insert(), {"id": 2})
    assert (_ids(store, notes), called) == ([2], [])


def test_what_read_does_is_not_kept(store: CoordinatorStore, notes: Table) -> None:
    with store.read() as connection:
        connection.execute(notes.insert(), {"id": 1})
    assert _ids(store, notes) == []


def test_callbacks_run_in_order_once_it_is_committed(store: CoordinatorStore, notes: Table) -> None:
    seen: list[tuple[str, list[int]]] = []
    with store.transaction() as connection:
        store.after_commit(connection, lambda: seen.append(("first", _ids(store, notes))))
        store.after_commit(connection, lambda: seen.append(("second", _ids(store, notes))))
        connection.execute(notes.insert(), {"id": 1})
        assert seen == []
    assert seen == [("first", [1]), ("second", [1])]


def test_callbacks_belong_to_the_open_transaction(store: CoordinatorStore) -> None:
    with store.read() as connection, pytest.raises(RuntimeError, match="expected the connection of the open"):
        store.after_commit(connection, lambda: None)
    with store.transaction() as connection:
        pass
    with pytest.raises(RuntimeError, match="expected the connection of the open"):
        store.after_commit(connection, lambda: None)
    with (
        closing(CoordinatorStore(None)) as other,
        store.transaction(),
        other.transaction() as connection,
        pytest.raises(RuntimeError, match="expected the connection of the open"),
    ):
        store.after_commit(connection, lambda: None)


def test_a_thread_holds_one_connection_at_a_time(store: CoordinatorStore, notes: Table) -> None:
    for outer in (store.transaction, store.read):
        for inner in (store.transaction, store.read):
            with outer(), pytest.raises(RuntimeError, match="already holds a connection"), inner():
                pass
    assert _ids(store, notes) == []


def test_foreign_keys_are_kept(store: CoordinatorStore, notes: Table) -> None:
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), store.transaction() as connection:
        connection.execute(notes.insert(), {"id": 1, "of": 7})


def test_threads_take_turns(store: CoordinatorStore, notes: Table) -> None:
    def count_up() -> None:
        for _ in range(10):
            with store.transaction() as connection:
                last = max(connection.execute(notes.select()).scalars(), default=0)
                connection.execute(notes.insert(), {"id": last + 1})

    threads = [threading.Thread(target=count_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _ids(store, notes) == list(range(1, 31))


def test_a_file_is_durable_and_shared(tmp_path: Path, notes: Table) -> None:
    path = tmp_path / "moonflower.db"
    with closing(CoordinatorStore(path)) as one, closing(CoordinatorStore(path)) as two:
        with one.transaction() as connection:
            pragmas = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "user_version")
            ]
            assert pragmas == ["wal", 2, 1, database.BUSY_TIMEOUT_MS, database.USER_VERSION]
            connection.execute(notes.insert(), {"id": 1})
            assert _ids(two, notes) == []
        assert _ids(two, notes) == [1]
    with closing(CoordinatorStore(path)) as again:
        assert _ids(again, notes) == [1]


def test_a_transaction_holds_the_write_lock_from_the_start(tmp_path: Path, notes: Table) -> None:
    path = tmp_path / "moonflower.db"
    with (
        closing(CoordinatorStore(path)) as store,
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other,
    ):
        with store.transaction(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


def test_who_does_not_get_its_turn_is_told_by_the_librarys_error(
    tmp_path: Path, notes: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``server/live.py`` catches that one, also where a transaction cannot begin."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 10)
    with (
        closing(CoordinatorStore(tmp_path / "db")) as one,
        closing(CoordinatorStore(tmp_path / "db")) as other,
        one.transaction(),
        pytest.raises(OperationalError, match="locked"),
        other.transaction(),
    ):
        pass


def test_a_row_is_added_once_replaced_and_found(store: CoordinatorStore, notes: Table) -> None:
    with store.transaction() as db:
        assert db.execute(database.add(notes), {"id": 1}).rowcount == 1
        assert db.execute(database.add(notes), {"id": 1}).rowcount == 0
        db.execute(database.put(notes), {"id": 1, "of": 1})
        assert db.execute(database.by(notes, "id"), {"id": 1}).one()._asdict() == {"id": 1, "of": 1}
        assert db.execute(database.by(notes, "id", "of"), {"id": 1, "of": 2}).one_or_none() is None


def test_opening_creates_the_tables_that_are_missing(tmp_path: Path, notes: Table) -> None:
    path = tmp_path / "moonflower.db"
    CoordinatorStore(path).close()
    Table("more", notes.metadata, Column("id", Integer, primary_key=True))
    with closing(CoordinatorStore(path)) as store, store.read() as connection:
        assert _tables(connection) == {"notes", "more"}


def test_closing_leaves_one_file(tmp_path: Path, notes: Table) -> None:
    store = CoordinatorStore(tmp_path / "moonflower.db")
    with store.transaction() as connection:
        connection.execute(notes.insert(), {"id": 1})
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["moonflower.db"]


def test_what_cannot_be_opened(tmp_path: Path, notes: Table) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to be looked at\n" * 40)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "text.db", tmp_path, tmp_path / "missing" / "a.db", tmp_path / "file" / "a.db"):
        _refused(path, "cannot be opened as a database")
    assert (tmp_path / "text.db").read_text().startswith("this is no database")


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("CREATE TABLE theirs (id)", "got application id 0x0"),
        ("PRAGMA user_version=1", "got application id 0x0"),
        ("PRAGMA application_id=7", "got application id 0x7"),
        (f"PRAGMA application_id={room.APPLICATION_ID}", f"of version {USER_VERSION}, got 0"),
        (f"PRAGMA application_id={room.APPLICATION_ID}; PRAGMA user_version=1", f"of version {USER_VERSION}, got 1"),
        (
            f"PRAGMA application_id={room.APPLICATION_ID}; PRAGMA user_version={USER_VERSION + 1}",
            f"of version {USER_VERSION}, got {USER_VERSION + 1}",
        ),
    ],
)
def test_other_peoples_and_newer_databases_are_left_alone(
    tmp_path: Path, notes: Table, statement: str, match: str
) -> None:
    path = tmp_path / "moonflower.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)
    before = path.read_bytes()
    _refused(path, match)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["moonflower.db"]


def _refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as refusal:
        CoordinatorStore(path)
    assert refusal.value.code == "config.state"
    assert str(path) in str(refusal.value)
    descriptors = Path("/proc/self/fd")
    if descriptors.exists():
        assert path not in [Path(os.path.realpath(link)) for link in descriptors.iterdir()]


def _tables(connection: Connection) -> set[str]:
    return set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
