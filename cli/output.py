"""What commands print and write: tables on standard output, and new files that are written whole or not at all."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import typer
from rich.console import Console

from .. import files
from ..errors import InputError
from ..logs import printable

_UNCUT = 100_000  # columns


@contextmanager
def page(*, uncut: bool = False) -> Iterator[Console]:
    """Yield a console; what was printed on it is written to standard output at the end of the block.

    A closed pipe therefore raises one BrokenPipeError, which ``__main__`` handles, and no line ends with blanks.

    Args:
        uncut: in a file or a pipe, let a row be as long as it needs.
    """
    at_terminal = sys.stdout.isatty()
    console = Console(width=_UNCUT if uncut and not at_terminal else None)
    with console.capture() as captured:
        yield console
    text = captured.get()
    if not at_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    typer.echo(text, nl=False)


def print_list(console: Console, heading: str, lines: Iterable[str]) -> None:
    """Print lines under a heading, wrapped to the width of the terminal."""
    console.print(f"\n{heading}", style="bold", markup=False)
    for line in lines:
        wrapped = textwrap.wrap(printable(line), min(console.width, 100) - 2, break_on_hyphens=False)
        console.print("\n".join(f"{'- ' if at == 0 else '  '}{part}" for at, part in enumerate(wrapped)), markup=False)


def visible(text: str) -> str:
    """Return text without control characters: names come from other members."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json.dumps(value, allow_nan=False))


def tell_created(created: Iterable[Path]) -> None:
    """Say on stderr which files were made."""
    for path in created:
        typer.echo(f"created {path}", err=True)


def tell_keys(created: Iterable[Path]) -> None:
    """Say on stderr which keys were made, and which keys of a node to back up."""
    from ..client.keyring import BACK_UP, NODE_FILE, SECRET_FILE

    paths = tuple(created)
    tell_created(paths)
    if {path.name for path in paths} & {NODE_FILE, SECRET_FILE}:
        typer.echo(BACK_UP, err=True)


def write_new(contents: Mapping[Path, bytes]) -> None:
    """Write new files: all of them, or none.

    Raises:
        InputError: ``config.out``: a file exists already, or cannot be written.
    """
    try:
        files.create_all(contents)
    except OSError as error:
        named = (Path(name) for name in (error.filename2, error.filename) if isinstance(name, str))
        where = next((place for place in named if place in contents), [*contents][-1])  # else a file beside it failed
        raise InputError("config.out", f"--out {where} cannot be written: {error.strerror}") from None


@contextmanager
def new_file(out: Path) -> Iterator[IO[bytes]]:
    """Yield a new file to write to; it appears whole and on disk, or not at all.

    Raises:
        InputError: ``config.out``: the file exists already, or cannot be written.
    """
    try:
        with files.writing(out) as file:
            yield file
    except OSError as error:
        raise InputError("config.out", f"--out {out} cannot be written: {error.strerror}") from error
