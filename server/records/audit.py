"""The audit log: append-only, every entry under a signed Merkle checkpoint.

Rules of the log:
1. An entry is appended inside the transaction that makes the change it records: both commit, or neither.
2. An entry is canonical JSON; its hash is leaf number ``index`` of the tree, and a checkpoint of the tree
   with ``index`` + 1 leaves, signed by the log's key, is stored beside it.
3. The tree's frontier lives in the database, never in memory alone, and is used only if the newest stored
   checkpoint signs it: several processes may append, and a database that was edited is not signed onwards.

``verify.py`` has the rules of looking at it offline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import CheckConstraint, Column, Connection, Integer, LargeBinary, Table, Text, insert, select

from ...canonical import canonical
from ...crypto import merkle
from ...crypto.merkle import Frontier
from ...crypto.note import Checkpoint, Signer, open_checkpoint, sign_checkpoint
from ...errors import AuditError, InputError, Refused, nearest
from .source import Record, unpack, write
from .store import Store, metadata

EVENTS = {
    "run_began": "a run was submitted and accepted; details: its settings",
    "run_resumed": "the coordinator's process was started again; details: rounds so far",
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

    def after(self, index: int, limit: int, *, run: str = "") -> list[dict[str, Any]]:
        """Return at most ``limit`` entries behind ``index``, oldest first; only those about ``run``, if it is given."""
        query = select(_log.c.idx, _log.c.entry).order_by(_log.c.idx).limit(_PAGE)
        found: list[dict[str, Any]] = []
        with self._store.read() as connection:
            while len(found) < limit:
                rows = connection.execute(query.where(_log.c.idx > index)).all()
                if not rows:
                    break
                index = rows[-1].idx
                found += [entry for _, text in rows if run in ("", (entry := json.loads(text)).get("run"))]
        return found[:limit]

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
        frontier = unpack(size, nodes)
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


def export(store: Store, file: IO[bytes]) -> int:
    """Write the committed log of a store as JSON lines; returns the number of entries."""
    with store.read() as connection:
        rows = connection.execute(select(_log.c.entry, _log.c.checkpoint).order_by(_log.c.idx))
        return write((Record(entry.encode(), note) for entry, note in rows), file)
