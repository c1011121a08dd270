"""The rows of a table, read piece by piece as ``[data]`` and the schema say, in memory or beside it.

Every cell is checked before a task sees it. ``on_bad = "refuse"`` reads the whole table and lists all that is wrong
with it; ``"drop"`` leaves rows out and logs how many. No message holds a cell.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from ...configs.columns import Numeric
from ...configs.faults import CORRECT, Faults
from ...configs.schema import Schema
from ...configs.settings import DataSettings
from ...configs.targets import Label, TimeTarget
from ...errors import InputError
from .cells import numbers, series
from .rows import Rows, need, read_groups
from .spool import SPOOL_BYTES, SpooledRows, SpoolWriter
from .tables import Format, look, names_of, pieces

if TYPE_CHECKING:
    from ..tasks import Task

logger = logging.getLogger(__name__)
_DROP = f'{CORRECT}; [data] on_bad = "drop" leaves out the rows that are told here'


def table_rows(task: Task, settings: DataSettings, schema: Schema) -> Rows:
    """Return the rows of the table that ``[data]`` names, as a task's ``inputs`` and ``targets`` make them.

    Rows of more than ``SPOOL_BYTES`` are copied into a file of this process, which nobody else can open, and read from
    there when they are used.

    Raises:
        InputError: ``data.file``, ``data.empty``, ``data.column``; ``data.category``: a third kind of event. RowFaults:
            ``data.value``, ``data.category``: all cells that cannot be used.
    """
    if settings.path is None:
        raise InputError("data.file", "[data] path is missing; expected a CSV or Parquet file")
    every = type(task).inputs is not _task().inputs or type(task).targets is not _task().targets
    kept, where = _Kept(), settings.path.name
    with contextlib.closing(kept):
        for frame in Intake(settings.path, settings, schema, every).frames():
            inputs, targets = task.inputs(frame, schema, where), task.targets(frame, schema, where)
            kept.add(Rows(inputs, targets, read_groups(frame, settings)))
        return kept.rows()


def _task() -> type[Task]:
    from ..tasks import Task  # which needs this module

    return Task


@dataclass
class _Kept:
    """Rows that were read: a list of them, or inputs in a file."""

    inputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    groups: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    size: int = 0
    writer: SpoolWriter | None = None

    def add(self, rows: Rows) -> None:
        self.size += rows.inputs.nbytes
        self.inputs.append(rows.inputs)
        self.targets.append(rows.targets)
        for name, words in rows.groups.items():
            self.groups[name].append(words)
        if self.writer is None and self.size > SPOOL_BYTES:
            self.writer = SpoolWriter()
        if self.writer is not None:
            for part in self.inputs:
                self.writer.add(part)
            self.inputs.clear()

    def rows(self) -> Rows:
        targets = torch.cat(self.targets)
        self.targets.clear()
        groups = {name: np.concatenate(words) for name, words in self.groups.items()}
        if self.writer is None:
            return Rows(torch.cat(self.inputs), targets, groups)
        return SpooledRows(self.writer.finish(), targets, np.arange(len(targets)), groups)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Intake:
    """The checked pieces of a table.

    Args:
        path: of the table.
        settings: format of its files, names of its columns, and what to do with rows that cannot be used.
        schema: of the columns.
        every: read also the columns that nothing names.
    """

    def __init__(self, path: Path, settings: DataSettings, schema: Schema, every: bool = False) -> None:
        self._path, self._schema, self._drop = path, schema, settings.on_bad == "drop"
        self._format = look(path, Format(settings.separator, settings.decimal, settings.encoding))
        known = names_of(path, self._format)
        named = [settings.label, settings.site, settings.test_column, *settings.drop]
        need(known, [name for name in named if name], path.name, "[data] names")
        need(known, schema.label.columns, path.name, "the label is in")
        need(known, [column.name for column in schema.columns], path.name, "the schema lists")
        self._used = {
            *(column.name for column in schema.columns),
            *schema.label.columns,
            settings.site,
            settings.test_column,
        }
        self._columns = known if every else [name for name in known if name in self._used]
        self._numeric = {column.name for column in schema.columns if type(column) is Numeric}  # a date stays text
        self._numeric |= set() if isinstance(schema.label, Label) else {schema.label.name}

    def frames(self) -> Iterator[pd.DataFrame]:
        """Yield the rows that can be used, in order; numeric columns are float64, NaN where a cell is missing.

        Raises:
            InputError: as :func:`table_rows`.
        """
        faults, before, others = Faults(), dict[str, int](), set[str]()
        left_out, used = 0, 0
        for file, batch in pieces(self._path, self._format, columns=self._columns):
            frame, good = self._checked(file.name, before.get(file.name, 0), batch, faults)
            before[file.name] = before.get(file.name, 0) + batch.num_rows
            if isinstance(self._schema.label, TimeTarget):
                others |= self._schema.label.others(frame)
                self._schema.label.check_events(others, self._path.name)
            if faults and not self._drop:
                continue
            left_out += int((~good).sum())
            used += int(good.sum())
            if good.any():
                yield frame if good.all() else frame[good].reset_index(drop=True)
        if faults and not self._drop:
            raise faults.error(_DROP)
        if left_out:
            logger.info("%d rows of the table are left out: %s", left_out, faults.told())
        if not used:
            raise InputError("data.empty", f"data file {self._path} has no row that can be used; expected at least one")

    def _checked(
        self, file: str, before: int, batch: pa.RecordBatch, faults: Faults
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Return a batch's cells and which rows can be used; what is wrong with the others goes into ``faults``."""
        mark, cells = self._format.decimal, dict[str, pd.Series]()
        for name in self._columns:
            array = batch.column(name)
            if name in self._used and pa.types.is_nested(array.type):
                raise InputError(
                    "data.value",
                    f"{file}: column {name!r} has lists or tables in it; expected a number or a word a cell",
                )
            plain = numbers(array, mark) if name in self._numeric else None
            cells[name] = series(array) if plain is None else pd.Series(plain)
        good = np.ones(batch.num_rows, dtype=np.bool_)
        found = []
        for column in self._schema.columns:
            values, wrong = column.check(cells[column.name], mark)
            found += wrong
            if column.name in self._numeric:
                cells[column.name] = pd.Series(values)
        frame = pd.DataFrame(cells, copy=False)
        found += self._schema.label.check(frame, mark)[1]
        for fault in found:
            good &= ~fault.at
        faults.add(file, before, found)
        frame.attrs["decimal"] = mark
        return frame, good
