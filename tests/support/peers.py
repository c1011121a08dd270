"""Programs of others that ``make peers`` runs against, each installed into a folder of its own below ``.peers``."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest

from support import ROOT

FOLDER = ROOT / ".peers"
INSTALL_S = 300


def missing(why: str) -> Never:
    """Skip the test for a reason; in CI, where nothing may be missing, fail it."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def installed(name: str, install: Callable[[Path], None]) -> Path:
    """Return the folder of a program; ``install`` puts it there the first time, whole or not at all."""
    folder = FOLDER / name
    if not folder.is_dir():
        FOLDER.mkdir(exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=FOLDER))
        try:
            install(beside)
            beside.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def done(command: list[str], folder: Path) -> None:
    """Carry out a step of an installation, or say that the program is missing, and why."""
    if shutil.which(command[0]) is None:
        missing(f"{command[0]} is not installed; it installs a program that this test runs against")
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        missing(f"{command[0]} did not end within {INSTALL_S} s")
    if ended.returncode:
        missing(f"{' '.join(command)}: {ended.stderr.strip()[-200:]}")
