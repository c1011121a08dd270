"""The digest of a task's code. It is in the recipe, so that all members run the same code. Nothing is imported here."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from ..canonical import digest
from ..errors import InputError

OWN = f"{__package__}.tasks."
_TASKS = Path(__file__).parent / "tasks"


def code_of(ref: str) -> str:
    """Return the SHA-256 of a task's code, 64 hex digits: of its module, or of every module of its top-level package.

    For moonflower's own tasks it covers only their module; the recipe's ``numerics`` covers the rest. For other tasks
    it does not cover what they import from outside their own top-level package.

    Raises:
        InputError: ``config.task``: the module does not exist, or its source cannot be read.
    """
    name = ref.partition(":")[0]
    try:
        sources = _own(name) if name.startswith(OWN) else _installed(name.partition(".")[0])
        texts = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in sources.items()}
    except OSError as error:
        raise InputError("config.task", f"the source of task {ref!r} cannot be read: {error.strerror}") from None
    if not texts:
        raise InputError("config.task", f"task {ref!r} has no source here; expected an installed module")
    return digest(texts)


def _own(name: str) -> dict[str, Path]:
    file = _TASKS / f"{name.removeprefix(OWN)}.py"
    return {file.name: file} if file.is_file() else {}


def _installed(top: str) -> dict[str, Path]:
    """Return the source files of a top-level module or package by their paths in it."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return {}
    if spec is None or not spec.has_location or spec.origin is None:
        return {}
    file = Path(spec.origin)
    if file.name != "__init__.py":
        return {file.name: file}
    folder = file.parent
    return {source.relative_to(folder).as_posix(): source for source in sorted(folder.rglob("*.py"))}
