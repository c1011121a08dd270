"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunConfig = Annotated[Path, typer.Argument(help="Run config (TOML), such as configs/heart.toml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change a setting (repeatable).")
]
Out = Annotated[Path | None, typer.Option(help="New or empty folder for the results.  [default: runs/<name>-<utc>]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Operator = Annotated[Path, typer.Option("--as", help="Operator config (TOML): the server, and how to log in.")]
OPERATOR = Path("operator.toml")
ClientFile = Annotated[Path, typer.Argument(help="Client config (TOML).")]
ServerFile = Annotated[Path, typer.Option("--config", help="Server config (TOML).")]
