"""Faults of a table: how many cells of a column cannot be used, and why. No fault holds a cell.

A member's log and its messages may be read by others than those who may see its rows. So a sentence names a column of
the schema, a count, and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import RowFaults

MOST_ROWS_TOLD = 10
"""Row numbers that an error keeps for a person, at most, of each kind of fault."""
CORRECT = "correct the cells, empty them, or agree with all members on another schema"


@dataclass(frozen=True)
class Fault:
    """Cells of one column that cannot be used, for one reason.

    Attributes:
        column: name, from the schema.
        code: ``data.value`` or ``data.category``.
        what: is wrong, after "3 cells"; "empty" goes before it.
        expected: instead.
        at: which rows, ``bool[n]``.
        near: how many of these cells would be right but for ``but``.
        but: the difference.
    """

    column: str
    code: str
    what: str
    expected: str
    at: NDArray[np.bool_]
    near: int = 0
    but: str = ""


@dataclass
class _Found:
    first: Fault
    count: int = 0
    near: int = 0
    files: dict[str, list[int]] = field(default_factory=dict)

    @property
    def cells(self) -> str:
        cells = "cell" if self.count == 1 else "cells"
        return (
            f"{self.count} empty {cells}" if self.first.what == "empty" else f"{self.count} {cells} {self.first.what}"
        )


class Faults:
    """What is wrong with a table that is read in pieces."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Found] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, file: str, before: int, faults: Iterable[Fault]) -> None:
        """Add the faults of a piece of ``file``, which comes after ``before`` other rows of it."""
        for fault in faults:
            found = self._found.setdefault((fault.column, fault.what), _Found(fault))
            rows = found.files.setdefault(file, [])
            more = np.flatnonzero(fault.at)
            found.count += len(more)
            found.near += fault.near
            rows += [before + 1 + int(at) for at in more[: MOST_ROWS_TOLD - len(rows)]]

    def told(self) -> str:
        """Return columns, counts and reasons for a log."""
        return "; ".join(f"column {found.first.column!r} had {found.cells}" for found in self._found.values())

    def error(self, hint: str = CORRECT) -> RowFaults:
        """Return one error with a sentence for each kind of fault, in the order of the columns."""
        sentences, rows = [], {}
        for found in self._found.values():
            name, *others = found.files
            where = f"{name} and {len(others)} other files" if others else name
            fault = found.first
            near = f"; {found.near} of them would be right {fault.but}" if found.near else ""
            sentences.append(f"{where}: column {fault.column!r} has {found.cells}; expected {fault.expected}{near}")
            for file, at in found.files.items():
                rows[f"{file}: {fault.column}: {fault.what}"] = tuple(at)
        code = next(iter(self._found.values())).first.code
        return RowFaults(code, "\n".join(sentences), rows, hint=hint)


def refuse(where: str, faults: Iterable[Fault], hint: str = CORRECT) -> None:
    """Refuse a whole table because of its faults, if there are any.

    Raises:
        RowFaults: with all of them.
    """
    found = Faults()
    found.add(where, 0, faults)
    if found:
        raise found.error(hint)
