"""``moonflower predict`` and ``moonflower schema``: what a data scientist does with rows and models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError

schema = typer.Typer(no_args_is_help=True, help="The schema that all members share.")

MODEL_FOLDERS = ("state/models", "runs/*/models")


def predict(
    data: Annotated[Path, typer.Argument(help="CSV or Parquet with the schema's columns; no label needed.")],
    model: Annotated[
        str,
        typer.Option("--model", help="Model file, or the first digits of its SHA-256 (in state/ or runs/)."),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="CSV file to write.  [default: stdout]")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Task of your own that the model may name; it is imported (repeatable)."),
    ] = None,
) -> None:
    """Score rows with a model version; it carries schema, scaling and task, so nothing else is needed."""
    from .predict import predict_file  # torch takes seconds
    from .tasks import own_tasks

    allow = None if not task else [*own_tasks(), *task]
    scores = predict_file(_model_file(model), data, out, allow=allow)
    if out is None:
        typer.echo(scores.to_csv(index=False), nl=False)
    else:
        typer.echo(f"{len(scores)} rows scored: {out}", err=True)


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
    from ..configs.infer import infer as infer_schema  # pandas takes a second
    from .data import read_table

    found = infer_schema(read_table(file), label, site, drop or (), min_count)
    try:
        with out.open("x", encoding="utf-8") as handle:
            handle.write(found.dump())
    except OSError as error:
        raise InputError("config.out", f"--out {out} cannot be written: {error.strerror}") from None
    typer.echo(f"{out}: {len(found.columns)} columns. It will be shared with all members: read it first.", err=True)


def _model_file(name: str) -> Path:
    path = Path(name)
    if path.exists() or len(name) < 6 or not set(name) <= set("0123456789abcdef"):
        return path
    found = sorted(file for folder in MODEL_FOLDERS for file in Path().glob(f"{folder}/{name}*.safetensors"))
    if not found:
        raise InputError("data.model", f"no model {name!r} under {' or '.join(MODEL_FOLDERS)}; expected a file or SHA")
    if len({file.name for file in found}) > 1:
        raise InputError("data.model", f"{name!r} names {len(found)} models; expected more digits of the SHA-256")
    return found[0]
