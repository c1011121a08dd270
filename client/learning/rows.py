"""A member's rows, in memory or read when they are used, and how a table's columns become numbers.

Nothing is guessed: a value that the schema does not allow is refused. The message names the column, never a value.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...configs.faults import Faults
from ...configs.schema import MISSING, Schema, text
from ...configs.settings import DataSettings
from ...errors import InputError

_MOST_NAMES = 8


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

    def most(self, asked: int) -> int:
        """Return how many rows are trained with at once, at most: as many as asked for; 0 for a whole part."""
        return asked

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


def need(known: Sequence[str], names: Iterable[str], where: str, who: str = "expected") -> None:
    """Check that a table whose columns are ``known`` has every column in ``names``.

    Raises:
        InputError: ``data.column``: the message has the missing names, and how many columns there are. It has no name
            that was found in the table, because without a header these are cells.
    """
    columns = "1 column" if len(known) == 1 else f"{len(known)} columns"
    lacking = [name for name in dict.fromkeys(names) if name not in known]
    if not lacking:
        return
    shown = ", ".join(map(repr, lacking[:_MOST_NAMES])) + (
        f" and {len(lacking) - _MOST_NAMES} more" if lacking[_MOST_NAMES:] else ""
    )
    close = [
        (name, known.index(match) + 1)
        for name in lacking
        for match in difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    ]
    near = f"; column {close[0][1]} has a name like {close[0][0]!r}" if close else ""
    raise InputError("data.column", f"{where} has {columns} and not {shown}, which {who}{near}")


def features(frame: pd.DataFrame, schema: Schema, where: str) -> NDArray[np.float64]:
    """Return the schema's columns as ``float64[n, columns]``: numbers, category indices, NaN where missing.

    Raises:
        InputError: ``data.column``. RowFaults: ``data.value``, ``data.category``: all cells that cannot be used.
    """
    need(list(map(str, frame.columns)), [column.name for column in schema.columns], where, "the schema lists")
    mark, faults, values = decimal_of(frame), Faults(), []
    for column in schema.columns:
        found, wrong = column.check(frame[column.name], mark)
        values.append(found)
        faults.add(where, 0, wrong)
    if faults:
        raise faults.error()
    return np.column_stack(values)


def decimal_of(frame: pd.DataFrame) -> str:
    """Return the decimal mark of the numbers in a table's text; a table that was read from a file keeps it."""
    return str(frame.attrs.get("decimal", "."))


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
