"""Reads a log from a database or an export, unchecked and without changing it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from ...canonical import canonical, parse_stored
from ...crypto import merkle
from ...crypto.merkle import Frontier
from ...errors import AuditError, InputError
from ...store import other_version
from .database import APPLICATION_ID, FILE_NAME, USER_VERSION

_MAX_LINE_BYTES = 8 << 20  # of an export: an entry, escaped once more, and its checkpoint
EXPECTED = f"a {FILE_NAME}, a folder that holds one, or an export of the log"


@dataclass(frozen=True)
class Record:
    """One entry as it is in a source, unchecked.

    Attributes:
        entry: its bytes.
        note: its checkpoint.
        place: row number in the database; None in an export.
        leaf: stored leaf hash; None in an export.
        fault: "", or the code of why this entry could not be read.
    """

    entry: bytes
    note: str
    place: int | None = None
    leaf: bytes | None = None
    fault: str = ""


@dataclass(frozen=True)
class History:
    """An opened source.

    Attributes:
        records: its records in order, to be read once.
        tree: size and root of the tree that the database appends to; None in an export.
    """

    records: Iterator[Record]
    tree: tuple[int, bytes] | None


def write(records: Iterable[Record], file: IO[bytes]) -> int:
    """Write records as JSON lines ``{"checkpoint": note, "entry": canonical JSON}``; return their number.

    Raises:
        AuditError: a record could not be read.
    """
    count = 0
    for record in records:
        if record.fault:
            raise AuditError(record.fault, f"entry {count} cannot be read", first_bad=count)
        file.write(canonical({"entry": record.entry.decode(errors="replace"), "checkpoint": record.note}) + b"\n")
        count += 1
    return count


@contextmanager
def opened(source: Path) -> Iterator[History]:
    """Open a database, a folder that holds one, or an export, without changing it.

    Raises:
        InputError: there is nothing to read, or it is not a log (``config.state``).
    """
    path = source / FILE_NAME if source.is_dir() else source
    with ExitStack() as stack:
        try:
            history = _open(path, stack)
        except OSError as error:
            raise InputError("config.state", f"{path}: {error.strerror}; expected {EXPECTED}") from error
        except sqlite3.DatabaseError as error:
            raise InputError("config.state", f"{path}: not a log ({error}); expected {EXPECTED}") from error
        yield history


def _open(path: Path, stack: ExitStack) -> History:
    """Open whatever lies at ``path``.

    While a server has the database open, or died, SQLite's ``-wal`` and ``-shm`` files lie beside it, and its
    own locks give one consistent state. Touching the file by hand would release the locks of a store in this
    very process; letting SQLite make those files fails on read-only media and is rude in other people's
    folders. So without them a copy is read.
    """
    wal, shared = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    if wal.exists() and shared.exists():
        return _database(path, f"{path.resolve().as_uri()}?mode=ro", stack)
    file = stack.enter_context(path.open("rb"))
    first = file.read(1 << 20)
    file.seek(0)
    if first.startswith(b"SQLite format 3\x00"):
        copy = Path(stack.enter_context(TemporaryDirectory(prefix="moonflower-audit-")), FILE_NAME)
        shutil.copyfile(path, copy)
        if wal.exists():
            shutil.copyfile(wal, copy.with_name(f"{FILE_NAME}-wal"))
        return _database(path, copy.as_uri(), stack)
    if first and b'"checkpoint"' not in first and b'"entry"' not in first:
        raise InputError("config.state", f"{path}: not a log; expected {EXPECTED}")
    return History(_lines(file), None)


def _database(path: Path, uri: str, stack: ExitStack) -> History:
    connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True, isolation_level=None)))
    connection.text_factory = bytes  # what was edited need not be text
    connection.execute("BEGIN")  # one state of the log, even while a server appends to it
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise InputError("config.state", f"{path}: expected a moonflower database, got application id {application:#x}")
    if version != USER_VERSION:
        raise InputError("config.state", f"{path}: {other_version(version)}")
    size, nodes = connection.execute("SELECT size, nodes FROM log_tree").fetchone() or (0, b"")
    frontier = unpack(size, nodes)
    connection.execute("SELECT idx, entry, leaf, checkpoint FROM log LIMIT 0")
    return History(_rows(connection), (0, b"") if frontier is None else (size, frontier.root()))


def _rows(connection: sqlite3.Connection) -> Iterator[Record]:
    try:
        rows = connection.execute("SELECT idx, entry, leaf, checkpoint FROM log ORDER BY idx")
        for place, entry, leaf, note in rows:
            if isinstance(place, int) and isinstance(entry, bytes) and isinstance(note, bytes):
                yield Record(entry, note.decode(errors="replace"), place, leaf if isinstance(leaf, bytes) else b"")
            else:
                yield Record(b"", "", fault="audit.entry")
    except sqlite3.DatabaseError:  # a page of the file is damaged
        yield Record(b"", "", fault="audit.entry")


def _lines(file: IO[bytes]) -> Iterator[Record]:
    while line := file.readline(_MAX_LINE_BYTES):
        try:
            value = parse_stored(line.removesuffix(b"\n"))
        except ValueError:
            value = None
        if isinstance(value, dict) and value.keys() == {"entry", "checkpoint"}:
            entry, note = value["entry"], value["checkpoint"]
            if isinstance(entry, str) and isinstance(note, str):
                yield Record(entry.encode(errors="replace"), note)
                continue
        yield Record(b"", "", fault="audit.entry" if line.endswith(b"\n") else "audit.truncated")


def unpack(size: object, nodes: object) -> Frontier | None:
    """Return the frontier that was stored as its size and its joined nodes; None if they are not a frontier."""
    if type(size) is not int or size < 0 or not isinstance(nodes, bytes):
        return None
    if len(nodes) != merkle.HASH_BYTES * size.bit_count():
        return None
    starts = range(0, len(nodes), merkle.HASH_BYTES)
    return Frontier(size, tuple(nodes[at : at + merkle.HASH_BYTES] for at in starts))
