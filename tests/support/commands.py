"""The command line in this process: what a command prints and its exit status, without the seconds of a start."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

from moonflower.__main__ import main


def called(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Carry a command out, in a folder if one is given."""
    words, out, err = [str(word) for word in arguments], io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder or Path.cwd()),
        mock.patch.object(sys, "argv", ["moonflower", *words]),
    ):
        try:
            main()
        except SystemExit as ended:
            return subprocess.CompletedProcess(words, int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command ends with its exit status")
