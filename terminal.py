"""Writing rich's tables on standard output: onto a terminal, and as well into a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

_UNCUT = 100_000  # columns


@contextmanager
def page(*, uncut: bool = False) -> Iterator[Console]:
    """Give a console; what was printed on it is written at the end, by the same door as everything else.

    So a pipe that was closed is one BrokenPipeError for the front door, and no line ends with blanks.

    Args:
        uncut: into a file or a pipe, let a row be as long as it needs.
    """
    at_terminal = sys.stdout.isatty()
    console = Console(width=_UNCUT if uncut and not at_terminal else None)
    with console.capture() as captured:
        yield console
    text = captured.get()
    if not at_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    typer.echo(text, nl=False)
