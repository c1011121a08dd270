"""Checking a whole log offline.

Rules:
1. Only what the log's key signed is trusted. A row's place is attested three times: by its row number, by the entry's
   own index, and by the size in its checkpoint. Its content is attested once, by the root there.
2. The checks run from the first entry on, so the first that fails is the first that was changed.
3. A cut-off tail, entries with their checkpoints, is found only with a checkpoint that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...canonical import canonical, parse_stored
from ...crypto import merkle
from ...crypto.merkle import Frontier
from ...crypto.note import Checkpoint, Verifier, open_checkpoint
from ...errors import AuditError, Refused
from .source import Record, opened


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


def verify(
    source: Path, public_key_text: str, checkpoint_text: str | None = None, witnesses: Mapping[str, str] | None = None
) -> Report:
    """Check a whole log offline, entry by entry, without changing the source.

    Args:
        source: a ``moonflower.db``, a folder that holds one, or an export.
        public_key_text: the content of ``log.pub``.
        checkpoint_text: a signed checkpoint that was kept elsewhere. It reveals a cut-off tail
            (audit.truncated), and a history that the key's owner rewrote (audit.fork).
        witnesses: more such checkpoints, for example the members' own, by their name in the report.

    Raises:
        InputError: not a key, or not a log (``config.key``, ``config.state``).
    """
    verifier = Verifier.parse(public_key_text.strip())
    texts = {**({} if checkpoint_text is None else {"checkpoint": checkpoint_text}), **(witnesses or {})}
    kept: dict[str, Checkpoint] = {}
    refused: dict[str, Refused] = {}
    for name, text in texts.items():
        try:
            kept[name] = open_checkpoint(text, verifier)
        except Refused as error:
            refused[name] = error
    roots = dict.fromkeys((checkpoint.size for checkpoint in kept.values()), merkle.EMPTY_ROOT)
    frontier = Frontier()
    with opened(source) as history:
        try:
            for record in history.records:
                frontier = _next(frontier, record, history.records, verifier)
                if frontier.size in roots:
                    roots[frontier.size] = frontier.root()
            if history.tree is not None:
                _compare_tree(frontier, *history.tree)
            for name, checkpoint in kept.items():
                _compare_kept(frontier, name, checkpoint, roots[checkpoint.size])
        except AuditError as error:
            return Report(False, frontier.size, frontier.root().hex(), error.first_bad, error.code, str(error))
    for name, why in refused.items():
        return Report(False, frontier.size, frontier.root().hex(), None, why.code, f"{name}: {why}")
    return Report(True, frontier.size, frontier.root().hex(), None, "")


def _next(frontier: Frontier, record: Record, later: Iterable[Record], verifier: Verifier) -> Frontier:
    """Return the frontier after this record's entry, which is checked first.

    Raises:
        AuditError: a check failed. ``later``, the records after it, was read to tell a swap from a removal.
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
        raise AuditError("audit.entry", f"entry {at}: the stored hash does not match the entry", first_bad=at)
    if index != at:
        raise AuditError("audit.order", f"entry {at} was signed with the index {index}", first_bad=at)
    return grown


def _displaced(at: int, found: int, later: Iterable[int | None]) -> AuditError:
    """Return the error for entry ``found`` at place ``at``; ``later``: the entries at the next places."""
    code = "audit.order" if found < at or at in later else "audit.missing"
    return AuditError(code, f"expected entry {at}, found entry {found} in its place", first_bad=at)


def _compare_tree(frontier: Frontier, size: int, root: bytes) -> None:
    """Check that the database's own tree matches its entries."""
    if size > frontier.size:
        message = f"expected {size} entries, as in the log's tree; got {frontier.size}"
        raise AuditError("audit.truncated", message, first_bad=frontier.size)
    if (size, root) != (frontier.size, frontier.root()):
        message = f"the log's tree of {size} entries does not match its {frontier.size} entries"
        raise AuditError("audit.fork", message, first_bad=size)


def _compare_kept(frontier: Frontier, name: str, kept: Checkpoint, root: bytes) -> None:
    """Check the log against a checkpoint that was kept elsewhere; ``root``: the log's root at its size.

    If two trees of one size differ, nobody can say which entry differs first. The newest one under them is named.
    """
    if kept.size > frontier.size:
        message = f"expected {kept.size} entries or more, as in the {name}; got {frontier.size}"
        raise AuditError("audit.truncated", message, first_bad=frontier.size)
    if kept.root != root:
        message = f"the {name} of size {kept.size} has the root {kept.root.hex()}, the log has {root.hex()}"
        raise AuditError("audit.fork", message, first_bad=max(kept.size - 1, 0))


def _index_in(entry: bytes) -> int | None:
    """Return the index that an unchecked entry claims, or None."""
    try:
        value = parse_stored(entry)
    except ValueError:
        return None
    index = value.get("index") if isinstance(value, dict) else None
    return index if type(index) is int else None


def _root_with_index(frontier: Frontier, entry: bytes, index: int) -> bytes:
    """Return the root as if ``entry`` had this index; tells an edited index from a displaced entry."""
    return frontier.append(merkle.leaf_hash(canonical(parse_stored(entry) | {"index": index}))).root()


def _size_in(note: str) -> int:
    """Return the size that an unchecked checkpoint claims, or 0."""
    size = note.split("\n", 2)[1:2]
    return int(size[0]) if size and len(size[0]) < 20 and size[0].isascii() and size[0].isdigit() else 0
