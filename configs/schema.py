"""The schema: columns, ranges and categories that all members agree on before any node reads a row.

The file is written by hand or by ``moonflower schema infer`` and is shared between members, so it holds
nothing that belongs to a single person: ranges are round and rare categories are left out. Its digest is part of
every signed context. Its dict travels in every model version, so that ``predict`` needs no file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import canonical
from ..errors import InputError, nearest
from .columns import MISSING, Categorical, Column, Numeric, bad, text
from .dates import DATE, Date
from .targets import CLASSES, KEYS, CountTarget, Label, NumberTarget, Target, TimeTarget, target_from
from .toml import read_toml

__all__ = [
    "MISSING", "Categorical", "Column", "CountTarget", "Date", "Label", "NumberTarget", "Numeric", "Schema", "Target",
    "TimeTarget", "load_schema", "text",
]  # fmt: skip

_HEADER = """\
# All members of the federation share this file. It must not hold any row.
# A range is a limit for every value, not the extreme value of any person. List a number or a word that means "not
# measured" in missing, as in missing = [0, "unknown"]. With other = true, values that are not listed count as missing.
"""
_MAX_COLUMNS = 4096


@dataclass(frozen=True)
class Schema:
    """Columns in feature order, and the label. Two schemas with the same digest read data the same way."""

    columns: tuple[Column, ...]
    label: Target

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        doubled = {name for name in names if names.count(name) > 1}
        doubled |= {name for name in self.label.columns if name in names}
        if doubled:
            name = min(doubled)
            raise bad(f"column {name!r} is listed twice; expected every column, and the label, once")
        if len(names) > _MAX_COLUMNS:
            raise bad(f"the schema lists {len(names)} columns; expected at most {_MAX_COLUMNS}")

    def digest(self) -> str:
        """Return the SHA-256 of the canonical dict as 64 hex digits."""
        return canonical.digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON-able lists and dicts, for a model version's manifest."""
        return {
            "label": self.label.to_dict(),
            "columns": [column.to_dict() for column in self.columns],
        }

    @classmethod
    def from_dict(cls, raw: Any, where: str = "schema") -> Schema:
        """Return the schema in ``raw``, the shape of :meth:`to_dict` and of the TOML file.

        Raises:
            InputError: ``config.schema``; it names ``where``, the key, what was found and what was expected.
        """
        try:
            table = _table(raw, {"label", "columns"}, set(), "the schema")
            columns = tuple(_column(entry) for entry in _list(table["columns"], "columns"))
            return cls(columns, _target(table["label"]))
        except InputError as error:
            raise InputError(error.code, f"{where}: {error}", hint=error.hint) from None

    def dump(self) -> str:
        """Return the TOML file that :func:`load_schema` reads, with a comment for the people who share it."""
        label = f"label = {_inline(self.label.to_dict())}"
        lines = []
        for entry in self.to_dict()["columns"]:
            said = {key: value for key, value in entry.items() if value not in ([], "") and value is not False}
            lines.append(f"    {_inline(said)},\n")
        return f"{_HEADER}{label}\ncolumns = [\n{''.join(lines)}]\n"


def load_schema(path: Path) -> Schema:
    """Return the schema in the TOML file ``path``.

    Raises:
        InputError: ``config.file``: unreadable; ``config.toml``: not TOML; ``config.schema``: wrong content.
    """
    return Schema.from_dict(read_toml(path, "schema"), where=f"schema {path}")


def _column(raw: Any) -> Column:
    if isinstance(raw, dict) and "categories" in raw:
        entry = _table(raw, {"name", "categories"}, {"other"}, f"column {raw.get('name')!r}")
        return Categorical(entry["name"], tuple(_list(entry["categories"], "categories")), entry.get("other", False))
    known = f"column {raw.get('name')!r}" if isinstance(raw, dict) else "columns"
    if isinstance(raw, dict) and "kind" in raw:
        if raw["kind"] != DATE:
            raise bad(f"{known} has kind = {raw['kind']!r}; expected {DATE!r}, or no kind")
        entry = _table(raw, {"name", "kind", "min", "max"}, {"missing", "order"}, known)
        missing = tuple(_list(entry.get("missing", []), "missing"))
        return Date.between(entry["name"], entry["min"], entry["max"], missing, entry.get("order", ""))
    entry = _table(raw, {"name", "min", "max"}, {"missing", "categories", "other"}, known)
    if "other" in entry:
        raise bad(f"{known} has other but no categories; other is for a column of categories")
    return Numeric(entry["name"], entry["min"], entry["max"], tuple(_list(entry.get("missing", []), "missing")))


def _target(raw: Any) -> Target:
    kind = raw.get("kind", CLASSES) if isinstance(raw, dict) else CLASSES
    if kind not in KEYS:
        raise bad(f"label has kind = {kind!r}; {nearest(str(kind), KEYS)}")
    table = _table(raw, *KEYS[kind], "label")
    for key in ("classes", "grid"):
        if key in table:
            _list(table[key], key)
    return target_from(table)


def _table(raw: Any, needed: set[str], optional: set[str], what: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise bad(f"{what} holds {type(raw).__name__}; expected a table with {', '.join(sorted(needed))}")
    for key in raw:
        if key not in needed | optional:
            raise bad(f"{what} has an unknown key {key!r}; {nearest(key, needed | optional)}")
    for key in sorted(needed):
        if key not in raw:
            raise bad(f"{what} has no {key!r}; expected {', '.join(sorted(needed))}")
    return raw


def _list(raw: Any, what: str) -> list[Any]:
    if not isinstance(raw, list):
        raise bad(f"{what} holds {raw!r}; expected a list")
    return raw


def _inline(table: dict[str, Any]) -> str:
    return f"{{{', '.join(f'{key} = {_toml(value)}' for key, value in table.items())}}}"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, str):  # TOML has JSON's escapes, except for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
