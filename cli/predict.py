"""``moonflower predict``: score rows with a model version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError

MODEL_FOLDERS = ("state/models", "runs/*/models")


def predict(
    data: Annotated[Path, typer.Argument(help="CSV or Parquet with the schema's columns; it needs no label.")],
    model: Annotated[
        str,
        typer.Option("--model", help="Model file, or the first digits of its SHA-256 (in state/ or runs/)."),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="CSV file to write.  [default: stdout]")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Task of yours that the model may name; its code is imported (repeatable)."),
    ] = None,
) -> None:
    """Score rows with a model version. The version carries its schema, scaling and task, so nothing else is needed."""
    from ..client.learning.predict import predict_file  # torch takes seconds
    from ..client.tasks import own_tasks

    allow = None if not task else [*own_tasks(), *task]
    scores = predict_file(_model_file(model), data, out, allow=allow)
    if out is None:
        typer.echo(scores.to_csv(index=False), nl=False)
    else:
        typer.echo(f"{len(scores)} rows scored: {out}", err=True)


def _model_file(name: str) -> Path:
    path = Path(name)
    if path.exists() or len(name) < 6 or not set(name) <= set("0123456789abcdef"):
        return path
    matches = sorted(file for folder in MODEL_FOLDERS for file in Path().glob(f"{folder}/{name}*.safetensors"))
    if not matches:
        raise InputError(
            "data.model", f"no model {name!r} under {' or '.join(MODEL_FOLDERS)}; expected a file or SHA-256"
        )
    if len({file.name for file in matches}) > 1:
        raise InputError("data.model", f"{name!r} names {len(matches)} models; expected more digits of the SHA-256")
    return matches[0]
