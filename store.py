"""A database of one room, the coordinator's or a member's: one SQLite file that several processes write, or memory.

Modules of this room add their tables to :data:`metadata`; opening a store creates what is missing. Every
change goes through :meth:`Store.transaction`, which holds the one write lock from its first statement to the
commit (``BEGIN IMMEDIATE``), so that what was read inside still holds when it is written. A thread has at
most one connection at a time: a second one inside the first would wait for itself, and is refused at once.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, MetaData, StaticPool, create_engine, event
from sqlalchemy.exc import DatabaseError

from .errors import InputError

USER_VERSION = 4  # of the tables; whoever changes them raises it
BUSY_TIMEOUT_MS = 30_000


class Store:
    """One database; safe to share between threads.

    Args:
        path: the SQLite file, created if missing; None for a store in memory that ends with ``close``.
        metadata: its tables.
        application_id: SQLite's mark of whose file it is, so that no room opens another's.
        private: it holds keys: made with mode 0600, and refused where others may read it. SQLite gives the files
            beside it (``-wal``, ``-shm``) the mode of the database.

    Raises:
        InputError: the file is not a database, is not ours or of another version, its folder cannot be
            written, or others may read what is private (config.state).
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
        url = URL.create("sqlite", database=None if path is None else str(path))
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
        """Give a connection inside ``BEGIN IMMEDIATE``; commit at the end, roll back on any exception.

        Callbacks given to :meth:`after_commit` run when the commit is on disk, in order.

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
        """Give a connection that sees one state of the database; nothing done with it is kept.

        Raises:
            RuntimeError: this thread already holds a connection of the store.
        """
        with self._alone(), self._engine.connect() as connection:
            yield connection

    def after_commit(self, connection: Connection, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the transaction of ``connection`` is committed; never if it is rolled back.

        The change is final by then: what a callback raises reaches the caller, but undoes nothing.

        Raises:
            RuntimeError: ``connection`` is not that of this thread's open transaction.
        """
        if self._held.transaction is None or self._held.transaction[0] is not connection:
            raise RuntimeError("expected the connection of the open Store.transaction()")
        self._held.transaction[1].append(callback)

    def close(self) -> None:
        """Close every connection; what was not committed is gone, and the file itself holds what was."""
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
        """Take this thread's turn: in memory all threads share one connection, one after the other."""
        if self._held.busy:
            raise RuntimeError("this thread already holds a connection of the store; use that connection")
        with self._turn:
            self._held.busy = True
            try:
                yield
            finally:
                self._held.busy = False

    def _open(self) -> None:
        """Look whose file it is before anything is written to it; then make it ours."""
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
            self._metadata.create_all(connection)
            if fresh:
                connection.exec_driver_sql(f"PRAGMA application_id={self._application_id}")
                connection.exec_driver_sql(f"PRAGMA user_version={USER_VERSION}")

    def _check_owner(self, connection: Connection) -> bool:
        """Check that the database is empty (returns True) or ours, of this program's version."""
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
    """Return what is to be said of a database of another version: what was found, and the way out.

    Tables of other versions are not read at all: what they mean has changed with the protocol.
    """
    found = f"expected a database of version {USER_VERSION}, got {version}"
    if version > USER_VERSION:
        return f"{found}; install the moonflower that wrote it, or a newer one"
    way_out = "export what you want to keep with the moonflower that wrote it, then move the file away and start again"
    return f"{found}; {way_out}"


class _Held(threading.local):
    """What this thread holds of the store."""

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
    """Prepare a new connection; transactions are begun by hand, sqlite3 would begin them too late."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")
