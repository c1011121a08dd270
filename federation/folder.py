"""The output folder of a run: claimed in one step, so that two runs never share it, and removed after bad input."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ..configs.names import slug
from ..errors import InputError

CLAIM = "models"  # every run has this folder, and only one process can be the one that creates it


@contextmanager
def fresh(out: Path | None, name: str, claim: str = CLAIM) -> Iterator[Path]:
    """Yield an empty folder that belongs to this run. An InputError in the block undoes all changes.

    Args:
        out: absent or empty; None for ``runs/<name>-<utc>``, with a number at the end if that is taken.
        name: the federation's name.
        claim: folder that is made in it, by which only one process can be the one that has it.

    Raises:
        InputError: ``config.out``: ``out`` is not a folder, is not empty, or cannot be created.
    """
    folder, created = _claimed(out, name, claim)
    try:
        yield folder
    except InputError:
        for child in folder.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        _remove_empty(created)
        raise


def _claimed(out: Path | None, name: str, claim: str) -> tuple[Path, list[Path]]:
    """Return the folder that is now ours, and the folders that were created for it, innermost first."""
    for folder in [out] if out is not None else _defaults(name):
        real = Path(os.path.realpath(folder))
        created = [path for path in (real, *real.parents) if not path.exists()]
        reason = _claim(real, claim)
        if not reason:
            return folder, created
        _remove_empty(created)
        if out is not None or not folder.is_dir():
            break
    raise InputError("config.out", f"--out {folder} {reason}; expected a new or empty folder")


def _claim(folder: Path, claim: str) -> str:
    """Claim the folder; return why that is not possible, or ""."""
    if folder.exists() and not folder.is_dir():
        return "is not a folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            return "is not empty"
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    try:
        (folder / claim).mkdir()
    except FileExistsError:
        return "is not empty"
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def _defaults(name: str) -> Iterator[Path]:
    """Yield folder names for a run that begins now, without the blanks and slashes of the federation's name."""
    stem = Path("runs") / f"{slug(name)}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    yield stem
    for number in itertools.count(2):
        yield stem.with_name(f"{stem.name}-{number}")


def _remove_empty(created: list[Path]) -> None:
    for path in created:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
