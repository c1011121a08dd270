"""Read a TOML file that a person named: a config or a schema."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the content of the TOML file ``path``. Messages call it ``what``.

    Raises:
        InputError: ``config.file``: missing or unreadable; ``config.toml``: not TOML.
    """
    beside = [file.name for file in path.parent.glob("*.toml") if file.is_file()]
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise InputError("config.file", f"{what} {path} {problem}; {nearest(path.name, beside)}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError("config.toml", f"{what} {path} is not TOML: {error}") from None
    except UnicodeDecodeError:
        raise InputError("config.toml", f"{what} {path} is not text in UTF-8; expected TOML") from None
    except OSError as error:
        raise InputError("config.file", f"{what} {path} cannot be read: {error.strerror}") from None
