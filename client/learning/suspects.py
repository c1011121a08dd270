"""Columns that deserve a second look before training: hints (:mod:`moonflower.configs.hints`) about rows as a schema
reads them. ``schema infer`` gave such hints about one site's table; here the schema is fixed, and rows may be others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...configs.hints import FEWEST, Hint, named_as_id, tells_label
from ...configs.schema import Categorical, CountTarget, Label, NumberTarget, Schema
from ..tasks import Task
from .rows import Rows, Split

SAMPLE = 20_000
"""Most rows of a member that are looked at, evenly spread over its table."""
RARE = 10
"""A class with less than this fraction of the rows is rare."""
_TODO = "schema infer --drop {name} leaves it out"

_OTHERS = "that is no harm if other members have other cells; if not, schema infer --drop leaves it out"


def suspects(schema: Schema, members: Mapping[str, Rows]) -> list[Hint]:
    """Return hints about the columns of raw rows, in the schema's order; none if rows are not those of the schema.

    Args:
        schema: of the rows.
        members: member → its rows, or those of one member only.
    """
    samples = [_sample(rows) for rows in members.values() if len(rows)]
    width = len(schema.columns)
    if not samples or not width or any(one.inputs.ndim != 2 or one.inputs.shape[1] != width for one in samples):
        return []
    parts = [one.inputs.numpy().astype(np.float64) for one in samples]
    codes, numbers = _label(schema, np.concatenate([one.targets.numpy() for one in samples]))
    whole, found, whole_circle = np.concatenate(parts), [], len(members) > 1
    for at, column in enumerate(schema.columns):
        values, words = whole[:, at], isinstance(column, Categorical)
        known = values[~np.isnan(values)]
        filled = [part for part in parts if not np.isnan(part[:, at]).all()]
        todo = _TODO.format(name=column.name)
        if not len(known):
            found.append(Hint("empty", column.name, "no cell is filled", todo if whole_circle else _OTHERS))
            continue
        if (known == known[0]).all():
            alike = "all rows hold the same" if len(known) == len(values) else "all filled cells hold the same"
            found.append(Hint("same", column.name, alike, todo if whole_circle else _OTHERS))
        if len(parts) > 1 and len(filled) == 1:
            found.append(Hint("site", column.name, "only one member fills it, so it tells the member", todo))
        if not words and _is_id(column.name, known):
            found.append(Hint("id", column.name, "its numbers look like those of an id", todo))
        cells = np.where(np.isnan(values), -1, np.nan_to_num(values)).astype(np.int64) if words else None
        if tells_label(values, cells, codes, numbers):
            message = "it alone tells the label nearly without fault: a copy, or known only afterwards?"
            found.append(Hint("copy", column.name, message, todo))
    return found


def rare_class(schema: Schema, task: Task, members: Mapping[str, Split]) -> list[Hint]:
    """Return a hint if a class has less than a tenth of all training rows, and the task could weigh it but does not."""
    label = schema.label
    if not isinstance(label, Label) or getattr(task, "class_weights", None) != ():
        return []
    width = len(label.classes)
    parts = [np.bincount(part.train.targets.numpy(), minlength=width) for part in members.values()]
    counts = np.sum(parts, axis=0)
    if len(counts) != width or not counts.all() or counts.min() * RARE >= counts.sum():
        return []
    weights = ", ".join(f"{float(f'{one:.2g}'):g}" for one in counts.sum() / width / counts)
    rarest, percent = str(label.classes[int(counts.argmin())]), 100 * counts.min() / counts.sum()
    share = f"class {rarest!r} has {percent:.2g} % of all training rows"
    todo = f"[task] class_weights = [{weights}] teaches it in fewer rounds; scores are no chances then"
    return [Hint("weights", label.name, share, todo)]


def told(hint: Hint) -> str:
    """Return a hint as a sentence.

    >>> told(Hint("empty", "age", "no cell is filled", "leave it out"))
    "column 'age': no cell is filled; leave it out"
    """
    return f"column {hint.column!r}: {hint.message.replace('?', '')}; {hint.todo}"


def _sample(rows: Rows) -> Rows:
    if len(rows) <= SAMPLE:
        return rows.loaded()
    return rows.take(np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64))).loaded()


def _label(schema: Schema, targets: NDArray[np.generic]) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
    if isinstance(schema.label, Label):
        return targets.astype(np.int64), None
    if isinstance(schema.label, (NumberTarget, CountTarget)):
        return None, targets.astype(np.float64)
    return None, None


def _is_id(name: str, known: NDArray[np.float64]) -> bool:
    whole = bool((known == np.rint(known)).all()) and known.min() >= 0
    different = len(np.unique(known))
    return whole and ((different == len(known) >= FEWEST) or (named_as_id(name) and different > FEWEST))
