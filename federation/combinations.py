"""Lists of values as a person types them, and all their combinations."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence
from typing import Any

from ..errors import InputError

MANY = 64
"""Most combinations that run without a further word."""
_CLOSING = {"[": "]", "{": "}"}


def combinations(sets: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all combinations of the values in ``table.key=a,b,c`` strings, as ``table.key=value`` strings.

    Values are split at commas outside brackets and quotes. The last key changes fastest.

    Raises:
        InputError: ``config.set``: no values, an empty value, an open bracket or quote, or a key twice.

    >>> combinations(["task.hidden=[],[32, 8]", "training.lr=0.1"])
    [('task.hidden=[]', 'training.lr=0.1'), ('task.hidden=[32, 8]', 'training.lr=0.1')]
    """
    lists: dict[str, list[str]] = {}
    for one in sets:
        key, equals, text = one.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError("config.set", f"--set {one}: expected table.key=a,b,c, such as training.lr=0.03,0.1")
        if key in lists:
            raise InputError("config.set", f"--set {one}: {key} is given twice; expected one list of its values")
        lists[key] = [f"{key}={value}" for value in _split(text, one)]
    if not lists:
        raise InputError("config.set", "sweep has nothing to vary; expected --set table.key=a,b,c")
    return list(itertools.product(*lists.values()))


def _split(text: str, given: str) -> list[str]:
    """Return the values of a list, split at commas outside brackets and quotes."""
    values, current, waiting, quote = [], "", [], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _CLOSING:
            waiting.append(_CLOSING[letter])
        elif waiting and letter == waiting[-1]:
            waiting.pop()
        elif letter == "," and not waiting:
            values.append(current.strip())
            current = ""
            continue
        current += letter
    values.append(current.strip())
    if quote or waiting:
        raise InputError("config.set", f"--set {given}: {quote or waiting[-1]} is missing; expected a,b,c")
    if not all(values):
        raise InputError("config.set", f"--set {given}: a value is empty; expected a,b,c")
    return values


def value_of(text: str) -> Any:
    """Return a value as a config takes it: TOML, or else a string."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
