"""A member's rows, in memory or read when they are used, and how a table's columns become numbers.

Nothing is guessed: a value that the schema does not allow is refused. The message names column and value, never a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...configs.schema import MISSING, Schema, text
from ...configs.settings import DataSettings
from ...errors import InputError, nearest


@dataclass(frozen=True)
class Rows:
    """Rows of one table; ``inputs`` and ``targets`` share their first axis.

    Attributes:
        inputs: raw or prepared inputs, ``[n, …]``.
        targets: what to predict, ``[n, …]``; class indices ``int64[n]`` unless the task says otherwise.
        groups: text columns that are not inputs (site, test mark), each ``object[n]``, None where a cell is empty.
    """

    inputs: Tensor
    targets: Tensor
    groups: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        """Return input and target of a row, as ``torch.utils.data`` wants it of a dataset."""
        return self.inputs[at], self.targets[at]

    def __getitems__(self, index: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several rows at once."""
        chosen = torch.as_tensor(index)
        return list(zip(self.inputs[chosen], self.targets[chosen], strict=True))

    def to(self, device: torch.device) -> Rows:
        """Return the rows on a device; on the processor these are the same rows."""
        return self if device.type == "cpu" else Rows(self.inputs.to(device), self.targets.to(device), self.groups)

    def chunks(self, most: int) -> Iterator[Rows]:
        """Yield all rows in order, at most ``most`` at a time, in memory; one empty chunk if there are none."""
        for start in range(0, max(len(self), 1), most):
            yield Rows(self.inputs[start : start + most], self.targets[start : start + most])

    def loaded(self) -> Rows:
        """Return the rows in memory."""
        return self

    def ready(self, prepare: Callable[[Rows], Rows]) -> Rows:
        """Return the rows as ``prepare`` makes them, without groups, which cost time in every batch."""
        made = prepare(self)
        return Rows(made.inputs, made.targets)

    def take(self, index: NDArray[np.int64] | Tensor) -> Rows:
        """Return the rows at ``index``, in its order."""
        chosen = torch.as_tensor(index)
        groups = {name: values[chosen.numpy()] for name, values in self.groups.items()}
        return Rows(self.inputs[chosen], self.targets[chosen], groups)

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """Return the rows of all ``parts`` in their order, with the groups that every part has."""
        names = set.intersection(*(set(part.groups) for part in parts))
        return Rows(
            torch.cat([part.inputs for part in parts]),
            torch.cat([part.targets for part in parts]),
            {name: np.concatenate([part.groups[name] for part in parts]) for name in sorted(names)},
        )


@dataclass(frozen=True)
class Split:
    """The parts of a member's rows, each in the order of keyed hashes; only ``train`` always has a row."""

    train: Rows
    validation: Rows
    test: Rows

    def capped(self, max_rows: int) -> Split:
        """Return a copy with only the first ``max_rows`` training rows; 0 keeps all."""
        if not 0 < max_rows < len(self.train):
            return self
        return replace(self, train=self.train.take(np.arange(max_rows)))


def need(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Check that ``frame`` has every column in ``names``.

    Raises:
        InputError: ``data.column``: the message names the file, the column and the nearest column name.
    """
    known = [str(name) for name in frame.columns]
    for name in names:
        if name not in known:
            raise InputError("data.column", f"{where} has no column {name!r}; {nearest(name, known)}")


def features(frame: pd.DataFrame, schema: Schema, where: str) -> NDArray[np.float64]:
    """Return the schema's columns as ``float64[n, columns]``: numbers, category indices, NaN where missing.

    Raises:
        InputError: ``data.column``, ``data.value`` or ``data.category``.
    """
    need(frame, [column.name for column in schema.columns], where)
    return np.column_stack([column.read(frame[column.name], where) for column in schema.columns])


def read_groups(frame: pd.DataFrame, settings: DataSettings) -> dict[str, NDArray[np.object_]]:
    """Return the site and test columns as text, None where a cell is empty."""
    names = [name for name in (settings.site, settings.test_column) if name]
    out = {}
    for name in names:
        codes, uniques = frame[name].factorize()
        words = [cell if isinstance(cell, str) else text(cell) for cell in uniques]
        known = [None if word.strip().lower() in MISSING else word for word in words]
        out[name] = np.array([*known, None], dtype=object)[codes]
    return out
