"""Rows that are read when they are used: a dataset of ``torch.utils.data``, larger than memory.

The dataset gives an (input, target) pair for each index, and its length. Everything that needs rows reads them chunk by
chunk. Only the targets are held. Every pass over the rows reads the dataset anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from ...errors import InputError
from .rows import Rows

CHUNK_BYTES = 1 << 26
"""Bytes of inputs that are read at once, at most, where nobody asks for fewer rows."""
Prepare = Callable[[Rows], Rows]
"""Turns raw rows into what a model takes."""


class DatasetRows(Rows):
    """Rows of a dataset.

    Args:
        dataset: gives (input, target) by index.
        targets: of the rows that ``index`` names, ``[n, …]``.
        index: of these rows in the dataset, ``int64[n]``.
        groups: as in :class:`Rows`.
        prepare: what turns rows that were read into what the model takes.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        targets: Tensor,
        index: NDArray[np.int64],
        groups: Mapping[str, NDArray[np.object_]] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        for name, value in {"targets": targets, "groups": groups or {}, "dataset": dataset, "index": index}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_prepare", prepare)

    dataset: Dataset[Any]
    index: NDArray[np.int64]
    _prepare: Prepare | None

    def __getattr__(self, name: str) -> Any:
        if name == "inputs":
            raise TypeError("rows of a dataset are not in memory as a whole; read them with chunks()")
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        """Return input and target of a row, prepared."""
        row = self._read([at])
        return row.inputs[0], row.targets[0]

    def __getitems__(self, index: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several rows at once."""
        rows = self._read(index)
        return list(zip(rows.inputs, rows.targets, strict=True))

    def chunks(self, most: int) -> Iterator[Rows]:
        """Yield all rows in order, at most ``most`` and ``CHUNK_BYTES`` at a time, in memory."""
        step = max(1, min(most, CHUNK_BYTES // max(self.row_bytes(), 1)))
        for start in range(0, len(self), step):
            yield self._read(range(start, min(start + step, len(self))))

    def row_bytes(self) -> int:
        """Return the bytes of one row's inputs, prepared; 1 if there is no row."""
        return self._read([0]).inputs.nbytes if len(self) else 1

    def loaded(self) -> Rows:
        """Return the rows in memory."""
        return self._read(range(len(self)))

    def ready(self, prepare: Prepare) -> DatasetRows:
        """Return the same rows, prepared when they are read."""
        return type(self)(self.dataset, self.targets, self.index, None, prepare)

    def take(self, index: NDArray[np.int64] | Tensor) -> DatasetRows:
        """Return the rows at ``index``, in its order; nothing is read."""
        chosen = np.asarray(index)
        groups = {name: values[chosen] for name, values in self.groups.items()}
        return type(self)(
            self.dataset, self.targets[torch.as_tensor(chosen)], self.index[chosen], groups, self._prepare
        )

    def joined(self, others: Sequence[DatasetRows]) -> DatasetRows:
        """Return these rows and others of the same dataset."""
        parts = [self, *others]
        groups = {
            name: np.concatenate([part.groups[name] for part in parts])
            for name in self.groups
            if all(name in part.groups for part in parts)
        }
        targets = torch.cat([part.targets for part in parts])
        index = np.concatenate([part.index for part in parts])
        return type(self)(self.dataset, targets, index, groups, self._prepare)

    @property
    def digested(self) -> bool:
        """Whether the dataset has ``row_digest(index) -> bytes``, which tells rows apart without reading them."""
        return hasattr(self.dataset, "row_digest")

    def digests(self) -> list[bytes]:
        """Return the dataset's digest of each row, in order."""
        digest: Any = getattr(self.dataset, "row_digest")  # noqa: B009
        return [bytes(digest(int(at))) for at in self.index]

    def _read(self, positions: Sequence[int]) -> Rows:
        chosen = [int(self.index[at]) for at in positions]
        several = getattr(self.dataset, "__getitems__", None)
        pairs = several(chosen) if several is not None else [self.dataset[at] for at in chosen]
        inputs, targets = default_collate([tuple(pair) for pair in pairs])
        rows = Rows(inputs, targets)
        return rows if self._prepare is None else self._prepare(rows)


def rows_of(data: Any, where: str = "the task's data") -> Rows:
    """Return what a task's ``data`` gave as rows.

    Args:
        data: rows, a pair of tensors, or a dataset whose items are pairs; with an attribute ``targets`` it is not read
            to find the targets, and with ``groups`` it has columns that deal its rows out.
        where: for messages.

    Raises:
        InputError: ``data.value``: something else, or pairs that are not tensors and numbers of equal shapes.
    """
    if isinstance(data, Rows):
        return data
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise InputError(
                "data.value", f"{where}: {len(data[0])} inputs and {len(data[1])} targets; expected as many"
            )
        return Rows(*data)
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        kind = type(data).__name__
        raise InputError("data.value", f"{where}: {kind}; expected a dataset with length and index, or two tensors")
    try:
        given = getattr(data, "targets", None)
        targets = torch.as_tensor(given if given is not None else [data[at][1] for at in range(len(data))])
        rows = DatasetRows(data, targets, np.arange(len(data)), getattr(data, "groups", None))
        if len(rows):
            rows[0]
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        kind = type(error).__name__
        raise InputError(
            "data.value", f"{where}: its items cannot be read ({kind}); expected pairs of an input tensor and a target"
        ) from None
    if len(targets) != len(data):
        raise InputError("data.value", f"{where}: {len(data)} rows and {len(targets)} targets; expected as many")
    return rows
