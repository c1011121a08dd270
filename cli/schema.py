"""``moonflower schema``: the columns that all members share, inferred from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import write_new

schema = typer.Typer(no_args_is_help=True, help="The schema that all members share.")


@schema.callback()
def _schema() -> None:
    """Keep ``infer`` a subcommand: typer would fold a single command into its group."""


@schema.command("infer")
def infer(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet to describe.")],
    label: Annotated[str, typer.Option("--label", help="Column to predict.")],
    out: Annotated[Path, typer.Option("--out", help="Schema file to write; must not exist.")],
    site: Annotated[str | None, typer.Option("--site", help="Column that names the member.")] = None,
    drop: Annotated[list[str] | None, typer.Option("--drop", help="Column that is no feature (repeatable).")] = None,
    min_count: Annotated[int, typer.Option("--min-count", min=1, help="Rows that make a category nameable.")] = 10,
) -> None:
    """Write a schema that fits a table: ranges widened to round numbers, rare categories left out.

    The file is shared with all members. Read it before you send it.
    """
    from ..client.learning.sources import read_table
    from ..configs.infer import infer as infer_schema  # pandas takes a second

    found = infer_schema(read_table(file), label, site, drop or (), min_count)
    write_new({out: found.dump().encode()})
    typer.echo(f"{out}: {len(found.columns)} columns. It will be shared with all members: read it first.", err=True)
