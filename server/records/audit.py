"""The audit log: append-only, every entry under a signed Merkle checkpoint, verifiable offline.

Rules of the log:
1. An entry is appended inside the transaction that makes the change it records: both commit, or neither.
2. An entry is canonical JSON; its hash is leaf number ``index`` of the tree, and a checkpoint of the tree
   with ``index`` + 1 leaves, signed by the log's key, is stored beside it.
3. The tree's frontier lives in the database, never in memory alone, and is used only if the newest stored
   checkpoint signs it: several processes may append, and a database that was edited is not signed onwards.

Rules of :func:`verify`:
4. Nothing in the source is trusted but what the log's key signed. A row's place is attested three times, by
   its row number, the entry's own index and the size in its checkpoint; its content once, by the root there.
5. The checks run from the first entry on, so that the first that fails is the first that was touched.
6. Cutting off the last entries with their checkpoints is seen only with a checkpoint that was kept elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from sqlalchemy import CheckConstraint, Column, Connection, Integer, LargeBinary, Table, Text, insert, select

from ...canonical import canonical, parse_canonical
from ...crypto import merkle
from ...crypto.merkle import Frontier
from ...crypto.note import Checkpoint, Signer, Verifier, open_checkpoint, sign_checkpoint
from ...errors import AuditError, InputError, Refused, nearest
from .store import APPLICATION_ID, FILE_NAME, USER_VERSION, Store, metadata

EVENTS = {
    "run_began": "a run was submitted and accepted; details: its settings",
    "run_ended": "a run is over; code: why, if not by its plan",
    "enrolled": "a member's card, scopes and parameter digests were accepted",
    "refused_member": "a member was not let in",
    "member_added": "the roster grew",
    "member_revoked": "the roster shrank",
    "epoch_began": "a key epoch began with this roster and dealer",
    "deal_answered": "a member confirmed the deal of an epoch",
    "statistics_opened": "the sealed counts and moments of a roster were opened",
    "round_began": "a round was announced on a proved base",
    "envelope_accepted": "a member's sealed update joined the running sum",
    "envelope_refused": "a member's envelope was left out; code: why",
    "set_closed": "set A is fixed for this base",
    "opened": "a quorum signed the same candidate",
    "opening_refused": "a member refused to open, or the quorum was not reached",
    "judged": "the gate's votes were counted",
    "promoted": "the candidate is the new last good model",
    "refused": "the candidate was refused; the last good model stays",
    "failed": "a round ended without a candidate",
    "tallies_opened": "the federation's display metrics were opened",
    "warned": "something that needs a person's eye and stopped nothing",
    "approved": "an approver released a model version",
    "rejected": "an approver refused a model version",
    "imported": "approvers brought in a model from outside",
    "rolled_back": "approvers made an earlier version the last good one",
    "exported": "a model version was written out",
}

MAX_ENTRY_BYTES = 1 << 20
_MAX_LINE_BYTES = 8 << 20  # of an export: an entry, escaped once more, and its checkpoint
_PAGE = 500

_log = Table(
    "log",
    metadata,
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("entry", Text, nullable=False),  # canonical JSON, ASCII
    Column("leaf", LargeBinary(merkle.HASH_BYTES), nullable=False),
    Column("checkpoint", Text, nullable=False),
)
_tree = Table(
    "log_tree",
    metadata,
    Column("id", Integer, CheckConstraint("id = 0"), primary_key=True, autoincrement=False),
    Column("size", Integer, nullable=False),
    Column("nodes", LargeBinary, nullable=False),
)
_NEWEST = select(_tree.c.size, _tree.c.nodes, _log.c.checkpoint).outerjoin(_log, _log.c.idx == _tree.c.size - 1)
_INSERT = insert(_log)
_GROW = insert(_tree).prefix_with("OR REPLACE")


@dataclass(frozen=True)
class Proof:
    """Merkle hashes up to ``checkpoint``: see ``merkle.verify_inclusion`` and ``verify_consistency``."""

    checkpoint: Checkpoint
    hashes: tuple[bytes, ...]


class Log:
    """The log of a store, for the coordinator's processes.

    Args:
        store: where the entries are.
        signer: the log's key; its name is the log's origin.
        clock: seconds since 1970, UTC.
        listeners: called in order with each entry, as a dict, once its transaction is committed.
    """

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clock: Callable[[], float],
        listeners: Iterable[Callable[[dict[str, Any]], None]] = (),
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._listeners = tuple(listeners)
        self._signed: Checkpoint | None = None  # spares a check of our own signature; never a source of truth

    def append(
        self,
        connection: Connection,
        event: str,
        *,
        run: str = "",
        number: int | None = None,
        member: str = "",
        code: str = "",
        **details: Any,
    ) -> int:
        """Append an entry within the open transaction of ``connection`` and return its index.

        Args:
            connection: from ``store.transaction()``.
            event: one of :data:`EVENTS`.
            run, number, member, code: whom and what it is about; left out of the entry when empty.
            details: JSON values; never a secret, and of a member's data never more than codes.

        Raises:
            ValueError: the event is unknown, a number is not finite, or the entry is larger than a mebibyte.
            TypeError: a detail has no JSON form.
            RuntimeError: ``connection`` is not in a transaction of the store.
            AuditError: the stored log was edited or is another key's; nothing was appended.
        """
        if event not in EVENTS:
            raise ValueError(f"unknown event {event!r}: {nearest(event, EVENTS)}")
        frontier = self._frontier(connection)
        time = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        about = {"run": run, "number": number, "member": member, "code": code, "details": details}
        entry: dict[str, Any] = {"index": frontier.size, "time": time.replace("+00:00", "Z"), "event": event}
        entry |= {key: value for key, value in about.items() if value not in ("", None, {})}
        data = canonical(entry)
        if len(data) > MAX_ENTRY_BYTES:
            raise ValueError(f"expected an entry of at most {MAX_ENTRY_BYTES} bytes, got {len(data)}")
        leaf = merkle.leaf_hash(data)
        grown = frontier.append(leaf)
        signed = sign_checkpoint(self._signer, grown.size, grown.root())
        self._store.after_commit(connection, lambda: self._tell(entry))
        row = {"idx": frontier.size, "entry": data.decode(), "leaf": leaf, "checkpoint": signed.note}
        connection.execute(_INSERT, row)
        connection.execute(_GROW, {"id": 0, "size": grown.size, "nodes": b"".join(grown.nodes)})
        self._signed = signed
        return frontier.size

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries committed so far, oldest first; no connection is held between two of them."""
        seen = -1
        query = select(_log.c.idx, _log.c.entry).order_by(_log.c.idx).limit(_PAGE)
        while True:
            with self._store.read() as connection:
                rows = connection.execute(query.where(_log.c.idx > seen)).all()
            if not rows:
                return
            for _, entry in rows:
                yield json.loads(entry)
            seen = rows[-1].idx

    def checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint, or None while the log is empty.

        Raises:
            AuditError: the stored log was edited or is another key's.
        """
        with self._store.read() as connection:
            return self._newest(connection)[1]

    def inclusion(self, index: int) -> Proof:
        """Return the proof that entry ``index`` is under the newest checkpoint; O(n).

        Raises:
            ValueError: there is no such entry.
        """
        return self._prove(lambda leaves: merkle.inclusion_proof(leaves, index))

    def consistency(self, old_size: int) -> Proof:
        """Return the proof that the newest checkpoint only appends to the one of ``old_size``; O(n).

        Raises:
            ValueError: the log never had that size.
        """
        return self._prove(lambda leaves: merkle.consistency_proof(leaves, old_size))

    def _prove(self, proof: Callable[[list[bytes]], list[bytes]]) -> Proof:
        with self._store.read() as connection:
            checkpoint = self._newest(connection)[1]
            leaves = list(connection.execute(select(_log.c.leaf).order_by(_log.c.idx)).scalars())
        if checkpoint is None:
            raise ValueError("the log is empty")
        return Proof(checkpoint, tuple(proof(leaves)))

    def _tell(self, entry: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener(entry)

    def _frontier(self, connection: Connection) -> Frontier:
        return self._newest(connection)[0]

    def _newest(self, connection: Connection) -> tuple[Frontier, Checkpoint | None]:
        """Return the stored frontier and the newest checkpoint, once it is sure that this signs that."""
        row = connection.execute(_NEWEST).one_or_none()
        if row is None:
            if connection.execute(select(_log.c.idx).limit(1)).first() is not None:
                raise AuditError("audit.fork", "expected the log's tree beside its entries, got none", first_bad=0)
            return Frontier(), None
        size, nodes, note = row
        last = max(size - 1, 0)
        if note is None:
            raise AuditError("audit.truncated", f"expected {size} entries, the last is missing", first_bad=last)
        signed = self._signed
        if signed is None or signed.note != note:
            try:
                signed = open_checkpoint(note, self._signer.verifier)
            except Refused as error:
                raise AuditError(error.code, f"entry {last}: {error}", first_bad=last) from error
        frontier = _unpack(size, nodes)
        if frontier is None or (signed.size, signed.root) != (size, frontier.root()):
            raise AuditError("audit.fork", f"the tree of {size} entries is not the signed one", first_bad=last)
        return frontier, signed


def open_signer(folder: Path, name: str) -> Signer:
    """Return the log key of a state folder; made on first use (``log.key``, mode 0600, and ``log.pub``).

    Raises:
        InputError: the files cannot be written or read, are open to others, are not keys (config.key), or
            belong to a log of another name (config.state).
    """
    secret, public = folder / "log.key", folder / "log.pub"
    try:
        if not secret.exists():
            text = Signer.generate(name).text()
            descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
        if secret.stat().st_mode & 0o077:
            raise InputError("config.key", f"{secret}: expected mode 0600", hint=f"chmod 600 {secret}")
        signer = Signer.parse(secret.read_text().removesuffix("\n"))
        if signer.name != name:
            raise InputError("config.state", f"{secret}: expected the key of {name!r}, got that of {signer.name!r}")
        text = signer.verifier.text() + "\n"
        if not public.exists():
            public.write_text(text)
        if public.read_text() != text:
            raise InputError("config.key", f"{public}: expected the public half of {secret.name}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("config.key", f"{folder}: the log key cannot be kept here: {error}") from error
    return signer


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found.

    Attributes:
        ok: the whole log verifies.
        entries: number of entries that verify, from the first on.
        root: Merkle root over those, in hex.
        first_bad: index of the first entry that cannot be trusted; None if no entry is at fault.
        code: the ``audit.*`` code, or "".
        reason: one sentence for a person, or "".
    """

    ok: bool
    entries: int
    root: str
    first_bad: int | None
    code: str
    reason: str = ""


def verify(source: Path, public_key_text: str, checkpoint_text: str | None = None) -> Report:
    """Check a whole log offline, entry by entry; the source is never changed.

    Args:
        source: a ``moonflower.db``, a folder that holds one, or an export.
        public_key_text: the content of ``log.pub``.
        checkpoint_text: a signed checkpoint that was kept elsewhere. With it a cut-off tail is seen
            (audit.truncated), and a history that the key's owner rewrote (audit.fork).

    Raises:
        InputError: the key is not one, or the source is no log (config.key, config.state).
    """
    verifier = Verifier.parse(public_key_text.strip())
    refused = kept = kept_root = None
    if checkpoint_text is not None:
        try:
            kept = open_checkpoint(checkpoint_text, verifier)
        except Refused as error:
            refused = error
    frontier = Frontier()
    with opened(source) as history:
        try:
            for record in history.records:
                frontier = _next(frontier, record, history.records, verifier)
                if kept is not None and kept.size == frontier.size:
                    kept_root = frontier.root()
            if history.tree is not None:
                _compare_tree(frontier, *history.tree)
            if kept is not None:
                _compare_kept(frontier, kept, kept_root or merkle.EMPTY_ROOT)
        except AuditError as error:
            return Report(False, frontier.size, frontier.root().hex(), error.first_bad, error.code, str(error))
    if refused is not None:
        return Report(False, frontier.size, frontier.root().hex(), None, refused.code, f"checkpoint: {refused}")
    return Report(True, frontier.size, frontier.root().hex(), None, "")


def export(store: Store, file: IO[bytes]) -> int:
    """Write the committed log of a store as JSON lines; returns the number of entries."""
    with store.read() as connection:
        rows = connection.execute(select(_log.c.entry, _log.c.checkpoint).order_by(_log.c.idx))
        return write((Record(entry.encode(), note) for entry, note in rows), file)


def write(records: Iterable[Record], file: IO[bytes]) -> int:
    """Write records as JSON lines ``{"checkpoint": note, "entry": canonical JSON}``; returns their number.

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


@dataclass(frozen=True)
class Record:
    """One entry as it lies in a source, nothing about it checked.

    Attributes:
        entry: its bytes.
        note: its checkpoint.
        place: row number in the database; None in an export.
        leaf: stored leaf hash; None in an export.
        fault: "", or the code of why nothing could be read here.
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
        records: its records in their order, to be read once.
        tree: size and root of the tree that the database appends to; None in an export.
    """

    records: Iterator[Record]
    tree: tuple[int, bytes] | None


@contextmanager
def opened(source: Path) -> Iterator[History]:
    """Open a database, a folder that holds one, or an export, without changing it.

    Raises:
        InputError: there is nothing to read, or it is not a log (config.state).
    """
    path = source / FILE_NAME if source.is_dir() else source
    with ExitStack() as stack:
        try:
            history = _open(path, stack)
        except OSError as error:
            raise InputError("config.state", f"{path}: cannot be read: {error.strerror}") from error
        except sqlite3.DatabaseError as error:
            raise InputError("config.state", f"{path}: cannot be read as a log: {error}") from error
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
        raise InputError("config.state", f"{path}: expected a {FILE_NAME} or an export of the log")
    return History(_lines(file), None)


def _database(path: Path, uri: str, stack: ExitStack) -> History:
    connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True, isolation_level=None)))
    connection.text_factory = bytes  # what was edited need not be text
    connection.execute("BEGIN")  # one state of the log, even while a server appends to it
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID or version > USER_VERSION:
        raise InputError("config.state", f"{path}: expected a moonflower database of version {USER_VERSION}")
    size, nodes = connection.execute("SELECT size, nodes FROM log_tree").fetchone() or (0, b"")
    frontier = _unpack(size, nodes)
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
            value = parse_canonical(line.removesuffix(b"\n"))
        except ValueError:
            value = None
        if isinstance(value, dict) and value.keys() == {"entry", "checkpoint"}:
            entry, note = value["entry"], value["checkpoint"]
            if isinstance(entry, str) and isinstance(note, str):
                yield Record(entry.encode(errors="replace"), note)
                continue
        yield Record(b"", "", fault="audit.entry" if line.endswith(b"\n") else "audit.truncated")


def _next(frontier: Frontier, record: Record, later: Iterable[Record], verifier: Verifier) -> Frontier:
    """Return the frontier with this record's entry, after every check on it.

    Raises:
        AuditError: a check failed; ``later``, what follows, was read to tell a swap from a removal.
    """
    at = frontier.size
    if record.fault:
        raise AuditError(record.fault, f"entry {at} cannot be read", first_bad=at)
    if record.place is not None and record.place != at:
        raise _displaced(at, record.place, ())
    try:
        checkpoint = open_checkpoint(record.note, verifier)
    except Refused as error:
        raise AuditError(error.code, f"entry {at}: {error}", first_bad=at) from error
    if checkpoint.size != at + 1:
        raise _displaced(at, checkpoint.size - 1, (_size_in(other.note) - 1 for other in later))
    leaf = merkle.leaf_hash(record.entry)
    grown = frontier.append(leaf)
    index = _index_in(record.entry)
    if grown.root() != checkpoint.root:
        if index is None or index == at or _root_with_index(frontier, record.entry, at) == checkpoint.root:
            raise AuditError("audit.entry", f"entry {at} is not the one that was signed", first_bad=at)
        raise _displaced(at, index, (_index_in(other.entry) for other in later))
    if record.leaf is not None and record.leaf != leaf:
        raise AuditError("audit.entry", f"entry {at}: the stored hash is not that of the entry", first_bad=at)
    if index != at:
        raise AuditError("audit.order", f"entry {at} was signed with the index {index}", first_bad=at)
    return grown


def _displaced(at: int, found: int, later: Iterable[int | None]) -> AuditError:
    """Return the error of finding entry ``found`` at place ``at``; ``later``: what the next places hold."""
    code = "audit.order" if found < at or at in later else "audit.missing"
    return AuditError(code, f"expected entry {at}, found entry {found} in its place", first_bad=at)


def _compare_tree(frontier: Frontier, size: int, root: bytes) -> None:
    """Check that the database's own tree is the one over its entries."""
    if size > frontier.size:
        message = f"expected the {size} entries of the log's tree, got {frontier.size}"
        raise AuditError("audit.truncated", message, first_bad=frontier.size)
    if (size, root) != (frontier.size, frontier.root()):
        message = f"the log's tree of {size} entries is not the one over its {frontier.size} entries"
        raise AuditError("audit.fork", message, first_bad=size)


def _compare_kept(frontier: Frontier, kept: Checkpoint, found: bytes) -> None:
    """Check the log against a checkpoint that was kept elsewhere; ``found``: the log's root at its size.

    Of two trees of one size no entry can be named as the first to differ: the newest one under them is.
    """
    if kept.size > frontier.size:
        message = f"expected the {kept.size} entries of the checkpoint, got {frontier.size}"
        raise AuditError("audit.truncated", message, first_bad=frontier.size)
    if kept.root != found:
        message = f"the checkpoint of size {kept.size} has the root {kept.root.hex()}, the log has {found.hex()}"
        raise AuditError("audit.fork", message, first_bad=max(kept.size - 1, 0))


def _index_in(entry: bytes) -> int | None:
    """Return the index that an unchecked entry claims, or None."""
    try:
        value = parse_canonical(entry)
    except ValueError:
        return None
    index = value.get("index") if isinstance(value, dict) else None
    return index if type(index) is int else None


def _root_with_index(frontier: Frontier, entry: bytes, index: int) -> bytes:
    """Return the root if ``entry`` had this index: tells an edited index from a displaced entry."""
    return frontier.append(merkle.leaf_hash(canonical(parse_canonical(entry) | {"index": index}))).root()


def _size_in(note: str) -> int:
    """Return the size that an unchecked checkpoint claims, or 0."""
    size = note.split("\n", 2)[1:2]
    return int(size[0]) if size and len(size[0]) < 20 and size[0].isascii() and size[0].isdigit() else 0


def _unpack(size: object, nodes: object) -> Frontier | None:
    """Return the frontier that was stored as its size and its joined nodes, or None if it is none."""
    if type(size) is not int or size < 0 or not isinstance(nodes, bytes):
        return None
    if len(nodes) != merkle.HASH_BYTES * size.bit_count():
        return None
    starts = range(0, len(nodes), merkle.HASH_BYTES)
    return Frontier(size, tuple(nodes[at : at + merkle.HASH_BYTES] for at in starts))
