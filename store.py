"""A database of the coordinator or of a member: one SQLite file that several processes write, or memory.

Opening a store creates the tables that are missing. Every change goes through :meth:`Store.transaction`. It holds the
only write lock from its first statement to the commit (``BEGIN IMMEDIATE``), so what was read inside it still holds at
the commit. A thread has at most one connection at a time. A second connection inside the first would wait for itself,
so it is refused at once.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, MetaData, Select, StaticPool, Table, bindparam, create_engine, event, select
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateIndex, CreateTable

from .errors import InputError

USER_VERSION = 5  # of the tables; raise it with every change of them
BUSY_TIMEOUT_MS = 30_000


class Dialect(SQLiteDialect_pysqlite):
    """SQLite, where a statement that was compiled for one store serves them all: a simulation has many."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


registry.register("sqlite.moonflower", __name__, Dialect.__name__)
_COMPILED: dict[Any, Any] = {}  # by dialect and statement; as many as the program has statements


@cache
def add(table: Table) -> Insert:
    """Return the statement that adds a row, its parameters; a row with the same primary key stays as it is."""
    return insert(table).on_conflict_do_nothing()


@cache
def put(table: Table) -> Insert:
    """Return the statement that adds a row, its parameters, in place of a row with the same primary key."""
    statement = insert(table)
    return statement.on_conflict_do_update(list(table.primary_key.columns), set_=dict(statement.excluded))


@cache
def by(table: Table, *keys: str) -> Select[Any]:
    """Return the query for the rows in which these columns equal the parameters of the same names."""
    return select(table).where(*(table.c[key] == bindparam(key) for key in keys))


@cache
def _creation(table: Table) -> tuple[str, ...]:
    """Return the statements that create a table and its indexes."""
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    elements: tuple[CreateTable | CreateIndex, ...] = (CreateTable(table), *map(CreateIndex, indexes))
    return tuple(str(element.compile(dialect=Dialect())) for element in elements)


class Store:
    """One database; safe to share between threads.

    Args:
        path: the SQLite file, created if missing. None for a store in memory, which ends with ``close``.
        metadata: its tables.
        application_id: SQLite's mark of the file's owner, so that the coordinator's store and a member's are not
            mixed up.
        private: the file holds keys. It is made with mode 0600 and refused if others may read it. SQLite gives the
            files beside it (``-wal``, ``-shm``) the mode of the database.

    Raises:
        InputError: config.state: the file is not a database, belongs to another program or version, is private and
            readable by others, or its folder cannot be written.
    """

    def __init__(self, path: Path | None, metadata: MetaData, application_id: int, *, private: bool = False) -> None:
        self.path, self._metadata, self._application_id = path, metadata, application_id
        self._turn = threading.Lock() if path is None else nullcontext()
        self._held = _Held()
        options: dict[str, Any] = {"poolclass": StaticPool} if path is None else {}
        options["connect_args"] = {
            "check_same_thread": False,
            "timeout": BUSY_TIMEOUT_MS / 1000,
            "cached_statements": 0,  # a cached statement keeps what was bound to it: a whole model, for example
        }
        options["execution_options"] = {"compiled_cache": _COMPILED}
        url = URL.create("sqlite+moonflower", database=None if path is None else str(path))
        self._engine = create_engine(url, **options)
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        self._writes = self._engine.execution_options(begin="IMMEDIATE")
        if private and path is not None:
            _keep_private(path)
        try:
            self._open()
        except DatabaseError as error:
            self.close()
            raise _bad_state(path, f"cannot be opened as a database: {error.orig}") from error
        except InputError:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection inside ``BEGIN IMMEDIATE``; commit at the end, roll back on any exception.

        Callbacks given to :meth:`after_commit` run in order, once the commit is on disk.

        Raises:
            RuntimeError: this thread already holds a connection of the store.
        """
        callbacks: list[Callable[[], None]] = []
        with self._alone(), self._writes.begin() as connection:
            self._held.transaction = (connection, callbacks)
            try:
                yield connection
            finally:
                self._held.transaction = None
        for callback in callbacks:
            callback()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the database. Nothing written with it is kept.

        Raises:
            RuntimeError: this thread already holds a connection of the store.
        """
        with self._alone(), self._engine.connect() as connection:
            yield connection

    def after_commit(self, connection: Connection, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the transaction of ``connection`` is committed, and never if it is rolled back.

        The change is final by then. An exception from a callback reaches the caller and undoes nothing.

        Raises:
            RuntimeError: ``connection`` is not that of this thread's open transaction.
        """
        if self._held.transaction is None or self._held.transaction[0] is not connection:
            raise RuntimeError("expected the connection of the open Store.transaction()")
        self._held.transaction[1].append(callback)

    def close(self) -> None:
        """Close every connection. What was committed is in the file itself; what was not committed is lost."""
        if self.path is not None:
            with (
                suppress(DatabaseError, sqlite3.Error),
                closing(self._engine.raw_connection()) as raw,
                closing(raw.cursor()) as cursor,
            ):
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._engine.dispose()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Take this thread's turn. In memory, all threads take turns on one connection."""
        if self._held.busy:
            raise RuntimeError("this thread already holds a connection of the store; use that connection")
        with self._turn:
            self._held.busy = True
            try:
                yield
            finally:
                self._held.busy = False

    def _open(self) -> None:
        """Check whose file it is before anything is written, then create what is missing."""
        with self.read() as connection:
            self._check_owner(connection)
        if self.path is not None:
            with closing(self._engine.raw_connection()) as raw, closing(raw.cursor()) as cursor:
                cursor.execute("PRAGMA journal_mode=WAL")  # not possible inside a transaction
                mode = cursor.fetchone()
            if mode != ("wal",):
                raise _bad_state(self.path, f"expected write-ahead logging on a local disk, got {mode!r}")
        with self.transaction() as connection:
            fresh = self._check_owner(connection)  # another process may have been here in between
            there = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
            for table in self._metadata.sorted_tables:
                for statement in () if table.name in there else _creation(table):
                    connection.exec_driver_sql(statement)
            if fresh:
                connection.exec_driver_sql(f"PRAGMA application_id={self._application_id}")
                connection.exec_driver_sql(f"PRAGMA user_version={USER_VERSION}")

    def _check_owner(self, connection: Connection) -> bool:
        """Check that the database is empty (returns True) or has our application id and version (returns False)."""
        application, version, tables = (
            connection.exec_driver_sql(query).scalar_one()
            for query in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_master",
            )
        )
        if (application, version, tables) == (0, 0, 0):
            return True
        if application != self._application_id:
            raise _bad_state(self.path, f"expected a moonflower database, got application id {application:#x}")
        if version != USER_VERSION:
            raise _bad_state(self.path, other_version(version))
        return False


def other_version(version: int) -> str:
    """Return the message about a database of another version: what was found, and the way out.

    Tables of other versions are not read at all, because their meaning has changed with the protocol.
    """
    found = f"expected a database of version {USER_VERSION}, got {version}"
    if version > USER_VERSION:
        return f"{found}; install the moonflower that wrote it, or a newer one"
    way_out = "export what you want to keep with the moonflower that wrote it, then move the file away and start again"
    return f"{found}; {way_out}"


class _Held(threading.local):
    """What this thread holds: whether it has a connection, and its open transaction."""

    busy = False
    transaction: tuple[Connection, list[Callable[[], None]]] | None = None


def _keep_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise _bad_state(path, f"cannot be opened as a database: {error.strerror}") from error
    if mode & 0o077:
        raise InputError("config.state", f"{path}: expected mode 0600, got {mode:04o}", hint=f"chmod 600 {path}")


def _bad_state(path: Path | None, reason: str) -> InputError:
    return InputError("config.state", f"{path or 'store in memory'}: {reason}")


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    """Prepare a new connection. Transactions are begun by hand, because sqlite3 would begin them too late."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")
