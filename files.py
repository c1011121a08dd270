"""Atomic writes: a file is written beside its place, synced, moved there in one step, and synced again.

A process that is killed on the way leaves at most a temporary file beside the place. The file's name holds the id of
the process that wrote it. :func:`sweep` removes such files.
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
    """Write a file, replacing any file at the place. After a crash, the old or the new content is there, whole.

    Raises:
        OSError: it cannot be written. Nothing has changed.
    """
    with _beside(place, data, mode) as beside:
        os.replace(beside, place)
    _sync(place.parent)


def create(place: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a new file.

    Raises:
        FileExistsError: the file exists. It stays as it is.
        OSError: it cannot be written.
    """
    with _beside(place, data, mode) as beside:
        _put(beside, place)
    _sync(place.parent)


def create_all(contents: Mapping[Path, bytes]) -> None:
    """Write new files, all or none. The last file of the mapping appears after all others.

    Raises:
        FileExistsError: one of the files exists.
        OSError: one of the files cannot be written.
    """
    written: list[Path] = []
    with ExitStack() as stack:
        ready = {place: stack.enter_context(_beside(place, data, 0o666)) for place, data in contents.items()}
        try:
            for place, beside in ready.items():
                _put(beside, place)
                written.append(place)
        except OSError:
            for place in written:
                place.unlink(missing_ok=True)
            raise
    for folder in {place.parent for place in contents}:
        _sync(folder)


def remove(place: Path) -> None:
    """Delete a file, so that it is still deleted after a crash. Do nothing if there is no file.

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
    """Yield a new file, to be written in pieces. It is put in its place at the end of the block, or not at all.

    Raises:
        FileExistsError: the file exists.
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
    """Make a folder, so that it is still there after a crash."""
    if not folder.is_dir():
        folder.mkdir(mode, parents=True, exist_ok=True)
        _sync(folder.parent)


def sweep(folder: Path) -> list[Path]:
    """Remove the temporary files that killed processes left in ``folder``, and return their paths.

    A file that another running process is writing stays. This process must not be writing in the folder: its id may be
    that of the killed process, and in a container it usually is.
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
    """Yield a temporary file beside ``place`` that holds ``data`` and is synced. It is removed at the end."""
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
    """Put a temporary file in its place, which must be free.

    Raises:
        FileExistsError: the place holds a file.
    """
    try:
        os.link(beside, place)  # unlike a rename it replaces nothing
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        place.open("xb").close()  # a file system without links (memory stick): take the place, then fill it
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
