"""Turn a problem that pydantic found in settings into one sentence for the person who wrote them."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import nearest

_KINDS = {float: "a number", int: "a whole number", tuple: "a list of strings", Path: "a path", str: "a string"}
MOST_SHOWN = 80
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Return the first problem in words: the key, what was found, what was expected, and the nearest valid choice."""
    problem = error.errors(include_url=False)[0]
    location, field = _locate(model, problem["loc"])
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        kind = "table" if len(location) == 1 else "key"
        return f"unknown {kind} {key!r}; {nearest(location[-1], _keys(model, location[:-1]))}"
    if problem["type"] == "value_error":
        return f"{key or 'settings'}: {problem['msg'].removeprefix('Value error, ')}"
    fault = f"{key} is missing" if problem["type"] == "missing" else f"{key} = {_short(problem['input'])}"
    return f"{fault}; {_expected(field, problem['input'])}"


def _short(value: object) -> str:
    """Return a value as Python writes it, cut where it is long: a stranger may have sent it.

    >>> _short("a" * 1000)[-4:], len(_short("a" * 1000))
    ('aaa…', 80)
    """
    shown = repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[: MOST_SHOWN - 1]}…"


def _locate(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], FieldInfo | None]:
    """Return the keys that lead to a problem and the field of the last key, without what pydantic adds inside."""
    location: list[str] = []
    field: FieldInfo | None = None
    inner: type[BaseModel] | None = model
    for part in map(str, loc):
        if inner is None:
            break
        field = next((f for name, f in inner.model_fields.items() if (f.alias or name) == part), None)
        inner = _table(field)
        location.append(part if len(part) <= MOST_SHOWN else f"{part[: MOST_SHOWN - 1]}…")
    return location, field


def _table(field: FieldInfo | None) -> type[BaseModel] | None:
    annotation = field.annotation if field else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _keys(model: type[BaseModel], location: list[str]) -> list[str]:
    inner = _table(_locate(model, tuple(location))[1]) or model
    return [field.alias or name for name, field in inner.model_fields.items()]


def _expected(field: FieldInfo | None, value: object) -> str:
    """Return what a field accepts: its choices, or its kind and its range."""
    if field is None:
        return "expected another value"
    if inner := _table(field):
        return f"expected a table with {', '.join(sorted(_keys(inner, [])))}"
    if get_origin(field.annotation) is Literal:
        return nearest(str(value), get_args(field.annotation))
    if field.title:
        return f"expected {field.title}"
    kinds = [_kind(choice) for choice in _either(field.annotation)]
    words = " or ".join(word for kind, word in _KINDS.items() if kind in kinds) or "another value"
    limits = [
        f"{word} {getattr(rule, name)}"
        for rule in field.metadata
        for name, word in _LIMITS.items()
        if hasattr(rule, name)
    ]
    return f"expected {words} {' and '.join(limits)}".rstrip()


def _either(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,)


def _kind(annotation: Any) -> Any:
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return get_origin(inner) or inner
