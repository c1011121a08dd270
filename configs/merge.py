"""Merge the schemas of several sites into one that all their tables fit. It needs no row of anybody.

Ranges and lists only grow. What each schema holds was widened before it was shared, so the merged one tells no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError
from .columns import MAX_CATEGORIES, Categorical, Column, Numeric
from .dates import Date
from .schema import Schema
from .targets import MAX_INTERVALS, CountTarget, Label, NumberTarget, Target, TimeTarget

COMMON, ALL = "common", "all"


def merge(schemas: Sequence[tuple[str, Schema]], which: str = "") -> Schema:
    """Return one schema for tables that fit any of the given ones.

    The order of columns is that of the first schema that has them.

    Args:
        schemas: where each comes from, and the schema; two or more.
        which: "common" leaves out columns that only some have, "all" keeps them, "" refuses them.

    Raises:
        InputError: ``config.schema``: labels or columns differ in a way that nothing in between fits.
    """
    label = schemas[0][1].label
    for where, schema in schemas[1:]:
        label = _labels(label, schema.label, f"{schemas[0][0]} and {where}")
    found: dict[str, list[tuple[str, Column]]] = {}
    for where, schema in schemas:
        for column in schema.columns:
            found.setdefault(column.name, []).append((where, column))
    partial = [name for name, columns in found.items() if len(columns) < len(schemas)]
    if partial and which not in (COMMON, ALL):
        named = ", ".join(repr(name) for name in partial[:10]) + (", …" if len(partial) > 10 else "")
        raise InputError(
            "config.schema",
            f"{len(partial)} columns are in some of the schemas only: {named}; expected --common or --all",
            hint="--common leaves them out; with --all, sites without such a column add it, empty",
        )
    kept = [columns for name, columns in found.items() if which != COMMON or name not in partial]
    problems: list[str] = []
    merged = []
    for columns in kept:
        (first, column), *others = columns
        for where, other in others:
            try:
                column = _columns(column, other, f"{first} and {where}")
            except InputError as error:
                problems.append(str(error))
        merged.append(column)
    if problems:
        raise _differ("; ".join(problems))
    return Schema(tuple(merged), label)


def _columns(one: Column, other: Column, where: str) -> Column:
    if type(one) is not type(other):
        raise _differ(
            f"column {one.name!r} is a {_kind(one)} or a {_kind(other)} in {where}; expected one kind, "
            "see schema infer with --numeric, --category or --date"
        )
    if isinstance(one, Categorical) and isinstance(other, Categorical):
        words = _union(one.categories, other.categories)
        if len(words) > MAX_CATEGORIES:
            raise _differ(
                f"column {one.name!r} has {len(words)} categories together; expected at most {MAX_CATEGORIES}"
            )
        return Categorical(one.name, words, one.other or other.other)
    assert isinstance(one, Numeric)
    assert isinstance(other, Numeric)
    missing = tuple(dict.fromkeys([*one.missing, *other.missing]))
    if isinstance(one, Date) and isinstance(other, Date):
        if one.order and other.order and one.order != other.order:
            raise _differ(f"column {one.name!r} has order {one.order} and {other.order} in {where}; expected one order")
        words = tuple(word for word in missing if isinstance(word, str))
        return Date.between(
            one.name, min(one.first, other.first), max(one.last, other.last), words, one.order or other.order
        )
    return Numeric(one.name, min(one.min, other.min), max(one.max, other.max), missing)


def _labels(one: Target, other: Target, where: str) -> Target:
    if one.name != other.name:
        raise _differ(f"the label is {one.name!r} or {other.name!r} in {where}; expected one label")
    if one.kind != other.kind:
        raise _differ(f"label {one.name!r} is of kind {one.kind} or {other.kind} in {where}; expected one kind")
    if isinstance(one, Label) and isinstance(other, Label):
        return _classes(one, other, where)
    if isinstance(one, NumberTarget) and isinstance(other, NumberTarget):
        return NumberTarget(one.name, min(one.min, other.min), max(one.max, other.max))
    if isinstance(one, CountTarget) and isinstance(other, CountTarget):
        return CountTarget(one.name, max(one.max, other.max))
    assert isinstance(one, TimeTarget)
    assert isinstance(other, TimeTarget)
    for key in ("event", "happened"):
        values = getattr(one, key), getattr(other, key)
        if values[0] != values[1]:
            raise _differ(f"label {one.name!r} has {key} {values[0]!r} or {values[1]!r} in {where}; expected the same")
    grid = (*one.grid, *(end for end in other.grid if end > one.grid[-1]))
    if len(grid) > MAX_INTERVALS:
        raise _differ(f"label {one.name!r} has {len(grid)} intervals together; expected at most {MAX_INTERVALS}")
    return replace(one, grid=grid)


def _classes(one: Label, other: Label, where: str) -> Label:
    same = {str(word) for word in one.classes} == {str(word) for word in other.classes}
    if same and len(one.classes) == 2 and str(one.classes[1]) != str(other.classes[1]):
        raise _differ(
            f"label {one.name!r} has {one.classes[1]!r} or {other.classes[1]!r} as its positive class in {where}; "
            "expected one, see --positive of schema infer"
        )
    if not same and len(one.classes) == len(other.classes) == 2:
        raise _differ(
            f"label {one.name!r} has two classes in {where}, which differ; expected the same words at each site"
        )
    if all(isinstance(word, int) for word in (*one.classes, *other.classes)):
        return Label(one.name, _union(one.classes, other.classes))
    return Label(one.name, _union([str(word) for word in one.classes], [str(word) for word in other.classes]))


def _union(one: Sequence[int | str], other: Sequence[int | str]) -> tuple:  # type: ignore[type-arg]
    """The first in its order, then the new ones, sorted."""
    return (*one, *sorted(set(other) - set(one)))


def _kind(column: Column) -> str:
    return "date" if isinstance(column, Date) else "number" if isinstance(column, Numeric) else "category"


def _differ(message: str) -> InputError:
    return InputError("config.schema", message)
