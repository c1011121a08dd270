"""``moonflower schema``: infer the columns that all members share from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import write_new

schema = typer.Typer(no_args_is_help=True, help="The schema that all members share.")


@schema.callback()
def _schema() -> None:
    """Keep ``infer`` a subcommand: Typer folds a single command into its group."""


@schema.command("infer")
def infer(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet to describe.")],
    label: Annotated[str, typer.Option("--label", help="Column to predict.")],
    out: Annotated[Path, typer.Option("--out", help="Schema file to write; must not exist.")],
    site: Annotated[str | None, typer.Option("--site", help="Column that names the member.")] = None,
    drop: Annotated[list[str] | None, typer.Option("--drop", help="Column that is not a feature (repeatable).")] = None,
    min_count: Annotated[int, typer.Option("--min-count", min=1, help="Fewest rows of a listed category.")] = 10,
) -> None:
    """Write a schema that fits a table, with ranges widened to round numbers and without rare categories.

    The file is shared with all members. Read it before you send it.
    """
    from ..client.learning.sources import read_table
    from ..configs.infer import infer as infer_schema  # pandas takes a second

    inferred = infer_schema(read_table(file), label, site, drop or (), min_count)
    write_new({out: inferred.dump().encode()})
    typer.echo(f"{out}: {len(inferred.columns)} columns. It will be shared with all members: read it first.", err=True)
