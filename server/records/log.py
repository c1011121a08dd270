"""The audit log: append-only, with every entry under a signed Merkle checkpoint.

Rules of the log:
1. An entry is appended inside the transaction that makes the change it records. Both commit, or neither does.
2. An entry is canonical JSON; its hash is leaf number ``index`` of the tree, and a checkpoint of the tree
   with ``index`` + 1 leaves, signed by the log's key, is stored beside it.
3. The tree's frontier lives in the database, never in memory alone, and is used only if the newest stored
   checkpoint signs it. So several processes may append, and nothing is signed on top of an edited database.
4. Proofs come from a tree in memory. It is a cache of the stored leaf hashes and never a source of truth: it gives
   proofs only for stored checkpoints whose signed root it has.

``verify.py`` has the rules of offline checks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    insert,
    select,
    type_coerce,
)
from sqlalchemy.types import NullType

from ...canonical import canonical
from ...crypto import merkle
from ...crypto.merkle import Frontier, Tree
from ...crypto.note import Checkpoint, Signer, Verifier, open_checkpoint, sign_checkpoint
from ...errors import AuditError, Refused, nearest
from .database import CoordinatorStore, metadata
from .source import Record, unpack, write

EVENTS = {
    "run_asked": "a run was submitted and waits; details: who submitted it, by name or pseudonym",
    "stop_asked": "a run's stop was asked for; details: by whom, by name or pseudonym",
    "access_denied": "a client or a person was shut out of the server; details: who, by name or pseudonym, and why",
    "access_allowed": "a client or a person that was shut out may come in again; details: who",
    "run_began": "a run was submitted and accepted; details: its settings",
    "run_resumed": "the coordinator's process was started again; details: rounds so far",
    "run_ended": "a run is over; code: why, if not by its plan",
    "enrolled": "a member's card, scopes and parameter digests were accepted",
    "refused_member": "a member was not let in",
    "member_added": "a member was added to the roster",
    "member_revoked": "a member was revoked",
    "circle_proposed": "a circle waits for signatures; details: the document, and what it changes, in words",
    "circle_signed": "a member signed a circle; details: its digest, the signature and the key",
    "circle_began": "all members signed: this circle carries the runs from now on",
    "farewell": "a member leaves a circle, by its own signature; others may begin the next one without it at once",
    "card_taken": "an operator entered a member's card; details: the card, with the keys of witness and approvers",
    "seats_taken": "every member takes part in the run, and signed which key of the circle it holds",
    "statistics_opened": "the sealed counts and moments of all members' rows were opened",
    "round_began": "a round was announced on a proved base",
    "envelope_accepted": "a member's sealed update joined the running sum",
    "envelope_refused": "a member's envelope was refused; code: why",
    "set_closed": "the list is fixed: one envelope of every member, and the sealed total",
    "answered": "a member answered the list and the total",
    "answer_refused": "a member did not answer; code: why",
    "waited_for": "a run waits for a member that is away; details: at which step, since when, and what keeps it",
    "came_back": "a member that a run waited for has answered; details: since when, and how often its node came back",
    "opened": "all members signed the same result",
    "opening_refused": "a member did not open; code: why",
    "judged": "the gate's votes were counted",
    "promoted": "the candidate is the new last good model",
    "kept": "the candidate is the next base, no better than the last good model",
    "refused": "the candidate was refused; the last good model stays",
    "failed": "a round ended without a candidate",
    "tallies_opened": "the federation's display metrics were opened",
    "sum_opened": "a sum of a further purpose was opened; metrics: what follows from it",
    "warned": "something that a person should look at; it stopped nothing",
    "approved": "an approver signed for the release of a model version, or for going back to one",
    "rejected": "an approver rejected a model version: it can never be released",
    "released": "a model version is the one to use; details: the approvals that made it so",
    "rolled_back": "a version that was released before is the one to use again; details: the approvals",
    "imported": "a model file from outside, for a circle to start from; details: its SHA-256 and identity",
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
_RAW_LEAF = type_coerce(_log.c.leaf, NullType())  # as stored: after an edit it need not be bytes
_LEAVES = (
    select(_log.c.idx, _RAW_LEAF)
    .where(_log.c.idx >= bindparam("known"), _log.c.idx < bindparam("size"))
    .order_by(_log.c.idx)
)
_CHECKPOINT = select(_log.c.checkpoint).where(_log.c.idx == bindparam("idx"))
_INSERT = insert(_log)
_GROW = insert(_tree).prefix_with("OR REPLACE")


@dataclass(frozen=True)
class GrowthProof:
    """Merkle hashes up to the root in ``checkpoint``: see ``merkle.verify_inclusion`` and ``verify_consistency``."""

    checkpoint: Checkpoint
    hashes: tuple[bytes, ...]


class Log:
    """The log of a store, for the coordinator's processes; thread-safe.

    Args:
        store: where the entries are.
        signer: the log's key; its name is the log's origin.
        clock: seconds since 1970, UTC.
        listeners: called in order with each entry, as a dict, once its transaction is committed.
    """

    def __init__(
        self,
        store: CoordinatorStore,
        signer: Signer,
        clock: Callable[[], float],
        listeners: Iterable[Callable[[dict[str, Any]], None]] = (),
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._listeners = tuple(listeners)
        self._signed: Checkpoint | None = None  # spares a check of our own signature; never a source of truth
        self._tree = Tree()  # rule 4
        self._tree_turn = threading.Lock()  # taken inside a read, never around one: the store has locks, too

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
            run, number, member, code: what it is about; left out of the entry when empty.
            details: JSON values; never a secret, and of a member's data never more than codes.

        Raises:
            ValueError: the event is unknown, a number is not finite, or the entry is larger than a mebibyte.
            TypeError: a detail has no JSON form.
            RuntimeError: ``connection`` is not in a transaction of the store.
            AuditError: the stored log was edited or is signed by another key; nothing was appended.
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
        """Return at most ``limit`` entries after ``index``, oldest first; only those about ``run``, if it is given."""
        query = select(_log.c.idx, _log.c.entry).order_by(_log.c.idx).limit(_PAGE)
        entries: list[dict[str, Any]] = []
        with self._store.read() as connection:
            while len(entries) < limit:
                rows = connection.execute(query.where(_log.c.idx > index)).all()
                if not rows:
                    break
                index = rows[-1].idx
                entries += [entry for _, text in rows if run in ("", (entry := json.loads(text)).get("run"))]
        return entries[:limit]

    def before(
        self, index: int, limit: int, *, event: str = "", run: str = "", member: str = ""
    ) -> list[dict[str, Any]]:
        """Return at most ``limit`` entries before ``index``, newest first; only those that match what is given."""
        query = select(_log.c.idx, _log.c.entry).order_by(_log.c.idx.desc()).limit(_PAGE)
        wanted = {"event": event, "run": run, "member": member}
        entries: list[dict[str, Any]] = []
        with self._store.read() as connection:
            while len(entries) < limit:
                rows = connection.execute(query.where(_log.c.idx < index)).all()
                if not rows:
                    break
                index = rows[-1].idx
                for _, text in rows:
                    entry = json.loads(text)
                    if all(value in ("", entry.get(name)) for name, value in wanted.items()):
                        entries.append(entry)
        return entries[:limit]

    def raw(self, index: int) -> str:
        """Return an entry's bytes as text: canonical JSON, which is ASCII.

        Raises:
            ValueError: there is no such entry.
        """
        with self._store.read() as connection:
            text = connection.execute(select(_log.c.entry).where(_log.c.idx == index)).scalar_one_or_none()
        if text is None:
            raise ValueError(f"there is no entry {index}")
        return str(text)

    @property
    def verifier(self) -> Verifier:
        """The public half of the log's key."""
        return self._signer.verifier

    def checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint, or None while the log is empty.

        Raises:
            AuditError: the stored log was edited or is another key's.
        """
        with self._store.read() as connection:
            return self._newest(connection)[1]

    def at(self, size: int) -> Checkpoint:
        """Return the stored checkpoint from when the log had ``size`` entries. Every entry has one.

        Raises:
            ValueError: the log never had that size, or it is 0, for which there is no checkpoint.
            AuditError: the stored log was edited or is another key's.
        """
        with self._store.read() as connection:
            return self._at(connection, self._newest(connection)[1], size)

    def inclusion(self, index: int, size: int | None = None) -> GrowthProof:
        """Return the proof that entry ``index`` is under the checkpoint of ``size``, else under the newest.

        Costs O(log^2 n), and once O(1) for each entry that was appended since the last proof.

        Raises:
            ValueError: there is no such entry or no checkpoint of that size.
            AuditError: the stored log was edited or is another key's.
        """
        return self._prove(size, lambda tree, under: tree.inclusion(index, under))

    def consistency(self, old_size: int, size: int | None = None) -> GrowthProof:
        """Return the proof that the checkpoint of ``size``, else the newest, only appends to that of ``old_size``.

        Costs as :meth:`inclusion`.

        Raises:
            ValueError: the log never had such a size, or ``old_size`` is the larger one.
            AuditError: the stored log was edited or is another key's.
        """
        return self._prove(size, lambda tree, under: tree.consistency(old_size, under))

    def _prove(self, size: int | None, proof: Callable[[Tree, int], list[bytes]]) -> GrowthProof:
        with self._store.read() as connection:
            newest = self._newest(connection)[1]
            if newest is None:
                raise ValueError("the log is empty")
            checkpoint = newest if size is None else self._at(connection, newest, size)
            with self._tree_turn:
                tree = self._tree_under(connection, newest)
                if tree.root(checkpoint.size) != checkpoint.root:
                    message = f"the stored checkpoint of {checkpoint.size} entries is not in the log of {newest.size}"
                    raise AuditError("audit.fork", message, first_bad=checkpoint.size - 1)
                return GrowthProof(checkpoint, tuple(proof(tree, checkpoint.size)))

    def _tree_under(self, connection: Connection, newest: Checkpoint) -> Tree:
        """Return the tree in memory with every leaf under ``newest``, after checking it against the signed root.

        It may hold more, from another thread that read a later state. If it disagrees, another process may have
        replaced the database that it was read from, so it is read once more from the beginning.
        """
        for tree in (self._tree, Tree()):
            self._tree = tree
            self._read_leaves(connection, tree, newest.size)
            if tree.size >= newest.size and tree.root(newest.size) == newest.root:
                return tree
        self._tree = Tree()
        message = f"the stored hashes of {newest.size} entries do not lead to the signed root"
        raise AuditError("audit.fork", message, first_bad=min(tree.size, newest.size - 1))

    def _read_leaves(self, connection: Connection, tree: Tree, size: int) -> None:
        """Read what ``tree`` lacks of the first ``size`` leaves, up to the first that is missing or is not a hash."""
        known = tree.size
        for index, leaf in connection.execute(_LEAVES, {"known": known, "size": size}):
            if index != tree.size or not isinstance(leaf, bytes) or len(leaf) != merkle.HASH_BYTES:
                return
            tree.append(leaf)

    def _at(self, connection: Connection, newest: Checkpoint | None, size: int) -> Checkpoint:
        """Return the stored checkpoint of ``size``, after checking that our key signed it."""
        if newest is None or not 1 <= size <= newest.size:
            raise ValueError(f"expected a size from 1 to {newest.size if newest else 0}, got {size}")
        if size == newest.size:
            return newest
        last = size - 1
        note = connection.execute(_CHECKPOINT, {"idx": last}).scalar_one_or_none()
        if note is None:
            raise AuditError("audit.missing", f"expected entry {last}, found none in its place", first_bad=last)
        checkpoint = self._open(note, last)
        if checkpoint.size != size:
            message = f"expected the checkpoint of {size} entries, found that of {checkpoint.size} in its place"
            raise AuditError("audit.order", message, first_bad=last)
        return checkpoint

    def _tell(self, entry: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener(entry)

    def _frontier(self, connection: Connection) -> Frontier:
        return self._newest(connection)[0]

    def _newest(self, connection: Connection) -> tuple[Frontier, Checkpoint | None]:
        """Return the stored frontier and the newest checkpoint, after checking that the one signs the other."""
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
            signed = self._open(note, last)
        frontier = unpack(size, nodes)
        if frontier is None or (signed.size, signed.root) != (size, frontier.root()):
            raise AuditError("audit.fork", f"the stored tree of {size} entries is not the signed one", first_bad=last)
        return frontier, signed

    def _open(self, note: str, index: int) -> Checkpoint:
        """Return the checkpoint stored beside entry ``index``, after checking that our key signed it."""
        try:
            return open_checkpoint(note, self._signer.verifier)
        except Refused as error:
            raise AuditError(error.code, f"entry {index}: {error}", first_bad=index) from error


def export(store: CoordinatorStore, file: IO[bytes]) -> int:
    """Write the committed log of a store as JSON lines; returns the number of entries."""
    with store.read() as connection:
        rows = connection.execute(select(_log.c.entry, _log.c.checkpoint).order_by(_log.c.idx))
        return write((Record(entry.encode(), note) for entry, note in rows), file)
