"""Files that are there whole or not at all: written beside their place, synced, put there in one step, synced again.

A kill on the way leaves at most a file beside, whose name says which process wrote it; :func:`sweep` takes those away.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_BESIDE = re.compile(r".+\.tmp-(?P<pid>[1-9][0-9]{0,9})-[0-9a-f]{8}")


def replace(place: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file in the place of the one that is there, if any; after a crash it is the old one or the new one.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    with _beside(place, data, mode) as beside:
        os.replace(beside, place)
    _sync(place.parent)


def create(place: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file where none is yet.

    Raises:
        FileExistsError: there is one, which stays as it is.
        OSError: it cannot be written.
    """
    with _beside(place, data, mode) as beside:
        _put(beside, place)
    _sync(place.parent)


def create_all(contents: Mapping[Path, bytes]) -> None:
    """Write files where none are yet, all of them or none; the last one comes after all others.

    Raises:
        FileExistsError: one of them is there already.
        OSError: one cannot be written.
    """
    made: list[Path] = []
    with ExitStack() as stack:
        ready = {place: stack.enter_context(_beside(place, data, 0o666)) for place, data in contents.items()}
        try:
            for place, beside in ready.items():
                _put(beside, place)
                made.append(place)
        except OSError:
            for place in made:
                place.unlink(missing_ok=True)
            raise
    for folder in {place.parent for place in contents}:
        _sync(folder)


def remove(place: Path) -> None:
    """Delete a file for good; nothing happens where there is none.

    Raises:
        OSError: it cannot be deleted.
    """
    try:
        place.unlink()
    except FileNotFoundError:
        return
    _sync(place.parent)


@contextmanager
def writing(place: Path) -> Iterator[IO[bytes]]:
    """Give a new file, to be written in pieces; it is in its place at the end of the block, or not at all.

    Raises:
        FileExistsError: there is one already.
        OSError: it cannot be written.
    """
    if place.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
    beside = _name_beside(place)
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put(beside, place)
    finally:
        beside.unlink(missing_ok=True)
    _sync(place.parent)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, so that it is there after a crash."""
    if not folder.is_dir():
        folder.mkdir(mode, parents=True, exist_ok=True)
        _sync(folder.parent)


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left beside files of ``folder``; return what was removed.

    What another process is writing now stays. This process must not be writing there: its own number may be that of
    the one that was killed, in a container even is.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        named = _BESIDE.fullmatch(path.name)
        if named and not _is_running(int(named["pid"])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


@contextmanager
def _beside(place: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Give a file that holds ``data`` and is on disk; at the end it is gone from beside ``place``."""
    beside = _name_beside(place)
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _name_beside(place: Path) -> Path:
    return place.with_name(f"{place.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def _put(beside: Path, place: Path) -> None:
    """Put a file in its place, where none may be.

    Raises:
        FileExistsError: there is one.
    """
    try:
        os.link(beside, place)  # unlike a rename it replaces nothing
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        place.open("xb").close()  # a file system without links, as of a memory stick: take the place, then fill it
        os.replace(beside, place)


def _sync(folder: Path) -> None:
    """Sync a folder, so that the names in it are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
