"""Rows beside memory: inputs in a file that only this process can open, and that is gone when the process is.

Rows are read by number, in the order of the file, a window at a time, and the pages of a window are given back. So what
stays in memory does not grow with the table. The numbers are the same to the bit as in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError
from .datasets import CHUNK_BYTES, DatasetRows, Prepare
from .rows import Rows

SPOOL_BYTES = 1 << 28
"""Bytes of a table's inputs that are held in memory; more are read from a file."""
WINDOW_BYTES = 1 << 25
_PLACE: ContextVar[Path | None] = ContextVar("place of spools", default=None)


@contextlib.contextmanager
def spools_in(folder: Path) -> Iterator[None]:
    """Put the files of rows into ``folder``, not into the system's folder for temporary files."""
    before = _PLACE.set(folder if folder.is_dir() else None)
    try:
        yield
    finally:
        _PLACE.reset(before)


class Spool:
    """Inputs in a file, read by row number.

    Args:
        file: open for reading; it may be closed and deleted afterwards.
        start: byte at which the first row begins.
        rows: number of them.
        shape: of a row.
        dtype: of a number.
    """

    def __init__(self, file: IO[bytes], start: int, rows: int, shape: Sequence[int], dtype: np.dtype) -> None:
        self._start, self._shape = start, tuple(shape)
        self.row_bytes = int(np.prod(self._shape, dtype=np.int64)) * dtype.itemsize
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cells = np.frombuffer(self._map, dtype, rows * self.row_bytes // dtype.itemsize, start)
        self._cells = cells.reshape(rows, *self._shape)

    def __len__(self) -> int:
        return len(self._cells)

    def read(self, index: NDArray[np.int64]) -> Tensor:
        """Return the rows with these numbers, in this order."""
        out = np.empty((len(index), *self._shape), dtype=self._cells.dtype)
        order = np.argsort(index, kind="stable")
        sorted_ = index[order]
        windows = sorted_ // max(1, WINDOW_BYTES // max(self.row_bytes, 1))
        edges = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(index)]
        for first, last in itertools.pairwise(edges):
            if first < last:
                out[order[first:last]] = self._cells[sorted_[first:last]]
                self._give_back(int(sorted_[first]), int(sorted_[last - 1]) + 1)
        return torch.from_numpy(out)

    def _give_back(self, first: int, last: int) -> None:
        """Take the pages of rows out of this process's memory; the system may keep them as it likes."""
        if hasattr(mmap, "MADV_DONTNEED"):
            page = mmap.PAGESIZE
            start = (self._start + first * self.row_bytes) // page * page
            self._map.madvise(mmap.MADV_DONTNEED, start, self._start + last * self.row_bytes - start)


class SpoolWriter:
    """Writes inputs into a file, as they are read."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=_PLACE.get())  # noqa: SIM115 - it lives as long as the rows
        self._rows = 0
        self._shape: tuple[int, ...] | None = None
        self._dtype = np.dtype(np.float64)

    def add(self, inputs: Tensor) -> None:
        """Add rows, ``[n, …]``, all of one shape and type.

        Raises:
            InputError: ``data.file``: the file cannot be written; ``data.value``: another shape or type.
        """
        cells = np.ascontiguousarray(inputs.numpy())
        if self._shape is None:
            self._shape, self._dtype = cells.shape[1:], cells.dtype
        if (cells.shape[1:], cells.dtype) != (self._shape, self._dtype):
            raise InputError("data.value", "the task's inputs change their shape or type within the table")
        try:
            self._file.write(cells.reshape(-1).view(np.uint8).data)
        except OSError as error:
            where = _PLACE.get() or tempfile.gettempdir()
            raise InputError(
                "data.file",
                f"the table is too large for memory and cannot be copied to {where}: {error.strerror}; expected room",
            ) from None
        self._rows += len(cells)

    def finish(self) -> Spool:
        """Return the rows that were added, one or more."""
        self._file.flush()
        made = Spool(self._file, 0, self._rows, self._shape or (), self._dtype)
        self.close()
        return made

    def close(self) -> None:
        """Let go of the file; a spool that was made of it keeps it."""
        self._file.close()


class SpooledRows(DatasetRows):
    """Rows whose inputs are in a :class:`Spool`.

    Args:
        spool: of all rows.
        targets: of the rows that ``index`` names, ``[n, …]``.
        index: of these rows in the spool, ``int64[n]``.
        groups: as in :class:`Rows`.
        prepare: what turns rows that were read into what the model takes.
    """

    def __init__(
        self,
        spool: Spool,
        targets: Tensor,
        index: NDArray[np.int64],
        groups: Mapping[str, NDArray[np.object_]] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        super().__init__(spool, targets, index, groups, prepare)  # type: ignore[arg-type]

    @property
    def spool(self) -> Spool:
        """Where the inputs are."""
        spool: Spool = self.dataset  # type: ignore[assignment]
        return spool

    def most(self, asked: int) -> int:
        """Return how many rows are trained with at once: as many as asked for, or else what fits memory safely."""
        return asked or max(1, CHUNK_BYTES // max(self.row_bytes(), 1))

    def row_bytes(self) -> int:
        """Return the bytes of one row's inputs, as read or prepared, whatever is more."""
        return max(super().row_bytes(), self.spool.row_bytes)

    def _read(self, positions: Sequence[int]) -> Rows:
        chosen = np.asarray(positions, dtype=np.int64)
        rows = Rows(self.spool.read(self.index[chosen]), self.targets[torch.from_numpy(chosen)])
        return rows if self._prepare is None else self._prepare(rows)
