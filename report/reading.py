"""Results that were written before, read again: from the folder of a run, or from its result.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest

FILE = "result.json"
VERSION = 1


@dataclass(frozen=True)
class ReadResult:
    """A result, and the folder where it lies."""

    result: dict[str, Any]
    folder: Path


def read_result(path: Path) -> ReadResult:
    """Return the result in a run's folder, or in a result.json.

    Raises:
        InputError: ``data.file``: no such folder or file, not readable, not a result, or of another version.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError("data.file", f"{path} {_missing(path)}")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("data.file", f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError("data.file", f"{file} is not JSON; expected the result of a run") from None
    return ReadResult(checked(result, str(file)), file.parent)


def checked(result: Any, where: str) -> dict[str, Any]:
    """Return a result after a check that it is one of version 1, with its lists and tables in place.

    Raises:
        InputError: ``data.file``: names ``where``.
    """
    if not isinstance(result, dict) or "version" not in result or "rounds" not in result:
        raise InputError("data.file", f"{where} is not the result of a run; expected an object with version and rounds")
    if result["version"] != VERSION:
        raise InputError("data.file", f"{where} is of version {result['version']!r}; expected {VERSION}")
    for key, kind, what in (("rounds", list, "a list"), ("members", list, "a list"), ("overall", dict, "an object")):
        value = result.get(key)
        if not isinstance(value, kind) or not all(isinstance(one, dict) for one in (value if kind is list else ())):
            raise InputError("data.file", f"{where}: {key} is not {what} as in the result of a run")
    return result


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"holds no {FILE}; expected the folder of a run that is over"
    if path.exists():
        return "is not a file; expected the folder of a run"
    folders = path.parent.glob("*") if path.parent.is_dir() else ()
    runs = [one.name for one in folders if (one / FILE).is_file()]
    return f"does not exist; {nearest(path.name, runs)}" if runs else "does not exist; expected the folder of a run"
