"""The rows that a node uses: a snapshot of its table, fixed for a run, that changes by enough rows or not at all.

If only one member changed its rows between two sums, the difference of the sums is that member's. If it changed a
single row, the difference is that row's. So training, validation and test rows are each replaced only by a set that
differs from *every* set of their kind that was in use before, by ``min_count`` rows or more, added and removed rows
together; or by one of these sets again. Otherwise the rows in use stay, and the state folder keeps them, whatever
happens to the table.

If the operator calls the table ``append_only``, only keyed hashes of it are kept. Rows that are not in use are not
trained with, and a row that is gone was deleted. Deleting a row at once leaves out ``min_count`` - 1 more rows of its
part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import InputError, Refused
from .kept_rows import keep_rows, kept_rows
from .learning.datasets import DatasetRows
from .learning.rows import Rows, Split
from .learning.splits import row_hashes
from .learning.spool import SpooledRows
from .ledger.row_sets import PARTS, RowSets
from .secret import NodeSecret

FOLDER = "snapshot"
Hashes = NDArray[np.uint64]


def apart(first: Hashes, second: Hashes) -> int:
    """Return by how many rows two sets differ, added and removed ones together, each as often as it occurs.

    Args:
        first, second: ``uint64[n, 2]``, a keyed hash per row.
    """
    both = np.concatenate([first, second])
    if not len(both):
        return 0
    sign = np.concatenate([np.ones(len(first), np.int64), -np.ones(len(second), np.int64)])
    order = np.lexsort((both[:, 1], both[:, 0]))
    both, sign = both[order], sign[order]
    starts = np.flatnonzero(np.concatenate([[True], (both[1:] != both[:-1]).any(axis=1)]))
    return int(np.abs(np.add.reduceat(sign, starts)).sum())


def may_replace(new: Hashes, before: Iterable[Hashes], least: int) -> bool:
    """Return whether a set may follow the sets before: it is one of them, or differs from each by ``least`` rows."""
    distances = [apart(new, earlier) for earlier in before]
    return 0 in distances or all(distance >= least for distance in distances)


def index_of(wanted: Hashes, rows: Hashes) -> NDArray[np.int64]:
    """Return which of ``rows`` are in ``wanted``, each as often as it occurs there; ascending."""
    both = np.concatenate([rows, wanted])
    if not len(both):
        return np.empty(0, dtype=np.int64)
    order = np.lexsort((both[:, 1], both[:, 0]))  # stable: of equal rows, those in ``rows`` come first
    in_order = both[order]
    starts = np.concatenate([[True], (in_order[1:] != in_order[:-1]).any(axis=1)])
    group, is_wanted = np.cumsum(starts) - 1, order >= len(rows)
    times = np.bincount(group, weights=is_wanted).astype(np.int64)
    rank = np.arange(len(order)) - np.flatnonzero(starts)[group]
    return np.sort(order[~is_wanted & (rank < times[group])])


def without(used: Hashes, table: Hashes, before: Iterable[Hashes], least: int) -> Hashes:
    """Return the rows in use that are still in the table, minus enough others that they may follow every set before.

    The rows with the smallest hashes are left out.

    Args:
        used: rows in use.
        table: rows of the same part in the table now.
        before: every set that was in use.
        least: rows by which sets have to differ.

    Raises:
        Refused: ``snapshot.small``: too few rows would be left.
    """
    kept, sets = used[index_of(table, used)], list(before)
    if len(kept) == len(used):
        return used
    kept = kept[np.lexsort((kept[:, 1], kept[:, 0]))]
    for more in range(least - 1, len(kept)):
        if may_replace(kept[more:], sets, least):
            return kept[more:]
    raise Refused("snapshot.small", "too few rows are left to leave out others together with the deleted ones")


def digest_of(hashes: Hashes) -> str:
    """Return the digest of a set of rows, whatever their order: SHA-256, 64 hex digits."""
    return hashlib.sha256(_in_order(hashes).data).hexdigest()


@dataclass(frozen=True)
class PartState:
    """One part of a snapshot, as its operator sees it.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        in_use: rows of the snapshot.
        table: rows of the same part in the table now.
        changed: rows by which they differ.
        least: rows by which a new set has to differ.
        gone: rows in use that are no longer in the table.
        beyond: rows in the table that do not count because they exceed ``max_rows``.
    """

    name: str
    in_use: int
    table: int
    changed: int
    least: int
    gone: int
    beyond: int


def compare(used: Mapping[str, Hashes], table: Split, secret: NodeSecret, least: int, most: int = 0) -> list[PartState]:
    """Return how the rows in use, by part, differ from a table; ``most``: training rows that count, 0 for all."""
    states = []
    for name, before in used.items():
        now = row_hashes(getattr(table, name), secret, "snapshot")
        gone = len(before) - len(index_of(now, before))
        counted = _counted(name, now, most)
        beyond = len(now) - len(counted)
        states.append(PartState(name, len(before), len(now), apart(counted, before), least, gone, beyond))
    return states


def hashes_of(data: bytes) -> Hashes:
    """Return keyed hashes as a ledger keeps them, ``uint64[n, 2]``."""
    return np.frombuffer(data, "<u8").astype(np.uint64).reshape(-1, 2)


class Snapshots:
    """The snapshots of a node.

    Args:
        used: the sets that were in use, as keyed hashes, and the sets of each run.
        folder: of the rows in use; made (0700) when there is something to keep.
        secret: the node's own, under which rows are hashed.
        least: ``min_count``: rows by which a new set has to differ.
        most: ``max_rows``: how many training rows count, the first of the table; 0 for all.
        append_only: keep no rows, because the table still has them.
        let_go: deletes what was sealed and not answered, because it holds rows that are deleted.
    """

    def __init__(
        self,
        used: RowSets,
        folder: Path,
        secret: NodeSecret,
        *,
        least: int,
        append_only: bool,
        let_go: Callable[[], None],
        most: int = 0,
    ) -> None:
        self._used, self._folder, self._secret = used, folder, secret
        self._least, self._most, self._append_only, self._let_go = least, most, append_only, let_go

    def of_run(self, run: str, table: Split) -> Split:
        """Return the rows that a run uses: its earlier rows, the table's rows if they are allowed, or other rows.

        Raises:
            Refused: ``snapshot.lost``: the rows in use are neither in the state folder nor in the table;
                ``snapshot.small``.
        """
        if self._append_only:
            self.delete_gone(table)
        known, wanted, rows = self._used.of_run(run), dict[str, Hashes](), dict[str, Rows]()
        for name, part, hashes in self._parts(table):
            sets = self._sets(name)
            wanted[name] = sets[known[name]] if known else self._choose(name, hashes, sets)
            rows[name] = self._rows(name, wanted[name], part, hashes)
        if not self._append_only:
            self._check_small(rows["train"])
            for name in PARTS:
                self._keep(name, digest_of(wanted[name]), rows[name])
        if known is None:
            self._used.keep(run, {name: (digest_of(chosen), _bytes(chosen)) for name, chosen in wanted.items()})
        self._sweep()
        return Split(**rows)

    def states(self, table: Split) -> list[PartState]:
        """Return how the rows in use differ from the table; empty if no run has used rows yet."""
        used = self._used.newest() or {}
        return compare(
            {name: self._sets(name)[digest] for name, digest in used.items()},
            table,
            self._secret,
            self._least,
            self._most,
        )

    def delete_gone(self, table: Split) -> list[str]:
        """Drop the rows in use that are gone from the table, and ``min_count`` - 1 others of each such part.

        Returns:
            The parts that changed.

        Raises:
            Refused: ``snapshot.small``.
        """
        used, changed = self._used.newest(), dict[str, tuple[str, bytes]]()
        for name, part, now in self._parts(table) if used else ():
            assert used is not None
            sets = self._sets(name)
            left = without(sets[used[name]], now, sets.values(), self._least)
            if left is sets[used[name]]:
                continue
            changed[name] = digest_of(left), _bytes(left)
            if not self._append_only:
                self._keep(name, digest_of(left), part.take(index_of(left, now)))
        if changed:
            self._let_go()
            self._used.replace(changed)
            self._sweep()
        return list(changed)

    def _parts(self, table: Split) -> Iterator[tuple[str, Rows, Hashes]]:
        for name in PARTS:
            part: Rows = getattr(table, name)
            yield name, part, row_hashes(part, self._secret, "snapshot")

    def _sets(self, name: str) -> dict[str, Hashes]:
        """Return every set that was in use, by its digest."""
        return {digest: hashes_of(data) for digest, data in self._used.of_part(name).items()}

    def _choose(self, name: str, table: Hashes, sets: Mapping[str, Hashes]) -> Hashes:
        """Return the set that a new run uses.

        Raises:
            Refused: ``snapshot.small``: the set in use has more rows than count now, and a smaller set cannot differ
                enough.
        """
        used, counted = self._used.newest(), _counted(name, table, self._most)
        if used is None or may_replace(counted, sets.values(), self._least):
            return counted
        before = sets[used[name]]
        if len(_counted(name, before, self._most)) == len(before):
            return before
        for count in range(len(counted) - 1, 0, -1):
            if may_replace(counted[:count], sets.values(), self._least):
                return counted[:count]
        raise Refused("snapshot.small", "too few rows are left to leave out others together with those above max_rows")

    def _rows(self, name: str, wanted: Hashes, table: Rows, hashes: Hashes) -> Rows:
        """Return the rows of a set, from the table or from the state folder."""
        if wanted is hashes or (digest := digest_of(wanted)) == digest_of(hashes):
            return table
        kept = kept_rows(self._folder / f"{name}-{digest}")
        if kept is not None and digest_of(row_hashes(kept, self._secret, "snapshot")) == digest:
            return kept
        taken = table.take(index_of(wanted, hashes))
        if len(taken) != len(wanted):
            raise Refused("snapshot.lost", f"the {name} rows in use are neither in the state folder nor in the table")
        return taken

    def _check_small(self, rows: Rows) -> None:
        """Check that rows may be copied.

        Raises:
            InputError: ``data.value``: they are those of a dataset.
        """
        if isinstance(rows, DatasetRows) and not isinstance(rows, SpooledRows):
            raise InputError(
                "data.value",
                "the rows of a dataset are not copied, so they must not change; expected append_only = true under "
                "[data] of client.toml",
            )

    def _keep(self, name: str, digest: str, rows: Rows) -> None:
        place = self._folder / f"{name}-{digest}"
        if not place.exists():
            files.make_folder(self._folder, 0o700)
            keep_rows(place, rows)

    def _sweep(self) -> None:
        """Delete rows that are no longer in use."""
        used = self._used.newest() or {}
        needed = {f"{name}-{digest}" for name, digest in used.items()}
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if path.name not in needed:
                files.remove(path)


def _counted(name: str, table: Hashes, most: int) -> Hashes:
    """Return the rows of a part that count, the first of a table's."""
    return table[:most] if most and name == "train" else table


def _bytes(hashes: Hashes) -> bytes:
    return _in_order(hashes).tobytes()


def _in_order(hashes: Hashes) -> Hashes:
    return hashes[np.lexsort((hashes[:, 1], hashes[:, 0]))].astype("<u8", copy=False)
