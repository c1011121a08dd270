"""Arguments and options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..client.learning.tables import Format


def _with_own_tasks(config: Path) -> Path:
    """Return a run config's path, after Python was told to find modules in the current folder and in the config's.

    A person who names a run config runs own code with it, so a task need not be installed. A node's config is another
    argument: a node imports installed tasks only, also the nodes that ``up`` starts. Installed modules go first, so
    that no file can take their place.
    """
    for folder in (Path.cwd(), config.parent.resolve()):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return config


RunConfig = Annotated[
    Path,
    typer.Argument(help="Run config (TOML), such as configs/heart.toml.", show_default=False, callback=_with_own_tasks),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change a setting (repeatable).")
]
Out = Annotated[Path | None, typer.Option(help="New or empty folder for the results.  [default: runs/<name>-<utc>]")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1 and so on, or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Operator = Annotated[Path, typer.Option("--as", help="Operator config (TOML): the server, and how to log in.")]
OPERATOR = Path("operator.toml")
ClientFile = Annotated[Path, typer.Argument(help="Client config (TOML).")]
ServerFile = Annotated[Path, typer.Option("--config", help="Server config (TOML).")]
Separator = Annotated[str, typer.Option("--separator", help="Mark between the cells of a CSV.  [default: found]")]
Decimal = Annotated[str, typer.Option("--decimal", help="Decimal mark of a CSV: . or a comma.  [default: found]")]
Encoding = Annotated[str, typer.Option("--encoding", help="Encoding of a CSV, such as cp1252.  [default: found]")]


def format_of(separator: str, decimal: str, encoding: str) -> Format:
    """Return the format of CSV files as a person gave it; what is empty is found by looking at them.

    Raises:
        InputError: ``data.file``: the decimal mark.
    """
    from ..client.learning.tables import Format  # pyarrow takes a moment

    if decimal not in ("", ".", ","):
        raise InputError("data.file", f"--decimal {decimal} is unknown; expected . or a comma")
    return Format({"tab": "\t", "\\t": "\t"}.get(separator, separator), decimal, encoding)
